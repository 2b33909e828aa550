//! Several models: loaded when a request names them, unloaded when they idle or another needs the room.

use std::{fs, path::Path, thread::sleep};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{LOOK, Server, at_once, chat, content};

const CHAT: &str = "/v1/chat/completions";
const BUILT_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/llama-stories-ternary-4m.gguf");

/// A folder with two models that run and one that does not.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    for name in ["one.gguf", "two.gguf"] {
        fs::copy(BUILT_IN, folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("broken.gguf"), b"GGUF and no more").unwrap();
    for other in ["notes.txt", "._one.gguf"] {
        fs::write(folder.path().join(other), b"no model").unwrap();
    }
    folder
}

fn server(folder: &Path, more: &[&str]) -> Server {
    Server::start(&[&["--models-dir", folder.to_str().unwrap()], more].concat())
}

fn ask(model: &str, more: Value) -> Value {
    let mut body = chat("Tell me a story", more);
    body["model"] = json!(model);
    body
}

/// Names of models in memory.
fn loaded(server: &Server) -> Vec<String> {
    let models = server.get("/api/ps").json()["models"].clone();
    models.as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap().to_owned()).collect()
}

fn wait_for_loaded(server: &Server, expected: &[&str]) {
    for _ in 0..3000 {
        if loaded(server) == expected {
            return;
        }
        sleep(LOOK);
    }
    panic!("{:?} are loaded, not {expected:?}", loaded(server));
}

#[test]
fn models_of_a_folder_are_listed_and_loaded_when_they_are_named() {
    let (folder, alone) = (folder(), Server::start(&[]));
    let expected = content(&alone.post(CHAT, &chat("Tell me a story", json!({}))));
    let server = server(folder.path(), &[]);
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
    };
    let list = server.get("/v1/models").json();
    assert_eq!(names(&list["data"]), ["broken", "one", "two"]);
    assert_eq!(
        (&list["data"][1]["status"]["value"], &list["data"][1]["meta"]["n_ctx"]),
        (&json!("unloaded"), &json!(null))
    );
    assert!(list["data"][1]["meta"]["n_params"].as_u64().unwrap() > 1_000_000);
    assert_eq!(server.get("/api/tags").json()["models"][1]["details"]["quantization_level"], "I2_S");
    assert_eq!(loaded(&server), [""; 0]);
    assert_eq!(server.get("/props").json()["total_slots"], 0);

    // Requests that come while it is loaded wait for the same load.
    let one = || || server.post(CHAT, &ask("one", json!({})));
    for response in at_once(vec![one(), one(), one()]) {
        assert_eq!((content(&response), &response.json()["model"]), (expected.clone(), &json!("one")));
    }
    assert_eq!(content(&server.post(CHAT, &ask("two:latest", json!({})))), expected);
    assert_eq!(loaded(&server), ["one", "two"]);
    assert_eq!(server.get("/v1/models/two").json()["status"]["value"], "loaded");
    assert_eq!(server.get("/props?model=one").json()["model_alias"], "one");
    assert_eq!(server.get("/slots?model=one").json().as_array().unwrap().len(), 4);
    // Without a name, the one that was used last.
    assert_eq!(server.post(CHAT, &chat("Hi", json!({}))).json()["model"], "two");
    let shown = server.post("/api/show", &json!({ "model": "one" })).json();
    assert_eq!(shown["details"]["family"], "bitnet-b1.58");

    let unknown = server.post(CHAT, &ask("three", json!({})));
    assert_eq!(unknown.error(404), "The model `three` does not exist");
    assert_eq!(unknown.json()["error"]["code"], "model_not_found");
    assert_eq!(server.get("/v1/models/three").status, 404);
    // A file that goes is no model any more, one that comes later is.
    fs::remove_file(folder.path().join("broken.gguf")).unwrap();
    server.post(CHAT, &ask("broken", json!({}))).error(404);
    fs::copy(BUILT_IN, folder.path().join("three.gguf")).unwrap();
    assert_eq!(content(&server.post(CHAT, &ask("three", json!({})))), expected);
}

#[test]
fn a_model_that_cannot_be_loaded_is_an_error_and_the_others_go_on() {
    let folder = folder();
    let server = server(folder.path(), &[]);
    for _ in 0..2 {
        let error = server.post(CHAT, &ask("broken", json!({ "stream": true }))).error(500);
        assert!(error.starts_with("the model `broken` cannot be loaded: "), "{error}");
    }
    let ollama = server.post("/api/chat", &ask("broken", json!({})));
    assert!(ollama.json()["error"].as_str().unwrap().contains("cannot be loaded"));
    assert_eq!(server.post(CHAT, &ask("one", json!({}))).status, 200);
    assert_eq!(loaded(&server), ["one"]);
    // Mended, it runs.
    fs::copy(BUILT_IN, folder.path().join("broken.gguf")).unwrap();
    assert_eq!(server.post(CHAT, &ask("broken", json!({}))).status, 200);
}

#[test]
fn the_least_recently_used_model_makes_room_and_streams_go_on() {
    let folder = folder();
    let server = server(folder.path(), &["--models-max", "1", "-c", "4096"]);
    let long = json!({ "stream": true, "max_tokens": 150, "ignore_eos": true });
    let expected = server.post(CHAT, &ask("one", long.clone())).events();
    let mut stream = server.connect();
    stream.send("POST", CHAT, &[], ask("one", long).to_string().as_bytes());
    assert_eq!(stream.head().status, 200);
    // The other model waits until the answer has ended.
    let (rest, other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| server.post(CHAT, &ask("two", json!({}))));
        let mut rest = String::new();
        while let Some(chunk) = stream.chunk() {
            rest += std::str::from_utf8(&chunk).unwrap();
        }
        (rest, other.join().unwrap())
    });
    assert!(rest.ends_with("data: [DONE]\n\n"), "{rest}");
    assert_eq!(
        rest.matches("\"content\"").count(),
        expected.iter().filter(|e| e.to_string().contains("\"content\"")).count()
    );
    assert_eq!(other.json()["model"], "two");
    assert_eq!(loaded(&server), ["two"]);
    // Back and forth, and the text is the same each time.
    let first = content(&server.post(CHAT, &ask("one", json!({}))));
    assert_eq!(content(&server.post(CHAT, &ask("two", json!({})))), first);
    assert!(server.stop().contains("one makes room for"));
}

#[test]
fn models_make_room_where_the_memory_ends() {
    let folder = folder();
    fs::copy(BUILT_IN, folder.path().join("three.gguf")).unwrap();
    let flags = ["--models-dir", folder.path().to_str().unwrap()];
    // The first is loaded in any case. The second has room; the third has none until one is gone, the fourth not even then.
    let server = Server::start_with_memory("max,0,max,0,0,0", &flags);
    for model in ["one", "two", "one"] {
        assert_eq!(server.post(CHAT, &ask(model, json!({}))).status, 200);
    }
    assert_eq!(loaded(&server), ["one", "two"]);
    let text = content(&server.post(CHAT, &ask("three", json!({}))));
    assert_eq!(loaded(&server), ["one", "three"], "the one that was used longest ago is gone");
    assert_eq!(content(&server.post(CHAT, &ask("two", json!({})))), text);
    assert_eq!(loaded(&server), ["two"]);
    let said = server.stop();
    let gone: Vec<&str> = said.lines().filter_map(|line| Some(line.split_once(" makes room for ")?.0)).collect();
    assert_eq!(gone, ["two", "one", "three"]);
}

#[test]
fn keep_alive_says_when_a_model_goes() {
    let folder = folder();
    let server = server(folder.path(), &["--keep-alive", "1h"]);
    let alive = |model: &str, keep_alive: Value| {
        let body = json!({ "model": model, "messages": [{ "role": "user", "content": "Hi" }], "stream": false,
            "options": { "num_predict": 4 }, "keep_alive": keep_alive });
        let response = server.post("/api/chat", &body);
        assert_eq!(response.status, 200, "{response:?}");
    };
    alive("one", json!(-1));
    alive("two", json!("10m"));
    let models = server.get("/api/ps").json()["models"].clone();
    assert!(models[0]["expires_at"].as_str().unwrap().starts_with("23"), "{models}");
    assert!(models[1]["expires_at"].as_str().unwrap().starts_with("20"), "{models}");
    alive("two", json!(0));
    wait_for_loaded(&server, &["one"]);

    // Without a question: loaded, and unloaded.
    let touch = |body: Value| server.post("/api/generate", &body).json()["done_reason"].clone();
    assert_eq!(touch(json!({ "model": "two" })), "load");
    assert_eq!(loaded(&server), ["one", "two"]);
    assert_eq!(touch(json!({ "model": "one", "keep_alive": 0 })), "unload");
    wait_for_loaded(&server, &["two"]);
    let refused = server.post("/api/generate", &json!({ "model": "two", "prompt": "x", "keep_alive": "soon" }));
    assert!(refused.status == 400 && refused.body.contains("keep_alive"), "{refused:?}");

    // In llama.cpp's words.
    let manage = |verb: &str, model: &str| server.post(&format!("/models/{verb}"), &json!({ "model": model }));
    assert_eq!(manage("load", "one").json(), json!({ "success": true }));
    assert_eq!(loaded(&server), ["one", "two"]);
    assert_eq!(manage("unload", "one").json(), json!({ "success": true }));
    wait_for_loaded(&server, &["two"]);
    manage("load", "none").error(404);
    manage("unload", "none").error(404);
    Server::start(&[]).post("/models/unload", &json!({})).error(501);

    // The flag is for those whose requests say nothing.
    let short = self::server(folder.path(), &["--keep-alive", "0"]);
    assert_eq!(short.post(CHAT, &ask("one", json!({}))).status, 200);
    wait_for_loaded(&short, &[]);
}

#[test]
fn several_files_are_served_by_their_names() {
    let folder = folder();
    let paths = ["one.gguf", "two.gguf"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    let server = Server::start(&[&paths[0], &paths[1]]);
    assert_eq!(server.get("/v1/models").json()["data"][0]["id"], "one");
    assert_eq!(server.post(CHAT, &ask("two", json!({}))).json()["model"], "two");

    let table = crate::common::cli::run(&["ps", "--port", server.address.rsplit(':').next().unwrap()]);
    assert!(
        table.stdout.contains("two") && table.stdout.contains("I2_S") && !table.stdout.contains("one"),
        "{table:?}"
    );
    let nobody = crate::common::cli::run(&["ps", "--port", "1"]);
    assert!(nobody.one_line_error(1).contains("no server is there"), "{nobody:?}");
    for (flags, reason) in [
        (vec!["serve", &paths[0], &paths[0]], "two of the models have the name one"),
        (vec!["serve", &paths[0], &paths[1], "-a", "x"], "--alias"),
        (vec!["serve", "--keep-alive", "soon"], "1h30m"),
    ] {
        let refused = crate::common::cli::run(&flags);
        assert!(refused.code == Some(2) && refused.stderr.contains(reason), "{refused:?}");
    }
}

/// The end of the server is told to those whose model was to be unloaded behind their answer, too.
#[cfg(unix)]
#[test]
fn a_leaving_model_is_told_that_the_server_ends() {
    let folder = folder();
    let flags = ["-c", "1000000", "-np", "1", "-ctk", "q8_0", "-ctv", "q8_0"];
    let mut server = server(folder.path(), &flags);
    let mut running = server.connect();
    let endless = ask("one", json!({ "stream": true, "max_tokens": null, "ignore_eos": true }));
    running.send("POST", CHAT, &[], endless.to_string().as_bytes());
    assert_eq!(running.head().status, 200);
    assert_eq!(server.post("/api/generate", &json!({ "model": "one", "keep_alive": 0 })).status, 200);
    assert_eq!(loaded(&server), [""; 0]);
    server.terminate();
    let mut rest = String::new();
    while let Some(chunk) = running.chunk() {
        rest += std::str::from_utf8(&chunk).unwrap();
    }
    assert!(rest.ends_with("\n\n") && rest.contains("data: {\"error\":{\"message\":\"the server is shutting down\""));
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}
