//! Routes of llama.cpp's server that OpenAI has not.

pub mod completion;

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    app::App,
    error::{ApiError, ApiResult},
    fields::Fields,
    model::{Placement, Served},
    openai::{ChatPrompt, FINGERPRINT, completions},
};
use crate::{
    generate::{AnswerOptions, PlaceState, SampleOptions},
    tokenizer::EncodeOptions,
};

/// `/tokenize`.
pub fn tokenize(_: &App, model: &Arc<Served>, fields: Fields<'_>) -> ApiResult<Value> {
    let add_special = fields.bool("add_special")?.unwrap_or(false);
    let parse_special = fields.bool("parse_special")?.unwrap_or(true);
    let options = EncodeOptions { add_special, parse_special };
    let ids = match fields.get("content") {
        None => Vec::new(),
        Some(Value::String(text)) => model.tokenizer.encode(text, &options)?,
        Some(other) => return Err(super::fields::wrong_type("content", "a string", other)),
    };
    if !fields.bool("with_pieces")?.unwrap_or(false) {
        return Ok(json!({ "tokens": ids }));
    }
    let piece = |&id: &u32| {
        let bytes = model.tokenizer.token_bytes(id);
        // A part of a character is no text.
        let piece = std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), |text| json!(text));
        json!({ "id": id, "piece": piece })
    };
    Ok(json!({ "tokens": ids.iter().map(piece).collect::<Vec<_>>() }))
}

/// `/detokenize`.
pub fn detokenize(_: &App, model: &Arc<Served>, fields: Fields<'_>) -> ApiResult<Value> {
    let tokens = fields.array("tokens")?.unwrap_or_default();
    let ids = tokens.iter().map(|token| completions::token(token, model, "tokens")).collect::<ApiResult<Vec<_>>>()?;
    Ok(json!({ "content": model.tokenizer.decode(&ids, true) }))
}

/// `/apply-template`.
pub fn apply_template(app: &App, model: &Arc<Served>, fields: Fields<'_>) -> ApiResult<Value> {
    Ok(json!({ "prompt": ChatPrompt::read(fields, model, &app.options)?.text }))
}

/// `/v1/chat/completions/input_tokens`.
pub fn input_tokens(app: &App, model: &Arc<Served>, fields: Fields<'_>) -> ApiResult<Value> {
    let prompt = ChatPrompt::read(fields, model, &app.options)?;
    Ok(json!({ "object": "response.input_tokens", "input_tokens": prompt.ids.len() }))
}

/// `/props`.
pub fn props(app: &App, model: &Served) -> Value {
    let text = |id: Option<u32>| id.and_then(|id| model.tokenizer.token_text(id)).unwrap_or_default();
    let template = &model.template;
    let placement = model
        .placement
        .iter()
        .map(|Placement { backend, layers, reason }| json!({ "backend": backend, "layers": layers, "reason": reason }));
    json!({
        "default_generation_settings": { "params": params(app, model), "n_ctx": model.context_tokens },
        "total_slots": model.slots,
        "model_alias": model.name,
        "model_path": model.path,
        "chat_template": template.source().or_else(|| template.format().map(|format| format.name())),
        "chat_template_caps": {
            "supports_tools": template.knows_tools(),
            "supports_tool_calls": template.knows_tools(),
            "supports_system_role": true,
        },
        "modalities": { "vision": false, "audio": false },
        "bos_token": text(model.tokenizer.bos()),
        "eos_token": text(model.tokenizer.eos()),
        "build_info": FINGERPRINT,
        "is_sleeping": false,
        // Ours: where the layers run, and why.
        "placement": placement.collect::<Vec<_>>(),
    })
}

/// `/props` where no model is loaded.
pub fn props_of_none() -> Value {
    json!({ "total_slots": 0, "build_info": FINGERPRINT, "is_sleeping": true, "placement": [] })
}

/// Options of sampling where a request has none.
fn params(app: &App, model: &Served) -> Value {
    let max_tokens = Some(model.answer_limit(&app.options));
    settings(&model.sample, &AnswerOptions { max_tokens, ..AnswerOptions::default() })
}

/// Options of an answer, by llama.cpp's names.
pub fn settings(sample: &SampleOptions, answer: &AnswerOptions) -> Value {
    let max_tokens = answer.max_tokens.map_or(-1, |most| most as i64);
    // Ids that end a text are banned by another way, and shown in llama.cpp's.
    let banned = answer.end_ids.iter().filter(|_| answer.ignore_end).map(|&id| (id, f32::NEG_INFINITY));
    // There is no infinity in JSON: it becomes null.
    let biases = sample.logit_bias.iter().copied().chain(banned);
    let mirostat = sample.mirostat.unwrap_or_default();
    json!({
        "n_predict": max_tokens,
        "max_tokens": max_tokens,
        "ignore_eos": answer.ignore_end,
        "stop": answer.stop,
        "n_probs": answer.logprobs.unwrap_or(0),
        "logit_bias": biases.map(|(id, bias)| json!({ "token": id, "bias": bias })).collect::<Vec<_>>(),
        "mirostat": if sample.mirostat.is_some() { 2 } else { 0 },
        "mirostat_tau": mirostat.entropy,
        "mirostat_eta": mirostat.learning_rate,
        "seed": sample.seed.map_or(u64::from(u32::MAX), u64::from),
        "temperature": sample.temperature,
        "top_k": sample.top_k,
        "top_p": sample.top_p,
        "min_p": sample.min_p,
        "typical_p": sample.typical_p,
        "top_n_sigma": sample.top_n_sigma,
        "xtc_probability": sample.xtc.probability,
        "xtc_threshold": sample.xtc.threshold,
        "repeat_last_n": sample.repeat_last_n.map_or(-1, |n| n as i64),
        "repeat_penalty": sample.repeat_penalty,
        "dry_multiplier": sample.dry.multiplier,
        "dry_base": sample.dry.base,
        "dry_allowed_length": sample.dry.allowed_length,
        "dry_penalty_last_n": sample.dry.last_n.map_or(-1, |n| n as i64),
        "presence_penalty": sample.presence_penalty,
        "frequency_penalty": sample.frequency_penalty,
    })
}

/// `/slots`: no text of any prompt.
///
/// # Errors
/// If none is free and the query asks for one.
pub fn slots(app: &App, model: &Served, places: &[PlaceState], query: &str) -> ApiResult<Value> {
    if !app.options.slots {
        return Err(ApiError::not_supported("This server does not show its slots"));
    }
    let wants_free = query.split('&').any(|pair| pair == "fail_on_no_slot=1");
    if wants_free && places.iter().all(|place| place.answer.is_some()) {
        return Err(ApiError::no_slot());
    }
    let slot = |(id, place): (usize, &PlaceState)| {
        json!({
            "id": id,
            "n_ctx": model.context_tokens,
            "speculative": false,
            "is_processing": place.answer.is_some(),
            "id_task": place.answer.map_or(-1, |answer| answer.0 as i64),
            "n_tokens": place.tokens,
            "next_token": [{
                "has_next_token": place.answer.is_some(),
                "n_remain": -1,
                "n_decoded": place.generated_tokens,
            }],
        })
    };
    Ok(places.iter().enumerate().map(slot).collect())
}
