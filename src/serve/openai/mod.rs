//! OpenAI's API: models, chat, completions, embeddings, responses.

pub mod chat;

pub mod completions;

pub mod embeddings;

mod messages;

pub mod models;

mod prompt;

pub mod responses;

pub use prompt::ChatPrompt;

use serde_json::{Value, json};

use super::{
    answer::Progress,
    model::Served,
    respond::{Answered, Token},
};
use crate::generate::Stats;

/// Fingerprint of this program, for clients that compare answers.
pub const FINGERPRINT: &str = concat!("b0-", env!("CARGO_PKG_VERSION"));

/// The least logarithm of a probability that is told: there is no infinity in JSON.
const LEAST_LOGPROB: f32 = -9999.0;

/// Tokens of prompts and answers. Choices of one prompt share it: it counts once.
pub fn usage(answered: &Answered, choices_each: usize) -> Value {
    let prompts = || answered.stats().step_by(choices_each.max(1));
    let prompt: usize = prompts().map(|stats| stats.prompt_tokens).sum();
    let cached: usize = prompts().map(|stats| stats.reused_tokens).sum();
    let completion: usize = answered.stats().map(|stats| stats.generated_tokens).sum();
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": { "cached_tokens": cached },
    })
}

/// Adds how far a prompt has been read to a piece of a stream, in llama.cpp's form.
pub fn add_progress(piece: &mut Value, progress: &Progress) {
    let &Progress { total, cached, read, time, with_times } = progress;
    let milliseconds = time.as_millis() as u64;
    piece["prompt_progress"] = json!({ "total": total, "cache": cached, "processed": read, "time_ms": milliseconds });
    if with_times {
        let so_far = Stats { read_tokens: read, reused_tokens: cached, prefill: time, ..Stats::default() };
        piece["timings"] = timings(&so_far);
    }
}

/// llama.cpp's times of an answer.
pub fn timings(stats: &Stats) -> Value {
    let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let prompt = stats.computed_tokens();
    let predicted_ms = milliseconds(stats.decode());
    json!({
        "cache_n": stats.reused_tokens,
        "prompt_n": prompt,
        "prompt_ms": milliseconds(stats.prefill),
        "prompt_per_token_ms": milliseconds(stats.prefill) / prompt.max(1) as f64,
        "prompt_per_second": stats.prefill_rate().unwrap_or(0.0),
        "predicted_n": stats.generated_tokens,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": predicted_ms / stats.latencies.len().max(1) as f64,
        "predicted_per_second": stats.decode_rate().unwrap_or(0.0),
    })
}

/// Probabilities of tokens in the form of chats.
pub fn logprobs(model: &Served, tokens: &[Token]) -> Vec<Value> {
    let one = |id: u32, logprob: f32| {
        let bytes = model.tokenizer.token_bytes(id);
        json!({
            "id": id,
            "token": String::from_utf8_lossy(bytes),
            "bytes": bytes,
            "logprob": logprob.max(LEAST_LOGPROB),
        })
    };
    let with_top = |token: &Token| {
        let found = token.logprobs.as_ref()?;
        let mut entry = one(token.id, found.chosen);
        entry["top_logprobs"] = found.top.iter().map(|&(id, logprob)| one(id, logprob)).collect();
        Some(entry)
    };
    tokens.iter().filter_map(with_top).collect()
}
