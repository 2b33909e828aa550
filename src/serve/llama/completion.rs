//! `/completion`: llama.cpp's own form of continued texts.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    super::{
        answer::Progress,
        app::{App, Prepared},
        error::ApiResult,
        fields::{Fields, wrong_type},
        ids,
        model::Served,
        openai::{add_progress, completions, logprobs, timings},
        request::Wishes,
        respond::{Answered, Choice, Dialect, End, Frames, Token},
        text::{Delta, Splitter},
    },
    settings,
};
use crate::generate::Finish;

/// Checks a request and makes it ready for the engine.
pub fn prepare(app: &App, model: &Arc<Served>, fields: Fields<'_>) -> ApiResult<Prepared> {
    let mut wishes = Wishes::read(fields, model, &app.options)?;
    let probabilities = fields.integer("n_probs")?.unwrap_or(0) as usize;
    wishes.answer.logprobs = (probabilities > 0).then_some(probabilities);
    wishes.answer.drawn_logprobs = fields.bool("post_sampling_probs")?.unwrap_or(false);
    let prompts = completions::prompts(fields, model)?;
    let answered = Answered::new((0..prompts.len() * wishes.n).map(|_| Splitter::new(None, None)));
    let dialect = Completion {
        model: Arc::clone(model),
        prompts: prompts.iter().map(|ids| model.tokenizer.decode(ids, true)).collect(),
        evaluated: prompts.iter().map(Vec::len).collect(),
        is_list: fields.get("prompt").is_some_and(is_list),
        choices_each: wishes.n,
        with_logprobs: probabilities > 0,
        drawn: wishes.answer.drawn_logprobs,
        settings: settings(&wishes.sample, &wishes.answer),
        returns_tokens: fields.bool("return_tokens")?.unwrap_or(false),
        kept_fields: kept_fields(fields)?,
    };
    app.prepared(model, ids::unique("cmpl-"), &prompts, "prompt", wishes, answered, Box::new(dialect))
}

/// Several prompts, or parts of one.
fn is_list(prompt: &Value) -> bool {
    prompt.as_array().is_some_and(|parts| !parts.iter().any(Value::is_number))
}

struct Completion {
    model: Arc<Served>,
    /// Their texts.
    prompts: Vec<String>,
    /// Their tokens.
    evaluated: Vec<usize>,
    is_list: bool,
    choices_each: usize,
    with_logprobs: bool,
    /// Whether probabilities are those of the draw.
    drawn: bool,
    settings: Value,
    /// Whether an answer in one piece has its ids.
    returns_tokens: bool,
    /// Paths of the fields that the last object keeps; empty: all.
    kept_fields: Vec<String>,
}

/// `response_fields`: paths such as `timings/predicted_n`.
fn kept_fields(fields: Fields<'_>) -> ApiResult<Vec<String>> {
    const NAME: &str = "response_fields";
    let paths = fields.array(NAME)?.unwrap_or_default();
    let text = |path: &Value| path.as_str().map(str::to_owned).ok_or_else(|| wrong_type(NAME, "strings", path));
    paths.iter().map(text).collect()
}

impl Completion {
    fn last(&self, number: usize, choice: &Choice, end: &End, content: &str, tokens: &[Token]) -> Value {
        let (kind, word) = match &end.finish {
            Finish::StopString(word) => ("word", word.as_str()),
            Finish::MaxTokens | Finish::ContextFull => ("limit", ""),
            Finish::EndToken(_) | Finish::Complete => ("eos", ""),
            Finish::Cancelled => ("none", ""),
        };
        let prompt = number / self.choices_each;
        let mut object = json!({
            "index": number,
            "content": content,
            "tokens": tokens.iter().filter(|_| self.returns_tokens).map(|token| token.id).collect::<Vec<_>>(),
            "id_slot": end.place,
            "stop": true,
            "model": self.model.name,
            "tokens_predicted": end.stats.generated_tokens,
            "tokens_evaluated": self.evaluated[prompt],
            "generation_settings": self.settings,
            "prompt": self.prompts[prompt],
            "has_new_line": choice.content.contains('\n'),
            "truncated": false,
            "stop_type": kind,
            "stopping_word": word,
            "tokens_cached": self.evaluated[prompt] + end.stats.generated_tokens,
            "timings": timings(&end.stats),
        });
        if self.with_logprobs && !tokens.is_empty() {
            object["completion_probabilities"] = self.probabilities(tokens);
        }
        self.with_kept_fields(object)
    }

    /// Logarithms of the model's probabilities, or probabilities of the draw.
    fn probabilities(&self, tokens: &[Token]) -> Value {
        let mut entries = logprobs(&self.model, tokens);
        if self.drawn {
            for entry in &mut entries {
                to_probability(entry);
                let mut top = entry["top_logprobs"].take();
                top.as_array_mut().into_iter().flatten().for_each(to_probability);
                entry["top_probs"] = top;
                if let Some(fields) = entry.as_object_mut() {
                    fields.shift_remove("top_logprobs");
                }
            }
        }
        entries.into()
    }

    /// As asked for: each field under its path, where there is one.
    fn with_kept_fields(&self, object: Value) -> Value {
        if self.kept_fields.is_empty() {
            return object;
        }
        let found = |path: &String| Some((path.clone(), object.pointer(&format!("/{path}"))?.clone()));
        Value::Object(self.kept_fields.iter().filter_map(found).collect())
    }
}

/// Replaces a logarithm by what it is of.
fn to_probability(entry: &mut Value) {
    let Some(fields) = entry.as_object_mut() else { return };
    if let Some(logprob) = fields.shift_remove("logprob").and_then(|logprob| logprob.as_f64()) {
        fields.insert("prob".into(), logprob.exp().into());
    }
}

impl Dialect for Completion {
    fn begin(&mut self, _answered: &Answered, _frames: &mut Frames) {}

    fn progress(&mut self, number: usize, progress: &Progress, frames: &mut Frames) {
        let mut object = json!({
            "index": number,
            "content": "",
            "tokens": [],
            "stop": false,
            "tokens_predicted": 0,
            "tokens_evaluated": self.evaluated[number / self.choices_each],
        });
        add_progress(&mut object, progress);
        frames.data(&object);
    }

    fn delta(&mut self, number: usize, choice: &Choice, delta: &Delta, tokens: &[Token], frames: &mut Frames) {
        let Delta::Content(text) = delta else { return };
        let mut object = json!({
            "index": number,
            "content": text,
            "tokens": tokens.iter().map(|token| token.id).collect::<Vec<_>>(),
            "stop": false,
            "tokens_predicted": choice.tokens.len(),
            "tokens_evaluated": self.evaluated[number / self.choices_each],
        });
        if self.with_logprobs {
            object["completion_probabilities"] = self.probabilities(tokens);
        }
        if let Some(stats) = &choice.so_far {
            object["timings"] = timings(stats);
        }
        frames.data(&object);
    }

    fn ended(&mut self, number: usize, answered: &Answered, frames: &mut Frames) {
        let choice = &answered.choices[number];
        if let Some(end) = &choice.end {
            frames.data(&self.last(number, choice, end, "", &[]));
        }
    }

    fn close(&mut self, _answered: &Answered, _frames: &mut Frames) {}

    fn whole(&mut self, answered: &Answered) -> Value {
        let choices = answered.choices.iter().enumerate();
        let objects = choices.filter_map(|(number, choice)| {
            Some(self.last(number, choice, choice.end.as_ref()?, &choice.content, &choice.tokens))
        });
        let mut objects: Vec<Value> = objects.collect();
        if self.is_list || objects.len() > 1 { Value::Array(objects) } else { objects.pop().unwrap_or_default() }
    }
}
