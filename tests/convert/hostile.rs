//! Malformed safetensors files and indexes: each is refused with a reason, in little memory, and leaves nothing
//! behind.

use std::fs;

use serde_json::{Value, json};

use super::support::{Case, Model, serialise};
use crate::common::{hostile::allocated, watchdog::must_end};

/// A file of a header and `data` zeros.
fn container(header: &[u8], data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.resize(file.len() + data, 0);
    file
}

fn refused(file: &[u8]) -> String {
    let case = Case::new();
    Model::bitnet().write_config(&case.input());
    fs::write(case.input().join("model.safetensors"), file).unwrap();
    let (message, memory) = must_end("a conversion", || allocated(|| case.failure()));
    assert!(memory.total < 16 * file.len() + (1 << 20), "{} bytes for {}: {message}", memory.total, file.len());
    assert!(message.contains("model.safetensors: ") && message.len() < 600, "{message}");
    message
}

fn table(header: Value, data: usize) -> String {
    refused(&container(header.to_string().as_bytes(), data))
}

#[test]
fn headers_longer_than_the_file_are_refused() {
    for length in [1 << 63, u64::MAX, u64::MAX - 7, 1 << 32, 20] {
        let mut file = length.to_le_bytes().to_vec();
        file.extend(b"{}        ");
        let message = refused(&file);
        assert!(message.contains(&format!("header length: expected at most 10 bytes, found {length}")), "{message}");
    }
}

#[test]
fn every_cut_of_a_file_is_refused() {
    let whole = serialise(Model::bitnet().tensors.iter());
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for cut in (0..10).chain([header - 1, header, header + 1, whole.len() / 2, whole.len() - 1]) {
        refused(&whole[..cut]);
    }
    assert!(refused(&whole[..whole.len() - 1]).contains("is the file complete?"));
    assert!(refused(&[&whole[..], b"tail"].concat()).contains("data section"));
}

#[test]
fn other_formats_are_recognised() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    assert!(refused(pointer).contains("Git-LFS pointer"));
    assert!(refused(b"<!DOCTYPE html><html><body>404</body></html>").contains("HTML page"));
    assert!(refused(b"PK\x03\x04 and so on, as torch.save writes").contains("zip archive"));
}

#[test]
fn wrong_offsets_are_named() {
    let u8s = |begin: u64, end: u64, shape: Value| json!({"dtype": "U8", "shape": shape, "data_offsets": [begin, end]});
    let message = table(json!({"a": u8s(0, 8, json!([8])), "b": u8s(4, 12, json!([8]))}), 12);
    assert!(message.contains("tensor b: expected data from byte 8, found 4: overlaps"), "{message}");
    let message = table(json!({"a": u8s(0, 8, json!([8])), "b": u8s(12, 20, json!([8]))}), 20);
    assert!(message.contains("tensor b: expected data from byte 8, found 12: leaves a gap"), "{message}");
    let message = table(json!({"a": u8s(8, 0, json!([8]))}), 8);
    assert!(message.contains("tensor a: expected begin <= end, found [8, 0]"), "{message}");
    let message = table(json!({"a": u8s(0, 8, json!([9]))}), 8);
    assert!(message.contains("tensor a: expected 9 bytes for [9] of U8, found 8"), "{message}");
    let message = table(json!({"a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 4]}}), 4);
    assert!(message.contains("tensor a: expected 8 bytes for [2, 2] of BF16, found 4"), "{message}");
    let message = table(json!({"a": u8s(0, 16, json!([16]))}), 8);
    assert!(message.contains("expected data within 8 bytes, found an end at 16"), "{message}");
}

#[test]
fn sizes_that_wrap_around_are_refused() {
    for shape in [json!([u64::MAX]), json!([1_u64 << 32, 1_u64 << 32]), json!([1_u64 << 63, 2])] {
        let message = table(json!({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]}}), 8);
        assert!(message.contains("tensor a: expected a size below 2^64 bits"), "{message}");
    }
    // Eight tensors of 2^61 - 1 bytes and one of 16 end at 2^64 + 8: a sum that wraps ends inside the file.
    let most = (1_u64 << 61) - 1;
    let mut header = serde_json::Map::new();
    for i in 0..8 {
        let offsets = [i * most, (i + 1) * most];
        header.insert(format!("t{i}"), json!({"dtype": "U8", "shape": [most], "data_offsets": offsets}));
    }
    let message = table(Value::Object(header), 8);
    assert!(message.contains("tensor t0: expected data within 8 bytes"), "{message}");
}

#[test]
fn a_name_that_stands_twice_is_refused() {
    let entry = r#"{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
    let message = refused(&container(format!(r#"{{"a":{entry},"a":{entry}}}"#).as_bytes(), 4));
    assert!(message.contains("tensor a: expected one entry, found the name twice"), "{message}");
    let other = entry.replace("[0,4]", "[4,8]");
    let message =
        refused(&container(format!(r#"{{"norm.weight":{entry},"model.norm.weight":{other}}}"#).as_bytes(), 8));
    assert!(message.contains("expected a name used once, found norm.weight as well"), "{message}");
}

#[test]
fn strange_names_do_not_reach_the_message() {
    let entry = json!({"dtype": "U8", "shape": [0], "data_offsets": [0, 0]});
    for name in [String::new(), "a\nb".into(), "\u{1b}[2J".into(), "x".repeat(100_000)] {
        let message = table(json!({ &*name: entry }), 0);
        assert!(message.contains("tensor name: expected 1 to 256 bytes"), "{message}");
        assert!(!message.contains('\u{1b}'), "{message}");
    }
    let dtype = "F\n".repeat(1000);
    table(json!({"a": {"dtype": dtype, "shape": [0], "data_offsets": [0, 0]}}), 0);
}

#[test]
fn deep_and_odd_json_is_refused() {
    for depth in [200, 10_000, 1_000_000] {
        refused(&container("[".repeat(depth).as_bytes(), 0));
        refused(&container(r#"{"a":"#.repeat(depth).as_bytes(), 0));
        refused(&container(format!(r#"{{"__metadata__":{}"#, "[".repeat(depth)).as_bytes(), 0));
        refused(&container(format!(r#"{{"a":{{"dtype":"U8","more":{}"#, "[".repeat(depth)).as_bytes(), 0));
    }
    for header in ["", "null", "[]", "{", r#"{"a":1}"#, r#"{"a":{}}"#, r#"{"__metadata__":{"a":1}}"#, "\u{0}"] {
        refused(&container(header.as_bytes(), 0));
    }
    refused(&container(b"\xff\xfe{}", 0));
    table(json!({"a": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 1]}}), 1);
    table(json!({"a": {"dtype": "U8", "shape": vec![1; 100_000], "data_offsets": [0, 2]}}), 2);
    // A valid file of no tensors still lacks the model's.
    assert!(table_without_name(b"{}").contains("tensor model.embed_tokens.weight is missing"));
}

fn table_without_name(header: &[u8]) -> String {
    let case = Case::new();
    Model::bitnet().write_config(&case.input());
    fs::write(case.input().join("model.safetensors"), container(header, 0)).unwrap();
    case.failure()
}

#[test]
fn an_index_names_files_beside_it_only() {
    let secret = Model::bitnet();
    for shard in [
        "../model.safetensors",
        "/etc/hostname",
        "sub/model.safetensors",
        "..",
        ".",
        "",
        "..\\model.safetensors",
        "C:model.safetensors",
        "./model-1.safetensors",
        "a\n\u{1b}[2J/b",
    ] {
        let case = Case::new();
        secret.write_config(&case.input());
        let index = json!({"weight_map": {"model.norm.weight": shard}});
        fs::write(case.input().join("model.safetensors.index.json"), index.to_string()).unwrap();
        let message = case.failure();
        assert!(message.contains("shard: expected the name of a file beside the index"), "{message}");
        assert!(!message.contains('\u{1b}'), "{message}");
    }
}

#[test]
fn an_index_that_does_not_fit_its_shards_is_refused() {
    let model = Model::bitnet();
    let case = Case::new();
    model.write_shards(&case.input(), 2);
    let index = case.input().join("model.safetensors.index.json");
    let good: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();

    let mut wrong = good.clone();
    wrong["weight_map"]["model.extra.weight"] = json!("model-00001-of-00002.safetensors");
    fs::write(&index, wrong.to_string()).unwrap();
    assert!(case.failure().contains("tensor model.extra.weight is missing"));

    for bad in [json!({}), json!([]), json!({"weight_map": []}), json!({"weight_map": {"a": 1}})] {
        fs::write(&index, bad.to_string()).unwrap();
        assert!(case.failure().contains("index.json: "));
    }
    fs::write(&index, "[".repeat(10_000)).unwrap();
    assert!(case.failure().contains("recursion limit"));

    fs::write(&index, good.to_string()).unwrap();
    fs::remove_file(case.input().join("model-00002-of-00002.safetensors")).unwrap();
    assert!(case.failure().contains("model-00002-of-00002.safetensors"));
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let model = Model::bitnet();
    let case = Case::new();
    model.write_shards(&case.input(), 2);
    fs::copy(
        case.input().join("model-00001-of-00002.safetensors"),
        case.input().join("model-00002-of-00002.safetensors"),
    )
    .unwrap();
    assert!(case.failure().contains("expected a name used once"));
}

/// Damages of one to three bytes anywhere: a conversion may succeed or be refused, and never anything else.
#[test]
fn damaged_files_never_panic() {
    let model = Model::bitnet();
    let case = Case::new();
    model.write_shards(&case.input(), 2);
    let files: Vec<_> = fs::read_dir(case.input()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let (mut refused, mut rounds) = (0, 0);
    for file in &files {
        let good = fs::read(file).unwrap();
        // The head of a weight file is where its structure is; the rest is numbers.
        let reach = good.len().min(2000);
        for _ in 0..150 {
            let mut bad = good.clone();
            for _ in 0..=random(3) {
                bad[random(reach)] = random(256) as u8;
            }
            fs::write(file, &bad).unwrap();
            rounds += 1;
            match case.convert() {
                Ok(_) => fs::remove_file(case.output()).unwrap(),
                Err(error) => {
                    refused += 1;
                    let message = error.to_string();
                    assert!(message.lines().count() == 1 && message.len() < 1000, "{message}");
                    assert_eq!(case.names(), ["in"], "{message}");
                }
            }
        }
        fs::write(file, &good).unwrap();
    }
    assert!(files.len() == 4 && refused > rounds / 2, "{refused} of {rounds} refused");
}
