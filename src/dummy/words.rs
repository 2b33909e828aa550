//! A vocabulary for models that mean nothing: text goes in, and words with numbers come out.
//!
//! Large ones take the pieces of the story model, so that a text has about as many tokens as it has for a real model: byte by
//! byte it has four times as many, and a prompt takes as much longer.

use std::{collections::HashSet, sync::Arc};

use crate::{
    engine::{ModelFile, OpenOptions},
    error::Result,
    gguf::{Array, Value},
};

/// Size from which a vocabulary has pieces: those of published models are larger.
const LARGE: usize = 16_384;

/// Tokens 0 to 255 are the bytes; of large vocabularies pieces of English words come next; the others are " w"
/// and their number. None of them ends a text.
///
/// # Errors
/// If the story model cannot be read.
pub(super) fn vocabulary(size: usize) -> Result<Vec<(String, Value)>> {
    let (pieces, merges) = if size < LARGE { Default::default() } else { pieces()? };
    let bytes = (0..=u8::MAX).map(|byte| spelt(byte).to_string());
    let words = (0..).map(|id| format!("{}w{id}", spelt(b' '))).skip(bytes.len() + pieces.len());
    let tokens = bytes.chain(pieces).chain(words).take(size).collect();
    const NORMAL: i32 = 1;
    let entry = |key: &str, value| (format!("tokenizer.ggml.{key}"), value);
    Ok(vec![
        entry("model", Value::String("gpt2".into())),
        entry("pre", Value::String("gpt-2".into())),
        entry("tokens", Value::Array(Array::String(tokens))),
        entry("token_type", Value::Array(Array::I32(vec![NORMAL; size]))),
        entry("merges", Value::Array(Array::String(merges))),
        entry("add_bos_token", Value::Bool(false)),
        entry("add_eos_token", Value::Bool(false)),
    ])
}

/// Pieces of the story model that are made of two, one for each merge, and the merges; words with a space before them are made
/// without it as well, as a line begins with them.
fn pieces() -> Result<(Vec<String>, Vec<String>)> {
    let story = ModelFile::built_in(&OpenOptions::default(), Arc::new(()))?;
    let of_story = story.file().metadata().strings("tokenizer.ggml.merges")?.unwrap_or_default();
    let space = spelt(b' ');
    let bare = of_story.iter().filter_map(|merge| merge.strip_prefix(space).filter(|bare| !bare.starts_with(' ')));
    let piece = |merge: &str| merge.replacen(' ', "", 1);
    let (mut pieces, mut merges) = (Vec::new(), Vec::new());
    let mut known = HashSet::new();
    for merge in of_story.iter().map(String::as_str).chain(bare) {
        if known.insert(piece(merge)) {
            pieces.push(piece(merge));
            merges.push(merge.to_owned());
        }
    }
    Ok((pieces, merges))
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

    fn tokenizer(size: usize) -> Tokenizer {
        let mut metadata = Metadata::default();
        vocabulary(size).unwrap().into_iter().for_each(|(key, value)| metadata.set(key, value));
        Tokenizer::from_gguf(&metadata).unwrap()
    }

    /// English has a token or two a word, as with real models.
    #[test]
    fn large_vocabularies_have_pieces_of_words() {
        let tokenizer = tokenizer(LARGE);
        for text in ["the cat sat on the mat\nthe little dog was happy.", "a b\n\u{e9}\0\u{ad}"] {
            let ids = tokenizer.encode(text, &EncodeOptions::default()).unwrap();
            assert!(ids.len() <= text.split_whitespace().count() + 6, "{ids:?}");
            assert_eq!(tokenizer.decode(&ids, false), text);
        }
        assert_eq!(tokenizer.decode(&[LARGE as u32 - 1], false), format!(" w{}", LARGE - 1));
    }

    #[test]
    fn any_text_goes_in_and_words_come_out() {
        let tokenizer = tokenizer(300);
        let text = "a b\n\u{e9}\0\u{ad}";
        let ids = tokenizer.encode(text, &EncodeOptions::default()).unwrap();
        assert_eq!(ids, text.bytes().map(u32::from).collect::<Vec<_>>());
        assert_eq!(tokenizer.decode(&[256, 299], false), " w256 w299");
        assert!(!(0..300).any(|id| tokenizer.is_end(id)));
    }
}
