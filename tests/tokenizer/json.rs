//! `tokenizer.json`: read directly, and turned into GGUF metadata and read back.

use std::fs;

use bitnet_gpu::{
    gguf::{self, Array, Metadata, Value},
    tokenizer::{EncodeOptions, JsonOptions, Tokenizer, to_gguf},
};
use serde_json::{Value as Json, json};

use crate::common::{shared, tiny_vocab::*};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const ALL: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };
const JSON_KEY: &str = "tokenizer.huggingface.json";

fn bytes(json: &Json) -> Vec<u8> {
    json.to_string().into_bytes()
}

/// The metadata a converter would write.
fn export(json: &[u8], options: &JsonOptions<'_>, vocab_size: usize) -> Metadata {
    let mut metadata = Metadata::default();
    for (key, value) in to_gguf(json, options, vocab_size).unwrap() {
        assert!(metadata.get(&key).is_none(), "{key} twice");
        metadata.set(key, value);
    }
    metadata
}

fn string_array<'m>(metadata: &'m Metadata, key: &str) -> &'m [String] {
    metadata.strings(key).unwrap().unwrap()
}

#[test]
fn byte_level_json_and_its_metadata_give_the_ids_worked_out_by_hand() {
    let json = bytes(&byte_level_json(gpt2_json()));
    let metadata = export(&json, &JsonOptions::default(), 270);
    assert_eq!(metadata.str("tokenizer.ggml.pre").unwrap(), Some("gpt-2"));
    assert!(metadata.get(JSON_KEY).is_none());
    let tokenizers = [Tokenizer::from_json(&json).unwrap(), Tokenizer::from_gguf(&metadata).unwrap()];
    for tokenizer in tokenizers {
        let encode = |text: &str, options: &EncodeOptions| tokenizer.encode(text, options).unwrap();
        assert_eq!(encode("hello hell", &PLAIN), [HELLO, 32, HELL]);
        assert_eq!(encode("hell<|eot_id|>\t\té", &ALL), [HELL, EOT, TABS, 0xc3, 0xa9]);
        assert!(!encode("<|eot_id|>", &PLAIN).contains(&EOT));
        assert_eq!(encode("\t\t", &PLAIN), [TABS]);
        assert_eq!(tokenizer.decode(&[BOS, HELLO, 32, 0xc3, 0xa9, TABS], false), "hello é\t\t");
        assert_eq!(tokenizer.end_ids(), [EOT]);
    }
}

#[test]
fn holes_are_filled_and_kinds_kept() {
    let metadata = export(&bytes(&byte_level_json(gpt2_json())), &JsonOptions::default(), 267);
    let tokens = string_array(&metadata, "tokenizer.ggml.tokens");
    assert_eq!(tokens[262..], ["<|begin_of_text|>", "<|eot_id|>", "\t\t", "[PAD265]", "[PAD266]"]);
    assert_eq!(metadata.ints("tokenizer.ggml.token_type").unwrap().unwrap()[261..], [1, 3, 3, 4, 5, 5]);
    assert_eq!(string_array(&metadata, "tokenizer.ggml.merges"), MERGES);
    assert_eq!(Tokenizer::from_gguf(&metadata).unwrap().vocab_size(), 267);
    let error = to_gguf(&bytes(&byte_level_json(gpt2_json())), &JsonOptions::default(), 264).unwrap_err().to_string();
    assert_eq!(
        error,
        "tokenizer.json: vocabulary: expected ids below 264, the size of the model's vocabulary, found 264"
    );
}

#[test]
fn the_files_beside_it_say_how_a_text_begins_and_ends() {
    let json = bytes(&byte_level_json(gpt2_json()));
    let config = br#"{"bos_token": {"content": "<|begin_of_text|>"}, "eos_token": "<|eot_id|>", "add_bos_token": true,
        "pad_token": null, "chat_template": [{"name": "tool", "template": "T"}, {"name": "default", "template": "D"}]}"#;
    let generation = br#"{"eos_token_id": [263, 7, 8], "pad_token_id": 9}"#;
    let options = JsonOptions { config: Some(config), generation: Some(generation), model: None };
    let metadata = export(&json, &options, 265);
    for (key, id) in [("bos", BOS), ("eos", EOT), ("eot", 7), ("eom", 8), ("padding", 9)] {
        assert_eq!(metadata.uint(&format!("tokenizer.ggml.{key}_token_id")).unwrap(), Some(id.into()), "{key}");
    }
    for tokenizer in [Tokenizer::from_json_with(&json, &options).unwrap(), Tokenizer::from_gguf(&metadata).unwrap()] {
        assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.chat_template()), (Some(BOS), Some(EOT), Some("D")));
        assert_eq!(tokenizer.end_ids(), [7, 8, EOT]);
        assert_eq!(tokenizer.encode("hello", &ALL).unwrap(), [BOS, HELLO]);
    }
}

#[test]
fn ids_of_another_models_configuration_are_left_out() {
    let json = bytes(&byte_level_json(gpt2_json()));
    let generation = br#"{"bos_token_id": 128000, "eos_token_id": [-1, 7], "pad_token_id": -1}"#;
    let options = JsonOptions { config: None, generation: Some(generation), model: None };
    let tokenizer = Tokenizer::from_json_with(&json, &options).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.notes().len()), (None, Some(7), 3));
    assert!(tokenizer.notes()[0].starts_with("bos_token_id 128000"), "{:?}", tokenizer.notes());
    let metadata = export(&json, &options, 265);
    assert_eq!(metadata.uint("tokenizer.ggml.eos_token_id").unwrap(), Some(7));
    assert!(metadata.get("tokenizer.ggml.bos_token_id").is_none());
}

#[test]
fn the_post_processor_says_it_where_no_file_does() {
    let mut json = byte_level_json(gpt2_json());
    json["post_processor"] = json!({ "type": "Sequence", "processors": [
        { "type": "ByteLevel", "trim_offsets": false },
        { "type": "TemplateProcessing", "pair": [],
          "single": [{"SpecialToken": {"id": "B", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
          "special_tokens": { "B": { "id": "B", "ids": [BOS], "tokens": ["<|begin_of_text|>"] } } },
    ]});
    let json = bytes(&json);
    let tokenizer = Tokenizer::from_json(&json).unwrap();
    assert_eq!(tokenizer.encode("hello", &ALL).unwrap(), [BOS, HELLO]);
    // As transformers 5 has it, also where a flag says otherwise.
    let off = JsonOptions { config: Some(br#"{"add_bos_token": false}"#), generation: None, model: None };
    assert_eq!(Tokenizer::from_json_with(&json, &off).unwrap().encode("hello", &ALL).unwrap(), [BOS, HELLO]);
    let gguf = Tokenizer::from_gguf(&export(&json, &JsonOptions::default(), 265)).unwrap();
    assert_eq!(gguf.encode("hello", &ALL).unwrap(), [BOS, HELLO]);
}

/// `Split` with this pattern, then bytes.
fn split(pattern: &str) -> Json {
    let split = json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    json!({ "type": "Sequence", "pretokenizers": [split, bytes] })
}

#[test]
fn pre_tokenizers_are_named_only_on_an_exact_match() {
    let llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let qwen2 = llama3.replace("{1,3}", "");
    let digits = |single: bool| json!({ "type": "Digits", "individual_digits": single });
    let sequence = |parts: &[Json]| json!({ "type": "Sequence", "pretokenizers": parts });
    let thousands =
        json!({ "type": "Split", "pattern": { "Regex": "[0-9][0-9][0-9]" }, "behavior": "Isolated", "invert": false });
    let punctuation = json!({ "type": "Punctuation", "behavior": "Contiguous" });
    let falcon = sequence(&[punctuation, gpt2_json(), digits(false), thousands]);
    let mut with_space = gpt2_json();
    with_space["add_prefix_space"] = true.into();
    let cases = [
        (gpt2_json(), false, Some("gpt-2")),
        (split(llama3), true, Some("llama-bpe")),
        (split(llama3), false, Some("dbrx")),
        (split(&qwen2), false, Some("qwen2")),
        (split(&qwen2), true, None),
        (sequence(&[digits(true), gpt2_json()]), false, Some("starcoder")),
        (falcon, false, Some("falcon")),
        (split("a+"), false, None),
        (with_space, false, None),
    ];
    for (pre_tokenizer, ignore_merges, name) in cases {
        let mut json = byte_level_json(pre_tokenizer);
        json["model"]["ignore_merges"] = ignore_merges.into();
        let json = bytes(&json);
        let metadata = export(&json, &JsonOptions::default(), 265);
        assert_eq!(metadata.str("tokenizer.ggml.pre").unwrap(), name);
        assert_eq!(metadata.get(JSON_KEY).is_none(), name.is_some());
        let (direct, exported) = (Tokenizer::from_json(&json).unwrap(), Tokenizer::from_gguf(&metadata).unwrap());
        assert_eq!(exported.notes().is_empty(), name.is_some(), "{:?}", exported.notes());
        let text = "hello  hell's 12345 ``a\t\té,\n\n  ";
        assert_eq!(direct.encode(text, &PLAIN).unwrap(), exported.encode(text, &PLAIN).unwrap(), "{name:?}");
    }
}

#[test]
fn an_embedded_json_comes_first_and_the_keys_beside_it_count() {
    let mut metadata = byte_level("default");
    metadata.set(JSON_KEY, Value::String(byte_level_json(split("hell")).to_string()));
    metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    assert_eq!(tokenizer.encode("hello", &ALL).unwrap(), [BOS, HELL, 111]);
    assert!(tokenizer.notes()[0].contains("tokenizer.json inside the file"));
    let mut tokens = string_array(&metadata, "tokenizer.ggml.tokens").to_vec();
    tokens.push("[PAD265]".into());
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens.clone())));
    assert_eq!(Tokenizer::from_gguf(&metadata).unwrap().vocab_size(), 266);
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens[..9].to_vec())));
    let error = Tokenizer::from_gguf(&metadata).unwrap_err().to_string();
    assert!(error.contains("expected at most 9 tokens, as in tokenizer.ggml.tokens, found 265"), "{error}");
}

/// The tiny SentencePiece vocabulary as a `tokenizer.json`, merges in the order of the scores.
fn sentence_piece_json(merges: &[[&str; 2]]) -> Json {
    let metadata = sentence_piece();
    let texts = string_array(&metadata, "tokenizer.ggml.tokens").iter();
    let vocab: serde_json::Map<_, _> = texts.enumerate().map(|(id, text)| (text.clone(), id.into())).collect();
    let added = |id: u32, text: &str| json!({ "id": id, "content": text, "special": true });
    json!({
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" }, { "type": "Replace", "pattern": { "String": " " }, "content": "▁" }] },
        "pre_tokenizer": null,
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" },
            { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 }] },
        "model": { "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": merges },
    })
}

#[test]
fn sentence_piece_json_becomes_scores_only_where_they_say_the_same() {
    let complete = [["a", "a"], ["a", "b"], ["▁", "a"], ["b", "a"], ["▁a", "b"], ["▁", "ab"]];
    let json = bytes(&sentence_piece_json(&complete));
    let metadata = export(&json, &JsonOptions::default(), 267);
    assert!(metadata.get(JSON_KEY).is_none());
    assert_eq!(metadata.str("tokenizer.ggml.model").unwrap(), Some("llama"));
    // ▁ a b ab ▁a ba ▁ab aa: minus the rank of the first merge that makes the word.
    let scores = metadata.floats("tokenizer.ggml.scores").unwrap().unwrap();
    assert_eq!(scores[259..], [0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, 0.0]);
    for tokenizer in [Tokenizer::from_json(&json).unwrap(), Tokenizer::from_gguf(&metadata).unwrap()] {
        let encode = |text: &str| tokenizer.encode(text, &PLAIN).unwrap();
        assert_eq!(encode("aba"), [SPACE_AB, A]);
        assert_eq!(encode("aaa"), [SPACE, AA, A]);
        assert_eq!(encode("é"), [SPACE, FIRST_BYTE + 0xc3, FIRST_BYTE + 0xa9]);
        assert_eq!(tokenizer.decode(&encode(" a é"), false), " a é");
        assert_eq!(tokenizer.encode("b</s>b", &ALL).unwrap()[..3], [SPACE, B, 2]);
    }
    // Without ▁a+b, or with the ways to ▁ab apart, scores would merge otherwise.
    for merges in [
        [complete[0], complete[1], complete[2], complete[3], complete[5], complete[5]],
        [complete[4], complete[0], complete[1], complete[2], complete[3], complete[5]],
    ] {
        let metadata = export(&bytes(&sentence_piece_json(&merges)), &JsonOptions::default(), 267);
        assert!(metadata.get(JSON_KEY).is_some(), "{merges:?}");
    }
}

#[test]
fn the_demo_models_json_and_its_metadata_agree_with_the_reference() {
    let Some(folder) = shared("demo-model") else { return };
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let (json, config, generation) =
        (read("export/tokenizer.json"), read("export/tokenizer_config.json"), read("export/generation_config.json"));
    let options = JsonOptions { config: Some(&config), generation: Some(&generation), model: None };
    let direct = Tokenizer::from_json_with(&json, &options).unwrap();
    let metadata = export(&json, &options, 4096);
    assert!(metadata.get(JSON_KEY).is_none());
    let exported = Tokenizer::from_gguf(&metadata).unwrap();
    assert_eq!((direct.bos(), direct.eos(), direct.end_ids()), (Some(0), Some(0), &[0][..]));
    assert_eq!((exported.bos(), exported.eos(), exported.end_ids()), (Some(0), Some(0), &[0][..]));

    let with_bos = EncodeOptions { add_special: true, parse_special: false };
    let reference: Json = serde_json::from_slice(&read("reference.json")).unwrap();
    let prompts = reference["greedy"].as_object().unwrap();
    assert!(!prompts.is_empty());
    for (prompt, expected) in prompts {
        let ids = exported.encode(prompt, &with_bos).unwrap();
        assert_eq!(json!(ids), expected["prompt_ids"], "{prompt}");
        assert_eq!(direct.encode(prompt, &with_bos).unwrap(), ids);
        let answer: Vec<u32> = serde_json::from_value(expected["greedy_ids"].clone()).unwrap();
        assert_eq!(json!(exported.decode(&answer, false)), expected["text"]);
    }

    let text = fs::read_to_string(folder.join("valid.txt")).unwrap();
    let text = &text[..text.floor_char_boundary(200_000)];
    for parse_special in [false, true] {
        let options = EncodeOptions { add_special: true, parse_special };
        let ids = exported.encode(text, &options).unwrap();
        assert!(direct.encode(text, &options).unwrap() == ids, "ids differ with {options:?}");
        assert!(exported.decode(&ids[1..], true) == text, "decoding does not give the text back");
        let mut stream = exported.stream();
        let mut streamed: String = ids.iter().map(|&id| stream.push(id)).collect();
        streamed.push_str(&stream.flush());
        assert!(streamed == exported.decode(&ids, false), "streaming differs");
    }
}

/// Merges that Hugging Face's converter makes of a SentencePiece model: every way to make each token, best tokens
/// first.
fn merges_from_scores(tokens: &[String], scores: &[f32], kinds: &[i32]) -> Vec<[String; 2]> {
    let words: std::collections::HashMap<_, _> =
        tokens.iter().zip(kinds).filter(|(_, kind)| **kind == 1).map(|(text, _)| (text.as_str(), ())).collect();
    let mut ways = Vec::new();
    for (id, text) in tokens.iter().enumerate().filter(|(id, _)| kinds[*id] == 1) {
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if words.contains_key(left) && words.contains_key(right) {
                ways.push((
                    scores[id],
                    left.chars().count(),
                    right.chars().count(),
                    [left.to_string(), right.to_string()],
                ));
            }
        }
    }
    ways.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
    ways.into_iter().map(|(.., way)| way).collect()
}

#[test]
fn llama_2_as_json_gives_the_ids_of_its_scores() {
    let Some(folder) = shared("vocab") else { return };
    let file = gguf::File::open(&folder.join("ggml-vocab-llama-spm.gguf")).unwrap();
    let metadata = file.metadata();
    let tokens = string_array(metadata, "tokenizer.ggml.tokens");
    let scores = metadata.floats("tokenizer.ggml.scores").unwrap().unwrap();
    let kinds = metadata.ints("tokenizer.ggml.token_type").unwrap().unwrap();
    let merges = merges_from_scores(tokens, scores, kinds);
    let mut json = sentence_piece_json(&[]);
    let vocab: serde_json::Map<_, _> = tokens.iter().enumerate().map(|(id, text)| (text.clone(), id.into())).collect();
    json["model"]["vocab"] = vocab.into();
    json["model"]["merges"] = json!(merges);
    let json = bytes(&json);
    let exported = export(&json, &JsonOptions::default(), 32_000);
    // The runs of spaces share one score, so that their merges interleave: the JSON is kept. Other programs read
    // the scores beside it.
    assert!(exported.get(JSON_KEY).is_some());
    let mut without = Metadata::default();
    for (key, value) in exported.iter().filter(|(key, _)| *key != JSON_KEY) {
        without.set(key, value.clone());
    }
    let texts = fs::read_to_string(folder.join("ggml-vocab-llama-spm.gguf.inp")).unwrap();
    let original = Tokenizer::from_gguf(metadata).unwrap();
    let others = [Tokenizer::from_json(&json), Tokenizer::from_gguf(&exported), Tokenizer::from_gguf(&without)];
    let others = others.map(Result::unwrap);
    for text in texts.split("\n__ggml_vocab_test__\n") {
        let expected = original.encode(text, &PLAIN).unwrap();
        for other in &others {
            assert_eq!(other.encode(text, &PLAIN).unwrap(), expected, "{text:?}");
        }
    }
}

/// The tokenizer of the file, and that of the metadata made of it.
fn both(json: &Json, options: &JsonOptions<'_>, vocab_size: usize) -> [Tokenizer; 2] {
    let json = bytes(json);
    let metadata = export(&json, options, vocab_size);
    [Tokenizer::from_json_with(&json, options).unwrap(), Tokenizer::from_gguf(&metadata).unwrap()]
}

#[test]
fn an_ordinary_word_that_looks_like_markup_stays_one() {
    let mut json = byte_level_json(gpt2_json());
    for (text, id) in [(WORDS[6], BOS), (WORDS[7], EOT), (WORDS[8], TABS), ("</s>", 265)] {
        json["model"]["vocab"][text] = id.into();
    }
    for tokenizer in both(&json, &JsonOptions::default(), 266) {
        assert_eq!(tokenizer.encode("a</s>b<|eot_id|>", &ALL).unwrap(), [97, 60, 47, 115, 62, 98, EOT]);
        assert_eq!(tokenizer.end_ids(), [EOT]);
        assert_eq!(tokenizer.decode(&[265], false), "</s>");
    }
}

#[test]
fn post_processors_put_their_tokens_around_a_text() {
    let config = br#"{"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}"#;
    let options = JsonOptions { config: Some(config), generation: None, model: None };
    // One that BOS and EOS say as well, and one that they do not.
    for (kind, first) in [("RobertaProcessing", BOS), ("BertProcessing", TABS)] {
        let mut json = byte_level_json(gpt2_json());
        json["post_processor"] = json!({ "type": kind, "sep": [WORDS[7], EOT], "cls": ["first", first] });
        for tokenizer in both(&json, &options, 265) {
            assert_eq!(tokenizer.encode("hello", &ALL).unwrap(), [first, HELLO, EOT], "{kind}");
            assert_eq!(tokenizer.encode("hello", &PLAIN).unwrap(), [HELLO]);
        }
    }
    let mut json = byte_level_json(gpt2_json());
    let special = |id: u32| json!({"SpecialToken": {"id": id.to_string(), "type_id": 0}});
    let ids = |id: u32| json!({"id": id.to_string(), "ids": [id], "tokens": ["x"]});
    json["post_processor"] = json!({ "type": "TemplateProcessing", "pair": [],
        "single": [special(TABS), special(BOS), {"Sequence": {"id": "A", "type_id": 0}}, special(EOT), special(EOT)],
        "special_tokens": { "262": ids(BOS), "263": ids(EOT), "264": ids(TABS) } });
    for tokenizer in both(&json, &options, 265) {
        assert_eq!(tokenizer.encode("hello", &ALL).unwrap(), [TABS, BOS, HELLO, EOT, EOT]);
    }
}

#[test]
fn every_token_that_ends_an_answer_is_kept() {
    let json = byte_level_json(gpt2_json());
    let generation = br#"{"eos_token_id": [7, 8, 9, 10]}"#;
    let options = JsonOptions { config: None, generation: Some(generation), model: None };
    for tokenizer in both(&json, &options, 265) {
        assert_eq!(tokenizer.end_ids(), [7, 8, 9, 10, EOT]);
    }
    let mut metadata = export(&bytes(&json), &options, 265);
    metadata.set("tokenizer.end_token_ids", Value::Array(Array::I32(vec![265])));
    let error = Tokenizer::from_gguf(&metadata).unwrap_err().to_string();
    assert_eq!(error, "key tokenizer.end_token_ids: expected token ids below 265, found 265");
}

#[test]
fn added_tokens_take_the_space_around_them_and_whole_words_only() {
    let mut json = byte_level_json(gpt2_json());
    json["added_tokens"][0]["single_word"] = true.into();
    json["added_tokens"][1]["lstrip"] = true.into();
    json["added_tokens"][1]["rstrip"] = true.into();
    for tokenizer in both(&json, &JsonOptions::default(), 265) {
        let encode = |text| tokenizer.encode(text, &ALL).unwrap();
        assert_eq!(encode("hello \n<|eot_id|>  x"), [HELLO, EOT, 120]);
        assert_eq!(encode("x <|begin_of_text|> y"), [120, 32, BOS, 32, 121]);
        let inside: Vec<u32> = "x<|begin_of_text|>y".bytes().map(u32::from).collect();
        assert_eq!(encode("x<|begin_of_text|>y"), inside);
        let long = "<|begin_of_text|> ".repeat(8_000);
        let error = tokenizer.encode(&long, &ALL).unwrap_err().to_string();
        assert!(error.contains("too many added tokens"), "{error}");
    }
}

#[test]
fn characters_are_normalized_after_conversion_too() {
    let mut json = byte_level_json(gpt2_json());
    json["normalizer"] = json!({ "type": "NFC" });
    for tokenizer in both(&json, &JsonOptions::default(), 265) {
        assert_eq!(tokenizer.encode("e\u{301}", &PLAIN).unwrap(), [0xc3, 0xa9]);
    }
}

#[test]
fn a_prompt_gets_one_bos() {
    let mut metadata = byte_level("llama-bpe");
    metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    for prompt in ["hello", "<|begin_of_text|>hello"] {
        assert_eq!(tokenizer.encode_prompt(prompt).unwrap(), [BOS, HELLO]);
    }
    assert_eq!(tokenizer.encode("<|begin_of_text|>hello", &ALL).unwrap(), [BOS, BOS, HELLO]);
    assert_eq!(tokenizer.encode_prompt("").unwrap(), [BOS]);
}
