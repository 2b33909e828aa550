//! Arbitrary text as a grammar or, where it begins with a brace, as a JSON schema: compiled, and followed for some tokens.
#![no_main]

#[path = "../../tests/common/tiny_vocab.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod tiny_vocab;

use std::sync::LazyLock;

use bitnet_gpu::{
    generate::{Constraint, Grammar},
    tokenizer::Tokenizer,
};

static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::from_gguf(&tiny_vocab::byte_level("llama-bpe")).expect("a good vocabulary"));

libfuzzer_sys::fuzz_target!(|source: &str| {
    let text = source.to_owned();
    let grammar = if text.starts_with('{') { Grammar::JsonSchema(text) } else { Grammar::Text(text) };
    let Ok(mut constraint) = Constraint::new(&grammar, &TOKENIZER) else { return };
    constraint.begin();
    for step in 0..8 {
        let Ok(allowed) = constraint.allowed() else { return };
        let ids: Vec<u32> =
            (0..32 * allowed.len() as u32).filter(|&id| allowed[id as usize / 32] >> (id % 32) & 1 == 1).collect();
        let Some(&id) = ids.get(step * 7 % ids.len().max(1)) else { return };
        if !matches!(constraint.accept(id), Ok(false)) {
            return;
        }
    }
});
