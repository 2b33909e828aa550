//! How the server begins and ends.

use serde_json::json;

use super::client::{Server, chat};
use crate::common::cli::run;

const CHAT: &str = "/v1/chat/completions";

#[test]
fn a_port_that_is_taken_is_an_error_in_one_line() {
    let server = Server::start(&[]);
    let port = server.address.rsplit(':').next().unwrap();
    let refused = run(&["serve", "--backend", "cpu", "--port", port]);
    assert!(refused.one_line_error(1).contains(port));
}

#[test]
fn while_it_loads_every_route_says_so() {
    let server = Server::start_loading(&[]);
    // It may be loaded already.
    for path in ["/health", "/v1/models"] {
        let response = server.get(path);
        if response.status != 200 {
            assert_eq!(response.error(503), "Loading model");
            assert_eq!(response.json()["error"]["type"], "unavailable_error");
        }
    }
}

#[cfg(unix)]
#[test]
fn asked_to_end_it_lets_answers_end_and_exits_with_0() {
    let mut server = Server::start(&[]);
    let mut idle = server.connect();
    assert_eq!(idle.request("GET", "/health", &[], b"").status, 200);
    let mut running = server.connect();
    running.send("POST", CHAT, &[], chat("Story", json!({ "stream": true, "max_tokens": 40 })).to_string().as_bytes());
    assert_eq!(running.head().status, 200);
    server.terminate();
    let mut rest = String::new();
    while let Some(chunk) = running.chunk() {
        rest += std::str::from_utf8(&chunk).unwrap();
    }
    assert!(rest.ends_with("data: [DONE]\n\n"), "{rest}");
    assert!(idle.is_closed());
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[cfg(unix)]
#[test]
fn answers_that_do_not_end_in_time_get_an_error() {
    let mut server = Server::start(&["-c", "1000000", "-np", "1", "-ctk", "q8_0", "-ctv", "q8_0", "--metrics"]);
    let body = chat("Story", json!({ "stream": true, "max_tokens": null, "ignore_eos": true })).to_string();
    let mut running = server.connect();
    running.send("POST", CHAT, &[], body.as_bytes());
    assert_eq!(running.head().status, 200);
    let mut queued = server.connect();
    queued.send("POST", CHAT, &[], chat("Hi", json!({})).to_string().as_bytes());
    // Clients that end their side are probed while they wait, which leaves the status open; in the oldest words it does not.
    let mut half = server.connect();
    half.send("POST", CHAT, &[], chat("Hi", json!({})).to_string().as_bytes());
    half.end_writing();
    let body = chat("Hi", json!({ "stream": false })).to_string();
    let mut oldest = server.connect();
    oldest.write(format!("POST /api/chat HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    oldest.end_writing();
    server.wait_for_queued(3);
    server.terminate();
    let mut rest = String::new();
    while let Some(chunk) = running.chunk() {
        rest += std::str::from_utf8(&chunk).unwrap();
    }
    assert!(rest.contains("data: {\"error\":{\"message\":\"the server is shutting down\"") && !rest.contains("[DONE]"));
    queued.response().error(503);
    assert_eq!(half.response().error(503), "the server is shutting down");
    let late = oldest.rest();
    assert!(late.starts_with("HTTP/1.0 200"), "{late}");
    assert!(late.trim_end().ends_with("{\"error\":\"the server is shutting down\"}"), "{late}");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}
