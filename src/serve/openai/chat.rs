//! `/v1/chat/completions`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    super::{
        answer::Progress,
        app::{App, Prepared},
        error::{ApiError, ApiResult},
        fields::Fields,
        ids,
        llama::settings,
        model::Served,
        request::Wishes,
        respond::{Answered, Choice, Dialect, Frames, Token},
        text::Delta,
    },
    ChatPrompt, FINGERPRINT, add_progress, logprobs, timings, usage,
};

/// Wishes and prompt of a request, with the grammar of a call that must be made.
pub fn read(app: &App, model: &Served, fields: Fields<'_>) -> ApiResult<(Wishes, ChatPrompt)> {
    let mut wishes = Wishes::read(fields, model, &app.options)?;
    fields.refuse_drawn_probabilities()?;
    wishes.answer.logprobs = logprobs_of(fields)?;
    let prompt = ChatPrompt::read(fields, model, &app.options)?;
    if let Some(of_calls) = prompt.grammar(fields)? {
        if wishes.grammar.is_some() {
            return Err(ApiError::bad_field(
                "tools",
                "Cannot use a grammar or a response_format with a forced call of a tool",
            ));
        }
        wishes.grammar = Some(("tools", of_calls));
    } else {
        wishes.answer.reasoning = prompt.reasoning_limit(model, wishes.grammar.is_some())?;
    }
    wishes.answer.stop.extend(model.template.stops());
    Ok((wishes, prompt))
}

/// How many alternatives of each token are told; `None`: not even its own probability.
pub fn logprobs_of(fields: Fields<'_>) -> ApiResult<Option<usize>> {
    let top = fields.integer("top_logprobs")?;
    let wants_logprobs = fields.bool("logprobs")?.unwrap_or(false);
    if top.is_some() && !wants_logprobs {
        return Err(ApiError::bad_field("top_logprobs", "top_logprobs requires logprobs to be set to true"));
    }
    Ok(wants_logprobs.then(|| top.unwrap_or(0) as usize))
}

/// Checks a request and makes it ready for the engine.
pub fn prepare(app: &App, model: &Arc<Served>, fields: Fields<'_>) -> ApiResult<Prepared> {
    let (wishes, prompt) = read(app, model, fields)?;
    let id = ids::unique("chatcmpl-");
    let answered = Answered::new((0..wishes.n).map(|_| prompt.splitter()));
    let dialect = Chat {
        id: id.clone(),
        created: ids::now(),
        model: Arc::clone(model),
        with_logprobs: wishes.answer.logprobs.is_some(),
        include_usage: wishes.include_usage,
        choices: wishes.n,
        verbose: fields
            .bool("verbose")?
            .unwrap_or(app.options.verbose)
            .then(|| json!({ "prompt": prompt.text, "generation_settings": settings(&wishes.sample, &wishes.answer) })),
    };
    app.prepared(model, id, &[prompt.ids], "messages", wishes, answered, Box::new(dialect))
}

struct Chat {
    id: String,
    created: u64,
    model: Arc<Served>,
    with_logprobs: bool,
    include_usage: bool,
    choices: usize,
    /// llama.cpp's look behind an answer in one piece: the prompt as the model reads it, and the options.
    verbose: Option<Value>,
}

impl Chat {
    fn chunk(&self, choices: Value) -> Value {
        json!({
            "choices": choices,
            "created": self.created,
            "id": self.id,
            "model": self.model.name,
            "system_fingerprint": FINGERPRINT,
            "object": "chat.completion.chunk",
        })
    }

    fn delta_chunk(&self, index: usize, delta: Value) -> Value {
        self.chunk(json!([{ "finish_reason": null, "index": index, "delta": delta }]))
    }
}

impl Dialect for Chat {
    fn begin(&mut self, answered: &Answered, frames: &mut Frames) {
        for index in 0..answered.choices.len() {
            frames.data(&self.delta_chunk(index, json!({ "role": "assistant", "content": null })));
        }
    }

    fn progress(&mut self, number: usize, progress: &Progress, frames: &mut Frames) {
        let mut chunk = self.delta_chunk(number, json!({}));
        add_progress(&mut chunk, progress);
        frames.data(&chunk);
    }

    fn delta(&mut self, number: usize, choice: &Choice, delta: &Delta, tokens: &[Token], frames: &mut Frames) {
        let delta = match delta {
            Delta::Content(text) => json!({ "content": text }),
            Delta::Reasoning(text) => json!({ "reasoning_content": text }),
            Delta::Call { index, name } => json!({ "tool_calls": [{
                "index": index,
                "id": choice.calls[*index].id,
                "type": "function",
                "function": { "name": name, "arguments": "" },
            }] }),
            Delta::Arguments { index, text } => {
                json!({ "tool_calls": [{ "index": index, "function": { "arguments": text } }] })
            }
        };
        let mut chunk = self.delta_chunk(number, delta);
        if self.with_logprobs {
            chunk["choices"][0]["logprobs"] = json!({ "content": logprobs(&self.model, tokens) });
        }
        if let Some(stats) = &choice.so_far {
            chunk["timings"] = timings(stats);
        }
        frames.data(&chunk);
    }

    fn ended(&mut self, number: usize, answered: &Answered, frames: &mut Frames) {
        let choice = &answered.choices[number];
        let last = json!([{ "finish_reason": choice.finish_reason(), "index": number, "delta": {} }]);
        let mut chunk = self.chunk(last);
        if let Some(end) = choice.end.as_ref().filter(|_| !self.include_usage) {
            chunk["timings"] = timings(&end.stats);
        }
        frames.data(&chunk);
    }

    fn close(&mut self, answered: &Answered, frames: &mut Frames) {
        if self.include_usage {
            let mut chunk = self.chunk(json!([]));
            chunk["usage"] = usage(answered, self.choices);
            if let Some(stats) = answered.stats().next() {
                chunk["timings"] = timings(stats);
            }
            frames.data(&chunk);
        }
        frames.raw("data: [DONE]\n\n");
    }

    fn whole(&mut self, answered: &Answered) -> Value {
        let choice = |(index, choice): (usize, &Choice)| {
            let mut message = json!({ "role": "assistant", "content": choice.content });
            if !choice.reasoning.is_empty() {
                message["reasoning_content"] = json!(choice.reasoning);
            }
            if !choice.calls.is_empty() {
                let calls = choice.calls.iter().map(|call| {
                    let arguments = if call.arguments.is_empty() { "{}" } else { &call.arguments };
                    json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": arguments } })
                });
                message["tool_calls"] = calls.collect();
                if choice.content.is_empty() {
                    message["content"] = Value::Null;
                }
            }
            let found = self.with_logprobs.then(|| json!({ "content": logprobs(&self.model, &choice.tokens) }));
            json!({
                "index": index,
                "message": message,
                "logprobs": found,
                "finish_reason": choice.finish_reason(),
            })
        };
        let mut object = json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model.name,
            "system_fingerprint": FINGERPRINT,
            "choices": answered.choices.iter().enumerate().map(choice).collect::<Vec<_>>(),
            "usage": usage(answered, self.choices),
        });
        if let Some(stats) = answered.stats().next() {
            object["timings"] = timings(stats);
        }
        if let Some(verbose) = &self.verbose {
            object["__verbose"] = verbose.clone();
        }
        object
    }
}
