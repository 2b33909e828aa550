//! `/v1/completions`: texts that are continued.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{
    super::{
        answer::Progress,
        app::{App, Prepared},
        error::{ApiError, ApiResult},
        fields::{Fields, wrong_type},
        ids,
        model::Served,
        request::Wishes,
        respond::{Answered, Choice, Dialect, Frames, Token},
        text::{Delta, Splitter},
    },
    FINGERPRINT, LEAST_LOGPROB, add_progress, timings, usage,
};

/// Prompts of a request at most.
const MOST_PROMPTS: usize = 256;

/// Checks a request and makes it ready for the engine.
pub fn prepare(app: &App, model: &Arc<Served>, fields: Fields<'_>) -> ApiResult<Prepared> {
    let mut wishes = Wishes::read(fields, model, &app.options)?;
    fields.refuse_drawn_probabilities()?;
    wishes.answer.logprobs = match fields.get("logprobs") {
        None | Some(Value::Bool(false)) => None,
        Some(Value::Bool(true)) => Some(0),
        Some(value) => match value.as_u64() {
            Some(top @ 0..=20) => Some(top as usize),
            _ => return Err(ApiError::bad_field("logprobs", "Field 'logprobs': a number from 0 to 20")),
        },
    };
    let prompts = prompts(fields, model)?;
    let echo = fields.bool("echo")?.unwrap_or(false);
    if echo && wishes.answer.logprobs.is_some() {
        return Err(ApiError::bad_field("echo", "Field 'echo': there are no logprobs of a prompt"));
    }
    if fields.text("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::bad_field("suffix", "Field 'suffix': nothing is filled in before a text"));
    }
    let id = ids::unique("cmpl-");
    let answered = Answered::new((0..prompts.len() * wishes.n).map(|_| Splitter::new(None, None)));
    let dialect = Completions {
        id: id.clone(),
        created: ids::now(),
        model: Arc::clone(model),
        with_logprobs: wishes.answer.logprobs.is_some(),
        include_usage: wishes.include_usage,
        choices_each: wishes.n,
        echoed: prompts
            .iter()
            .map(|ids| if echo { model.tokenizer.decode(ids, false) } else { String::new() })
            .collect(),
        sent: vec![0; prompts.len() * wishes.n],
    };
    app.prepared(model, id, &prompts, "prompt", wishes, answered, Box::new(dialect))
}

/// One prompt or several: text, token ids, or a list of either.
pub fn prompts(fields: Fields<'_>, model: &Served) -> ApiResult<Vec<Vec<u32>>> {
    const NAME: &str = "prompt";
    let prompt = fields.get(NAME).ok_or_else(|| ApiError::bad_field(NAME, "'prompt' is required"))?;
    let prompts = match prompt {
        // Parts of one prompt, or several prompts.
        Value::Array(parts) if parts.iter().any(Value::is_number) => vec![mixed(parts, model)?],
        Value::Array(prompts) => prompts.iter().map(|prompt| one(prompt, model)).collect::<ApiResult<Vec<_>>>()?,
        prompt => vec![one(prompt, model)?],
    };
    if prompts.is_empty() || prompts.len() > MOST_PROMPTS {
        let message = format!("Field 'prompt': from 1 to {MOST_PROMPTS} prompts, but got {}", prompts.len());
        return Err(ApiError::bad_field(NAME, message));
    }
    if prompts.iter().any(Vec::is_empty) {
        return Err(ApiError::bad_field(NAME, "Field 'prompt': there is nothing in it"));
    }
    Ok(prompts)
}

fn one(prompt: &Value, model: &Served) -> ApiResult<Vec<u32>> {
    match prompt {
        Value::String(text) => model.encode(text, true),
        Value::Array(parts) => mixed(parts, model),
        Value::Object(parts) => of_object(Fields(parts), model),
        other => Err(wrong_type("prompt", "a string, an array of tokens, or a list of them", other)),
    }
}

/// llama.cpp's form of a prompt with pictures, which has a text alone here.
fn of_object(parts: Fields<'_>, model: &Served) -> ApiResult<Vec<u32>> {
    if parts.array("multimodal_data")?.is_some_and(|data| !data.is_empty()) {
        let message = "Field 'prompt': this model does not support input of type 'multimodal_data'";
        return Err(ApiError::bad_field("prompt", message));
    }
    let text = parts.text("prompt_string")?;
    model.encode(text.ok_or_else(|| ApiError::bad_field("prompt", "'prompt.prompt_string' is required"))?, true)
}

/// Ids and texts; the token that begins a text stands in front of a text that comes first.
fn mixed(parts: &[Value], model: &Served) -> ApiResult<Vec<u32>> {
    let mut ids = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        match part {
            Value::String(text) => ids.extend(model.encode(text, at == 0)?),
            number => ids.push(token(number, model, "prompt")?),
        }
    }
    Ok(ids)
}

/// A token id of the vocabulary.
pub fn token(value: &Value, model: &Served, field: &str) -> ApiResult<u32> {
    let id = value.as_u64().ok_or_else(|| wrong_type(field, "token ids", value))?;
    match u32::try_from(id).ok().filter(|&id| (id as usize) < model.facts.vocab) {
        Some(id) => Ok(id),
        None => {
            let message = format!("Field '{field}': token {id} is not below {} (the vocabulary)", model.facts.vocab);
            Err(ApiError::bad_field(field, message))
        }
    }
}

struct Completions {
    id: String,
    created: u64,
    model: Arc<Served>,
    with_logprobs: bool,
    include_usage: bool,
    choices_each: usize,
    /// Texts of the prompts, where they are to be repeated.
    echoed: Vec<String>,
    /// Bytes of each choice that were sent.
    sent: Vec<usize>,
}

impl Completions {
    fn object(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model.name,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }

    fn piece(&self, index: usize, text: &str, logprobs: Value) -> Value {
        self.object(json!([{ "text": text, "index": index, "logprobs": logprobs, "finish_reason": null }]))
    }

    /// OpenAI's old form of probabilities; offsets count from `start` bytes of text on.
    fn logprobs(&self, tokens: &[Token], start: usize) -> Value {
        if !self.with_logprobs {
            return Value::Null;
        }
        let text = |id: u32| String::from_utf8_lossy(self.model.tokenizer.token_bytes(id)).into_owned();
        let mut offset = start;
        let (mut texts, mut of_tokens, mut tops, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (token, found) in tokens.iter().filter_map(|token| Some((token, token.logprobs.as_ref()?))) {
            texts.push(text(token.id));
            of_tokens.push(found.chosen.max(LEAST_LOGPROB));
            let top = found.top.iter().map(|&(id, logprob)| (text(id), json!(logprob.max(LEAST_LOGPROB))));
            tops.push(top.collect::<Map<_, _>>());
            offsets.push(offset);
            offset += self.model.tokenizer.token_bytes(token.id).len();
        }
        json!({ "tokens": texts, "token_logprobs": of_tokens, "top_logprobs": tops, "text_offset": offsets })
    }
}

impl Dialect for Completions {
    fn begin(&mut self, answered: &Answered, frames: &mut Frames) {
        for index in 0..answered.choices.len() {
            let echoed = &self.echoed[index / self.choices_each];
            if !echoed.is_empty() {
                frames.data(&self.piece(index, echoed, Value::Null));
            }
            self.sent[index] = echoed.len();
        }
    }

    fn progress(&mut self, number: usize, progress: &Progress, frames: &mut Frames) {
        let mut object = self.piece(number, "", Value::Null);
        add_progress(&mut object, progress);
        frames.data(&object);
    }

    fn delta(&mut self, number: usize, choice: &Choice, delta: &Delta, tokens: &[Token], frames: &mut Frames) {
        if let Delta::Content(text) = delta {
            let mut object = self.piece(number, text, self.logprobs(tokens, self.sent[number]));
            if let Some(stats) = &choice.so_far {
                object["timings"] = timings(stats);
            }
            frames.data(&object);
            self.sent[number] += text.len();
        }
    }

    fn ended(&mut self, number: usize, answered: &Answered, frames: &mut Frames) {
        let choice = &answered.choices[number];
        let mut object = self.piece(number, "", Value::Null);
        object["choices"][0]["finish_reason"] = json!(choice.finish_reason());
        if let Some(end) = choice.end.as_ref().filter(|_| !self.include_usage) {
            object["timings"] = timings(&end.stats);
        }
        frames.data(&object);
    }

    fn close(&mut self, answered: &Answered, frames: &mut Frames) {
        if self.include_usage {
            let mut object = self.object(json!([]));
            object["usage"] = usage(answered, self.choices_each);
            if let Some(stats) = answered.stats().next() {
                object["timings"] = timings(stats);
            }
            frames.data(&object);
        }
        frames.raw("data: [DONE]\n\n");
    }

    fn whole(&mut self, answered: &Answered) -> Value {
        let choice = |(index, choice): (usize, &Choice)| {
            let echoed = &self.echoed[index / self.choices_each];
            json!({
                "text": format!("{echoed}{}", choice.content),
                "index": index,
                "logprobs": self.logprobs(&choice.tokens, echoed.len()),
                "finish_reason": choice.finish_reason(),
            })
        };
        let choices = answered.choices.iter().enumerate().map(choice).collect();
        let mut object = self.object(choices);
        object["usage"] = usage(answered, self.choices_each);
        if let Some(stats) = answered.stats().next() {
            object["timings"] = timings(stats);
        }
        object
    }
}
