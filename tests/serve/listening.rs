//! Where the server listens, and what it shows of itself.

use serde_json::json;

use super::client::{Server, chat, content};

#[test]
fn it_listens_at_several_addresses_at_once() {
    let server = Server::start(&["--host", "127.0.0.1,127.0.0.2", "--no-ui", "--tags", "small,story"]);
    let (_, port) = server.address.rsplit_once(':').unwrap();
    let other = std::net::TcpStream::connect(format!("127.0.0.2:{port}"));
    assert!(other.is_ok(), "the port is that of the first: {other:?}");
    server.get("/").error(404);
    assert_eq!(server.get("/v1/models").json()["data"][0]["tags"], json!(["small", "story"]));
}

#[cfg(unix)]
#[test]
fn it_listens_at_a_socket_of_the_file_system() {
    use std::{
        fs,
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bitnet.sock");
    let host = format!("127.0.0.1,{}", path.display());
    let ask = || {
        let mut stream = UnixStream::connect(&path).unwrap();
        // Clients make names up, proxies pass theirs on: no web page comes this way.
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: bitnet.example\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("{\"status\":\"ok\"}"), "{answer}");
    };
    let server = Server::start(&["--host", &host]);
    ask();
    // One that was killed leaves the file behind, which is no obstacle.
    server.stop();
    assert!(path.exists());
    let mut server = Server::start(&["--host", &host]);
    ask();
    server.terminate();
    assert!(server.child.wait().unwrap().success());
    assert!(!path.exists());
    // The socket that another put in its place is not taken away.
    let mut server = Server::start(&["--host", &host]);
    fs::remove_file(&path).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    server.terminate();
    assert!(server.child.wait().unwrap().success());
    assert!(path.exists());
    fs::remove_file(&path).unwrap();
    // A file that is no socket stays.
    fs::write(&path, "text").unwrap();
    let refused = crate::common::cli::program(&["serve", "--host", path.to_str().unwrap()]).output().unwrap();
    assert!(!refused.status.success());
    assert_eq!(fs::read_to_string(&path).unwrap(), "text");
}

const TEMPLATE: &str = "{% for m in messages %}{{ m.content }}{% endfor %}\
                        [{% if enable_thinking is not defined %}open{% elif enable_thinking %}on{% else %}off{% endif %}|\
                        {{ tone }}|{{ date_string }}|{{ datetime }}]";

#[test]
fn flags_set_what_a_template_reads_unless_a_request_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("template.jinja");
    std::fs::write(&file, TEMPLATE).unwrap();
    let prompt = |flags: &[&str], more| {
        let server = Server::start(&[&["--chat-template-file", file.to_str().unwrap()], flags].concat());
        let prompt = server.post("/apply-template", &chat("Hi", more)).json()["prompt"].as_str().unwrap().to_owned();
        let (question, read) = prompt.split_once('[').unwrap();
        assert_eq!(question, "Hi");
        read.trim_end_matches(']').split('|').map(str::to_owned).collect::<Vec<_>>()
    };
    let plain = prompt(&[], json!({}));
    assert_eq!(plain[..2], ["on", ""]);
    // Two ways to write one day.
    let (day, other): (Vec<&str>, Vec<&str>) = (plain[2].split(' ').collect(), plain[3].split(' ').collect());
    assert_eq!((day[0], day[1], day[2]), (other[1], other[0], other[2]));
    assert!(day[0].len() == 2 && day[2].parse::<u32>().unwrap() > 2024, "{day:?}");
    let off = ["--reasoning", "off", "--chat-template-kwargs", "{\"tone\": \"calm\"}"];
    assert_eq!(prompt(&off, json!({}))[..2], ["off", "calm"]);
    let asked = json!({ "chat_template_kwargs": { "enable_thinking": true, "tone": "loud" } });
    assert_eq!(prompt(&off, asked)[..2], ["on", "loud"]);
    let by_variable = ["--chat-template-kwargs", "{\"enable_thinking\": false}"];
    assert_eq!(prompt(&by_variable, json!({}))[..1], ["off"]);
}

/// The model knows nothing of thoughts: its template begins one, and what it writes is one.
#[test]
fn thoughts_are_as_long_as_they_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("template.jinja");
    std::fs::write(&file, "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n").unwrap();
    let server =
        Server::start(&["--chat-template-file", file.to_str().unwrap(), "--reasoning-budget", "5", "--verbose"]);
    let ask = |more| {
        let answer = server.post("/v1/chat/completions", &chat("Once upon a time", more));
        let body = answer.json();
        assert_eq!(body["__verbose"]["prompt"], "Once upon a time<think>");
        let thought = body["choices"][0]["message"]["reasoning_content"].as_str().unwrap_or_default().to_owned();
        (thought, content(&answer))
    };
    let (short, answer) = ask(json!({ "max_tokens": 40, "ignore_eos": true }));
    assert!(!short.is_empty() && !answer.is_empty(), "{short:?} {answer:?}");
    let (longer, _) = ask(json!({ "max_tokens": 40, "ignore_eos": true, "thinking_budget_tokens": 12 }));
    assert!(longer.starts_with(&short) && longer.len() > short.len(), "{short:?} {longer:?}");
    let (endless, none) = ask(json!({ "max_tokens": 40, "ignore_eos": true, "reasoning_budget_tokens": -1 }));
    assert!(endless.starts_with(&longer) && none.is_empty(), "{endless:?} {none:?}");
}
