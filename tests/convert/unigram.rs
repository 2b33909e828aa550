//! `tokenizer.model` of SentencePiece's Unigram kind, alone in a directory. The two files were trained by the sentencepiece
//! package (0.2.3) on this project's documents, with the user-defined symbols `<tool>`, two spaces and `é!`, and a map of a few
//! characters; the ids are what `SentencePieceProcessor.encode` of that package gives for them. Of the same tokens, scores and
//! map as a `tokenizer.json`, they are what the tokenizers package (0.23.3) gives.

use base64::{Engine, prelude::BASE64_STANDARD};
use bitnet_gpu::{
    convert::in_memory,
    gguf::{Array, File, Value},
    tokenizer::{EncodeOptions, Tokenizer},
};
use serde_json::{Value as Json, json};
use std::{fs, path::Path};

use super::support::{Case, Model};

const ROWS: usize = 362;

/// A directory with that file, run as it is and converted; with a change.
fn files(name: &str, change: impl Fn(&Case)) -> [File; 2] {
    let mut model = Model::llama();
    model.config["vocab_size"] = ROWS.into();
    model.matrix("model.embed_tokens.weight", ROWS, super::support::DIM);
    let case = Case::of(&model);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/convert/unigram").join(name);
    fs::copy(file, case.input().join("tokenizer.model")).unwrap();
    change(&case);
    [in_memory(&case.input(), None).unwrap(), case.file()]
}

fn tokenizers(files: &[File; 2]) -> [Tokenizer; 2] {
    files.each_ref().map(|file| Tokenizer::from_gguf(file.metadata()).unwrap())
}

fn check(name: &str, expected: &[(&str, &[u32])]) -> [Tokenizer; 2] {
    let tokenizers = tokenizers(&files(name, |_| ()));
    for tokenizer in &tokenizers {
        assert_eq!(tokenizer.vocab_size(), ROWS);
        for (text, ids) in expected {
            assert_eq!(tokenizer.encode(text, &EncodeOptions::default()).unwrap(), *ids, "{text:?}");
        }
    }
    tokenizers
}

/// Characters without a token are spelled in bytes; spaces are trimmed, and one comes first.
#[test]
fn a_model_with_bytes() {
    let tokenizers = check(
        "bytes.model",
        &[
            ("Hello world", &[262, 78, 266, 286, 286, 277, 262, 305, 277, 281, 286, 280]),
            (
                "  two  spaces   and more  ",
                &[262, 268, 305, 277, 262, 262, 263, 275, 273, 284, 321, 262, 282, 262, 274, 277, 306],
            ),
            ("<tool>a <tool> b", &[262, 3, 273, 262, 3, 262, 300]),
            (
                "the model's weights are \u{200b}ternary",
                &[269, 319, 337, 263, 262, 305, 266, 278, 288, 299, 268, 263, 272, 306, 262, 268, 295, 276, 331, 292],
            ),
            ("ＡＢａ ﬁne", &[334, 336, 273, 317, 310, 266]),
            (
                "cafe\u{301} and café! 日本語 Ω",
                &[
                    262, 284, 273, 304, 201, 175, 282, 262, 284, 273, 304, 5, 262, 236, 157, 171, 236, 162, 178, 238,
                    176, 164, 262, 212, 175,
                ],
            ),
            ("a\u{a0}b\u{3000}c", &[272, 262, 300, 262, 284]),
            ("", &[]),
            ("   ", &[]),
            ("\n\nline\tbreak", &[262, 16, 16, 286, 310, 266, 15, 300, 306, 273, 323]),
            ("aé!b", &[272, 5, 300]),
            ("\u{fdfa} x", &[262, 222, 187, 223, 138, 223, 143, 262, 222, 173, 223, 138, 223, 138, 223, 141, 262, 342]),
            ("日本", &[262, 236, 157, 171, 236, 162, 178]),
            ("▁under▁score", &[262, 262, 285, 276, 280, 295, 262, 263, 284, 277, 306]),
            (" <s> </s> <unk>", &[262, 66, 263, 68, 262, 66, 296, 263, 68, 262, 66, 285, 276, 323, 68]),
        ],
    );
    for tokenizer in &tokenizers {
        let ids = tokenizer.encode("cafe\u{301} and café! 日本語", &EncodeOptions::default()).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), "café and café! 日本語");
        let all = EncodeOptions { add_special: true, parse_special: true };
        assert_eq!(tokenizer.encode("a</s>", &all).unwrap(), [1, 272, 2]);
    }
}

/// Without bytes, and with all spaces.
#[test]
fn a_model_with_an_unknown_token() {
    check(
        "unknown.model",
        &[
            ("Hello world", &[0, 224, 18, 6, 32, 18, 28, 36, 26]),
            ("  two  spaces   and more  ", &[6, 6, 13, 32, 18, 6, 6, 7, 15, 225, 7, 6, 6, 25, 6, 20, 18, 45, 6, 6]),
            ("<tool>a <tool> b", &[3, 17, 6, 3, 6, 46]),
            ("the model's weights are \u{200b}ternary", &[168, 61, 83, 7, 167, 111, 6, 13, 172]),
            ("ＡＢａ ﬁne", &[122, 81, 17, 71, 57, 9]),
            ("cafe\u{301} and café! 日本語 Ω", &[29, 17, 49, 0, 25, 6, 29, 17, 49, 5, 6, 0, 6, 0]),
            ("a\u{a0}b\u{3000}c", &[17, 6, 46, 6, 29]),
            ("", &[]),
            ("   ", &[6, 6, 6]),
            ("\n\nline\tbreak", &[0, 36, 57, 9, 0, 46, 45, 17, 65]),
            ("aé!b", &[17, 5, 46]),
            ("\u{fdfa} x", &[0, 6, 0, 6, 98]),
            ("日本", &[0]),
            ("▁under▁score", &[6, 194, 43, 6, 7, 29, 18, 45]),
            (" <s> </s> <unk>", &[6, 0, 7, 0, 6, 0, 42, 7, 0, 6, 0, 31, 24, 65, 0]),
        ],
    );
}

/// The same tokens as Hugging Face's converters write them.
fn as_json(name: &str, change: impl Fn(&mut Json)) -> Json {
    let [file, _] = files(name, |_| ());
    let metadata = file.metadata();
    let (texts, scores) = (metadata.strings("tokenizer.ggml.tokens"), metadata.floats("tokenizer.ggml.scores"));
    let vocab: Vec<Json> = texts
        .unwrap()
        .unwrap()
        .iter()
        .zip(scores.unwrap().unwrap())
        .map(|(text, score)| json!([text, score]))
        .collect();
    let Some(Value::Array(Array::U8(map))) = metadata.get("tokenizer.ggml.precompiled_charsmap") else {
        panic!("no map")
    };
    let added = |id: u32, text: &str, special: bool| json!({"id": id, "content": text, "special": special});
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let mut json = json!({
        "added_tokens": [added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true), added(3, "<tool>", false)],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": BASE64_STANDARD.encode(map)},
        "pre_tokenizer": metaspace,
        "post_processor": {"type": "TemplateProcessing", "pair": [],
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}},
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": false},
    });
    change(&mut json);
    json
}

fn check_json(json: &Json, expected: &[(&str, &[u32])]) {
    let files = files("bytes.model", |case| fs::write(case.input().join("tokenizer.json"), json.to_string()).unwrap());
    let markup = EncodeOptions { add_special: false, parse_special: true };
    for tokenizer in tokenizers(&files) {
        for (text, ids) in expected {
            assert_eq!(tokenizer.encode(text, &markup).unwrap(), *ids, "{text:?}");
        }
        let all = EncodeOptions { add_special: true, parse_special: true };
        assert_eq!(tokenizer.encode("<s>", &all).unwrap(), [1, 2]);
        // Text from outside never becomes markup.
        let plain = tokenizer.encode("<s> </s> <unk>", &EncodeOptions::default()).unwrap();
        assert!(!plain.contains(&1) && !plain.contains(&2), "{plain:?}");
        let ids = tokenizer.encode("the tokens", &EncodeOptions::default()).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), "the tokens");
    }
}

#[test]
fn a_json_with_bytes() {
    let json = as_json("bytes.model", |json| {
        let map = json["normalizer"].take();
        let strip = json!({"type": "Strip", "strip_left": false, "strip_right": true});
        let runs = json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"});
        json["normalizer"] = json!({"type": "Sequence", "normalizers": [strip, map, runs]});
        let metaspace = json["decoder"].take();
        json["decoder"] = json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, metaspace]});
        json["model"]["byte_fallback"] = true.into();
    });
    check_json(
        &json,
        &[
            ("Hello world", &[262, 78, 266, 286, 286, 277, 262, 305, 277, 281, 286, 280]),
            (
                "  two  spaces   and more  ",
                &[262, 268, 305, 277, 262, 263, 275, 273, 284, 321, 282, 262, 274, 277, 306],
            ),
            ("<tool>a <tool> b", &[3, 272, 3, 262, 300]),
            (
                "the model's weights are \u{200b}ternary",
                &[269, 319, 337, 263, 262, 305, 266, 278, 288, 299, 268, 263, 272, 306, 262, 268, 295, 276, 331, 292],
            ),
            ("ＡＢａ ﬁne", &[334, 336, 273, 317, 310, 266]),
            (
                "cafe\u{301} and café! 日本語 Ω",
                &[
                    262, 284, 273, 304, 201, 175, 282, 262, 284, 273, 304, 5, 262, 236, 157, 171, 236, 162, 178, 238,
                    176, 164, 262, 212, 175,
                ],
            ),
            ("a\u{a0}b\u{3000}c", &[272, 262, 300, 262, 284]),
            ("", &[]),
            ("   ", &[]),
            ("\n\nline\tbreak", &[262, 16, 16, 286, 310, 266, 15, 300, 306, 273, 323]),
            ("aé!b", &[272, 5, 300]),
            ("\u{fdfa} x", &[262, 222, 187, 223, 138, 223, 143, 262, 222, 173, 223, 138, 223, 138, 223, 141, 262, 342]),
            ("日本", &[262, 236, 157, 171, 236, 162, 178]),
            ("▁under▁score", &[262, 285, 276, 280, 295, 262, 263, 284, 277, 306]),
            (" <s> </s> <unk>", &[1, 2, 0]),
            ("<0x41> is a byte?", &[262, 71, 308, 272, 262, 300, 292, 268, 266, 69]),
            (
                "The quick brown fox",
                &[262, 338, 299, 266, 262, 356, 285, 278, 284, 323, 262, 300, 281, 277, 305, 276, 317, 277, 342],
            ),
            ("e\u{301}e\u{301}", &[262, 201, 175, 201, 175]),
            ("🤖🤖 ok", &[262, 246, 165, 170, 156, 246, 165, 170, 156, 262, 277, 323]),
            (
                "tokens, tokens; tokens.",
                &[302, 323, 266, 276, 263, 264, 302, 323, 266, 276, 263, 293, 302, 323, 266, 276, 263, 267],
            ),
            ("1234567890", &[301, 298, 311, 324, 318, 329, 344, 309, 343, 303]),
            ("a</s>b", &[272, 2, 262, 300]),
            ("  leading", &[262, 327, 273, 280, 310, 288]),
            ("trailing  ", &[262, 268, 281, 273, 278, 286, 310, 288]),
            ("ΩΩΩ ω", &[262, 212, 175, 212, 175, 212, 175, 262, 213, 143]),
            ("don't — stop…", &[262, 280, 335, 337, 268, 262, 232, 134, 154, 262, 313, 277, 275, 232, 134, 172]),
            ("x\r\ny", &[262, 342, 19, 16, 292]),
            (
                "(brackets) [and] {more}",
                &[
                    297, 300, 281, 273, 284, 323, 266, 268, 263, 287, 262, 97, 273, 276, 280, 99, 262, 129, 274, 277,
                    306, 131,
                ],
            ),
            ("mixed日本text", &[262, 274, 278, 342, 290, 236, 157, 171, 236, 162, 178, 268, 266, 342, 268]),
            (
                "zzzzzzzzzzzzzzzz",
                &[262, 357, 357, 357, 357, 357, 357, 357, 357, 357, 357, 357, 357, 357, 357, 357, 357],
            ),
        ],
    );
}

#[test]
fn a_json_with_an_unknown_token() {
    let json = as_json("unknown.model", |json| {
        let metaspace = json["pre_tokenizer"].take();
        json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]});
    });
    check_json(
        &json,
        &[
            ("Hello world", &[6, 0, 224, 18, 6, 32, 18, 28, 36, 26]),
            ("  two  spaces   and more  ", &[6, 13, 32, 18, 6, 7, 15, 225, 7, 25, 6, 20, 18, 45]),
            ("<tool>a <tool> b", &[3, 19, 3, 6, 46]),
            ("the model's weights are \u{200b}ternary", &[12, 61, 83, 7, 167, 111, 6, 13, 172]),
            ("ＡＢａ ﬁne", &[97, 81, 17, 71, 57, 9]),
            ("cafe\u{301} and café! 日本語 Ω", &[6, 29, 17, 49, 0, 25, 6, 29, 17, 49, 5, 6, 0, 6, 0]),
            ("a\u{a0}b\u{3000}c", &[19, 6, 46, 6, 29]),
            ("", &[]),
            ("   ", &[]),
            ("\n\nline\tbreak", &[6, 36, 57, 9, 6, 46, 45, 17, 65]),
            ("aé!b", &[19, 5, 46]),
            ("\u{fdfa} x", &[6, 0, 6, 0, 6, 98]),
            ("日本", &[6, 0]),
            ("▁under▁score", &[6, 194, 43, 6, 7, 29, 18, 45]),
            (" <s> </s> <unk>", &[1, 2, 0]),
            ("<0x41> is a byte?", &[6, 0, 47, 98, 69, 56, 0, 52, 19, 95, 13, 9, 0]),
            ("The quick brown fox", &[6, 156, 6, 227, 31, 21, 29, 65, 6, 46, 96, 32, 24, 71, 18, 98]),
            ("e\u{301}e\u{301}", &[6, 0]),
            ("🤖🤖 ok", &[6, 0, 6, 18, 65]),
            ("tokens, tokens; tokens.", &[104, 8, 104, 39, 104, 11]),
            ("1234567890", &[146, 53, 69, 67, 73, 100, 58, 99, 47]),
            ("a</s>b", &[19, 2, 6, 46]),
            ("  leading", &[6, 85, 17, 26, 91]),
            ("trailing  ", &[6, 13, 28, 17, 21, 36, 91]),
            ("ΩΩΩ ω", &[6, 0, 6, 0]),
            ("don't — stop…", &[6, 26, 77, 83, 13, 6, 0, 6, 55, 18, 15, 0]),
            ("x\r\ny", &[6, 98, 6, 35]),
            (
                "(brackets) [and] {more}",
                &[44, 46, 28, 17, 29, 65, 9, 13, 7, 33, 6, 0, 17, 24, 26, 0, 6, 0, 20, 18, 45, 0],
            ),
            ("mixed日本text", &[6, 20, 21, 98, 38, 0, 13, 9, 98, 13]),
            ("zzzzzzzzzzzzzzzz", &[6, 268, 268, 268, 268, 268, 268, 268, 268, 268, 268, 268, 268, 268, 268, 268, 268]),
        ],
    );
}

/// The `tokenizers` crate trusts all of this.
#[test]
fn a_json_that_would_crash_the_reader_is_refused() {
    let map = |units: &[u32], texts: &[u8]| {
        let size = (4 * units.len() as u32).to_le_bytes();
        let units: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        json!(BASE64_STANDARD.encode([&size, units.as_slice(), texts].concat()))
    };
    // A child for the byte 1 of the first unit, which has a value.
    let with_value = |value: u32| {
        let mut units = vec![0; 512];
        units[0] = 256 << 10;
        (units[257], units[256]) = (1 << 8 | 1 | 1 << 10, value);
        map(&units, b"a\0")
    };
    let text =
        |json: &Json| Tokenizer::from_json(json.to_string().as_bytes()).map(drop).map_err(|error| error.to_string());
    let charsmap = "/normalizer/precompiled_charsmap";
    let good = as_json("bytes.model", |json| *json.pointer_mut(charsmap).unwrap() = with_value(1));
    assert_eq!(text(&good), Ok(()));
    let cases = [
        (charsmap, json!("?"), "Base64"),
        (charsmap, json!(""), "places inside the array"),
        (charsmap, map(&[1 << 10; 100], b"a\0"), "places inside the array"),
        (charsmap, map(&[u32::MAX >> 1; 256], b"a\0"), "places inside the array"),
        (charsmap, with_value(77), "places inside the texts"),
        (charsmap, map(&[0; 1 << 21], b"a\0"), "at most 1048576 numbers"),
        ("/model/unk_id", json!(9999), "model.unk_id"),
        ("/model/vocab/7/0", json!("<unk>"), "model.vocab[7]: expected a text that token 0 has not"),
        ("/model/vocab", json!([]), "model.unk_id"),
        ("/model/type", json!("WordPiece"), "only BPE and Unigram models are"),
        ("/normalizer", json!({"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}), "Replace"),
    ];
    for (pointer, value, fragment) in cases {
        let mut json = good.clone();
        *json.pointer_mut(pointer).unwrap() = value;
        let error = text(&json).unwrap_err();
        let thing = ["tokenizer.json: ", "map of characters of the tokenizer: "];
        assert!(thing.iter().any(|thing| error.starts_with(thing)), "{pointer}: {error}");
        assert!(error.contains(fragment), "{pointer}: {error}");
    }
    // A token as long as a file may be is not recursed into.
    let mut json = good;
    json["model"]["vocab"][300][0] = json!("a".repeat(1 << 20));
    assert_eq!(text(&json), Ok(()));
}
