//! A vocabulary for models that mean nothing: text goes in byte by byte, and words with numbers come out.

use crate::gguf::{Array, Value};

/// Tokens 0 to 255 are the bytes, the others " w256", " w257" and so on. None of them ends a text.
pub(super) fn vocabulary(size: usize) -> Vec<(String, Value)> {
    let word = |id: usize| match u8::try_from(id) {
        Ok(byte) => spelt(byte).to_string(),
        Err(_) => format!("{}w{id}", spelt(b' ')),
    };
    const NORMAL: i32 = 1;
    let entry = |key: &str, value| (format!("tokenizer.ggml.{key}"), value);
    vec![
        entry("model", Value::String("gpt2".into())),
        entry("pre", Value::String("gpt-2".into())),
        entry("tokens", Value::Array(Array::String((0..size).map(word).collect()))),
        entry("token_type", Value::Array(Array::I32(vec![NORMAL; size]))),
        entry("merges", Value::Array(Array::String(Vec::new()))),
        entry("add_bos_token", Value::Bool(false)),
        entry("add_eos_token", Value::Bool(false)),
    ]
}

/// The character that stands for a byte in byte-level vocabularies (GPT-2's `bytes_to_unicode`): itself where it is
/// printable, else the next one from U+0100 on.
fn spelt(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(0x100 + before).expect("at most 68 bytes are not printable")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gguf::Metadata,
        tokenizer::{EncodeOptions, Tokenizer},
    };

    #[test]
    fn any_text_goes_in_and_words_come_out() {
        let mut metadata = Metadata::default();
        vocabulary(300).into_iter().for_each(|(key, value)| metadata.set(key, value));
        let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
        let text = "a b\n\u{e9}\0\u{ad}";
        let ids = tokenizer.encode(text, &EncodeOptions::default()).unwrap();
        assert_eq!(ids, text.bytes().map(u32::from).collect::<Vec<_>>());
        assert_eq!(tokenizer.decode(&[256, 299], false), " w256 w299");
        assert!(!(0..300).any(|id| tokenizer.is_end(id)));
    }
}
