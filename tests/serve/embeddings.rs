//! Embeddings: the same vectors as the command gives, in the words of each API.

use std::path::Path;

use bitnet_gpu::gguf::{File, TensorSpec, Value, Writer};
use serde_json::{Value as Json, json};

use super::client::{Server, chat};
use crate::common::cli::run;

/// The built-in model, with a word in its file that it was made for embeddings.
fn embedding_model(path: &Path) {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/llama-stories-ternary-4m.gguf");
    let file = File::open(&assets).unwrap();
    let mut metadata = file.metadata().clone();
    let arch = metadata.str("general.architecture").unwrap().unwrap().to_owned();
    metadata.set(format!("{arch}.pooling_type"), Value::U32(3));
    let spec = |tensor: &bitnet_gpu::gguf::TensorInfo| TensorSpec {
        name: tensor.name.clone(),
        dims: tensor.dims.clone(),
        ty: tensor.ty,
    };
    let mut writer = Writer::create(&metadata, file.tensors().iter().map(spec).collect(), Vec::new()).unwrap();
    for tensor in file.tensors() {
        writer.write_tensor(&tensor.name, &file.data(tensor)).unwrap();
    }
    std::fs::write(path, writer.finish().unwrap()).unwrap();
}

fn floats(value: &Json) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

#[test]
fn vectors_are_those_of_the_command() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("embedding.gguf");
    embedding_model(&path);
    let model = path.to_str().unwrap();
    let texts = ["The cat sat on the mat", "A dog"];
    let lines = directory.path().join("lines.txt");
    std::fs::write(&lines, texts.join("\n")).unwrap();
    let made = run(&["embed", "--backend", "cpu", "-m", model, "-f", lines.to_str().unwrap(), "--lines"]).json();
    let expected: Vec<Vec<f32>> =
        made["embeddings"].as_array().unwrap().iter().map(|one| floats(&one["embedding"])).collect();

    let server = Server::start(&["-m", model]);
    let answer = server.post("/v1/embeddings", &json!({ "model": "x", "input": texts })).json();
    for (at, expected) in expected.iter().enumerate() {
        let found = floats(&answer["data"][at]["embedding"]);
        let distance: f32 = found.iter().zip(expected).map(|(a, b)| (a - b).powi(2)).sum();
        assert!(found.len() == expected.len() && distance < 1e-6, "{distance}");
    }
    let tokens: u64 = made["embeddings"].as_array().unwrap().iter().map(|one| one["tokens"].as_u64().unwrap()).sum();
    assert_eq!(answer["usage"]["total_tokens"], tokens);
    let cut = server.post("/v1/embeddings", &json!({ "input": texts[0], "dimensions": 8 })).json();
    let cut = floats(&cut["data"][0]["embedding"]);
    assert!(cut.len() == 8 && (cut.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-4);
    let coded = server.post("/v1/embeddings", &json!({ "input": texts[0], "encoding_format": "base64" })).json();
    assert_eq!(coded["data"][0]["embedding"].as_str().unwrap().len(), (expected[0].len() * 4).div_ceil(3) * 4);
    let ollama = server.post("/api/embed", &json!({ "model": "x", "input": texts })).json();
    assert_eq!(ollama["embeddings"][1], answer["data"][1]["embedding"]);
    let few = server.post("/api/embed", &json!({ "model": "x", "input": texts[0], "dimensions": 8 })).json();
    assert_eq!(floats(&few["embeddings"][0]), cut);
    let older = server.post("/api/embeddings", &json!({ "model": "x", "prompt": texts[0] })).json();
    assert_eq!(older["embedding"], answer["data"][0]["embedding"]);
    let llama = server.post("/embedding", &json!({ "content": texts[0] })).json();
    assert_eq!(llama[0]["embedding"][0], answer["data"][0]["embedding"]);
    for wrong in [json!([]), json!(""), json!(["a", ""]), json!(5), json!([99_999_999]), json!(null)] {
        server.post("/v1/embeddings", &json!({ "input": wrong })).error(400);
    }
    server.post("/v1/chat/completions", &chat("Hi", json!({}))).error(501);
}

/// Many texts of clients that hang up, in front of one that is there.
#[test]
fn texts_of_clients_that_are_gone_are_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("embedding.gguf");
    embedding_model(&path);
    let mut server = Server::start(&["-m", path.to_str().unwrap()]);
    let ids: Vec<u32> = (3..203).collect();
    let body = json!({ "input": vec![ids; 2048] }).to_string();
    for _ in 0..3 {
        let mut gone = server.connect();
        // In the oldest words: others are found out before their texts are queued.
        gone.write(format!("POST /v1/embeddings HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        gone.hang_up();
    }
    server.wait_for_line("embeddings of 2048 texts, cancelled after ");
    let one = json!({ "input": "A dog" });
    assert_eq!(server.post("/v1/embeddings", &one).status, 200);
    // One that only has nothing more to say gets its vector.
    let mut quiet = server.connect();
    quiet.send("POST", "/v1/embeddings", &[], one.to_string().as_bytes());
    quiet.end_writing();
    assert_eq!(quiet.response().json()["object"], "list");
}

#[test]
fn models_that_write_text_give_none() {
    let server = Server::start(&[]);
    server.post("/v1/embeddings", &json!({ "input": "a" })).error(501);
}
