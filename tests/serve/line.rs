//! Clients that end their side of a connection and wait for the answer, and those that are gone.

use serde_json::{Value, json};

use super::client::{Connection, Server, chat, content, streamed};

const CHAT: &str = "/v1/chat/completions";

/// A request whose sender says nothing more.
fn half_closed(server: &Server, path: &str, body: &Value) -> Connection {
    let mut connection = server.connect();
    connection.send("POST", path, &[], body.to_string().as_bytes());
    connection.end_writing();
    connection
}

#[test]
fn a_client_that_ends_its_side_gets_its_answer() {
    let server = Server::start(&["-np", "1"]);
    let body = |more: Value| {
        let mut body = chat("Tell me a story", json!({ "max_tokens": 60, "ignore_eos": true }));
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let expected = content(&server.post(CHAT, &body(json!({}))));
    let mut whole = half_closed(&server, CHAT, &body(json!({})));
    let answer = whole.response();
    assert_eq!(content(&answer), expected);
    assert!(answer.header("content-length").is_some(), "nothing was sent before its status was known");
    assert!(whole.is_closed());
    let mut stream = half_closed(&server, CHAT, &body(json!({ "stream": true })));
    let response = stream.response();
    let events: Vec<&str> = response.body.split_terminator("\n\n").filter(|event| *event != ":").collect();
    let (last, events) = events.split_last().unwrap();
    let events: Vec<Value> =
        events.iter().map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect();
    assert_eq!((*last, streamed(&events)), ("data: [DONE]", expected.clone()));
    let mut lines = half_closed(&server, "/api/chat", &body(json!({ "options": { "num_predict": 60 } })));
    let response = lines.response();
    let last: Value = serde_json::from_str(response.body.lines().last().unwrap()).unwrap();
    assert_eq!(last["done"], true, "{response:?}");

    // The oldest clients end their side as a rule.
    let body = body(json!({})).to_string();
    let mut oldest = server.connect();
    oldest.write(format!("POST {CHAT} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    oldest.end_writing();
    let answer = oldest.rest();
    let (head, answer) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    let answer: Value = serde_json::from_str(answer).unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], expected);
    // What is wrong is said all the same, and half a request is none.
    let mut wrong = half_closed(&server, CHAT, &json!({ "messages": 1 }));
    assert_eq!(wrong.response().status, 400);
    let mut half = server.connect();
    half.write(format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{").as_bytes());
    half.end_writing();
    assert!(!half.rest().starts_with("HTTP/1.1 200"));
    server.wait_for_busy_slots(0);
}

/// Interim responses show whether it is there, whatever its answer is going to be.
#[test]
fn a_client_that_waits_for_its_turn_is_probed_before_its_status_is_known() {
    let server = Server::start(&["-np", "1", "-c", "65536"]);
    let mut endless = server.connect();
    let body = chat("Story", json!({ "stream": true, "max_tokens": null, "ignore_eos": true }));
    endless.send("POST", CHAT, &[], body.to_string().as_bytes());
    server.wait_for_busy_slots(1);
    // One that asks whether its body is wanted is told so once more.
    let body = chat("Hi", json!({})).to_string();
    let mut asking = server.connect();
    asking.send("POST", CHAT, &["Expect: 100-continue"], body.as_bytes());
    asking.end_writing();
    let mut waiting = half_closed(&server, CHAT, &chat("Hi", json!({})));
    let mut stream = half_closed(&server, CHAT, &chat("Hi", json!({ "stream": true })));
    let mut gone = half_closed(&server, CHAT, &chat("Hi", json!({})));
    for client in [&mut asking, &mut waiting, &mut stream, &mut gone] {
        for _ in 0..3 {
            let interim = client.any_head();
            assert!(interim.status == 100 && interim.headers.is_empty(), "{interim:?}");
        }
    }
    gone.hang_up();
    endless.hang_up();
    assert_eq!(content(&asking.response()), content(&waiting.response()));
    assert!(stream.response().body.ends_with("data: [DONE]\n\n"));
    server.wait_for_busy_slots(0);
}

/// A request that was sent ahead is read in its turn.
#[test]
fn requests_sent_in_one_go_are_answered_in_order() {
    let server = Server::start(&["-np", "1"]);
    let mut connection = server.connect();
    let questions = ["cats", "dogs", "birds"].map(|word| chat(word, json!({})));
    for question in &questions {
        connection.send("POST", CHAT, &[], question.to_string().as_bytes());
    }
    connection.end_writing();
    let found = questions.each_ref().map(|_| content(&connection.response()).trim_start().to_owned());
    let expected = questions.each_ref().map(|question| content(&server.post(CHAT, question)).trim_start().to_owned());
    assert_eq!(found, expected);
    assert!(connection.is_closed());
}

/// In the oldest words, which have no chunks either: nothing but a write tells that nobody listens.
#[test]
fn a_client_that_is_gone_is_found_out() {
    let server = Server::start(&["-np", "1"]);
    for (path, stream) in [(CHAT, false), (CHAT, true), ("/api/chat", true)] {
        let more =
            json!({ "max_tokens": null, "ignore_eos": true, "stream": stream, "options": { "num_predict": -1 } });
        let body = chat("Tell me a story", more).to_string();
        let mut asking = server.connect();
        asking.write(format!("POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        server.wait_for_busy_slots(1);
        asking.hang_up();
        server.wait_for_busy_slots(0);
    }
}
