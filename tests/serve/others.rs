//! The APIs of llama.cpp, ollama and Anthropic, and OpenAI's responses: the same answers in other words.

use serde_json::{Value, json};

use super::client::{Response, Server, chat, content};

const QUESTION: &str = "Tell me a story";

/// The answer to the question by the chat of OpenAI.
fn expected(server: &Server) -> String {
    content(&server.post("/v1/chat/completions", &chat(QUESTION, json!({ "max_tokens": 20 }))))
}

/// Name and data of each event of a stream with names.
fn named_events(response: &Response) -> Vec<(String, Value)> {
    assert_eq!(response.header("content-type"), Some("text/event-stream"), "{response:?}");
    let event = |text: &str| {
        let (name, data) = text.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["type"], name);
        (name.to_owned(), data)
    };
    response.body.split_terminator("\n\n").map(event).collect()
}

fn lines(response: &Response) -> Vec<Value> {
    assert_eq!(response.header("content-type"), Some("application/x-ndjson"), "{response:?}");
    response.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn completions_of_llama_cpp() {
    let server = Server::start(&[]);
    let ask = |more: Value| {
        let mut body = json!({ "prompt": "Once upon a time", "n_predict": 12, "temperature": 0 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post("/completion", &body)
    };
    let whole = ask(json!({ "n_probs": 2, "return_tokens": true })).json();
    assert_eq!(
        (&whole["stop"], &whole["stop_type"], &whole["tokens_predicted"]),
        (&json!(true), &json!("limit"), &json!(12))
    );
    assert_eq!(whole["completion_probabilities"].as_array().unwrap().len(), 12);
    assert_eq!(whole["tokens"].as_array().unwrap().len(), 12);
    assert_eq!(whole["generation_settings"]["temperature"], 0.0);
    let text = whole["content"].as_str().unwrap();
    let stream = ask(json!({ "stream": true }));
    assert!(!stream.body.contains("[DONE]"));
    let events: Vec<Value> = stream
        .body
        .split_terminator("\n\n")
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .collect();
    let (last, pieces) = events.split_last().unwrap();
    assert_eq!(pieces.iter().map(|piece| piece["content"].as_str().unwrap()).collect::<String>(), text);
    assert!(pieces.iter().all(|piece| piece["stop"] == false) && last["stop"] == true && last["content"] == "");
    let word: String = text.chars().skip(3).take(4).collect();
    let stopped = ask(json!({ "stop": [word] })).json();
    assert_eq!((&stopped["stop_type"], &stopped["stopping_word"]), (&json!("word"), &json!(word)));
    let list = ask(json!({ "prompt": ["Once upon a time", [3, 4, 5]] })).json();
    assert_eq!((list[0]["content"].as_str(), list[1]["index"].as_u64()), (Some(text), Some(1)));
    let mixed = ask(json!({ "prompt": ["Once", 300, " time"] })).json();
    assert!(mixed["tokens_evaluated"].as_u64().unwrap() >= 3);
}

#[test]
fn chats_and_texts_of_ollama() {
    let server = Server::start(&["--alias", "tiny"]);
    let text = expected(&server);
    let options = json!({ "temperature": 0, "num_predict": 20 });
    let messages = json!([{ "role": "user", "content": QUESTION }]);
    let streamed =
        lines(&server.post("/api/chat", &json!({ "model": "tiny", "messages": messages, "options": options })));
    let (last, pieces) = streamed.split_last().unwrap();
    assert_eq!(pieces.iter().map(|line| line["message"]["content"].as_str().unwrap()).collect::<String>(), text);
    assert_eq!(
        (&last["done"], &last["done_reason"], &last["eval_count"]),
        (&json!(true), &json!("length"), &json!(20))
    );
    assert!(pieces.iter().all(|line| line["done"] == false && line["created_at"].as_str().unwrap().ends_with('Z')));
    let whole = json!({ "model": "tiny", "messages": messages, "options": options, "stream": false });
    assert_eq!(server.post("/api/chat", &whole).json()["message"]["content"], text);
    let generated = json!({ "model": "tiny", "prompt": QUESTION, "options": options, "stream": false });
    assert_eq!(server.post("/api/generate", &generated).json()["response"], text);
    let raw =
        json!({ "model": "tiny", "prompt": "Once upon a time", "raw": true, "options": options, "stream": false });
    let continued = json!({ "prompt": "Once upon a time", "temperature": 0, "max_tokens": 20 });
    let continued = server.post("/v1/completions", &continued).json();
    assert_eq!(server.post("/api/generate", &raw).json()["response"], continued["choices"][0]["text"]);
    let schema = json!({ "type": "object", "properties": { "a": { "type": "boolean" } }, "required": ["a"], "additionalProperties": false });
    let formed = json!({ "model": "tiny", "messages": messages, "format": schema, "stream": false });
    let object: Value =
        serde_json::from_str(server.post("/api/chat", &formed).json()["message"]["content"].as_str().unwrap()).unwrap();
    assert!(object["a"].is_boolean());

    assert_eq!(server.get("/api/tags").json()["models"][0]["name"], "tiny");
    assert_eq!(server.get("/api/ps").json()["models"][0]["model"], "tiny");
    assert!(server.get("/api/version").json()["version"].is_string());
    let shown = server.post("/api/show", &json!({ "model": "tiny" })).json();
    assert_eq!((&shown["details"]["format"], &shown["capabilities"]), (&json!("gguf"), &json!(["completion"])));
    let error = server.post("/api/chat", &json!({ "model": "tiny", "messages": 5 }));
    assert!(error.status == 400 && error.json()["error"].is_string(), "{error:?}");
}

/// What its clients send besides, and what would change an answer and is not done.
#[test]
fn fields_of_ollama() {
    let directory = tempfile::tempdir().unwrap();
    let template = directory.path().join("template.jinja");
    let source =
        "{% for m in messages %}{{ m.role }}={{ m.reasoning_content }}/{{ m.name }}/{{ m.content }}|{% endfor %}";
    std::fs::write(&template, source).unwrap();
    let server = Server::start(&["--chat-template", template.to_str().unwrap()]);
    let ask = |path: &str, more: Value| {
        let mut body = json!({ "model": "x", "stream": false, "options": { "num_predict": 6, "temperature": 0, "ignore_eos": true } });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post(path, &body)
    };
    let history = json!([
        { "role": "user", "content": "When?", "images": [] },
        { "role": "assistant", "thinking": "The clock.", "tool_calls": [{ "function": { "name": "now", "arguments": {} } }] },
        { "role": "tool", "tool_name": "now", "content": "noon" },
    ]);
    let read = "user=//When?|assistant=The clock.//|tool=/now/noon|";
    let same = json!({ "prompt": read, "temperature": 0, "max_tokens": 6, "ignore_eos": true });
    let same = server.post("/v1/completions", &same).json();
    let answer = ask("/api/chat", json!({ "messages": history, "logprobs": true, "top_logprobs": 2 })).json();
    assert_eq!(answer["prompt_eval_count"], same["usage"]["prompt_tokens"]);
    assert_eq!(answer["message"]["content"], same["choices"][0]["text"]);
    let logprobs = answer["logprobs"].as_array().unwrap();
    let tokens: String = logprobs.iter().map(|one| one["token"].as_str().unwrap()).collect();
    assert_eq!((tokens.trim_start(), logprobs.len()), (answer["message"]["content"].as_str().unwrap().trim_start(), 6));
    assert_eq!(logprobs[0]["top_logprobs"].as_array().map(Vec::len), Some(2));
    let raw = json!({ "prompt": read, "raw": true, "logprobs": true, "stream": true });
    let told: Vec<Value> = lines(&ask("/api/generate", raw))
        .iter()
        .filter_map(|line| line["logprobs"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(told.len(), 6);
    for (path, more) in [
        ("/api/chat", json!({ "messages": [{ "role": "user", "content": "?", "images": ["aGk="] }] })),
        ("/api/generate", json!({ "prompt": "?", "images": ["aGk="] })),
        ("/api/generate", json!({ "prompt": "?", "suffix": "!" })),
        ("/api/generate", json!({ "prompt": "?", "template": "{{ .Prompt }}" })),
    ] {
        assert_eq!(ask(path, more.clone()).status, 400, "{more}");
    }
    let nothing = json!({ "prompt": "?", "images": [], "suffix": "", "template": "" });
    assert_eq!(ask("/api/generate", nothing).status, 200);
}

#[test]
fn calls_for_ollama_have_objects_as_arguments() {
    let server = Server::start(&[]);
    let call = "<tool_call>{\\\"name\\\": \\\"f\\\", \\\"arguments\\\": {\\\"a\\\": 1}}</tool_call>".repeat(2);
    let directory = tempfile::tempdir().unwrap();
    let template = directory.path().join("template.jinja");
    std::fs::write(&template, "{{ tools | tojson }}{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    let server_with_tools = Server::start(&["--chat-template", template.to_str().unwrap()]);
    drop(server);
    let body = json!({
        "model": "x",
        "messages": [{ "role": "user", "content": "Hi" }],
        "tools": [{ "type": "function", "function": { "name": "f", "parameters": {} } }],
        "options": { "grammar": format!("root ::= \"{call}\""), "num_predict": 200 },
    });
    let answered = lines(&server_with_tools.post("/api/chat", &body));
    let calls: Vec<&Value> = answered
        .iter()
        .filter_map(|line| line["message"]["tool_calls"].as_array())
        .flatten()
        .map(|call| &call["function"])
        .collect();
    let expected = [0, 1].map(|index| json!({ "index": index, "name": "f", "arguments": { "a": 1 } }));
    assert_eq!(calls, [&expected[0], &expected[1]]);
}

#[test]
fn responses_of_openai() {
    let server = Server::start(&[]);
    let text = expected(&server);
    let body = |more: Value| {
        let mut body = json!({ "model": "x", "input": QUESTION, "temperature": 0, "max_output_tokens": 20 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let whole = server.post("/v1/responses", &body(json!({}))).json();
    assert_eq!((&whole["object"], &whole["status"]), (&json!("response"), &json!("incomplete")));
    assert_eq!(whole["output"][0]["content"][0]["text"], text);
    assert_eq!(whole["usage"]["output_tokens"], 20);
    let events = named_events(&server.post("/v1/responses", &body(json!({ "stream": true }))));
    let mut names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    assert_eq!(
        names,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.incomplete",
        ]
    );
    let joined: String = events.iter().filter_map(|(_, data)| data["delta"].as_str()).collect();
    assert_eq!(joined, text);
    assert!(events.iter().enumerate().all(|(at, (_, data))| data["sequence_number"] == at));
    let tools = json!([{ "type": "function", "name": "now", "parameters": null }]);
    let called = server
        .post("/v1/responses", &body(json!({ "tools": tools, "tool_choice": "required", "max_output_tokens": 99 })))
        .json();
    assert_eq!((&called["output"][0]["type"], &called["output"][0]["name"]), (&json!("function_call"), &json!("now")));
    let history = json!({ "instructions": "Be brief.", "input": [
        { "role": "user", "content": [{ "type": "input_text", "text": "?" }] },
        { "type": "function_call", "call_id": "c", "name": "now", "arguments": "{}" },
        { "type": "function_call_output", "call_id": "c", "output": "noon" },
    ] });
    assert_eq!(server.post("/v1/responses", &body(history)).status, 200);
    let kept = server.post("/v1/responses", &body(json!({ "previous_response_id": "resp_1" })));
    assert!(kept.error(400).contains("not kept"));
}

#[test]
fn messages_of_anthropic() {
    let server = Server::start(&["--api-key", "k"]);
    let post = |path: &str, body: &Value| {
        server.connect().request("POST", path, &["x-api-key: k"], body.to_string().as_bytes())
    };
    let asked = chat(QUESTION, json!({ "max_tokens": 20 }));
    let text = content(&post("/v1/chat/completions", &asked));
    let body = |more: Value| {
        let mut body = json!({
            "model": "x", "max_tokens": 20, "temperature": 0,
            "messages": [{ "role": "user", "content": [{ "type": "text", "text": QUESTION }] }],
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let whole = post("/v1/messages", &body(json!({}))).json();
    assert_eq!((&whole["type"], &whole["stop_reason"]), (&json!("message"), &json!("max_tokens")));
    assert_eq!(whole["content"], json!([{ "type": "text", "text": text }]));
    let events = named_events(&post("/v1/messages", &body(json!({ "stream": true }))));
    let mut names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
    );
    assert_eq!(events.iter().filter_map(|(_, data)| data["delta"]["text"].as_str()).collect::<String>(), text);
    let used = &whole["usage"];
    let counted = post("/v1/messages/count_tokens", &body(json!({}))).json()["input_tokens"].as_u64();
    assert_eq!(
        counted,
        Some(used["input_tokens"].as_u64().unwrap() + used["cache_read_input_tokens"].as_u64().unwrap())
    );
    let tools = json!([{ "name": "now", "description": "The time.", "input_schema": { "type": "object", "properties": {}, "additionalProperties": false } }]);
    let called =
        post("/v1/messages", &body(json!({ "tools": tools, "tool_choice": { "type": "any" }, "max_tokens": 200 })))
            .json();
    assert_eq!((&called["stop_reason"], &called["content"][0]["type"]), (&json!("tool_use"), &json!("tool_use")));
    assert_eq!(called["content"][0]["input"], json!({}));
    let history = json!({ "system": "Be brief.", "messages": [
        { "role": "user", "content": "?" },
        { "role": "assistant", "content": [{ "type": "tool_use", "id": "t", "name": "now", "input": {} }] },
        { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t", "content": "noon" }] },
    ] });
    assert_eq!(post("/v1/messages", &body(history)).status, 200);
    post("/v1/messages", &body(json!({ "messages": [{ "role": "user", "content": [{ "type": "image" }] }] })))
        .error(400);
}
