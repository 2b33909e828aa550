//! Bodies, connections and grammars that are not what they should be.

use std::thread::sleep;

use serde_json::{Value, json};

use super::client::{LOOK, Response, Server, chat, content};

const CHAT: &str = "/v1/chat/completions";

#[test]
fn bodies_that_are_no_requests_are_refused() {
    let server = Server::start(&[]);
    let post = |body: &[u8]| server.connect().request("POST", CHAT, &[], body);
    let deep = format!("{{\"messages\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for body in [&b""[..], b"{", b"[]", b"null", b"{\"messages\": [1e999]}", b"\xff\xfe", deep.as_bytes()] {
        post(body).error(400);
    }
    // With the mark of UTF-8 in front it is one.
    let marked = ["\u{feff}", &chat("Hi", json!({ "max_tokens": 1 })).to_string()].concat();
    assert_eq!(post(marked.as_bytes()).status, 200);
    let long = "a".repeat(100_000);
    let unknown_role = json!({ "messages": [{ "role": long, "content": "" }] }).to_string();
    assert!(post(unknown_role.as_bytes()).error(400).len() < 300);
    assert_eq!(server.get("/health").status, 200);
}

fn answer_to_compressed(server: &Server, compressed: &[u8]) -> Response {
    server.connect().request("POST", CHAT, &["Content-Encoding: gzip"], compressed)
}

#[test]
fn huge_bodies_are_refused_before_they_are_read() {
    let server = Server::start(&[]);
    let mut connection = server.connect();
    connection.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n{");
    connection.response().error(413);
    // Without a length.
    let mut connection = server.connect();
    connection.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = [b"100000\r\n".to_vec(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
    for _ in 0..33 {
        connection.write(&chunk);
    }
    connection.write(b"0\r\n\r\n");
    connection.response().error(413);
    // Those who write all of it before they read get to know, too.
    let mut whole = server.connect();
    let length = 40 << 20;
    whole.write(format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n").as_bytes());
    assert!(whole.write_all(&vec![b' '; length]).is_ok(), "the line is cut off");
    whole.response().error(413);
    let zipped = answer_to_compressed(&server, b"\x1f\x8b\x08\x00");
    assert!(zipped.error(415).contains("compressed"));
    // Large and allowed, but beyond any context.
    let text = "word ".repeat(200_000);
    server.post(CHAT, &chat(&text, json!({}))).error(400);
}

#[test]
fn grammars_that_would_take_all_time_or_memory_are_refused() {
    let server = Server::start(&[]);
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(60_000), ")".repeat(60_000));
    let repeated = "root ::= (\"a\"{1000}){1000}";
    let words: Vec<String> = (0..20_000).map(|n| format!("word number {n}")).collect();
    let nested = (0..100).fold(json!({ "type": "string" }), |inner, _| json!({ "type": "array", "items": inner }));
    // References that lie in each other, a chain and a web.
    let definition = |n: usize, to: &[usize]| {
        let references = to.iter().map(|to| json!({ "$ref": format!("#/$defs/d{to}") })).collect::<Vec<_>>();
        (format!("d{n}"), json!({ "anyOf": [{ "type": "null" }, { "items": { "anyOf": references } }] }))
    };
    let definitions = |entries: Vec<(String, Value)>| {
        let all: serde_json::Map<_, _> = entries.into_iter().collect();
        json!({ "json_schema": { "$ref": "#/$defs/d0", "$defs": all } })
    };
    let chain = definitions((0..900).map(|n| definition(n, &[(n + 1) % 900])).collect());
    let web = definitions((0..300).map(|n| definition(n, &[n * 7 % 300, (n * 7 + 1) % 300, (n + 1) % 300])).collect());
    let merged: Vec<Value> = (1..60).map(|n| json!({ "pattern": format!("a.{{{n}}}b") })).collect();
    for (more, status) in [
        (chain, None),
        (web, None),
        (json!({ "json_schema": { "type": "string", "allOf": merged } }), Some(400)),
        (json!({ "grammar": deep }), Some(400)),
        (json!({ "grammar": repeated }), None),
        (json!({ "json_schema": { "enum": words } }), Some(400)),
        (json!({ "json_schema": nested }), None),
        (json!({ "json_schema": { "type": "string", "pattern": "(a{100}){100}" } }), None),
        (json!({ "json_schema": { "$ref": "#/$defs/none" } }), Some(400)),
        (json!({ "json_schema": { "type": "nothing" } }), Some(400)),
        (json!({ "json_schema": { "type": "integer", "multipleOf": 1_000_000_007 } }), Some(400)),
    ] {
        let found = server.post(CHAT, &chat("Hi", more.clone()));
        let fits = status.map_or([200, 400].contains(&found.status), |status| found.status == status);
        assert!(fits, "{}: {found:?}", more.to_string().chars().take(80).collect::<String>());
    }
    assert!(!content(&server.post(CHAT, &chat("Hi", json!({})))).is_empty());
}

/// The reader stops in the middle; its answer is dropped, others go on.
#[test]
fn a_reader_that_stops_reading_loses_its_answer() {
    let server = Server::start(&["-c", "16384"]);
    let more = json!({ "stream": true, "max_tokens": null, "ignore_eos": true, "logprobs": true, "top_logprobs": 20 });
    let mut slow = server.connect();
    slow.send("POST", CHAT, &[], chat("Story", more).to_string().as_bytes());
    assert_eq!(slow.head().status, 200);
    server.wait_for_busy_slots(1);
    assert!(!content(&server.post(CHAT, &chat("Hi", json!({})))).is_empty());
    server.wait_for_busy_slots(0);
    assert!(server.stop().contains(", cancelled\n"));
}

#[test]
fn a_connection_serves_request_after_request_and_slow_heads_harm_nobody() {
    let server = Server::start(&[]);
    let mut slow: Vec<_> = (0..50).map(|_| server.connect()).collect();
    for connection in &mut slow {
        connection.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: local");
    }
    let mut connection = server.connect();
    for at in 0..20 {
        let stream = at % 2 == 0;
        let request = chat("Hi", json!({ "stream": stream, "max_tokens": 3 }));
        let response = connection.request("POST", CHAT, &[], request.to_string().as_bytes());
        assert_eq!(response.status, 200);
        assert_ne!(response.header("connection"), Some("close"));
        sleep(LOOK);
    }
    // Two requests in one packet.
    let request = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2);
    connection.write(request.as_bytes());
    assert_eq!((connection.response().status, connection.response().status), (200, 200));
}

/// They wait for an answer in another protocol, or for the end of the line, which the server owes them before they end theirs.
#[test]
fn clients_of_another_protocol_learn_that_nothing_follows() {
    let server = Server::start(&[]);
    let upgrade = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n";
    for (sent, answer) in [("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""), (upgrade, "{\"status\":\"ok\"}")] {
        let mut connection = server.connect();
        connection.write(sent.as_bytes());
        assert!(connection.rest().ends_with(answer));
        // It has not been closed: whoever still writes is heard out.
        for _ in 0..3 {
            assert!(connection.write_all(b"x").is_ok(), "{sent}");
            sleep(LOOK);
        }
    }
}

#[test]
fn bodies_take_a_bounded_part_of_the_memory() {
    let server = Server::start(&[]);
    let post = |body: &str| server.connect().request("POST", CHAT, &[], body.as_bytes());
    // A few megabytes of text that would take a hundred times as much.
    let objects = format!("{{\"x\":[{}0]}}", "{},".repeat(200_000));
    assert!(post(&objects).error(400).contains("values"));
    let text = json!({ "messages": [{ "role": "user", "content": "[{,".repeat(1_000_000) }] }).to_string();
    assert!(post(&text).error(400).contains("context"), "characters of a text are no values");
    // Large ones that never end, almost all that are held at a time.
    let stalled: Vec<_> = [32, 32, 32, 31]
        .map(|size| {
            let mut connection = server.connect();
            let length = 32 << 20;
            connection.write(
                format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n").as_bytes(),
            );
            connection.write_all(&vec![b' '; (size << 20) - 1]).expect("room");
            connection
        })
        .into();
    let spaces = " ".repeat(2 << 20);
    let becomes = |status: u16| {
        (0..1000).any(|_| {
            sleep(LOOK);
            post(&spaces).status == status
        })
    };
    assert!(becomes(503), "there is room for all of them");
    assert_eq!(post(&chat("Hi", json!({})).to_string()).status, 200, "small ones need none");
    drop(stalled);
    assert!(becomes(400), "those who left take room");
}
