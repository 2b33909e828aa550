//! What slots hold, saved to files and restored: after other conversations, by another process, and never anything else.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{Response, Server};

/// A prompt of some hundred tokens.
fn story() -> String {
    "Once upon a time there was a little girl who had a red ball. ".repeat(12)
}

fn server(folder: &Path) -> Server {
    Server::start(&["-np", "2", "--cache-ram", "0", "--slot-save-path", folder.to_str().unwrap()])
}

/// The text that follows a prompt, and how many tokens of it were computed.
fn completed(server: &Server, slot: usize, prompt: &str) -> (String, u64) {
    let body = json!({ "prompt": prompt, "id_slot": slot, "n_predict": 12, "temperature": 0 });
    let answer = server.post("/completion", &body).json();
    (answer["content"].as_str().unwrap().to_owned(), answer["timings"]["prompt_n"].as_u64().unwrap())
}

fn act(server: &Server, slot: usize, action: &str, file: &str) -> Response {
    server.post(&format!("/slots/{slot}?action={action}"), &json!({ "filename": file }))
}

#[test]
fn what_a_slot_holds_comes_back_in_another_process() {
    let folder = TempDir::new().unwrap();
    let first = server(folder.path());
    let (text, computed) = completed(&first, 1, &story());
    let saved = act(&first, 1, "save", "story.bin").json();
    assert!(saved["n_saved"].as_u64().unwrap() > computed, "the answer is in it: {saved}");
    let size = fs::metadata(folder.path().join("story.bin")).unwrap().len();
    assert_eq!(
        (&saved["id_slot"], &saved["filename"], &saved["n_written"]),
        (&json!(1), &json!("story.bin"), &json!(size))
    );
    // Forgotten, it is computed again, the whole of it.
    let erased = first.post("/slots/1?action=erase", &json!({})).json();
    assert_eq!(erased, json!({ "id_slot": 1, "n_erased": saved["n_saved"] }));
    assert_eq!(completed(&first, 1, &story()), (text.clone(), computed));
    first.stop();

    let second = server(folder.path());
    let restored = act(&second, 0, "restore", "story.bin").json();
    assert_eq!((&restored["n_restored"], &restored["n_read"]), (&saved["n_saved"], &json!(size)));
    let (again, left) = completed(&second, 0, &story());
    assert!(again == text && left < 20, "{left} of {computed}: {again:?}");
    // What goes on from it is what went on from it before.
    let longer = format!("{}{text} The end of it was", story());
    let (fresh, _) = completed(&second, 1, &format!("{} x", story()));
    assert!(!fresh.is_empty());
    let body = json!({ "prompt": longer, "n_predict": 12, "temperature": 0, "cache_prompt": false });
    let expected = second.post("/completion", &body).json()["content"].clone();
    assert_eq!(json!(completed(&second, 0, &longer).0), expected);
}

#[test]
fn other_files_slots_and_actions_are_refused() {
    let folder = TempDir::new().unwrap();
    let server = server(folder.path());
    completed(&server, 0, &story());
    assert_eq!(act(&server, 0, "save", "a.bin").status, 200);
    let outside = folder.path().parent().unwrap().join("bitnet-outside.bin");
    for name in ["../bitnet-outside.bin", outside.to_str().unwrap(), "", "..", "a/../b", "a\u{0}b"] {
        assert!(act(&server, 0, "save", name).error(400).contains("filename"), "{name:?}");
        assert!(act(&server, 0, "restore", name).error(400).contains("filename"), "{name:?}");
    }
    assert!(!outside.exists());
    act(&server, 0, "restore", "none.bin").error(400);
    act(&server, 2, "save", "a.bin").error(400);
    act(&server, 0, "burn", "a.bin").error(400);
    server.post("/slots/x?action=erase", &json!({})).error(400);
    assert!(act(&server, 1, "save", "b.bin").error(400).contains("holds nothing"));
    // What is no saved slot is not written over, what is one is.
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    assert!(act(&server, 0, "save", "notes.txt").error(400).contains("another file"));
    assert_eq!(fs::read_to_string(folder.path().join("notes.txt")).unwrap(), "mine");
    assert_eq!(act(&server, 0, "save", "a.bin").status, 200);
    let whole = fs::read(folder.path().join("a.bin")).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    for (name, bytes) in [("cut", &whole[..whole.len() - 9]), ("damaged", &damaged), ("other", b"GGUF"), ("empty", b"")]
    {
        fs::write(folder.path().join(name), bytes).unwrap();
        act(&server, 0, "restore", name).error(400);
    }
    // Nothing of it was harmed.
    assert!(completed(&server, 0, &story()).1 < 20);
    Server::start(&[]).post("/slots/0?action=save", &json!({ "filename": "a" })).error(501);
}

/// Work on a slot waits for the answer in it.
#[test]
fn a_busy_slot_is_saved_when_its_answer_has_ended() {
    let folder = TempDir::new().unwrap();
    let server = server(folder.path());
    let body = json!({ "prompt": "Once", "id_slot": 0, "n_predict": 300, "ignore_eos": true, "stream": true });
    let mut answering = server.connect();
    answering.send("POST", "/completion", &[], body.to_string().as_bytes());
    server.wait_for_busy_slots(1);
    let saved = act(&server, 0, "save", "busy.bin").json();
    assert!(saved["n_saved"].as_u64().unwrap() >= 300, "{saved}");
    let response = answering.response();
    let last: Value = serde_json::from_str(response.body.trim_end().rsplit("data: ").next().unwrap()).unwrap();
    assert_eq!(last["tokens_predicted"], 300);
}
