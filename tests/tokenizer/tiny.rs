//! Ids and texts worked out by hand on vocabularies of a few words.

use bitnet_gpu::{
    gguf::{Metadata, Value},
    tokenizer::{EncodeOptions, Tokenizer},
};

use crate::common::tiny_vocab::*;

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const SPECIAL: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const WITH_BOS: EncodeOptions = EncodeOptions { add_special: true, parse_special: false };

fn load(metadata: &Metadata) -> Tokenizer {
    Tokenizer::from_gguf(metadata).unwrap()
}

fn with(mut metadata: Metadata, key: &str, value: Value) -> Metadata {
    metadata.set(format!("tokenizer.ggml.{key}"), value);
    metadata
}

/// A tokenizer is shared between threads, as servers do.
const _: fn(Tokenizer) = |tokenizer| {
    fn shared<T: Send + Sync>(_: T) {}
    shared(tokenizer);
};

#[test]
fn byte_level_merging_by_rank() {
    let tokenizer = load(&byte_level("gpt-2"));
    let encode = |text: &str| tokenizer.encode(text, &PLAIN).unwrap();
    // "hello": h+e, l+l, he+ll, hell+o. " hell": h+e has a lower rank than Ġ+h, so the space stays alone.
    assert_eq!(encode("hello hell"), [HELLO, 32, HELL]);
    // Of equal pairs the leftmost is merged.
    assert_eq!(encode("lll"), [257, 108]);
    // é is C3 A9; a newline is byte 10.
    assert_eq!(encode("é\n"), [0xc3, 0xa9, 10]);
    assert!(encode("").is_empty());
    assert_eq!(tokenizer.decode(&[HELLO, 32, HELL, 0xc3, 0xa9, 10], false), "hello hellé\n");
}

#[test]
fn a_whole_word_comes_first_where_the_pre_tokenizer_says_so() {
    // "Ġhell" is a token that no merge makes.
    assert_eq!(load(&byte_level("llama-bpe")).encode(" hell", &PLAIN).unwrap(), [SPACE_HELL]);
    assert_eq!(load(&byte_level("qwen2")).encode(" hell", &PLAIN).unwrap(), [32, HELL]);
}

#[test]
fn markup_in_text_is_text_unless_parsed() {
    let tokenizer = load(&byte_level("gpt-2"));
    assert_eq!(tokenizer.encode("hell<|eot_id|>o", &SPECIAL).unwrap(), [HELL, EOT, 111]);
    let ids = tokenizer.encode("hell<|eot_id|>o", &PLAIN).unwrap();
    assert!(!ids.contains(&EOT));
    assert_eq!(tokenizer.decode(&ids, false), "hell<|eot_id|>o");
    // A user-defined token is found either way.
    assert_eq!(tokenizer.encode("o\t\t\to", &PLAIN).unwrap(), [111, TABS, 9, 111]);
}

#[test]
fn markup_prints_on_request_only() {
    let tokenizer = load(&byte_level("gpt-2"));
    assert_eq!(tokenizer.decode(&[BOS, HELLO, TABS, EOT], false), "hello\t\t");
    assert_eq!(tokenizer.decode(&[BOS, HELLO, TABS, EOT], true), "<|begin_of_text|>hello\t\t<|eot_id|>");
    assert_eq!(tokenizer.decode(&[BYTE_LEVEL_TOKENS, u32::MAX], true), "");
}

#[test]
fn bos_and_eos_follow_the_file_and_else_the_pre_tokenizer() {
    let encode = |metadata: &Metadata| load(metadata).encode("hello", &WITH_BOS).unwrap();
    assert_eq!(encode(&byte_level("gpt-2")), [HELLO]);
    assert_eq!(encode(&byte_level("llama-bpe")), [BOS, HELLO]);
    assert_eq!(encode(&with(byte_level("llama-bpe"), "add_bos_token", Value::Bool(false))), [HELLO]);
    let both = with(byte_level("gpt-2"), "add_bos_token", Value::Bool(true));
    assert_eq!(encode(&with(both, "add_eos_token", Value::Bool(true))), [BOS, HELLO, BOS]);
    assert_eq!(load(&byte_level("llama-bpe")).encode("hello", &PLAIN).unwrap(), [HELLO]);
    // Without a BOS id in the file, Llama 3's is found by its text.
    let mut nameless = Metadata::default();
    let full = byte_level("llama-bpe");
    for (key, value) in full.iter().filter(|(key, _)| !key.ends_with("os_token_id")) {
        nameless.set(key, value.clone());
    }
    assert_eq!(encode(&nameless), [BOS, HELLO]);
}

#[test]
fn tokens_that_end_an_answer() {
    // <|eot_id|> by its text, EOS and EOM by their keys.
    let metadata = with(byte_level("gpt-2"), "eom_token_id", Value::U32(7));
    let tokenizer = load(&metadata);
    assert_eq!(tokenizer.end_ids(), [7, BOS, EOT]);
    assert!(tokenizer.is_end(EOT) && !tokenizer.is_end(HELLO));
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(BOS), Some(BOS)));
    let sentence_piece = load(&sentence_piece());
    assert_eq!((sentence_piece.bos(), sentence_piece.eos()), (Some(1), Some(2)));
    assert_eq!(sentence_piece.end_ids(), [2]);
}

#[test]
fn a_missing_pre_tokenizer_is_guessed_and_noted() {
    let mut metadata = Metadata::default();
    for (key, value) in byte_level("llama-bpe").iter().filter(|(key, _)| *key != "tokenizer.ggml.pre") {
        metadata.set(key, value.clone());
    }
    let tokenizer = load(&metadata);
    assert_eq!(tokenizer.encode(" hell", &PLAIN).unwrap(), [SPACE_HELL]);
    assert!(tokenizer.notes()[0].contains("llama-bpe is used"), "{:?}", tokenizer.notes());
    metadata.set("tokenizer.ggml.bos_token_id", Value::U32(HELLO));
    let tokenizer = load(&metadata);
    assert_eq!(tokenizer.encode(" hell", &PLAIN).unwrap(), [32, HELL]);
    assert!(tokenizer.notes()[0].contains("default is used"), "{:?}", tokenizer.notes());
    assert!(load(&byte_level("default")).notes().is_empty());
}

#[test]
fn sentence_piece_merging_by_score() {
    let tokenizer = load(&sentence_piece());
    let encode = |text: &str| tokenizer.encode(text, &PLAIN).unwrap();
    // "▁ab": a+b (-1) before ▁+a (-2), then ▁+ab.
    assert_eq!(encode("ab"), [SPACE_AB]);
    // "▁aba": a+b is the best pair, then ▁+ab; "▁ab"+"a" is no token.
    assert_eq!(encode("aba"), [SPACE_AB, A]);
    // "▁ba a": b+a; then nothing.
    assert_eq!(encode("ba a"), [SPACE, BA, 263]);
    // "▁aaa": of two equal pairs the leftmost.
    assert_eq!(encode("aaa"), [SPACE, AA, A]);
    // é is no token: bytes C3 A9.
    assert_eq!(encode("é"), [SPACE, FIRST_BYTE + 0xc3, FIRST_BYTE + 0xa9]);
    assert_eq!(tokenizer.encode("ab", &WITH_BOS).unwrap(), [1, SPACE_AB]);
    assert_eq!(tokenizer.encode("", &WITH_BOS).unwrap(), [1]);
    // After markup the space comes again.
    assert_eq!(tokenizer.encode("ab<s>ab", &SPECIAL).unwrap(), [SPACE_AB, 1, SPACE_AB]);
    let bare = load(&with(sentence_piece(), "add_space_prefix", Value::Bool(false)));
    assert_eq!(bare.encode("ba", &PLAIN).unwrap(), [BA]);
    assert_eq!(bare.decode(&[SPACE_AB], false), " ab");
}

#[test]
fn sentence_piece_text_never_becomes_markup() {
    // With "<" and "s>" as tokens, merging would find "<s>".
    let mut metadata = sentence_piece();
    let Some(Value::Array(array)) = metadata.get("tokenizer.ggml.tokens") else { unreachable!() };
    let bitnet_gpu::gguf::Array::String(mut tokens) = array.clone() else { unreachable!() };
    tokens[260] = "<".into();
    tokens[261] = "s>".into();
    tokens[262] = "s".into();
    tokens[263] = ">".into();
    metadata.set("tokenizer.ggml.tokens", Value::Array(bitnet_gpu::gguf::Array::String(tokens)));
    let tokenizer = load(&metadata);
    assert_eq!(tokenizer.encode("<s>", &PLAIN).unwrap(), [SPACE, 260, 261]);
    assert_eq!(tokenizer.encode("<s>", &SPECIAL).unwrap(), [1]);
}

#[test]
fn the_space_put_in_front_is_taken_away_once() {
    let tokenizer = load(&sentence_piece());
    assert_eq!(tokenizer.decode(&[1, SPACE_AB, SPACE_AB], false), "ab ab");
    assert_eq!(tokenizer.decode(&[1, SPACE_AB], true), "<s> ab");
    assert_eq!(tokenizer.decode(&[SPACE, SPACE_AB], false), " ab");
    // A stream that goes on after a prompt keeps it; one after BOS alone does not.
    assert_eq!(tokenizer.stream().push(SPACE_AB), "ab");
    assert_eq!(tokenizer.stream_after(&[1, SPACE_AB]).push(SPACE_AB), " ab");
    assert_eq!(tokenizer.stream_after(&[1]).push(SPACE_AB), "ab");
}

#[test]
fn a_stream_holds_back_what_may_become_a_character() {
    let tokenizer = load(&byte_level("gpt-2"));
    let run = |bytes: &[u8]| {
        let mut stream = tokenizer.stream();
        let pieces: Vec<_> = bytes.iter().map(|&byte| stream.push(byte.into())).collect();
        (pieces, stream.flush())
    };
    let owned = |pieces: &[&str], rest: &str| (pieces.iter().map(|p| p.to_string()).collect(), rest.to_string());
    assert_eq!(run("é€😀".as_bytes()), owned(&["", "é", "", "", "€", "", "", "", "😀"], ""));
    // C3 cannot go on with "h"; E2 82 is cut by the end; 80 begins nothing; F5 is never used.
    assert_eq!(run(b"\xc3h\xe2\x82"), owned(&["", "\u{fffd}h", "", ""], "\u{fffd}"));
    assert_eq!(run(b"\x80\xf5h"), owned(&["\u{fffd}", "\u{fffd}", "h"], ""));
    assert_eq!(run(b"\xe2\xc3\xa9"), owned(&["", "\u{fffd}", "é"], ""));
}

#[test]
fn a_stream_and_decoding_at_once_agree_on_any_bytes() {
    let tokenizer = load(&byte_level("gpt-2"));
    // Every pair of lead, continuation and plain bytes around every other, 12 long.
    let alphabet = [0x41, 0x80, 0xbf, 0xc3, 0xe2, 0x82, 0xed, 0xa0, 0xf0, 0x9f, 0xf4, 0x90];
    for seed in 0..2000_usize {
        let ids: Vec<u32> =
            (0..12).map(|at| alphabet[(seed / (at + 1) * 7 + seed * at + at) % alphabet.len()]).collect();
        let mut stream = tokenizer.stream();
        let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
        text.push_str(&stream.flush());
        assert_eq!(text, tokenizer.decode(&ids, false), "{ids:x?}");
    }
}
