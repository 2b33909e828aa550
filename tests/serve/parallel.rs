//! Many requests at once: none mixed up, none in the way of another, none left behind.

use serde_json::{Value, json};

use super::client::{Server, at_once, chat, content, streamed};

const CHAT: &str = "/v1/chat/completions";

/// Fifty requests of all kinds; what each says alone on a server that has seen nothing else comes first.
fn requests() -> Vec<Value> {
    let words = ["cat", "dog", "sun", "ball", "tree", "boat", "king", "fish", "moon", "car"];
    let request = |at: usize| {
        let word = words[at % words.len()];
        let question = match at % 3 {
            0 => format!("Tell me about the {word}"),
            1 => format!("The {word} and the {} went out. What did they see? ", words[(at + 3) % 10]).repeat(6),
            _ => word.to_owned(),
        };
        let mut more = json!({ "max_tokens": 5 + at % 20, "seed": at, "temperature": if at.is_multiple_of(2) { 0.0 } else { 0.9 } });
        match at % 7 {
            2 => more["repeat_penalty"] = json!(1.3),
            3 => more["top_k"] = json!(0),
            4 => more["stop"] = json!(["the"]),
            5 => more["response_format"] = json!({ "type": "json_object" }),
            6 => more["n"] = json!(2),
            _ => {}
        }
        more["stream"] = json!(at.is_multiple_of(4));
        chat(&question, more)
    };
    (0..50).map(request).collect()
}

/// The texts of all choices.
fn texts(server: &Server, request: &Value) -> Vec<String> {
    let response = server.post(CHAT, request);
    if request["stream"] == true {
        let choices = request["n"].as_u64().unwrap_or(1);
        let events = response.events();
        let of = |index: u64| {
            let own: Vec<Value> =
                events.iter().filter(|event| event["choices"][0]["index"] == index).cloned().collect();
            streamed(&own)
        };
        return (0..choices).map(of).collect();
    }
    let body = response.json();
    let choices = body["choices"].as_array().unwrap_or_else(|| panic!("{response:?}")).iter();
    choices.map(|choice| choice["message"]["content"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn fifty_requests_at_once_get_what_each_gets_alone() {
    let requests = requests();
    let one = Server::start(&["-np", "2", "--cache-ram", "0"]);
    let alone: Vec<_> = requests
        .iter()
        .map(|request| {
            let mut fresh = request.clone();
            fresh["cache_prompt"] = json!(false);
            texts(&one, &fresh)
        })
        .collect();
    for flags in [&["-np", "4"][..], &["-np", "16"]] {
        let server = Server::start(flags);
        for _ in 0..2 {
            let found = at_once(requests.iter().map(|request| || texts(&server, request)).collect());
            for ((request, found), expected) in requests.iter().zip(&found).zip(&alone) {
                assert_eq!(found, expected, "{flags:?}: {request}");
            }
        }
        server.wait_for_busy_slots(0);
    }
}

#[test]
fn short_requests_pass_a_long_prompt() {
    let server = Server::start(&["-np", "2"]);
    let book = "Once upon a time there was a little girl who had a red ball. ".repeat(200);
    let mut reading = server.connect();
    reading.send("POST", CHAT, &[], chat(&book, json!({ "stream": true, "max_tokens": 2 })).to_string().as_bytes());
    assert_eq!(reading.head().status, 200);
    // The role comes when it has a place, before the prompt is read.
    assert!(String::from_utf8(reading.chunk().unwrap()).unwrap().contains("\"role\""));
    let short = content(&server.post(CHAT, &chat("Hi", json!({ "max_tokens": 2 }))));
    assert!(!short.is_empty());
    let mut rest = String::new();
    while let Some(chunk) = reading.chunk() {
        rest += std::str::from_utf8(&chunk).unwrap();
    }
    assert!(rest.ends_with("data: [DONE]\n\n"), "{rest}");
}

#[test]
fn clients_that_go_away_leave_their_slots() {
    let server = Server::start(&["-np", "2"]);
    let endless = |more: Value| {
        let mut request = chat("Tell me a story", json!({ "max_tokens": null, "ignore_eos": true }));
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request.to_string()
    };
    let ask = |body: &str| {
        let mut connection = server.connect();
        connection.send("POST", CHAT, &[], body.as_bytes());
        connection
    };
    for stream in [true, false] {
        let body = endless(json!({ "stream": stream }));
        let answering = [ask(&body), ask(&body)];
        server.wait_for_busy_slots(2);
        // In the queue, where nothing is sent yet.
        let queued = ask(&body);
        queued.hang_up();
        answering.into_iter().for_each(super::client::Connection::hang_up);
        server.wait_for_busy_slots(0);
    }
    // In the prompt.
    let book = "A girl had a red ball. ".repeat(300);
    let reading = ask(&chat(&book, json!({ "max_tokens": 2 })).to_string());
    server.wait_for_busy_slots(1);
    reading.hang_up();
    server.wait_for_busy_slots(0);
    assert!(!content(&server.post(CHAT, &chat("Hi", json!({ "max_tokens": 1 })))).is_empty());
}

#[test]
fn a_full_queue_asks_to_come_again() {
    let server = Server::start(&["-np", "1", "--max-queue", "1", "--metrics", "-c", "65536"]);
    let body = chat("Story", json!({ "max_tokens": null, "ignore_eos": true, "stream": true })).to_string();
    let ask = || {
        let mut connection = server.connect();
        connection.send("POST", CHAT, &[], body.as_bytes());
        connection
    };
    let first = ask();
    server.wait_for_busy_slots(1);
    let second = ask();
    server.wait_for_queued(1);
    let refused = server.post(CHAT, &chat("Hi", json!({ "max_tokens": 1 })));
    assert!(refused.error(503).contains("server busy") && refused.header("retry-after").is_some());
    first.hang_up();
    second.hang_up();
    server.wait_for_busy_slots(0);
}
