//! A GPU that fails while it answers: the CPU goes on, and the streams with it.

use bitnet_gpu::backend::gpu::adapters;
use serde_json::json;

use super::client::{Server, at_once, chat, content, streamed};

const CHAT: &str = "/v1/chat/completions";

#[test]
fn streams_go_on_where_a_gpu_fails() {
    if adapters().is_empty() {
        assert_ne!(std::env::var("BITNET_REQUIRE_GPU").as_deref(), Ok("1"), "BITNET_REQUIRE_GPU=1, but no GPU adapter");
        eprintln!("skipped: no GPU adapter");
        return;
    }
    let questions = ["Tell me a story", "The dog", "A cat"];
    let body = |question| chat(question, json!({ "stream": true, "max_tokens": 30, "ignore_eos": true }));
    let on_cpu = Server::start(&[]);
    let expected = questions.map(|question| streamed(&on_cpu.post(CHAT, &body(question)).events()));
    let server = Server::start_with_fault("lost@40", &["--metrics"]);
    let ask = |question| {
        let server = &server;
        move || streamed(&server.post(CHAT, &body(question)).events())
    };
    assert_eq!(at_once(questions.map(ask).into()), expected);
    assert!(server.get("/metrics").body.contains("bitnet:backend_fallbacks_total 1\n"));
    // And the next request is as any other.
    let next = content(&server.post(CHAT, &chat("The dog", json!({}))));
    assert_eq!(next, content(&on_cpu.post(CHAT, &chat("The dog", json!({})))));
}
