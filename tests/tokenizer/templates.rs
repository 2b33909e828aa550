//! Chat templates against what transformers makes of them (`templates.py` writes the expected texts).

use std::{env, fs};

use bitnet_gpu::{
    chat::{Message, Role, Template, ToolCall, Variables},
    gguf::{Array, Metadata, Value},
    tokenizer::Tokenizer,
};
use serde_json::Value as Json;

use crate::common::tiny_vocab::byte_level;

/// Its first tokens are `<s>` and `</s>`, as in the script.
fn tokenizer() -> Tokenizer {
    let mut metadata: Metadata = byte_level("llama-bpe");
    let Some(Value::Array(Array::String(tokens))) = metadata.get("tokenizer.ggml.tokens") else {
        panic!("a list of tokens");
    };
    let mut tokens = tokens.clone();
    let id = tokens.len() as u32;
    tokens.extend(["<s>", "</s>"].map(str::to_owned));
    let mut kinds = match metadata.get("tokenizer.ggml.token_type") {
        Some(Value::Array(Array::I32(kinds))) => kinds.clone(),
        _ => panic!("a list of kinds"),
    };
    kinds.extend([3, 3]);
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds)));
    metadata.set("tokenizer.ggml.bos_token_id", Value::U32(id));
    metadata.set("tokenizer.ggml.eos_token_id", Value::U32(id + 1));
    Tokenizer::from_gguf(&metadata).unwrap()
}

fn message(given: &Json) -> Message {
    let text = |key: &str| given[key].as_str().map(str::to_owned);
    let role: Role = serde_json::from_value(given["role"].clone()).unwrap();
    let call = |call: &Json| ToolCall {
        id: call["id"].as_str().map(str::to_owned),
        name: call["function"]["name"].as_str().unwrap().to_owned(),
        arguments: call["function"]["arguments"].clone(),
    };
    Message {
        reasoning: text("reasoning_content"),
        name: text("name"),
        tool_call_id: text("tool_call_id"),
        tool_calls: given["tool_calls"].as_array().into_iter().flatten().map(call).collect(),
        ..Message::new(role, text("content").unwrap())
    }
}

/// The text, or the reason against it.
fn render(source: &str, conversation: &Json, tokenizer: &Tokenizer) -> Result<String, String> {
    let messages: Vec<Message> = conversation["messages"].as_array().unwrap().iter().map(message).collect();
    let mut variables = Variables::default();
    for (name, value) in conversation["variables"].as_object().into_iter().flatten() {
        variables.set(name, value.clone());
    }
    if let Some(tools) = conversation["tools"].as_array() {
        variables.set_tools(tools.clone());
    }
    let with_answer = conversation["without_answer"] != true;
    Template::jinja(source, tokenizer)
        .and_then(|template| template.render_with(&messages, &variables, with_answer))
        .map_err(|e| e.to_string())
}

/// Differences, and the number of comparisons. Where transformers refuses, so do we.
fn compare(file: &Json) -> (Vec<String>, usize) {
    let tokenizer = tokenizer();
    let (mut differing, mut count) = (Vec::new(), 0);
    let mut one = |name: &str, source: &str, conversation: &Json, expected: &Json| {
        count += 1;
        let found = render(source, conversation, &tokenizer);
        if found.as_deref().ok() != expected.as_str() {
            differing.push(format!("{name}: expected {expected}, found {found:?}"));
        }
    };
    let conversations = file["conversations"].as_array().unwrap();
    for template in file["templates"].as_array().unwrap() {
        for (conversation, expected) in conversations.iter().zip(template["expected"].as_array().unwrap()) {
            let name = format!("{}, {}", template["name"], conversation["name"]);
            one(&name, template["source"].as_str().unwrap(), conversation, expected);
        }
    }
    for pair in file["snippets"].as_array().unwrap() {
        let source = pair[0].as_str().unwrap();
        one(source, source, &file["snippet"], &pair[1]);
    }
    (differing, count)
}

#[test]
fn own_templates_render_as_transformers_renders_them() {
    let (differing, count) = compare(&serde_json::from_str(include_str!("templates/expected.json")).unwrap());
    assert!(differing.is_empty(), "{} of {count}:\n{}", differing.len(), differing.join("\n"));
    assert!(count >= 150, "{count}");
}

#[test]
#[ignore = "templates.py published fetches the templates and runs it"]
fn published_templates_render_as_transformers_renders_them() {
    let path = env::var("BITNET_TEMPLATES").expect("BITNET_TEMPLATES names the file that templates.py writes");
    let (differing, count) = compare(&serde_json::from_slice(&fs::read(path).unwrap()).unwrap());
    println!("{} of {count} texts are equal", count - differing.len());
    println!("{}", differing.join("\n"));
    assert!(differing.len() * 50 <= count, "more than 2 % differ");
}
