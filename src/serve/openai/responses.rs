//! `/v1/responses`: a chat in other words. Nothing is kept between requests.

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
        respond::{Answered, Call, Choice, Dialect, Frames, Token},
        text::Delta,
    },
    add_progress, chat, timings,
};

/// Checks a request and makes it ready for the engine.
pub fn prepare(app: &App, model: &Arc<Served>, fields: Fields<'_>) -> ApiResult<Prepared> {
    prepared(app, model, fields).map_err(|error| error.renamed("messages", "input").renamed("response_format", "text"))
}

fn prepared(app: &App, model: &Arc<Served>, fields: Fields<'_>) -> ApiResult<Prepared> {
    let translated = translate(fields)?;
    let (wishes, prompt) = chat::read(app, model, Fields(&translated))?;
    if wishes.n > 1 {
        return Err(ApiError::bad_field("n", "a response has one answer"));
    }
    let id = ids::unique("resp_");
    let answered = Answered::new([prompt.splitter()]);
    let dialect = Responses {
        id: id.clone(),
        created: ids::now(),
        model: Arc::clone(model),
        sequence: 0,
        open: None,
        output: Vec::new(),
        instructions: fields.get("instructions").cloned().unwrap_or_default(),
    };
    app.prepared(model, id, &[prompt.ids], "input", wishes, answered, Box::new(dialect))
}

/// The fields of a chat.
fn translate(fields: Fields<'_>) -> ApiResult<Map<String, Value>> {
    if fields.get("previous_response_id").is_some() {
        let message = "responses are not kept: send the whole conversation as 'input'";
        return Err(ApiError::bad_field("previous_response_id", message));
    }
    let mut translated = fields.0.clone();
    for own in ["input", "instructions", "text", "reasoning", "tools", "tool_choice", "stop"] {
        translated.remove(own);
    }
    let mut messages = Vec::new();
    if let Some(text) = fields.text("instructions")? {
        messages.push(json!({ "role": "system", "content": text }));
    }
    match fields.get("input") {
        Some(Value::String(text)) => messages.push(json!({ "role": "user", "content": text })),
        Some(Value::Array(items)) => items.iter().try_for_each(|item| push_item(item, &mut messages))?,
        Some(other) => return Err(wrong_type("input", "a string or an array", other)),
        None => return Err(ApiError::bad_field("input", "'input' is required")),
    }
    // An answer that was cut off in its thought.
    messages.retain(|message| !is_thought_alone(message));
    translated.insert("messages".into(), Value::Array(messages));
    if let Some(tools) = fields.array("tools")? {
        let functions = tools.iter().filter(|tool| tool["type"] == "function" || tool["type"].is_null());
        let nested = functions.map(|tool| json!({ "type": "function", "function": function(tool) }));
        translated.insert("tools".into(), nested.collect());
    }
    if let Some(choice) = fields.get("tool_choice") {
        translated.insert("tool_choice".into(), choice.clone());
    }
    if let Some(text) = fields.object("text")?
        && let Some(format) = text.get("format")
    {
        translated.insert("response_format".into(), format.clone());
    }
    if let Some(reasoning) = fields.object("reasoning")?
        && let Some(effort) = reasoning.get("effort")
    {
        translated.insert("reasoning_effort".into(), effort.clone());
    }
    Ok(translated)
}

/// The part of a flat tool that a nested one has under `function`.
fn function(tool: &Value) -> Value {
    let mut function = tool.clone();
    if let Value::Object(fields) = &mut function {
        fields.remove("type");
    }
    function
}

/// An item of the input as a message, or as a part of the one before: thoughts, text and calls of one turn are one message.
fn push_item(item: &Value, messages: &mut Vec<Value>) -> ApiResult<()> {
    match item["type"].as_str() {
        None | Some("message") => {
            let is_answer = item["role"] == "assistant";
            match messages.last_mut().filter(|last| is_answer && is_thought_alone(last)) {
                Some(thought) => thought["content"] = item["content"].clone(),
                None => messages.push(json!({ "role": item["role"], "content": item["content"] })),
            }
        }
        Some("function_call") => {
            let call = json!({
                "id": item["call_id"],
                "type": "function",
                "function": { "name": item["name"], "arguments": item["arguments"] },
            });
            match messages.last_mut().filter(|last| last["role"] == "assistant") {
                Some(last) => match last.get_mut("tool_calls").and_then(Value::as_array_mut) {
                    Some(calls) => calls.push(call),
                    None => last["tool_calls"] = json!([call]),
                },
                None => messages.push(json!({ "role": "assistant", "content": null, "tool_calls": [call] })),
            }
        }
        Some("function_call_output") => {
            let output = match &item["output"] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            messages.push(json!({ "role": "tool", "tool_call_id": item["call_id"], "content": output }));
        }
        // Which thoughts of earlier turns are read again is for the template to say.
        Some("reasoning") => {
            let parts = item["content"].as_array().map_or(&[][..], Vec::as_slice);
            let thought: String = parts.iter().filter_map(|part| part["text"].as_str()).collect();
            if !thought.is_empty() {
                messages.push(json!({ "role": "assistant", "content": null, "reasoning_content": thought }));
            }
        }
        Some(other) => {
            let shown: String = other.chars().take(40).collect();
            return Err(ApiError::bad_field("input", format!("input of type {shown:?} is not supported")));
        }
    }
    Ok(())
}

/// True for a thought whose text and calls have not come yet.
fn is_thought_alone(message: &Value) -> bool {
    !message["reasoning_content"].is_null() && message["content"].is_null() && message["tool_calls"].is_null()
}

/// The item of the output that is being written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Thought,
    Call(usize),
}

struct Open {
    kind: Kind,
    id: String,
    text: String,
}

struct Responses {
    id: String,
    created: u64,
    model: Arc<Served>,
    /// Number of the next event.
    sequence: usize,
    open: Option<Open>,
    /// Items that are complete.
    output: Vec<Value>,
    instructions: Value,
}

impl Responses {
    fn object(&self, status: &str, output: &[Value], answered: &Answered) -> Value {
        let usage = answered.stats().next().map(|stats| {
            json!({
                "input_tokens": stats.prompt_tokens,
                "input_tokens_details": { "cached_tokens": stats.reused_tokens },
                "output_tokens": stats.generated_tokens,
                "output_tokens_details": { "reasoning_tokens": 0 },
                "total_tokens": stats.prompt_tokens + stats.generated_tokens,
            })
        });
        let is_cut = status == "incomplete";
        json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": null,
            "incomplete_details": is_cut.then(|| json!({ "reason": "max_output_tokens" })),
            "instructions": self.instructions,
            "metadata": {},
            "model": self.model.name,
            "output": output,
            "parallel_tool_calls": true,
            "temperature": null,
            "tool_choice": "auto",
            "tools": [],
            "top_p": null,
            "usage": usage,
        })
    }

    fn event(&mut self, kind: &str, fields: Value, frames: &mut Frames) {
        let mut event = json!({ "type": kind, "sequence_number": self.sequence });
        if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
            event.extend(fields);
        }
        self.sequence += 1;
        frames.event(kind, &event);
    }

    /// Begins an item, after ending the one before.
    fn open(&mut self, kind: Kind, choice: &Choice, frames: &mut Frames) {
        if self.open.as_ref().is_some_and(|open| open.kind == kind) {
            return;
        }
        self.end_item(choice, frames);
        let id = ids::unique(match kind {
            Kind::Text => "msg_",
            Kind::Thought => "rs_",
            Kind::Call(_) => "fc_",
        });
        let open = Open { kind, id, text: String::new() };
        let (index, item) = (self.output.len(), item(&open, choice, "in_progress"));
        self.event("response.output_item.added", json!({ "output_index": index, "item": item }), frames);
        if kind == Kind::Text {
            let part = json!({ "item_id": open.id, "output_index": index, "content_index": 0, "part": text_part("") });
            self.event("response.content_part.added", part, frames);
        }
        self.open = Some(open);
    }

    fn end_item(&mut self, choice: &Choice, frames: &mut Frames) {
        let Some(open) = self.open.take() else { return };
        let index = self.output.len();
        let place = json!({ "item_id": open.id, "output_index": index });
        let with = |more: Value| {
            let mut place = place.clone();
            if let (Value::Object(place), Value::Object(more)) = (&mut place, more) {
                place.extend(more);
            }
            place
        };
        match open.kind {
            Kind::Text => {
                let done = with(json!({ "content_index": 0, "text": open.text, "logprobs": [] }));
                self.event("response.output_text.done", done, frames);
                let part = with(json!({ "content_index": 0, "part": text_part(&open.text) }));
                self.event("response.content_part.done", part, frames);
            }
            Kind::Thought => {
                let done = with(json!({ "content_index": 0, "text": open.text }));
                self.event("response.reasoning_text.done", done, frames);
            }
            Kind::Call(_) => {
                let done = with(json!({ "arguments": open.text }));
                self.event("response.function_call_arguments.done", done, frames);
            }
        }
        let item = item(&open, choice, "completed");
        self.event("response.output_item.done", json!({ "output_index": index, "item": item }), frames);
        self.output.push(item);
    }

    fn write(&mut self, event: &str, text: &str, choice: &Choice, frames: &mut Frames) {
        let index = self.output.len();
        let Some(open) = &mut self.open else { return };
        open.text += text;
        let mut fields = json!({ "item_id": open.id, "output_index": index, "delta": text });
        match open.kind {
            Kind::Text => {
                fields["content_index"] = json!(0);
                fields["logprobs"] = json!([]);
            }
            Kind::Thought => fields["content_index"] = json!(0),
            Kind::Call(_) => {}
        }
        if let Some(stats) = &choice.so_far {
            fields["timings"] = timings(stats);
        }
        self.event(event, fields, frames);
    }
}

fn text_part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

fn item(open: &Open, choice: &Choice, status: &str) -> Value {
    match open.kind {
        Kind::Text => {
            let content = if status == "completed" { json!([text_part(&open.text)]) } else { json!([]) };
            json!({ "type": "message", "id": open.id, "role": "assistant", "status": status, "content": content })
        }
        Kind::Thought => {
            let content = json!([{ "type": "reasoning_text", "text": open.text }]);
            json!({ "type": "reasoning", "id": open.id, "summary": [], "content": content })
        }
        Kind::Call(index) => {
            let Call { id, name, .. } = &choice.calls[index];
            json!({
                "type": "function_call", "id": open.id, "call_id": id, "name": name, "arguments": open.text,
                "status": status,
            })
        }
    }
}

impl Dialect for Responses {
    fn begin(&mut self, answered: &Answered, frames: &mut Frames) {
        for kind in ["response.created", "response.in_progress"] {
            let response = self.object("in_progress", &[], answered);
            self.event(kind, json!({ "response": response }), frames);
        }
    }

    fn progress(&mut self, _number: usize, progress: &Progress, frames: &mut Frames) {
        let mut fields = json!({});
        add_progress(&mut fields, progress);
        self.event("response.in_progress", fields, frames);
    }

    fn delta(&mut self, _number: usize, choice: &Choice, delta: &Delta, _tokens: &[Token], frames: &mut Frames) {
        match delta {
            Delta::Content(text) => {
                self.open(Kind::Text, choice, frames);
                self.write("response.output_text.delta", text, choice, frames);
            }
            Delta::Reasoning(text) => {
                self.open(Kind::Thought, choice, frames);
                self.write("response.reasoning_text.delta", text, choice, frames);
            }
            Delta::Call { index, .. } => self.open(Kind::Call(*index), choice, frames),
            Delta::Arguments { text, .. } => self.write("response.function_call_arguments.delta", text, choice, frames),
        }
    }

    fn ended(&mut self, number: usize, answered: &Answered, frames: &mut Frames) {
        self.end_item(&answered.choices[number], frames);
    }

    fn close(&mut self, answered: &Answered, frames: &mut Frames) {
        let is_cut = answered.choices[0].is_cut();
        let (kind, status) =
            if is_cut { ("response.incomplete", "incomplete") } else { ("response.completed", "completed") };
        let response = self.object(status, &self.output, answered);
        let mut fields = json!({ "response": response });
        if let Some(stats) = answered.stats().next() {
            fields["timings"] = timings(stats);
        }
        self.event(kind, fields, frames);
    }

    fn error(&mut self, error: &ApiError, frames: &mut Frames) {
        let fields = error.to_json();
        self.event("error", json!({ "code": fields["code"], "message": fields["message"], "param": null }), frames);
    }

    fn whole(&mut self, answered: &Answered) -> Value {
        // The items are those of the stream, which was written to nobody.
        let status = if answered.choices[0].is_cut() { "incomplete" } else { "completed" };
        self.object(status, &self.output, answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thoughts_text_and_calls_of_a_turn_are_one_message() {
        let thought =
            |text: &str| json!({ "type": "reasoning", "content": [{ "type": "reasoning_text", "text": text }] });
        let call = json!({ "type": "function_call", "call_id": "c", "name": "now", "arguments": "{}" });
        let input = json!({ "input": [
            { "role": "user", "content": "When?" },
            thought("The clock."), { "type": "message", "role": "assistant", "content": "A moment." }, call, call,
            { "type": "function_call_output", "call_id": "c", "output": "noon" },
            thought("Cut off"),
        ] });
        let translated = translate(Fields(input.as_object().unwrap())).unwrap();
        let called = json!({ "id": "c", "type": "function", "function": { "name": "now", "arguments": "{}" } });
        let expected = json!([
            { "role": "user", "content": "When?" },
            {
                "role": "assistant", "content": "A moment.", "reasoning_content": "The clock.",
                "tool_calls": [called, called],
            },
            { "role": "tool", "tool_call_id": "c", "content": "noon" },
        ]);
        assert_eq!(translated["messages"], expected);
    }
}
