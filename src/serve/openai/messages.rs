//! Messages of a conversation, checked and brought to one form: `content` is text.

use serde_json::{Map, Value, json};

use super::super::{
    error::{ApiError, ApiResult},
    fields::Fields,
};
use crate::chat::{Message, Role, ToolCall};

const FIELD: &str = "messages";

fn wrong(at: usize, message: &str) -> ApiError {
    ApiError::bad_field(FIELD, format!("messages[{at}]: {message}"))
}

/// The messages as templates take them.
pub fn read(fields: Fields<'_>) -> ApiResult<Vec<Message>> {
    let given = fields.array(FIELD)?.ok_or_else(|| ApiError::bad_field(FIELD, "'messages' is required"))?;
    if given.is_empty() {
        return Err(ApiError::bad_field(FIELD, "'messages' must not be empty"));
    }
    let messages: Vec<Message> =
        given.iter().enumerate().map(|(at, given)| message(at, given)).collect::<ApiResult<_>>()?;
    if let [.., before, last] = messages.as_slice()
        && before.role == Role::Assistant
        && last.role == Role::Assistant
    {
        return Err(ApiError::bad_field(FIELD, "Cannot have 2 or more assistant messages at the end of the list."));
    }
    Ok(messages)
}

fn message(at: usize, given: &Value) -> ApiResult<Message> {
    let object = given.as_object().ok_or_else(|| wrong(at, "expected an object"))?;
    let role = object.get("role").and_then(Value::as_str).ok_or_else(|| wrong(at, "'role' must be a string"))?;
    let role = match role {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" | "function" => Role::Tool,
        other => return Err(wrong(at, &format!("there is no role {:?}", other.chars().take(40).collect::<String>()))),
    };
    let tool_calls = calls(at, object)?;
    let content = content(at, object.get("content"))?;
    let may_lack_content = role == Role::Assistant && (!tool_calls.is_empty() || object.contains_key("content"));
    if content.is_none() && !may_lack_content {
        return Err(wrong(at, "'content' is required"));
    }
    let reasoning = match object.get("reasoning_content") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(_) => return Err(wrong(at, "'reasoning_content' must be a string")),
    };
    let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
    let (name, tool_call_id) = (text("name"), text("tool_call_id"));
    Ok(Message { reasoning, name, tool_call_id, tool_calls, ..Message::new(role, content.unwrap_or_default()) })
}

/// Text; of parts the texts, a line each.
fn content(at: usize, given: Option<&Value>) -> ApiResult<Option<String>> {
    let parts = match given {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text.clone())),
        Some(Value::Array(parts)) => parts,
        Some(_) => return Err(wrong(at, "'content' must be a string or an array of parts")),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        match (part["type"].as_str(), part["text"].as_str()) {
            (Some("text" | "input_text" | "output_text"), Some(more)) => texts.push(more),
            (Some("refusal"), _) => texts.extend(part["refusal"].as_str()),
            (Some(kind @ ("image_url" | "input_image" | "input_audio" | "file" | "input_file" | "image")), _) => {
                return Err(wrong(at, &format!("this model does not support input of type '{kind}'")));
            }
            _ => return Err(wrong(at, "a part of 'content' must be {\"type\": \"text\", \"text\": ...}")),
        }
    }
    Ok(Some(texts.join("\n")))
}

/// Calls that the model made.
fn calls(at: usize, object: &Map<String, Value>) -> ApiResult<Vec<ToolCall>> {
    let given = match object.get("tool_calls") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(calls)) => calls,
        Some(_) => return Err(wrong(at, "'tool_calls' must be an array")),
    };
    let call = |call: &Value| {
        let function = &call["function"];
        let name = function["name"].as_str().ok_or_else(|| wrong(at, "a call of a tool has no 'function.name'"))?;
        let arguments = match &function["arguments"] {
            Value::Null => json!({}),
            Value::String(text) if text.trim().is_empty() => json!({}),
            // A model may have written no JSON: the conversation goes on all the same.
            Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
            value => value.clone(),
        };
        Ok(ToolCall { id: call["id"].as_str().map(str::to_owned), name: name.to_owned(), arguments })
    };
    given.iter().map(call).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_json(messages: Value) -> Result<Vec<Message>, String> {
        let body = json!({ "messages": messages });
        read(Fields(body.as_object().unwrap())).map_err(|error| error.message)
    }

    #[test]
    fn messages_of_all_clients_are_read() {
        let found = read_json(json!([
            { "role": "developer", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
            { "role": "user", "content": "" },
            { "role": "user", "content": "again", "extra": [1] },
            { "role": "assistant", "content": null, "tool_calls": [{ "function": { "name": "f", "arguments": "" } }] },
            { "role": "tool", "content": "4", "tool_call_id": "x" },
            { "role": "assistant", "content": [{ "type": "refusal", "refusal": "No." }] },
            { "role": "user", "content": "" },
            { "role": "assistant", "tool_calls": [{ "function": { "name": "f", "arguments": "{\"a\": " } }] },
        ]))
        .unwrap();
        assert_eq!(found[0], Message::new(Role::System, "a\nb"));
        assert_eq!(found[3].tool_calls, [ToolCall { id: None, name: "f".into(), arguments: json!({}) }]);
        assert_eq!(found[7].tool_calls[0].arguments, json!("{\"a\": "), "cut off");
        assert_eq!(found[4].tool_call_id.as_deref(), Some("x"));
        assert_eq!((found[4].role, found[5].content.as_str()), (Role::Tool, "No."));
    }

    #[test]
    fn what_is_no_conversation_is_refused() {
        for (messages, reason) in [
            (json!([]), "empty"),
            (json!("hi"), "an array"),
            (json!([5]), "messages[0]: expected an object"),
            (json!([{ "role": 5, "content": "" }]), "'role' must be a string"),
            (json!([{ "role": "wizard", "content": "" }]), "wizard"),
            (json!([{ "role": "user" }]), "'content' is required"),
            (json!([{ "role": "assistant" }]), "'content' is required"),
            (json!([{ "role": "user", "content": 5 }]), "'content' must be"),
            (json!([{ "role": "user", "content": [{ "type": "image_url" }] }]), "does not support"),
            (json!([{ "role": "assistant", "content": "" }, { "role": "assistant", "content": "" }]), "2 or more"),
        ] {
            let error = read_json(messages).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
