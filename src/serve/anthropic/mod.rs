//! Anthropic's API: `/v1/messages`, a chat in other words.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{
    app::{App, Prepared},
    error::{ApiError, ApiResult},
    fields::{Fields, wrong_type},
    ids,
    model::Served,
    openai::{ChatPrompt, chat},
    respond::{Answered, Choice, Dialect, Frames, Token},
    text::Delta,
};
use crate::generate::Finish;

/// Tokens of an answer where a request has no limit.
const DEFAULT_MAX_TOKENS: u64 = 4096;

/// Checks a request and makes it ready for the engine.
pub fn prepare(app: &App, model: &Arc<Served>, fields: Fields<'_>) -> ApiResult<Prepared> {
    prepared(app, model, fields).map_err(|error| error.renamed("stop", "stop_sequences"))
}

fn prepared(app: &App, model: &Arc<Served>, fields: Fields<'_>) -> ApiResult<Prepared> {
    let translated = translate(fields)?;
    let (wishes, prompt) = chat::read(app, model, Fields(&translated))?;
    let id = ids::unique("msg_");
    let answered = Answered::new([prompt.splitter()]);
    let dialect = Messages {
        id: id.clone(),
        model: Arc::clone(model),
        open: None,
        blocks: 0,
        input: prompt.ids.len(),
        stops: stops(fields),
    };
    app.prepared(model, id, &[prompt.ids], "messages", wishes, answered, Box::new(dialect))
}

/// `/v1/messages/count_tokens`.
pub fn count_tokens(app: &App, model: &Arc<Served>, fields: Fields<'_>) -> ApiResult<Value> {
    let prompt = ChatPrompt::read(Fields(&translate(fields)?), model, &app.options)?;
    Ok(json!({ "input_tokens": prompt.ids.len() }))
}

/// The fields of a chat.
fn translate(fields: Fields<'_>) -> ApiResult<Map<String, Value>> {
    let mut translated = Map::new();
    for same in ["model", "temperature", "top_p", "top_k", "stream", "max_tokens", "seed", "min_p", "cache_prompt"] {
        if let Some(value) = fields.get(same) {
            translated.insert(same.into(), value.clone());
        }
    }
    translated.entry("max_tokens").or_insert(DEFAULT_MAX_TOKENS.into());
    if let Some(stops) = fields.get("stop_sequences") {
        translated.insert("stop".into(), stops.clone());
    }
    let mut messages = Vec::new();
    match fields.get("system") {
        None => {}
        Some(system) => messages.push(json!({ "role": "system", "content": text_of(system, "system")? })),
    }
    for message in fields.array("messages")?.ok_or_else(|| ApiError::bad_field("messages", "'messages' is required"))? {
        push_message(message, &mut messages)?;
    }
    translated.insert("messages".into(), Value::Array(messages));
    if let Some(tools) = fields.array("tools")? {
        let nested = tools.iter().map(|tool| {
            json!({ "type": "function", "function": {
                "name": tool["name"], "description": tool["description"], "parameters": tool["input_schema"],
            } })
        });
        translated.insert("tools".into(), nested.collect());
    }
    if let Some(choice) = fields.object("tool_choice")? {
        let choice = match choice.text("type")? {
            Some("any") => json!("required"),
            Some("tool") => json!({ "type": "function", "function": { "name": choice.get("name") } }),
            Some("none") => json!("none"),
            _ => json!("auto"),
        };
        translated.insert("tool_choice".into(), choice);
    }
    if let Some(thinking) = fields.object("thinking")? {
        let enabled = thinking.text("type")? != Some("disabled");
        translated.insert("chat_template_kwargs".into(), json!({ "enable_thinking": enabled }));
        if let Some(most) = thinking.get("budget_tokens").filter(|_| enabled) {
            translated.insert("thinking_budget_tokens".into(), most.clone());
        }
    }
    Ok(translated)
}

/// A string, or blocks of text.
fn text_of(content: &Value, field: &str) -> ApiResult<String> {
    match content {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(blocks) => {
            let text = |block: &Value| match block["type"].as_str() {
                Some("text") => Ok(block["text"].as_str().unwrap_or_default().to_owned()),
                other => Err(not_supported(other, field)),
            };
            Ok(blocks.iter().map(text).collect::<ApiResult<Vec<_>>>()?.join("\n"))
        }
        other => Err(wrong_type(field, "a string or blocks", other)),
    }
}

fn not_supported(kind: Option<&str>, field: &str) -> ApiError {
    let kind: String = kind.unwrap_or("no type").chars().take(40).collect();
    ApiError::bad_field(field, format!("{field}: this model does not support content of type {kind:?}"))
}

/// A message of blocks as messages: results of tools are messages of their own.
fn push_message(message: &Value, messages: &mut Vec<Value>) -> ApiResult<()> {
    let role = &message["role"];
    let Value::Array(blocks) = &message["content"] else {
        messages.push(json!({ "role": role, "content": message["content"] }));
        return Ok(());
    };
    let (mut text, mut thought, mut calls) = (String::new(), String::new(), Vec::new());
    for block in blocks {
        match block["type"].as_str() {
            Some("text") => text += block["text"].as_str().unwrap_or_default(),
            Some("tool_use") => calls.push(json!({
                "id": block["id"],
                "type": "function",
                "function": { "name": block["name"], "arguments": block["input"] },
            })),
            Some("tool_result") => messages.push(json!({
                "role": "tool", "tool_call_id": block["tool_use_id"], "content": text_of(&block["content"], "messages")?,
            })),
            // Which thoughts of earlier turns are read again is for the template to say.
            Some("thinking") => thought += block["thinking"].as_str().unwrap_or_default(),
            Some("redacted_thinking") => {}
            other => return Err(not_supported(other, "messages")),
        }
    }
    if !calls.is_empty() || !text.is_empty() || blocks.is_empty() {
        let mut message = json!({ "role": role, "content": text });
        if !calls.is_empty() {
            message["tool_calls"] = json!(calls);
        }
        if !thought.is_empty() {
            message["reasoning_content"] = json!(thought);
        }
        messages.push(message);
    }
    Ok(())
}

/// Kind of the block that is being written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Thought,
    Call(usize),
}

struct Messages {
    id: String,
    model: Arc<Served>,
    open: Option<Kind>,
    /// Blocks that are complete.
    blocks: usize,
    /// Tokens of the prompt.
    input: usize,
    /// Texts at which the request asked to stop.
    stops: Vec<String>,
}

impl Messages {
    fn object(&self, content: Vec<Value>, answered: &Answered) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model.name,
            "content": content,
            "stop_reason": null,
            "stop_sequence": null,
            "usage": self.usage(answered),
        })
    }

    fn usage(&self, answered: &Answered) -> Value {
        let (cached, output) =
            answered.stats().next().map_or((0, 0), |stats| (stats.reused_tokens, stats.generated_tokens));
        json!({
            "input_tokens": self.input - cached,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": output,
        })
    }

    /// Why it ended, and the stop string. The marks of the template are none.
    fn stop_reason<'a>(&self, choice: &'a Choice) -> (&'static str, Option<&'a str>) {
        match choice.end.as_ref().map(|end| &end.finish) {
            _ if choice.is_cut() => ("max_tokens", None),
            _ if choice.is_call() => ("tool_use", None),
            Some(Finish::StopString(stop)) if self.stops.contains(stop) => ("stop_sequence", Some(stop)),
            _ => ("end_turn", None),
        }
    }

    fn event(kind: &str, mut fields: Value, frames: &mut Frames) {
        fields["type"] = json!(kind);
        frames.event(kind, &fields);
    }

    fn open(&mut self, kind: Kind, block: Value, frames: &mut Frames) {
        if self.open == Some(kind) {
            return;
        }
        self.end_block(frames);
        Self::event("content_block_start", json!({ "index": self.blocks, "content_block": block }), frames);
        self.open = Some(kind);
    }

    fn end_block(&mut self, frames: &mut Frames) {
        if self.open.take().is_some() {
            Self::event("content_block_stop", json!({ "index": self.blocks }), frames);
            self.blocks += 1;
        }
    }

    fn write(&self, delta: Value, frames: &mut Frames) {
        Self::event("content_block_delta", json!({ "index": self.blocks, "delta": delta }), frames);
    }
}

fn stops(fields: Fields<'_>) -> Vec<String> {
    let given = fields.get("stop_sequences").and_then(Value::as_array);
    given.into_iter().flatten().filter_map(|stop| stop.as_str().map(str::to_owned)).collect()
}

impl Dialect for Messages {
    fn begin(&mut self, answered: &Answered, frames: &mut Frames) {
        let message = self.object(Vec::new(), answered);
        Self::event("message_start", json!({ "message": message }), frames);
    }

    fn delta(&mut self, _number: usize, choice: &Choice, delta: &Delta, _tokens: &[Token], frames: &mut Frames) {
        match delta {
            Delta::Content(text) => {
                self.open(Kind::Text, json!({ "type": "text", "text": "" }), frames);
                self.write(json!({ "type": "text_delta", "text": text }), frames);
            }
            Delta::Reasoning(text) => {
                self.open(Kind::Thought, json!({ "type": "thinking", "thinking": "", "signature": "" }), frames);
                self.write(json!({ "type": "thinking_delta", "thinking": text }), frames);
            }
            Delta::Call { index, name } => {
                let block = json!({ "type": "tool_use", "id": choice.calls[*index].id, "name": name, "input": {} });
                self.open(Kind::Call(*index), block, frames);
            }
            Delta::Arguments { text, .. } => {
                self.write(json!({ "type": "input_json_delta", "partial_json": text }), frames);
            }
        }
    }

    fn ended(&mut self, _number: usize, _answered: &Answered, frames: &mut Frames) {
        self.end_block(frames);
    }

    fn close(&mut self, answered: &Answered, frames: &mut Frames) {
        let (reason, stop) = self.stop_reason(&answered.choices[0]);
        let delta = json!({ "stop_reason": reason, "stop_sequence": stop });
        Self::event("message_delta", json!({ "delta": delta, "usage": self.usage(answered) }), frames);
        Self::event("message_stop", json!({}), frames);
    }

    fn error(&mut self, error: &ApiError, frames: &mut Frames) {
        Self::event("error", json!({ "error": error.to_anthropic() }), frames);
    }

    fn ping(&self) -> &'static str {
        "event: ping\ndata: {\"type\":\"ping\"}\n\n"
    }

    fn whole(&mut self, answered: &Answered) -> Value {
        let choice = &answered.choices[0];
        let mut content = Vec::new();
        if !choice.reasoning.is_empty() {
            content.push(json!({ "type": "thinking", "thinking": choice.reasoning, "signature": "" }));
        }
        if !choice.content.is_empty() {
            content.push(json!({ "type": "text", "text": choice.content }));
        }
        content.extend(choice.calls.iter().map(|call| {
            let input: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
            json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": input })
        }));
        let (reason, stop) = self.stop_reason(choice);
        let mut object = self.object(content, answered);
        object["stop_reason"] = json!(reason);
        object["stop_sequence"] = json!(stop);
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thoughts_stay_with_their_calls() {
        let mut messages = Vec::new();
        let call = json!({ "type": "tool_use", "id": "c", "name": "now", "input": {} });
        let blocks = json!([{ "type": "thinking", "thinking": "The clock." }, call]);
        push_message(&json!({ "role": "assistant", "content": blocks }), &mut messages).unwrap();
        let function = json!({ "name": "now", "arguments": {} });
        let expected = json!({
            "role": "assistant", "content": "", "reasoning_content": "The clock.",
            "tool_calls": [{ "id": "c", "type": "function", "function": function }],
        });
        assert_eq!(messages, [expected]);
    }
}
