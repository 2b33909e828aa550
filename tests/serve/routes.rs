//! Routes without the engine, errors, keys, pages of others.

use serde_json::json;

use super::client::{Server, chat};

#[test]
fn models_are_listed_and_found_by_name() {
    let server = Server::start(&["--alias", "org/tiny,other"]);
    let list = server.get("/v1/models").json();
    assert_eq!((list["object"].as_str(), list["data"][0]["id"].as_str()), (Some("list"), Some("org/tiny")));
    assert_eq!(list["data"][0]["meta"]["n_ctx"], 4096);
    for name in ["org/tiny", "org%2Ftiny", "other"] {
        assert_eq!(server.get(&format!("/v1/models/{name}")).json()["id"], "org/tiny", "{name}");
    }
    assert_eq!(list["data"][0]["aliases"], json!(["org/tiny", "other"]));
    let error = server.get("/v1/models/none");
    assert!(error.error(404).contains("`none` does not exist"));
    assert_eq!(error.json()["error"]["code"], "model_not_found");
    let answer = server.post("/v1/chat/completions", &chat("Hi", json!({ "model": "anything", "max_tokens": 1 })));
    assert_eq!(answer.json()["model"], "org/tiny");
}

#[test]
fn a_strict_server_knows_its_own_models_only() {
    let server = Server::start(&["--alias", "tiny", "--strict-model"]);
    assert_eq!(server.post("/v1/chat/completions", &chat("Hi", json!({ "model": "tiny" }))).status, 200);
    let refused = server.post("/v1/chat/completions", &chat("Hi", json!({ "model": "gpt-4" })));
    assert!(refused.error(404).contains("gpt-4"));
}

#[test]
fn errors_are_json_on_every_route() {
    let server = Server::start(&[]);
    assert_eq!(server.get("/nothing").error(404), "File Not Found");
    assert_eq!(server.get("/nothing").json()["error"]["type"], "not_found_error");
    server.get("/v1/chat/completions").error(405);
    server.post("/health", &json!({})).error(405);
    server.get("/metrics").error(501);
    // A wrong content type is nobody's concern, as curl -d sends one.
    let body = chat("Hi", json!({ "max_tokens": 1 })).to_string();
    let sent = server.connect().request(
        "POST",
        "/v1/chat/completions",
        &["Content-Type: application/x-www-form-urlencoded"],
        body.as_bytes(),
    );
    assert_eq!(sent.status, 200);
}

#[test]
fn heads_are_those_of_the_answers_without_their_bodies() {
    let server = Server::start(&[]);
    for path in ["/health", "/v1/models", "/", "/nothing"] {
        let mut connection = server.connect();
        let whole = connection.request("GET", path, &[], b"");
        connection.send("HEAD", path, &[], b"");
        let head = connection.head();
        assert_eq!((head.status, head.header("content-type")), (whole.status, whole.header("content-type")), "{path}");
        assert_eq!(head.header("content-length"), Some(whole.body.len().to_string().as_str()), "{path}");
        // Nothing lies between it and the next answer.
        assert_eq!(connection.request("GET", "/health", &[], b"").body, "{\"status\":\"ok\"}");
    }
}

/// From wherever they come: the way in, the routes, the fields.
#[test]
fn errors_have_the_form_of_their_api() {
    let server = Server::start(&["-c", "128", "--api-key", "k"]);
    let long = "A cat sat on a mat. ".repeat(60);
    let cases = [
        ("GET", "tags", "Authorization: Bearer x", json!({}), 401),
        ("GET", "nothing", "Authorization: Bearer k", json!({}), 404),
        ("GET", "chat", "Authorization: Bearer k", json!({}), 405),
        ("POST", "chat", "Authorization: Bearer k", json!([]), 400),
        ("POST", "chat", "Authorization: Bearer k", chat(&long, json!({})), 400),
        ("POST", "embed", "Authorization: Bearer k", json!({ "input": "x" }), 501),
        ("POST", "show", "Authorization: Bearer k", json!({ "model": 5 }), 400),
    ];
    for (method, path, key, body, status) in cases {
        let refused = server.connect().request(method, &format!("/api/{path}"), &[key], body.to_string().as_bytes());
        assert_eq!(refused.status, status, "{refused:?}");
        assert!(refused.json()["error"].is_string(), "{refused:?}");
    }
    for (method, key, body, status, kind) in [
        ("POST", "X-Api-Key: x", json!({}), 401, "authentication_error"),
        ("GET", "X-Api-Key: k", json!({}), 405, "invalid_request_error"),
        ("POST", "X-Api-Key: k", json!({ "messages": 5 }), 400, "invalid_request_error"),
        ("POST", "X-Api-Key: k", chat("Hi", json!({ "stop_sequences": 5 })), 400, "invalid_request_error"),
        ("POST", "X-Api-Key: k", chat(&long, json!({ "stream": true })), 400, "invalid_request_error"),
    ] {
        let refused = server.connect().request(method, "/v1/messages", &[key], body.to_string().as_bytes());
        let said = refused.error(status);
        assert_eq!((&refused.json()["type"], &refused.json()["error"]["type"]), (&json!("error"), &json!(kind)));
        assert!(body.get("stop_sequences").is_none() || said.contains("'stop_sequences'"), "{said}");
        // By these words programs know that they have to shorten the conversation.
        assert!(body["stream"] != true || said.starts_with("prompt is too long: "), "{said}");
    }
}

#[test]
fn keys_are_asked_for_where_there_are_some() {
    let server = Server::start(&["--api-key", "alpha,beta"]);
    let get = |headers: &[&str]| server.connect().request("GET", "/v1/models", headers, b"");
    for wrong in [&[][..], &["Authorization: Bearer alph"], &["Authorization: Basic alpha"], &["X-Api-Key: gamma"]] {
        let refused = get(wrong);
        assert_eq!(refused.error(401), "Invalid API Key");
        assert_eq!(refused.json()["error"]["type"], "authentication_error");
    }
    for right in ["Authorization: Bearer alpha", "authorization: bearer beta", "X-Api-Key: beta"] {
        assert_eq!(get(&[right]).status, 200, "{right}");
    }
    assert_eq!(server.get("/health").status, 200);
    let options = server.connect().request("OPTIONS", "/v1/models", &[], b"");
    assert_eq!((options.status, options.body.as_str()), (200, ""));
    // A variable that is not set must not open the server.
    let empty = crate::common::cli::run(&["serve", "--api-key", ""]);
    assert!(empty.code == Some(2) && empty.stderr.contains("--api-key"), "{empty:?}");
}

#[test]
fn pages_of_other_machines_get_nothing_from_an_open_server() {
    let server = Server::start(&[]);
    let get = |headers: &[&str]| server.connect().request("GET", "/v1/models", headers, b"");
    get(&["Host: evil.example"]).error(403);
    assert_eq!(get(&["Host: 127.0.0.1:8080"]).status, 200);
    let allowed = |origin: &str| {
        let answer = get(&[&format!("Origin: {origin}")]);
        answer.header("access-control-allow-origin").map(str::to_owned)
    };
    assert_eq!(allowed("http://localhost:3000").as_deref(), Some("http://localhost:3000"));
    assert_eq!(allowed("http://evil.example"), None);
    let preflight = server.connect().request(
        "OPTIONS",
        "/v1/chat/completions",
        &["Origin: http://127.0.0.1:5", "Access-Control-Request-Headers: authorization,x-stainless-os"],
        b"",
    );
    assert_eq!(preflight.status, 200);
    assert_eq!(preflight.header("access-control-allow-headers"), Some("authorization,x-stainless-os"));
    // Errors, too, or a page cannot read why.
    let error = server.connect().request("GET", "/nothing", &["Origin: http://localhost"], b"");
    assert!(error.header("access-control-allow-origin").is_some());
}

/// Browsers send plain text from any page without asking first.
#[test]
fn pages_of_other_origins_may_not_act() {
    let post = |server: &Server, headers: &[&str]| {
        let headers = [&["Content-Type: text/plain"], headers].concat();
        server.connect().request("POST", "/tokenize", &headers, b"{\"content\": \"a\"}")
    };
    let server = Server::start(&[]);
    for other in ["http://evil.example", "null", "http://192.168.1.5:8080"] {
        assert!(post(&server, &[&format!("Origin: {other}")]).error(403).contains("--cors-origins"), "{other}");
    }
    for own in ["Origin: http://localhost:3000", "Origin: http://127.0.0.1:8080", "Accept: */*"] {
        assert_eq!(post(&server, &[own]).status, 200, "{own}");
    }
    let of_itself = ["Host: 192.168.1.5:8080", "Origin: http://192.168.1.5:8080"];
    assert_eq!(post(&server, &of_itself).status, 200);
    let listing = Server::start(&["--cors-origins", "https://a.example"]);
    assert_eq!(post(&listing, &["Origin: https://a.example"]).status, 200);
    post(&listing, &["Origin: https://b.example"]).error(403);
}

#[test]
fn text_and_tokens_go_both_ways() {
    let server = Server::start(&[]);
    let tokens = server.post("/tokenize", &json!({ "content": "Once upon a time, é" })).json()["tokens"].clone();
    assert_eq!(server.post("/detokenize", &json!({ "tokens": tokens })).json()["content"], "Once upon a time, é");
    server.post("/detokenize", &json!({ "tokens": [99_999_999] })).error(400);
    let pieces = server.post("/tokenize", &json!({ "content": "Lily ran", "with_pieces": true })).json();
    let text: String = pieces["tokens"].as_array().unwrap().iter().map(|t| t["piece"].as_str().unwrap()).collect();
    assert_eq!(text.trim_start(), "Lily ran");

    let messages = json!({ "messages": [{ "role": "system", "content": "S" }, { "role": "user", "content": "U" }] });
    let prompt = server.post("/apply-template", &messages).json()["prompt"].as_str().unwrap().to_owned();
    assert_eq!(prompt, "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n");
    let counted = server.post("/v1/chat/completions/input_tokens", &messages).json();
    let mut asked = messages.clone();
    asked["max_tokens"] = json!(1);
    let used = server.post("/v1/chat/completions", &asked).json();
    assert_eq!(counted["input_tokens"], used["usage"]["prompt_tokens"]);
}

#[test]
fn props_slots_and_metrics_tell_what_goes_on() {
    let server = Server::start(&["--metrics", "-np", "2", "-c", "512"]);
    let props = server.get("/props").json();
    assert_eq!((&props["total_slots"], &props["default_generation_settings"]["n_ctx"]), (&json!(2), &json!(512)));
    assert_eq!(props["chat_template"], "chatml");
    let slots = server.get("/slots").json();
    assert_eq!(slots.as_array().unwrap().len(), 2);
    assert_eq!(slots[0]["is_processing"], false);
    let used = server.post("/v1/chat/completions", &chat("Hello", json!({ "max_tokens": 5 }))).json()["usage"].clone();
    let metrics = server.get("/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4"));
    let value = |name: &str| {
        let line = metrics.body.lines().find(|line| line.starts_with(&format!("{name} "))).expect("a line");
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert_eq!(value("llamacpp:prompt_tokens_total"), used["prompt_tokens"].as_f64().unwrap());
    assert_eq!(value("llamacpp:tokens_predicted_total"), used["completion_tokens"].as_f64().unwrap());
    assert_eq!(value("bitnet:time_to_first_token_seconds_count"), 1.0);
    assert_eq!(value("bitnet:answers_total"), 1.0);
    let hidden = Server::start(&["--no-slots"]);
    hidden.get("/slots").error(501);
}

#[test]
fn a_log_line_tells_numbers_and_no_text() {
    let server = Server::start(&[]);
    server.post("/v1/chat/completions", &chat("the word xylophone", json!({ "max_tokens": 3 })));
    server.post("/v1/chat/completions", &json!({ "messages": "xylophone" })).error(400);
    let said = server.stop();
    assert!(said.contains("prompt tokens (0 cached), 3 generated"), "{said}");
    assert!(said.contains("POST /v1/chat/completions 400"), "{said}");
    assert!(!said.contains("xylophone"), "{said}");
}
