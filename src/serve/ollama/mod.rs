//! ollama's API: chats and texts as lines of JSON, which stream unless a request says otherwise.

mod show;

mod time;

pub use show::{processes, show, tags, version};

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value, json};

use self::time::now;
use super::{
    app::{App, Prepared},
    error::{ApiError, ApiResult},
    fields::Fields,
    ids,
    model::Served,
    models::KeepAlive,
    openai::{ChatPrompt, chat, logprobs},
    request::Wishes,
    respond::{Answered, Choice, Dialect, Frames, Token},
    text::{Delta, Splitter},
};
use crate::generate::Stats;

/// The answer to a request without a question, which only loads a model or unloads it; `None` where there is one.
pub fn without_question(fields: Fields<'_>, name: &str, form: Form) -> ApiResult<Option<Value>> {
    let is_question = match form {
        Form::Chat => fields.array("messages")?.is_some_and(|messages| !messages.is_empty()),
        Form::Generate => fields.text("prompt")?.is_some_and(|prompt| !prompt.is_empty()),
    };
    if is_question {
        return Ok(None);
    }
    let mut object = form.object(name, "", "", Vec::new(), true);
    object["done_reason"] = json!(if unloads(fields)? { "unload" } else { "load" });
    Ok(Some(object))
}

/// True where a request asks for its model to be unloaded at once.
pub fn unloads(fields: Fields<'_>) -> ApiResult<bool> {
    let keep_alive = fields.get("keep_alive").map(KeepAlive::read).transpose()?;
    Ok(keep_alive == Some(KeepAlive(Some(Duration::ZERO))))
}

/// `/api/chat`.
pub fn chat(app: &App, model: &Arc<Served>, fields: Fields<'_>) -> ApiResult<Prepared> {
    prepared_chat(app, model, fields).map_err(in_own_words)
}

/// `/api/generate`: a question, or with `raw` a text that is continued.
pub fn generate(app: &App, model: &Arc<Served>, fields: Fields<'_>) -> ApiResult<Prepared> {
    prepared_text(app, model, fields).map_err(in_own_words)
}

fn in_own_words(error: ApiError) -> ApiError {
    error.renamed("n_predict", "num_predict").renamed("json_schema", "format")
}

fn prepared_chat(app: &App, model: &Arc<Served>, fields: Fields<'_>) -> ApiResult<Prepared> {
    let mut translated = translate(fields)?;
    let given = fields.array("messages")?.unwrap_or_default();
    let messages = given.iter().map(message).collect::<ApiResult<Vec<_>>>()?;
    translated.insert("messages".into(), Value::Array(messages));
    prepare_chat(app, model, &translated, Form::Chat)
}

/// A message in OpenAI's words.
fn message(given: &Value) -> ApiResult<Value> {
    let mut message = given.clone();
    let Value::Object(fields) = &mut message else { return Ok(message) };
    refuse_images(Fields(fields))?;
    fields.entry("content").or_insert("".into());
    for (theirs, ours) in [("thinking", "reasoning_content"), ("tool_name", "name")] {
        if let Some(value) = fields.remove(theirs) {
            fields.insert(ours.into(), value);
        }
    }
    Ok(message)
}

fn refuse_images(fields: Fields<'_>) -> ApiResult<()> {
    match fields.array("images")? {
        None | Some([]) => Ok(()),
        Some(_) => Err(ApiError::bad_field("images", "this model does not support images")),
    }
}

fn prepared_text(app: &App, model: &Arc<Served>, fields: Fields<'_>) -> ApiResult<Prepared> {
    let mut translated = translate(fields)?;
    refuse_images(fields)?;
    for name in ["suffix", "template"] {
        if fields.text(name)?.is_some_and(|text| !text.is_empty()) {
            return Err(ApiError::bad_field(name, format!("Field '{name}' is not supported")));
        }
    }
    let prompt = fields.text("prompt")?.unwrap_or_default();
    if fields.bool("raw")?.unwrap_or(false) {
        let ids = model.encode(prompt, true)?;
        let mut wishes = Wishes::read(Fields(&translated), model, &app.options)?;
        wishes.answer.logprobs = chat::logprobs_of(Fields(&translated))?;
        return finish(app, model, ids, wishes, Splitter::new(None, None), Form::Generate);
    }
    let mut messages = Vec::new();
    if let Some(system) = fields.text("system")?.filter(|system| !system.is_empty()) {
        messages.push(json!({ "role": "system", "content": system }));
    }
    messages.push(json!({ "role": "user", "content": prompt }));
    translated.insert("messages".into(), Value::Array(messages));
    prepare_chat(app, model, &translated, Form::Generate)
}

fn prepare_chat(app: &App, model: &Arc<Served>, fields: &Map<String, Value>, form: Form) -> ApiResult<Prepared> {
    let (wishes, prompt) = chat::read(app, model, Fields(fields))?;
    let splitter = prompt.splitter();
    let ChatPrompt { ids, .. } = prompt;
    finish(app, model, ids, wishes, splitter, form)
}

fn finish(
    app: &App,
    model: &Arc<Served>,
    prompt: Vec<u32>,
    mut wishes: Wishes,
    splitter: Splitter,
    form: Form,
) -> ApiResult<Prepared> {
    wishes.n = 1;
    let answered = Answered::new([splitter]);
    let dialect = Ollama { model: Arc::clone(model), form, with_logprobs: wishes.answer.logprobs.is_some() };
    app.prepared(model, ids::unique("ollama-"), &[prompt], "messages", wishes, answered, Box::new(dialect))
}

/// The fields of a chat of OpenAI, without its messages.
fn translate(fields: Fields<'_>) -> ApiResult<Map<String, Value>> {
    let mut translated = fields.object("options")?.map(|options| options.0.clone()).unwrap_or_default();
    if let Some(most) = translated.remove("num_predict") {
        // -2 fills the context, as -1 does here.
        let most = if most == -2 { json!(-1) } else { most };
        translated.insert("n_predict".into(), most);
    }
    for same in ["model", "tools", "logprobs", "top_logprobs"] {
        if let Some(value) = fields.get(same) {
            translated.insert(same.into(), value.clone());
        }
    }
    translated.insert("stream".into(), fields.bool("stream")?.unwrap_or(true).into());
    match fields.get("format") {
        None => {}
        Some(Value::String(word)) if word.is_empty() => {}
        Some(Value::String(word)) if word == "json" => {
            translated.insert("response_format".into(), json!({ "type": "json_object" }));
        }
        Some(schema @ Value::Object(_)) => _ = translated.insert("json_schema".into(), schema.clone()),
        Some(_) => return Err(ApiError::bad_field("format", "Field 'format': \"json\" or a schema")),
    }
    let think = match fields.get("think") {
        None => None,
        Some(Value::Bool(think)) => Some(*think),
        Some(Value::String(_)) => Some(true),
        Some(other) => return Err(super::fields::wrong_type("think", "true or false", other)),
    };
    if let Some(think) = think {
        translated.insert("chat_template_kwargs".into(), json!({ "enable_thinking": think }));
    }
    Ok(translated)
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Chat,
    Generate,
}

impl Form {
    fn object(self, model: &str, content: &str, thinking: &str, calls: Vec<Value>, done: bool) -> Value {
        let mut object = json!({ "model": model, "created_at": now() });
        match self {
            Self::Chat => {
                let mut message = json!({ "role": "assistant", "content": content });
                if !thinking.is_empty() {
                    message["thinking"] = json!(thinking);
                }
                if !calls.is_empty() {
                    message["tool_calls"] = Value::Array(calls);
                }
                object["message"] = message;
            }
            Self::Generate => {
                object["response"] = json!(content);
                if !thinking.is_empty() {
                    object["thinking"] = json!(thinking);
                }
            }
        }
        object["done"] = json!(done);
        object
    }
}

struct Ollama {
    model: Arc<Served>,
    form: Form,
    with_logprobs: bool,
}

impl Ollama {
    fn object(&self, content: &str, thinking: &str, calls: Vec<Value>, done: bool) -> Value {
        self.form.object(&self.model.name, content, thinking, calls, done)
    }

    fn add_logprobs(&self, tokens: &[Token], object: &mut Value) {
        if self.with_logprobs {
            object["logprobs"] = logprobs(&self.model, tokens).into();
        }
    }

    fn end(choice: &Choice, object: &mut Value) {
        let Some(end) = &choice.end else { return };
        let Stats { prompt_tokens, generated_tokens, prefill, .. } = &end.stats;
        let decode = end.stats.decode();
        let fields = json!({
            "done_reason": if choice.is_cut() { "length" } else { "stop" },
            "total_duration": (*prefill + decode).as_nanos() as u64,
            "load_duration": 0,
            "prompt_eval_count": prompt_tokens,
            "prompt_eval_duration": prefill.as_nanos() as u64,
            "eval_count": generated_tokens,
            "eval_duration": decode.as_nanos() as u64,
        });
        if let (Value::Object(object), Value::Object(fields)) = (object, fields) {
            object.extend(fields);
        }
    }
}

/// Calls with their arguments as objects.
fn calls(choice: &Choice) -> Vec<Value> {
    let call = |(index, call): (usize, &super::respond::Call)| {
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
        // By the index clients tell calls of one answer apart.
        json!({ "id": call.id, "function": { "index": index, "name": call.name, "arguments": arguments } })
    };
    choice.calls.iter().enumerate().map(call).collect()
}

impl Dialect for Ollama {
    fn stream_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn begin(&mut self, _answered: &Answered, _frames: &mut Frames) {}

    fn delta(&mut self, _number: usize, _choice: &Choice, delta: &Delta, tokens: &[Token], frames: &mut Frames) {
        let (content, thinking) = match delta {
            Delta::Content(text) => (text.as_str(), ""),
            Delta::Reasoning(text) => ("", text.as_str()),
            // Whole, at the end: arguments are an object here.
            Delta::Call { .. } | Delta::Arguments { .. } => return,
        };
        let mut object = self.object(content, thinking, Vec::new(), false);
        self.add_logprobs(tokens, &mut object);
        frames.line(&object);
    }

    fn ended(&mut self, number: usize, answered: &Answered, frames: &mut Frames) {
        let choice = &answered.choices[number];
        if choice.is_call() {
            frames.line(&self.object("", "", calls(choice), false));
        }
        let mut last = self.object("", "", Vec::new(), true);
        Self::end(choice, &mut last);
        frames.line(&last);
    }

    fn close(&mut self, _answered: &Answered, _frames: &mut Frames) {}

    fn error(&mut self, error: &ApiError, frames: &mut Frames) {
        frames.line(&json!({ "error": error.message }));
    }

    /// There are no comments between lines of JSON.
    fn ping(&self) -> &'static str {
        ""
    }

    fn probe(&self) -> &'static str {
        " "
    }

    fn whole(&mut self, answered: &Answered) -> Value {
        let choice = &answered.choices[0];
        let calls = if choice.is_call() { calls(choice) } else { Vec::new() };
        let mut object = self.object(&choice.content, &choice.reasoning, calls, true);
        self.add_logprobs(&choice.tokens, &mut object);
        Self::end(choice, &mut object);
        object
    }
}
