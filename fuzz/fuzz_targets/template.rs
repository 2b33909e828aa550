//! Arbitrary text as a chat template: compiled and given a conversation.
#![no_main]

#[path = "../../tests/common/tiny_vocab.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod tiny_vocab;

use std::sync::LazyLock;

use bitnet_gpu::{
    chat::{Message, Role, Template, Variables},
    tokenizer::Tokenizer,
};

static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::from_gguf(&tiny_vocab::byte_level("llama-bpe")).expect("a good vocabulary"));

libfuzzer_sys::fuzz_target!(|source: &str| {
    let Ok(template) = Template::jinja(source, &TOKENIZER) else { return };
    let messages = [(Role::System, "Be kind."), (Role::User, " Hi \n"), (Role::Assistant, "Yes?"), (Role::User, "é")];
    let messages = messages.map(|(role, text)| Message::new(role, text));
    drop(template.render(&messages, &Variables::default()));
});
