//! The messages that docs/troubleshooting.md explains are those of the program.

use std::{fs, path::Path};

use crate::common::cli::{program, run_with_input};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const BUILT_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/llama-stories-ternary-4m.gguf");

/// Messages that take a GPU, a server or a model of another kind, each with the place that writes it.
const ELSEWHERE: [(&str, &str, &str); 19] = [
    ("tensor .. of type F16 is not supported", "src/model/load/ternary.rs", "its values are not ternary (-c, 0 and c"),
    (
        "neither all nor in groups",
        "src/convert/hf/ternary.rs",
        "its values are not ternary, neither all nor in groups of",
    ),
    ("expected codes 0, 1 and 2, found 3 at row ..", "src/convert/hf/ternary.rs", "\"codes 0, 1 and 2\", found"),
    ("Git LFS pointer", "src/convert/hf/tokens.rs", "a Git LFS pointer"),
    ("the server says 401", "src/hub/client.rs", "the server says {status}"),
    ("403", "src/hub/client.rs", "the server says {status}"),
    ("invalid peer certificate: UnknownIssuer", "Cargo.toml", "features = [\"rustls\"]"),
    ("tensor .. of MLX in 4 bits", "src/convert/hf/affine.rs", "of MLX in {} bits"),
    ("row 0 has other weights", "src/convert/hf/affine.rs", "row {row} has other weights than -d, 0 and d"),
    (
        "there is no tokenizer.json",
        "src/convert/hf/tokens.rs",
        "there is no tokenizer.json: the model takes token ids only",
    ),
    ("expected one called default, found only", "src/chat/template.rs", "\"one called default\", found"),
    ("expected one called default, found only", "src/chat/template.rs", "only {}"),
    ("not enough memory for ..", "src/error.rs", "not enough memory for {what}"),
    ("the graphics driver .. crashes", "src/backend/gpu/device/guard.rs", "the graphics driver{names}"),
    ("the graphics driver .. crashes", "src/backend/gpu/device/guard.rs", "crashes ({})"),
    ("hangs", "src/backend/gpu/device/guard.rs", "hangs ({} s)"),
    ("GPU device lost: ..", "src/error.rs", "GPU device lost: {reason}"),
    ("not a finite number in ..", "src/error.rs", "not a finite number in {place} on {backend}"),
    ("hold nothing but zeros: the file is damaged", "src/model/mod.rs", "hold nothing but zeros: the file is damaged"),
];

/// The messages in the table; ".." stands for what differs.
fn messages() -> Vec<String> {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/troubleshooting.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")).skip(1);
    let cells = rows.map(|row| row.split(" | ").next().unwrap().to_owned());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn is_in(message: &str, text: &str) -> bool {
    let mut rest = text;
    message.split("..").map(str::trim).all(|part| match rest.split_once(part) {
        Some((_, behind)) => {
            rest = behind;
            true
        }
        None => false,
    })
}

/// The built-in model with other bytes of the same length behind a word.
fn changed(folder: &Path, name: &str, after: &str, from: &[u8], to: &[u8]) -> String {
    let mut bytes = fs::read(BUILT_IN).unwrap();
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|found| found == what).unwrap();
    let start = find(&bytes, after.as_bytes());
    let at = start + find(&bytes[start..], from);
    bytes[at..at + to.len()].copy_from_slice(to);
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

#[test]
fn the_messages_of_the_guide_are_those_of_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    for name in ["two/a.gguf", "two/b.gguf"] {
        fs::create_dir_all(at("two")).unwrap();
        fs::copy(BUILT_IN, at(name)).unwrap();
    }
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("pointer.gguf"), "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n").unwrap();
    fs::write(at("template"), "{{ raise_exception('no system message') }}").unwrap();
    let architecture = changed(folder.path(), "arch.gguf", "general.architecture", b"bitnet-b1.58", b"qitnet");
    let pre = changed(folder.path(), "pre.gguf", "tokenizer.ggml.pre", b"gpt-2", b"gpt-x");
    let report = program(&["inspect", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    let tensor = report["tensors"].as_array().unwrap().iter().rfind(|t| t["type"] == "I2_S").unwrap();
    let mut bytes = fs::read(BUILT_IN).unwrap();
    bytes[tensor["offset"].as_u64().unwrap() as usize] = 0xff;
    fs::write(at("codes.gguf"), bytes).unwrap();

    let long = "word ".repeat(50);
    let run_model =
        |model: &str| ["run", "-p", "a", "-n", "1", "--backend", "cpu", "-m", model].map(str::to_owned).to_vec();
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut too_long = words("run -c 8 -n 1 --backend cpu -p");
    too_long.push(long);
    let commands = [
        (run_model(&at("two")), None),
        (run_model(&at("pointer.gguf")), None),
        (run_model(&at("empty")), None),
        (run_model("nobody/nothing"), None),
        (run_model(&architecture), None),
        (run_model(&pre), None),
        (run_model(&at("codes.gguf")), None),
        (too_long, None),
        (words("run -p a -n 1 --backend gpu"), Some(("WGPU_BACKEND", "gl"))),
        (words("pull a/b"), Some(("HTTPS_PROXY", "http://127.0.0.1:1"))),
    ];
    let mut told: Vec<String> = Vec::new();
    for (words, variable) in commands {
        let mut command = program(&words.iter().map(String::as_str).collect::<Vec<_>>());
        command.envs(variable);
        if words[0] == "pull" {
            for name in ["HF_HUB_OFFLINE", "HF_ENDPOINT", "https_proxy", "NO_PROXY", "no_proxy"] {
                command.env_remove(name);
            }
            command.env("HF_HOME", folder.path());
        }
        let done = command.output().unwrap();
        assert!(!done.status.success(), "{words:?}");
        told.push(String::from_utf8(done.stderr).unwrap());
    }
    let chat = ["chat", "-n", "1", "--backend", "cpu", "--chat-template-file", &at("template")];
    told.push(run_with_input(&chat, b"hi\n").stderr);

    let messages = messages();
    assert!(messages.len() >= 25, "{messages:?}");
    let mut met = 0;
    for message in &messages {
        if told.iter().any(|text| is_in(message, text)) {
            met += 1;
            continue;
        }
        let places: Vec<_> = ELSEWHERE.iter().filter(|(part, ..)| message.contains(part)).collect();
        assert!(!places.is_empty(), "the program does not say: {message}\n{told:#?}");
        for (_, file, words) in places {
            let source = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
            assert!(source.contains(words), "{file} does not say \"{words}\" for: {message}");
        }
    }
    assert!(met >= 12, "{met} messages were met");
}
