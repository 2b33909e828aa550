//! Two vocabularies small enough to work out ids by hand, and the same as `tokenizer.json`.

use bitnet_gpu::gguf::{Array, Metadata, Value};

pub fn strings(texts: &[&str]) -> Value {
    Value::Array(Array::String(texts.iter().map(|text| text.to_string()).collect()))
}

/// GPT-2's character for a byte, from the rule: printable Latin-1 stands for itself, the rest counts up from U+0100.
pub fn spell(byte: u8) -> char {
    let printable = |byte: &u8| (33..=126).contains(byte) || (161..=172).contains(byte) || *byte >= 174;
    if printable(&byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|byte| !printable(byte)).count();
    char::from_u32(256 + before as u32).unwrap()
}

/// Tokens after the 256 bytes, whose ids are their values.
pub const WORDS: [&str; 9] = ["he", "ll", "hell", "hello", "Ġh", "Ġhell", "<|begin_of_text|>", "<|eot_id|>", "\t\t"];
pub const MERGES: [&str; 5] = ["h e", "l l", "he ll", "hell o", "Ġ h"];
pub const HELL: u32 = 258;
pub const HELLO: u32 = 259;
pub const SPACE_HELL: u32 = 261;
pub const BOS: u32 = 262;
pub const EOT: u32 = 263;
/// User-defined: always one token.
pub const TABS: u32 = 264;
pub const BYTE_LEVEL_TOKENS: u32 = 265;

/// Byte-level BPE with the pre-tokenizer `pre`.
pub fn byte_level(pre: &str) -> Metadata {
    let mut tokens: Vec<String> = (0..=255).map(|byte| spell(byte).to_string()).collect();
    tokens.extend(WORDS.map(str::to_string));
    let mut kinds = vec![1; tokens.len()];
    kinds[BOS as usize] = 3;
    kinds[EOT as usize] = 3;
    kinds[TABS as usize] = 4;
    let mut metadata = Metadata::default();
    metadata.set("tokenizer.ggml.model", Value::String("gpt2".into()));
    metadata.set("tokenizer.ggml.pre", Value::String(pre.into()));
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds)));
    metadata.set("tokenizer.ggml.merges", strings(&MERGES));
    metadata.set("tokenizer.ggml.bos_token_id", Value::U32(BOS));
    metadata.set("tokenizer.ggml.eos_token_id", Value::U32(BOS));
    metadata
}

/// The byte-level vocabulary as a `tokenizer.json` with this pre-tokenizer.
pub fn byte_level_json(pre_tokenizer: serde_json::Value) -> serde_json::Value {
    let model_words = WORDS[..6].iter().enumerate().map(|(at, text)| (text.to_string(), 256 + at));
    let vocab: serde_json::Map<_, _> = (0..=255)
        .map(|byte| (spell(byte).to_string(), usize::from(byte)))
        .chain(model_words)
        .map(|(text, id)| (text, id.into()))
        .collect();
    let added = |id: u32, special: bool| {
        serde_json::json!({ "id": id, "content": WORDS[id as usize - 256], "special": special, "normalized": false,
                            "single_word": false, "lstrip": false, "rstrip": false })
    };
    serde_json::json!({
        "version": "1.0",
        "added_tokens": [added(BOS, true), added(EOT, true), added(TABS, false)],
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": { "type": "ByteLevel" },
        "model": { "type": "BPE", "vocab": vocab, "merges": MERGES, "ignore_merges": false },
    })
}

/// The pre-tokenizer of GPT-2.
pub fn gpt2_json() -> serde_json::Value {
    serde_json::json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true })
}

/// Ids of the SentencePiece vocabulary: `<unk>`, `<s>`, `</s>`, 256 bytes, then these with their scores.
pub const FIRST_BYTE: u32 = 3;
pub const PIECES: [(&str, f32); 8] =
    [("▁", -10.0), ("a", -10.0), ("b", -10.0), ("ab", -1.0), ("▁a", -2.0), ("ba", -3.0), ("▁ab", -4.0), ("aa", -0.5)];
/// Ids of [`PIECES`].
pub const SPACE: u32 = 259;
pub const A: u32 = 260;
pub const B: u32 = 261;
pub const BA: u32 = 264;
pub const SPACE_AB: u32 = 265;
pub const AA: u32 = 266;

pub fn sentence_piece() -> Metadata {
    let mut tokens: Vec<_> = ["<unk>", "<s>", "</s>"].map(str::to_string).to_vec();
    tokens.extend((0..=255).map(|byte: u8| format!("<0x{byte:02X}>")));
    let mut scores = vec![0.0; tokens.len()];
    let mut kinds = vec![6; tokens.len()];
    kinds[..3].copy_from_slice(&[2, 3, 3]);
    for (text, score) in PIECES {
        tokens.push(text.to_string());
        scores.push(score);
        kinds.push(1);
    }
    let mut metadata = Metadata::default();
    metadata.set("tokenizer.ggml.model", Value::String("llama".into()));
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds)));
    metadata
}
