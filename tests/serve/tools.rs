//! Calls of tools and thoughts.

use serde_json::{Value, json};

use super::client::{Server, chat, content, streamed};

const CHAT: &str = "/v1/chat/completions";

fn tools() -> Value {
    let function = |name: &str, parameters: Value| json!({ "type": "function", "function": { "name": name, "parameters": parameters } });
    json!([
        function("weather", json!({
            "type": "object", "properties": { "city": { "type": "string", "maxLength": 6 } }, "required": ["city"],
            "additionalProperties": false,
        })),
        { "type": "function", "function": { "name": "now" } },
    ])
}

/// A `tool_choice` that names some of the tools.
fn allowed(mode: &str, tools: &[Value]) -> Value {
    json!({ "type": "allowed_tools", "allowed_tools": { "mode": mode, "tools": tools } })
}

#[test]
fn a_template_without_tools_answers_with_text_as_it_comes() {
    let server = Server::start(&[]);
    let plain = content(&server.post(CHAT, &chat("Hello", json!({}))));
    for choice in [json!("auto"), json!("none"), json!(null)] {
        let mut request = chat("Hello", json!({ "tools": tools(), "tool_choice": choice }));
        assert_eq!(content(&server.post(CHAT, &request)), plain);
        request["stream"] = json!(true);
        assert_eq!(streamed(&server.post(CHAT, &request).events()), plain);
    }
}

#[test]
fn forced_calls_are_made_whatever_the_model() {
    let server = Server::start(&[]);
    for (choice, names) in [
        (json!("required"), &["weather", "now"][..]),
        (json!({ "type": "function", "function": { "name": "weather" } }), &["weather"]),
        (json!({ "type": "function", "function": { "name": "now" } }), &["now"]),
        (allowed("required", &[json!({ "type": "function", "function": { "name": "now" } })]), &["now"]),
        // As responses have it.
        (
            json!({ "type": "allowed_tools", "mode": "required", "tools": [{ "type": "function", "name": "weather" }] }),
            &["weather"],
        ),
    ] {
        let mut request = chat(
            "What is it like?",
            json!({
                "tools": tools(), "tool_choice": choice, "max_tokens": 200, "temperature": 1.0, "seed": 4,
            }),
        );
        let whole = server.post(CHAT, &request).json();
        let message = &whole["choices"][0]["message"];
        assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls", "{whole}");
        assert!(message["content"].is_null());
        let call = &message["tool_calls"][0];
        let name = call["function"]["name"].as_str().unwrap();
        assert!(names.contains(&name), "{call}");
        assert!(!call["id"].as_str().unwrap().is_empty() && call["type"] == "function");
        let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        assert_eq!(arguments.as_object().unwrap().contains_key("city"), name == "weather", "{arguments}");

        request["stream"] = json!(true);
        let events = server.post(CHAT, &request).events();
        let calls: Vec<&Value> = events
            .iter()
            .map(|event| &event["choices"][0]["delta"]["tool_calls"][0])
            .filter(|call| call.is_object())
            .collect();
        let (first, rest) = calls.split_first().unwrap();
        assert_eq!(first["function"], json!({ "name": name, "arguments": "" }));
        assert!(first["index"] == 0 && !first["id"].as_str().unwrap().is_empty());
        assert!(rest.iter().all(|part| part.get("id").is_none() && part["function"].get("name").is_none()));
        let joined: String = rest.iter().map(|part| part["function"]["arguments"].as_str().unwrap()).collect();
        assert_eq!(joined, call["function"]["arguments"].as_str().unwrap());
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
        // Cut off, it is no call.
        request["stream"] = json!(false);
        request["max_tokens"] = json!(2);
        assert_eq!(server.post(CHAT, &request).json()["choices"][0]["finish_reason"], "length");
    }
}

/// As Pydantic writes them; two tools have parts of the same name.
#[test]
fn forced_calls_keep_to_schemas_that_refer_to_their_parts() {
    let server = Server::start(&[]);
    let tool = |name: &str, unit: Value, more: Value| {
        let mut properties = json!({ "unit": { "$ref": "#/$defs/Unit" } });
        properties.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let parameters = json!({
            "type": "object", "properties": properties, "required": ["unit"], "additionalProperties": false,
            "$defs": { "Unit": unit },
        });
        json!({ "type": "function", "function": { "name": name, "parameters": parameters } })
    };
    let again = json!({ "default": { "anyOf": [{ "$ref": "#" }, { "type": "null" }] } });
    let warmth = tool("warmth", json!({ "enum": ["C", "F"] }), json!({}));
    let way = tool("way", json!({ "enum": ["left"] }), again);
    fn fits(name: &str, arguments: &Value) -> bool {
        let inner = &arguments["default"];
        match name {
            "warmth" => [json!({ "unit": "C" }), json!({ "unit": "F" })].contains(arguments),
            _ => arguments["unit"] == "left" && (inner.is_null() || fits(name, inner)),
        }
    }
    let mut names = std::collections::BTreeSet::new();
    let lists = [json!([warmth]), json!([way]), json!([warmth, way]), json!([way, warmth])];
    for (at, tools) in lists.iter().cycle().take(12).enumerate() {
        let choice = if at.is_multiple_of(2) { json!("required") } else { json!({ "type": "any" }) };
        let more = json!({ "tools": tools, "tool_choice": choice, "max_tokens": 200, "temperature": 1.5, "seed": at });
        let answer = server.post(CHAT, &chat("Where to?", more)).json();
        if answer["choices"][0]["finish_reason"] == "length" {
            continue;
        }
        let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
        let name = call["name"].as_str().unwrap_or_else(|| panic!("{answer}"));
        let arguments = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        assert!(fits(name, &arguments), "{call}");
        names.insert(name.to_owned());
    }
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn choices_of_tools_that_cannot_be_are_refused() {
    let server = Server::start(&[]);
    for more in [
        json!({ "tool_choice": "required" }),
        json!({ "tools": tools(), "tool_choice": "perhaps" }),
        json!({ "tools": tools(), "tool_choice": { "type": "function", "function": { "name": "none" } } }),
        json!({ "tools": tools(), "tool_choice": allowed("auto", &[json!({ "function": { "name": "none" } })]) }),
        json!({ "tools": tools(), "tool_choice": allowed("auto", &[json!({})]) }),
        json!({ "tools": tools(), "tool_choice": allowed("always", &[json!({ "name": "now" })]) }),
        json!({ "tools": tools(), "tool_choice": allowed("required", &[]) }),
        json!({ "tools": tools(), "tool_choice": { "type": "allowed_tools" } }),
        json!({ "tools": [{}] }),
        json!({ "tools": "all" }),
        json!({ "tools": tools(), "tool_choice": "required", "grammar": "root ::= \"a\"" }),
    ] {
        server.post(CHAT, &chat("Hi", more)).error(400);
    }
}

/// A template that writes tools and an opened thought, as those of Qwen3 do.
#[test]
fn templates_get_tools_thoughts_and_variables() {
    let directory = tempfile::tempdir().unwrap();
    let template = directory.path().join("template.jinja");
    let source = "{% if tools %}T:{% for tool in tools %}{{ tool | tojson }};{% endfor %}{% endif %}\
                  {% for m in messages %}{{ m.role }}={{ m.content }}{% if m.tool_calls %}\
                  {{ m.tool_calls[0].function.arguments | tojson }}{% endif %}|{% endfor %}\
                  {% if add_generation_prompt %}A:{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}{% endif %}";
    std::fs::write(&template, source).unwrap();
    let server = Server::start(&["--chat-template", template.to_str().unwrap()]);
    let prompt = |more: Value| {
        let rendered = server.post("/apply-template", &chat("Hi", more));
        rendered.json()["prompt"].as_str().unwrap_or_else(|| panic!("{rendered:?}")).to_owned()
    };
    assert_eq!(prompt(json!({})), "user=Hi|A:<think>");
    let some = json!({ "tools": tools(), "tool_choice": allowed("auto", &[json!({ "name": "now" })]) });
    assert!(prompt(some.clone()).starts_with("T:{") && !prompt(some).contains("weather"));
    assert_eq!(prompt(json!({ "chat_template_kwargs": { "enable_thinking": false } })), "user=Hi|A:");
    assert_eq!(prompt(json!({ "reasoning_effort": "none" })), "user=Hi|A:");
    assert_eq!(
        prompt(json!({ "chat_template_kwargs": { "messages": [] }, "add_generation_prompt": false })),
        "user=Hi|"
    );
    let with_tools = prompt(json!({ "tools": tools() }));
    assert!(with_tools.starts_with("T:{\"type\": \"function\", \"function\": {\"name\": \"weather\""), "{with_tools}");
    let called = json!({ "messages": [
        { "role": "user", "content": "?" },
        { "role": "assistant", "content": null, "tool_calls": [{ "id": "1", "type": "function", "function": { "name": "f", "arguments": "{\"b\":1,\"a\":2}" } }] },
        { "role": "tool", "tool_call_id": "1", "content": "4" },
    ] });
    assert_eq!(prompt(called), "user=?|assistant={\"b\": 1, \"a\": 2}|tool=4|A:<think>");

    // The prompt opens the thought, so the answer begins inside it.
    let message = |more: Value| server.post(CHAT, &chat("Hi", more)).json()["choices"][0]["message"].clone();
    let thinking = message(json!({}));
    assert_eq!(thinking["content"], "");
    assert!(!thinking["reasoning_content"].as_str().unwrap().is_empty());
    let told = message(json!({ "reasoning_format": "none" }));
    assert!(told.get("reasoning_content").is_none() && !told["content"].as_str().unwrap().is_empty());
    let unopened = json!({ "enable_thinking": false });
    let grammar = json!({
        "grammar": "root ::= \"<think>so</think>\\n\\nyes\"", "max_tokens": 60, "chat_template_kwargs": unopened,
    });
    let both = message(grammar.clone());
    assert_eq!((both["reasoning_content"].as_str(), both["content"].as_str()), (Some("so"), Some("yes")));
    // And calls that the model makes by itself, in the format of Hermes.
    let call =
        "<tool_call>\\n{\\\"name\\\": \\\"weather\\\", \\\"arguments\\\": {\\\"city\\\": \\\"Rome\\\"}}\\n</tool_call>";
    let mut request = chat(
        "Hi",
        json!({ "tools": tools(), "max_tokens": 100, "chat_template_kwargs": unopened, "grammar": format!("root ::= \"{call}\"") }),
    );
    let whole = server.post(CHAT, &request).json();
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls", "{whole}");
    assert_eq!(whole["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], "{\"city\":\"Rome\"}");
    request["stream"] = json!(true);
    let events = server.post(CHAT, &request).events();
    let names: Vec<&str> = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["tool_calls"][0]["function"]["name"].as_str())
        .collect();
    assert_eq!(names, ["weather"]);
    assert_eq!(streamed(&events), "");
}
