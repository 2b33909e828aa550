//! What Open WebUI 0.12.4 sends with default settings, by its source (`routers/openai.py`, `routers/ollama.py`, `routers/tasks.py`,
//! `utils/middleware.py`) and by a recording, to a server with default flags.

use serde_json::{Value, json};

use super::client::{Connection, Response, Server, streamed};

const MODEL: &str = "stories";

/// Those of aiohttp, and of a connection with a key.
const HEADERS: [&str; 5] = [
    "Accept: */*",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "User-Agent: Python/3.12 aiohttp/3.13.2",
    "Content-Type: application/json",
    "Authorization: Bearer sk-none",
];

/// The 36 tools of a fresh installation are 26 KB.
fn tools() -> Vec<Value> {
    let tool = |at: usize| {
        json!({ "type": "function", "function": {
            "name": format!("tool_{at}"),
            "description": "Does something useful with the things that it is given. ".repeat(11),
            "parameters": { "type": "object", "properties": { "query": { "type": "string", "description": "What to look for. ".repeat(5) } }, "required": ["query"] },
        } })
    };
    let tools: Vec<Value> = (0..36).map(tool).collect();
    assert!(json!(tools).to_string().len() > 26_000);
    tools
}

/// What it asks for beside the chat, with instructions of some length and the chat so far.
fn task(name: &str, chat: &[Value]) -> Value {
    let instructions = format!("### Task:\nGenerate {name}.\n### Guidelines:\n- Write raw JSON.\n").repeat(12);
    let told: String = chat.iter().map(|one| format!("{}: {}\n", one["role"], one["content"])).collect();
    let content = format!("{instructions}### Chat History:\n<chat_history>\n{told}</chat_history>");
    json!({ "model": MODEL, "messages": [{ "role": "user", "content": content }], "stream": false })
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// A connection of its pool.
struct Pooled(Connection);

impl Pooled {
    fn get(&mut self, path: &str) -> Value {
        let response = self.0.request("GET", path, &HEADERS, b"");
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }

    fn post(&mut self, path: &str, body: &Value) -> Response {
        self.send(path, body);
        let response = self.0.response();
        assert_eq!(response.status, 200, "{response:?}");
        response
    }

    fn send(&mut self, path: &str, body: &Value) {
        self.0.send("POST", path, &HEADERS, body.to_string().as_bytes());
    }
}

fn user(content: &str) -> Value {
    json!({ "role": "user", "content": content })
}

/// Two turns of a chat, with what it asks for beside it, a call of a tool in the history, and the button that stops.
fn turns(server: &Server) {
    const CHAT: &str = "/v1/chat/completions";
    let (mut pooled, mut beside) = (Pooled(server.connect()), Pooled(server.connect()));
    let models = pooled.get("/v1/models");
    assert!(models["data"].as_array().unwrap().iter().any(|model| model["id"] == MODEL), "{models}");
    let turn = |messages: &[Value]| json!({ "model": MODEL, "messages": messages, "stream": true, "tools": tools() });
    let mut messages = vec![user("Tell me a story about a cat")];
    // The request for a title goes out together with the first turn.
    beside.send(CHAT, &with(task("a concise title", &messages), json!({ "max_tokens": 1000 })));
    let first = pooled.post(CHAT, &turn(&messages)).events();
    let title = beside.0.response().json();
    assert!(title["choices"][0]["message"]["content"].is_string(), "{title}");
    assert!(title["usage"]["completion_tokens"].as_u64().unwrap() > 0, "{title}");
    let pieces = first.iter().filter(|event| event["choices"][0]["delta"]["content"].is_string()).count();
    assert!(pieces > 3 || streamed(&first).len() < 20, "as it comes");
    messages.push(json!({ "role": "assistant", "content": streamed(&first) }));
    // One after the other, without a limit.
    for name in ["3-5 relevant follow-up questions", "1-3 broad tags"] {
        pooled.post(CHAT, &task(name, &messages));
    }
    // The numbers that it shows come without being asked for, in the end of the stream.
    let counts = |events: &[Value]| {
        let timings = &events.last().unwrap()["timings"];
        let count = |name: &str| timings[name].as_u64().unwrap_or_else(|| panic!("{timings}"));
        (count("cache_n"), count("prompt_n"))
    };
    messages.push(user("And then?"));
    let second = pooled.post(CHAT, &turn(&messages)).events();
    let ((_, read), (kept, _)) = (counts(&first), counts(&second));
    // The last token of a prompt may be another one where a text follows.
    assert!(kept + 8 >= read, "{kept} of {read} were kept");
    // After a call it sends what it was told, with the answer of the tool.
    let call = json!({ "id": "call_1", "type": "function", "function": { "name": "tool_1", "arguments": "{\"query\": \"cats\"}" } });
    messages.push(json!({ "role": "assistant", "content": "", "tool_calls": [call] }));
    messages.push(json!({ "role": "tool", "tool_call_id": "call_1", "content": "There is one." }));
    // A model with the capability \"usage\" is asked for it.
    let third = with(turn(&messages), json!({ "stream_options": { "include_usage": true } }));
    let events = pooled.post(CHAT, &third).events();
    let last = events.last().unwrap();
    assert!(last["choices"] == json!([]) && last["usage"]["prompt_tokens"].is_u64(), "{last}");
    // Stop.
    pooled.send(CHAT, &turn(&messages));
    pooled.0.head();
    pooled.0.chunk();
    pooled.0.hang_up();
    server.wait_for_busy_slots(0);
}

#[test]
fn its_turns_work_on_a_model_that_knows_no_tools() {
    turns(&Server::start(&[]));
}

/// Its tools are part of the prompt then.
#[test]
fn its_turns_work_on_a_model_with_tools_in_its_template() {
    let directory = tempfile::tempdir().unwrap();
    let template = directory.path().join("template.jinja");
    let source = "{% for tool in tools or [] %}{{ tool.function.name }}: {{ tool.function.description[:30] }}\n{% endfor %}\
                  {% for m in messages %}{{ m.role }}: {{ m.content }}{% for call in m.tool_calls or [] %}\
                  {{ call.function.arguments | tojson }}{% endfor %}\n{% endfor %}assistant: ";
    std::fs::write(&template, source).unwrap();
    turns(&Server::start(&["--chat-template", template.to_str().unwrap()]));
}

/// Its other kind of connection.
#[test]
fn its_turns_work_as_those_of_ollama() {
    let server = Server::start(&[]);
    let (mut pooled, mut beside) = (Pooled(server.connect()), Pooled(server.connect()));
    // It compares versions as numbers.
    let version = pooled.get("/api/version")["version"].as_str().unwrap().to_owned();
    assert!(version.split('.').all(|part| part.parse::<u32>().is_ok()), "{version}");
    let tags = pooled.get("/api/tags");
    assert_eq!((&tags["models"][0]["model"], &tags["models"][0]["name"]), (&json!(MODEL), &json!(MODEL)));
    assert!(pooled.get("/api/ps")["models"][0]["expires_at"].is_string());
    let lines = |response: Response| -> Vec<Value> {
        assert_eq!(response.header("content-type"), Some("application/x-ndjson"));
        response.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let turn = |messages: &[Value]| json!({ "model": MODEL, "messages": messages, "stream": true, "tools": tools() });
    let mut messages = vec![user("Tell me a story about a cat")];
    beside.send("/api/chat", &with(task("a concise title", &messages), json!({ "options": { "num_predict": 1000 } })));
    let first = lines(pooled.post("/api/chat", &turn(&messages)));
    let title = beside.0.response().json();
    assert!(title["message"]["content"].is_string() && title["done_reason"].is_string(), "{title}");
    let text: String = first.iter().map(|line| line["message"]["content"].as_str().unwrap()).collect();
    let (last, pieces) = first.split_last().unwrap();
    assert!((pieces.len() > 3 || text.len() < 20) && last["done"] == true && last["eval_duration"].is_u64(), "{last}");
    messages.push(json!({ "role": "assistant", "content": text, "thinking": "Cats." }));
    messages.push(user("And then?"));
    let call =
        json!({ "index": 0, "id": "call_1", "function": { "name": "tool_1", "arguments": { "query": "cats" } } });
    messages.push(json!({ "role": "assistant", "content": "", "tool_calls": [call] }));
    messages.push(json!({ "role": "tool", "tool_call_id": "call_1", "content": "There is one." }));
    let settings = json!({ "temperature": 0.5, "num_ctx": 2048, "num_predict": 8, "num_gpu": 0, "use_mmap": true, "stop": ["\n\n\n"] });
    let second = with(turn(&messages), json!({ "options": settings, "keep_alive": "5m", "think": true }));
    let second = lines(pooled.post("/api/chat", &second));
    assert!(second.last().unwrap()["eval_count"].as_u64().unwrap() <= 8);
    // Its button that unloads.
    let unloaded = pooled.post("/api/generate", &json!({ "model": MODEL, "keep_alive": 0, "prompt": "" }));
    assert_eq!(unloaded.json()["done_reason"], "unload");
    // Stop.
    pooled.send("/api/chat", &turn(&messages));
    pooled.0.head();
    pooled.0.chunk();
    pooled.0.hang_up();
    server.wait_for_busy_slots(0);
}
