//! Malformed vocabularies: refused with a reason or tolerated as documented, never a panic, never quadratic time.
//! Numbers in names are the cases of the project's list of malformed files.

use bitnet_gpu::{
    Error,
    bytes::Bytes,
    gguf::{Array, File, Metadata, Value},
    tokenizer::{EncodeOptions, JsonOptions, Tokenizer, to_gguf},
};
use serde_json::{Value as Json, json};

use crate::common::{
    gguf_builder::{Gguf, Raw, array, bool, f32s, i32, i32s, str, strings, u32, u64},
    hostile::{Row, allocated, refuse_all, row},
    tiny_vocab,
    watchdog::must_end,
};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };

fn open(bytes: Bytes) -> Result<(), Error> {
    Tokenizer::from_gguf(File::parse(bytes)?.metadata()).map(drop)
}

/// Four tokens, byte-level.
fn byte_level() -> Gguf {
    Gguf::new()
        .with("tokenizer.ggml.model", str("gpt2"))
        .with("tokenizer.ggml.pre", str("gpt-2"))
        .with("tokenizer.ggml.tokens", strings(&["a", "b", "ab", "<s>"]))
        .with("tokenizer.ggml.token_type", i32s(&[1, 1, 1, 3]))
        .with("tokenizer.ggml.merges", strings(&["a b"]))
}

/// Four tokens, SentencePiece.
fn sentence_piece() -> Gguf {
    Gguf::new()
        .with("tokenizer.ggml.model", str("llama"))
        .with("tokenizer.ggml.tokens", strings(&["<unk>", "<s>", "</s>", "a"]))
        .with("tokenizer.ggml.scores", f32s(&[0.0; 4]))
        .with("tokenizer.ggml.token_type", i32s(&[2, 3, 3, 1]))
}

/// A key of `tokenizer.ggml` changed in one of the files above.
fn change(name: &str, file: Gguf, key: &str, value: Raw, fragments: &[&str]) -> Row {
    row(name, file.with(&format!("tokenizer.ggml.{key}"), value).build(), fragments)
}

#[test]
fn the_samples_are_accepted() {
    open(byte_level().build().into()).unwrap();
    open(sentence_piece().build().into()).unwrap();
}

#[test]
fn vocabularies() {
    let byte = |id: &str| strings(&["<unk>", "<s>", "</s>", id]);
    let kinds = "tokenizer.ggml.token_type";
    let bytes =
        |text: &str| sentence_piece().with(kinds, i32s(&[2, 3, 3, 6])).with("tokenizer.ggml.tokens", byte(text));
    let u8s = |count: u64| array(0, count, vec![0; count as usize]);
    let merge = "tokenizer.ggml.merges[0]: expected two tokens";
    refuse_all(
        vec![
            row("no model", byte_level().without("tokenizer.ggml.model").build(), &["tokenizer.ggml.model is missing"]),
            change("model", byte_level(), "model", str("bert\n"), &["\"bert\\n\" is not supported", "gpt2"]),
            change("model type", byte_level(), "model", u32(1), &["tokenizer.ggml.model", "a string", "u32"]),
            change("pre", byte_level(), "pre", str("x".repeat(5000)), &["tokenizer.ggml.pre \"xxx", "llama-bpe"]),
            row(
                "38 no tokens",
                byte_level().without("tokenizer.ggml.tokens").build(),
                &["tokenizer.ggml.tokens is missing"],
            ),
            change(
                "38 empty",
                byte_level(),
                "tokens",
                strings::<&str>(&[]),
                &["tokenizer.ggml.token_type", "0 elements", "4"],
            ),
            row(
                "38 all empty",
                byte_level().without(kinds).with("tokenizer.ggml.tokens", strings::<&str>(&[])).build(),
                &["at least one token"],
            ),
            change("38 not strings", byte_level(), "tokens", i32s(&[1, 2]), &["a string array", "i32 array"]),
            change("39 types short", byte_level(), "token_type", i32s(&[1, 1, 1]), &["token_type", "4 elements", "3"]),
            change("39 types long", byte_level(), "token_type", i32s(&[1; 5]), &["token_type", "4 elements", "5"]),
            change("39 scores short", sentence_piece(), "scores", f32s(&[0.0; 3]), &["scores", "4 elements", "3"]),
            row("39 no scores", sentence_piece().without("tokenizer.ggml.scores").build(), &["scores is missing"]),
            change("40 types u8", byte_level(), "token_type", u8s(4), &["token_type", "u8 array"]),
            change("40 scores u8", sentence_piece(), "scores", u8s(4), &["scores", "u8 array"]),
            change("score NaN", sentence_piece(), "scores", f32s(&[0.0, 0.0, 0.0, f32::NAN]), &["scores[3]", "NaN"]),
            change("type 7", byte_level(), "token_type", i32s(&[1, 1, 1, 7]), &["token_type[3]", "0 to 6", "7"]),
            row("41 no merges", byte_level().without("tokenizer.ggml.merges").build(), &["merges is missing"]),
            change("41 no space", byte_level(), "merges", strings(&["ab"]), &[merge, "space", "\"ab\""]),
            change("41 empty", byte_level(), "merges", strings(&[""]), &[merge, "space"]),
            change("41 no right", byte_level(), "merges", strings(&["a "]), &[merge, "space"]),
            change("41 no left", byte_level(), "merges", strings(&[" b"]), &[merge]),
            change("41 unknown", byte_level(), "merges", strings(&["x y"]), &[merge, "vocabulary", "\"x y\""]),
            change("41 no result", byte_level(), "merges", strings(&["b a"]), &[merge, "together"]),
            change("41 long", byte_level(), "merges", strings(&["\u{1}".repeat(1 << 20)]), &[merge, "..."]),
            change("42 bos", byte_level(), "bos_token_id", u32(4), &["bos_token_id", "below 4", "4"]),
            change("42 eos", byte_level(), "eos_token_id", u32(u32::MAX), &["eos_token_id", "below 4", "4294967295"]),
            change("42 eot", byte_level(), "eot_token_id", u64(1 << 32), &["eot_token_id", "below 4", "4294967296"]),
            change("42 eom", byte_level(), "eom_token_id", i32(-1), &["eom_token_id", "non-negative", "-1"]),
            change("42 padding", byte_level(), "padding_token_id", u32(9), &["padding_token_id", "below 4", "9"]),
            change("42 unknown", sentence_piece(), "unknown_token_id", i32(-1), &["unknown_token_id", "-1"]),
            change("42 string", byte_level(), "bos_token_id", str("0"), &["bos_token_id", "an integer", "string"]),
            change(
                "BOS missing",
                byte_level(),
                "add_bos_token",
                bool(1),
                &["bos_token_id is missing", "add_bos_token"],
            ),
            change(
                "EOS missing",
                byte_level(),
                "add_eos_token",
                bool(1),
                &["eos_token_id is missing", "add_eos_token"],
            ),
            change("flag", byte_level(), "add_bos_token", u32(1), &["add_bos_token", "a bool", "u32"]),
            change("prefix", sentence_piece(), "add_space_prefix", u32(1), &["add_space_prefix", "a bool"]),
            row("43 minus", bytes("<0x-1>").build(), &["byte token 3", "<0xHH>", "<0x-1>"]),
            row("43 letters", bytes("<0xZZ>").build(), &["byte token 3", "<0xZZ>"]),
            row("43 wide", bytes("<0x1FF>").build(), &["byte token 3", "<0x1FF>"]),
            change(
                "44 twice",
                byte_level(),
                "tokens",
                strings(&["a", "b", "ab", "a"]),
                &["token 3", "token 0's", "\"a\""],
            ),
            change("44 twice", sentence_piece(), "tokens", byte("<s>"), &["token 3", "token 1's", "\"<s>\""]),
            change("45 not UTF-8", byte_level(), "tokens", strings(&[b"a", b"b", b"\xff", b"c"]), &["UTF-8"]),
        ],
        open,
    );
}

#[test]
fn documented_tolerance() {
    // An empty token is a hole; a pair listed twice counts once; no types means normal tokens; type 0 is unused.
    let odd = byte_level()
        .with("tokenizer.ggml.tokens", strings(&["a", "", "b", "ab", ""]))
        .with("tokenizer.ggml.merges", strings(&["a b", "a b"]))
        .without("tokenizer.ggml.token_type");
    let tokenizer = Tokenizer::from_gguf(File::parse(odd.build().into()).unwrap().metadata()).unwrap();
    assert_eq!(tokenizer.encode("abb", &PLAIN).unwrap(), [3, 2]);
    // "c" is no token and there is no unknown token: dropped, as byte-level BPE does everywhere.
    assert_eq!(tokenizer.encode("acb", &PLAIN).unwrap(), [3]);
    // SentencePiece without byte tokens falls back to the unknown token, and without that says so.
    let tokenizer = Tokenizer::from_gguf(File::parse(sentence_piece().build().into()).unwrap().metadata()).unwrap();
    assert_eq!(tokenizer.encode("a", &PLAIN).unwrap(), [0, 0, 0, 3]);
}

fn strings_value(texts: Vec<String>) -> Value {
    Value::Array(Array::String(texts))
}

/// Loads and encodes a text so long that quadratic work would not end.
fn encode_long(name: &str, metadata: &Metadata, text: &str) -> Vec<u32> {
    must_end(name, || {
        let tokenizer = Tokenizer::from_gguf(metadata).unwrap();
        let options = EncodeOptions { add_special: false, parse_special: true };
        let ids = tokenizer.encode(text, &options).unwrap();
        assert!(tokenizer.decode(&ids, true) == text, "{name}");
        let mut stream = tokenizer.stream();
        let streamed: String = ids.iter().map(|&id| stream.push(id)).collect();
        assert!(streamed == tokenizer.decode(&ids, false), "{name}");
        ids
    })
}

#[test]
fn huge_and_nested_tokens_do_not_take_quadratic_time() {
    let text = "a".repeat(2_000_000);
    for (kind, base) in [
        (1, tiny_vocab::byte_level("gpt-2")),
        (3, tiny_vocab::byte_level("gpt-2")),
        (4, tiny_vocab::byte_level("gpt-2")),
    ] {
        // 45: one token of 16 MiB, of each kind; then every run of a letter up to 2000.
        let mut metadata = base;
        let mut tokens = metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap().to_vec();
        let mut kinds = metadata.ints("tokenizer.ggml.token_type").unwrap().unwrap().to_vec();
        tokens.push("a".repeat(1 << 24));
        tokens.extend((2..2000).map(|len| "a".repeat(len)));
        kinds.resize(tokens.len(), kind);
        let mut merges: Vec<_> = tiny_vocab::MERGES.map(str::to_string).to_vec();
        merges.extend((1..1999).rev().map(|len| format!("{} a", "a".repeat(len))));
        metadata.set("tokenizer.ggml.tokens", strings_value(tokens));
        metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds)));
        metadata.set("tokenizer.ggml.merges", strings_value(merges));
        let ids = encode_long(&format!("byte-level, kind {kind}"), &metadata, &text);
        assert!(ids.len() < text.len() / 500, "long tokens were found: {}", ids.len());
    }
    let mut metadata = tiny_vocab::sentence_piece();
    let mut tokens = metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap()[..266].to_vec();
    tokens.extend((2..2000).map(|len| "a".repeat(len)));
    tokens.push("a".repeat(1 << 24));
    let mut kinds = vec![1; tokens.len()];
    kinds[..259].copy_from_slice(&metadata.ints("tokenizer.ggml.token_type").unwrap().unwrap()[..259]);
    metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32((0..tokens.len()).map(|id| id as f32).collect())));
    metadata.set("tokenizer.ggml.tokens", strings_value(tokens));
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds)));
    encode_long("SentencePiece", &metadata, &text);
}

#[test]
fn many_special_tokens_do_not_slow_down_text() {
    let mut metadata = tiny_vocab::byte_level("gpt-2");
    let mut tokens = metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap().to_vec();
    let mut kinds = metadata.ints("tokenizer.ggml.token_type").unwrap().unwrap().to_vec();
    tokens.extend((0..50_000).map(|n| format!("<|{n}|>")));
    kinds.resize(tokens.len(), 3);
    metadata.set("tokenizer.ggml.tokens", strings_value(tokens));
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds)));
    let ids = encode_long("special", &metadata, &"<|49999|><|x|> ".repeat(200_000));
    assert_eq!(ids[0], tiny_vocab::BYTE_LEVEL_TOKENS + 49_999);
}

/// The tiny `tokenizer.json` with one part changed, as bytes.
fn json_with(pointer: &str, value: Json) -> Vec<u8> {
    let mut json = tiny_vocab::byte_level_json(tiny_vocab::gpt2_json());
    *json.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
    json.to_string().into_bytes()
}

#[test]
fn tokenizer_json() {
    let added = |id: u32, content: &str| json!({ "id": id, "content": content, "special": true });
    let refused =
        |name: &str, pointer: &str, value: Json, fragments: &[&str]| row(name, json_with(pointer, value), fragments);
    let model = "\"model\": {\"vocab\": {}, \"merges\": []}";
    let nested = format!("{{{model}, \"normalizer\": {}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let steps: Vec<_> = (0..1000).map(|_| tiny_vocab::gpt2_json()).collect();
    let split = |pattern: &str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
    let replace = |content: String| json!({ "type": "Replace", "pattern": { "String": "a" }, "content": content });
    refuse_all(
        vec![
            row("empty", "", &["tokenizer.json", "EOF"]),
            row("no object", "[1]", &["tokenizer.json"]),
            row("68 deep", nested, &["tokenizer.json", "recursion"]),
            row("no model", "{}", &["tokenizer.json", "model"]),
            refused(
                "WordPiece",
                "/model",
                json!({"type": "WordPiece", "vocab": {}}),
                &["WordPiece", "only BPE and Unigram"],
            ),
            refused("id -1", "/model/vocab/a", json!(-1), &["tokenizer.json", "-1"]),
            refused("id 2^32-1", "/model/vocab/a", json!(u32::MAX), &["vocabulary", "without gaps", "4294967295"]),
            refused("id twice", "/model/vocab/a", json!(98), &["token 98", "one text"]),
            refused("merge of nothing", "/model/merges/0", json!("ab"), &["merges[0]", "space"]),
            refused("merge empty", "/model/merges/0", json!(["", "a"]), &["merges[0]"]),
            refused("merge unknown", "/model/merges/0", json!(["x", "日"]), &["merges[0]", "vocabulary"]),
            refused("merge no result", "/model/merges/0", json!(["hello", "hello"]), &["merges[0]", "together"]),
            refused("merge number", "/model/merges/0", json!(7), &["tokenizer.json"]),
            refused(
                "prefix",
                "/model",
                json!({"vocab": {}, "merges": [], "continuing_subword_prefix": "##"}),
                &["\"##\""],
            ),
            refused("unknown", "/model", json!({"vocab": {}, "merges": [], "unk_token": "?"}), &["unk_token", "\"?\""]),
            refused("47 cycle", "/added_tokens", json!([added(65, "B"), added(66, "A")]), &["token 65", "one text"]),
            refused("47 shared text", "/added_tokens", json!([added(262, "<x>"), added(263, "<x>")]), &["no other id"]),
            refused("added out of order", "/added_tokens", json!([added(263, "<x>")]), &["<x>", "262", "263"]),
            refused("added empty", "/added_tokens/0/content", json!(""), &["added_tokens id 262", "1 to 1024 bytes"]),
            refused("added huge", "/added_tokens/0/content", json!("x".repeat(2000)), &["added_tokens id 262"]),
            refused("47 normalizer bomb", "/normalizer", replace("b".repeat(1 << 20)), &["normalizer", "Replace"]),
            refused("normalizer", "/normalizer", json!({"type": "Precompiled"}), &["normalizer", "Precompiled"]),
            refused("47 broken pattern", "/pre_tokenizer", split("(a"), &["pre_tokenizer"]),
            refused("47 huge pattern", "/pre_tokenizer", split(&"a?".repeat(5000)), &["Split", "4096 bytes"]),
            refused("47 nested pattern", "/pre_tokenizer", split(&"(".repeat(4000)), &["pre_tokenizer"]),
            refused(
                "many steps",
                "/pre_tokenizer",
                json!({"type": "Sequence", "pretokenizers": steps}),
                &["at most 16"],
            ),
            refused("step", "/pre_tokenizer", json!({"type": "FixedLength", "length": 0}), &["FixedLength"]),
            refused("decoder", "/decoder", json!({"type": "WordPiece"}), &["decoder", "WordPiece"]),
            refused(
                "template",
                "/post_processor",
                json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "B"}}], "special_tokens": {"B": {"ids": [999]}}}),
                &["post_processor", "ids of the vocabulary"],
            ),
        ],
        |bytes| Tokenizer::from_json(&bytes).map(drop),
    );
}

#[test]
fn catastrophic_patterns_are_bounded() {
    for pattern in ["(a+)+$(?!x)", "(?:a|a)*(?=b)", "(a*)*\\1b"] {
        let split =
            json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
        let json = json_with("/pre_tokenizer", json!({ "type": "Sequence", "pretokenizers": [split, bytes] }));
        let tokenizer = Tokenizer::from_json(&json).unwrap();
        let text = "a".repeat(5000) + "c";
        let ids = must_end(pattern, || tokenizer.encode(&text, &PLAIN)).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), text);
    }
}

#[test]
fn a_pattern_too_big_to_compile_is_refused() {
    let split = json!({ "type": "Split", "pattern": { "Regex": "((a{500}){500}){500}" }, "behavior": "Isolated", "invert": false });
    let json = json_with("/pre_tokenizer", split);
    let (refused, memory) = must_end("a pattern", || allocated(|| Tokenizer::from_json(&json)));
    let error = refused.unwrap_err().to_string();
    assert!(error.starts_with("tokenizer.json: pre_tokenizer: expected a valid setting"), "{error}");
    // Written out, it has 125 million states.
    assert!(memory.total < 64 << 20, "{} bytes", memory.total);
}

#[test]
fn the_files_beside_a_json_are_checked() {
    let json = tiny_vocab::byte_level_json(tiny_vocab::gpt2_json()).to_string();
    let cases: [(&str, &str, &str); 5] = [
        ("", "{}", "tokenizer_config.json: expected JSON"),
        ("[]", "{}", "tokenizer_config.json: expected a JSON object"),
        ("{}", "{\"eos_token_id\": [0.5]}", "generation_config.json: eos_token_id: expected token ids, found 0.5"),
        ("{}", "{\"bos_token_id\": \"x\"}", "bos_token_id"),
        ("{\"add_bos_token\": true}", "{}", "bos_token is missing"),
    ];
    for (config, generation, fragment) in cases {
        let (config, generation) = (Some(config.as_bytes()), Some(generation.as_bytes()));
        let options = JsonOptions { config, generation, model: None };
        let error = to_gguf(json.as_bytes(), &options, 300).unwrap_err();
        assert!(error.to_string().contains(fragment), "{error}");
    }
    // The file that is at fault is named, and config.json counts only where the other is missing.
    let bad = br#"{"eos_token_id": "x"}"#;
    let of_model = JsonOptions { model: Some(bad), ..Default::default() };
    let error = to_gguf(json.as_bytes(), &of_model, 300).unwrap_err().to_string();
    assert_eq!(error, "config.json: eos_token_id: expected token ids, found \"x\"");
    assert!(to_gguf(json.as_bytes(), &JsonOptions { generation: Some(b"{}"), ..of_model }, 300).is_ok());
}

#[test]
fn any_byte_of_a_json_may_be_wrong() {
    let good = tiny_vocab::byte_level_json(tiny_vocab::gpt2_json()).to_string().into_bytes();
    let tail = good.len() - 900;
    let mut accepted = 0;
    for (at, replacement) in (tail..good.len()).flat_map(|at| [b'0', b'"', b'}', 0xff].map(|byte| (at, byte))) {
        let mut bad = good.clone();
        bad[at] = replacement;
        // Refused or not, it must come back; what is accepted must encode.
        if let Ok(tokenizer) = Tokenizer::from_json(&bad) {
            accepted += 1;
            tokenizer
                .encode("hello\t\t <|eot_id|> é", &EncodeOptions { add_special: true, parse_special: true })
                .unwrap();
        }
    }
    assert!(accepted > 0);
    for len in (0..good.len()).step_by(97) {
        assert!(Tokenizer::from_json(&good[..len]).is_err(), "{len}");
    }
}
