//! Byte-level byte-pair encoding (`tokenizer.ggml.model` = `gpt2`).
//!
//! Text is cut into words (see [`super::pre`]), the bytes of a word are spelled with GPT-2's alphabet of 256
//! printable characters, and the word is merged pair by pair, lowest rank first, leftmost on ties. A byte whose
//! character is not in the vocabulary is dropped, as llama.cpp and Hugging Face do; vocabularies lack only bytes
//! that UTF-8 never uses and some control characters.

use std::collections::HashSet;

use tokenizers::{
    Model,
    models::bpe::{BPE, Merges, Vocab as IdMap},
};

use crate::error::{Error, Result, shown};

use super::{
    pre::{Pre, Splitter},
    vocab::Vocab,
};

/// Bytes that stand for themselves in GPT-2's alphabet; the other 68 are U+0100 and up, in order.
const fn is_printable(byte: u8) -> bool {
    matches!(byte, 33..=126 | 161..=172 | 174..=255)
}

/// GPT-2's alphabet: the character that spells each byte.
pub(super) const ALPHABET: [char; 256] = {
    let mut alphabet = ['\0'; 256];
    let mut others = 0;
    let mut byte = 0;
    while byte < 256 {
        if is_printable(byte as u8) {
            alphabet[byte] = byte as u8 as char;
        } else {
            alphabet[byte] = match char::from_u32(0x100 + others) {
                Some(c) => c,
                None => panic!("U+0100 to U+0143 are characters"),
            };
            others += 1;
        }
        byte += 1;
    }
    alphabet
};

/// The byte a character of GPT-2's alphabet stands for.
pub(super) fn byte_of(c: char) -> Option<u8> {
    match u8::try_from(c) {
        Ok(byte) => is_printable(byte).then_some(byte),
        Err(_) => {
            // The bytes that do not stand for themselves are 0 to 32, 127 to 160 and 173.
            match u8::try_from((c as u32).checked_sub(0x100)?).ok()? {
                other @ 0..=32 => Some(other),
                other @ 33..=66 => Some(other - 33 + 127),
                67 => Some(173),
                _ => None,
            }
        }
    }
}

/// Byte-level BPE over a GGUF vocabulary.
#[derive(Debug)]
pub(super) struct Bpe {
    model: BPE,
    splitter: Splitter,
}

impl Bpe {
    pub fn new(vocab: &Vocab, merges: &[String], pre: &Pre) -> Result<Self> {
        let mut ids = IdMap::with_capacity(vocab.len());
        for (id, text, _) in vocab.iter() {
            if let Some(first) = ids.insert(text.to_string(), id) {
                return Err(duplicate(text, first, id));
            }
        }
        let merges = read_merges(merges, &ids)?;
        Ok(Self { model: build(ids, merges, pre.ignore_merges)?, splitter: Splitter::new(pre)? })
    }

    pub fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        let mut word = String::new();
        for range in self.splitter.split(text)? {
            word.clear();
            word.extend(text[range].bytes().map(|byte| ALPHABET[usize::from(byte)]));
            let tokens =
                self.model.tokenize(&word).map_err(|e| Error::malformed("vocabulary", "a token per word", e))?;
            out.extend(tokens.iter().map(|token| token.id));
        }
        Ok(())
    }
}

/// The error for a text that two ids claim.
pub(super) fn duplicate(text: &str, first: u32, second: u32) -> Error {
    Error::malformed(
        format!("token {second}"),
        format!("a text other than token {first}'s"),
        format!("\"{}\"", shown(text)),
    )
}

/// Splits "left right" entries and checks them. Of a pair listed twice the first counts.
fn read_merges(entries: &[String], ids: &IdMap) -> Result<Merges> {
    let mut merges = Vec::with_capacity(entries.len());
    // The vocabulary's hash function, which is faster than the default one and keyed as well.
    let mut seen = HashSet::with_capacity_and_hasher(entries.len(), ids.hasher().clone());
    let mut buffer = String::new();
    for (rank, entry) in entries.iter().enumerate() {
        // The first character may itself be a space.
        let space = entry.char_indices().skip(1).find(|&(_, c)| c == ' ');
        let (left, right) = space.map(|(at, _)| (&entry[..at], &entry[at + 1..])).unwrap_or((entry, ""));
        let pair = check_merge(left, right, ids, &mut buffer).map_err(|expected| {
            Error::malformed(format!("tokenizer.ggml.merges[{rank}]"), expected, format!("\"{}\"", shown(entry)))
        })?;
        if seen.insert(pair) {
            merges.push((left.to_string(), right.to_string()));
        }
    }
    Ok(merges)
}

/// The ids of a merge's parts. All three texts must be tokens: the `tokenizers` crate cannot do without, and no
/// converter writes anything else. The error is what was expected. `buffer` saves an allocation per merge.
pub(super) fn check_merge(
    left: &str,
    right: &str,
    ids: &IdMap,
    buffer: &mut String,
) -> Result<(u32, u32), &'static str> {
    if left.is_empty() || right.is_empty() {
        return Err("two tokens with a space between them");
    }
    buffer.clear();
    buffer.push_str(left);
    buffer.push_str(right);
    match (ids.get(left), ids.get(right), ids.contains_key(buffer)) {
        (Some(&left), Some(&right), true) => Ok((left, right)),
        (Some(_), Some(_), false) => Err("two tokens that together are a token"),
        _ => Err("two tokens of the vocabulary"),
    }
}

/// Builds the model; every merge must have passed [`check_merge`].
fn build(ids: IdMap, merges: Merges, ignore_merges: bool) -> Result<BPE> {
    BPE::builder()
        .vocab_and_merges(ids, merges)
        .ignore_merges(ignore_merges)
        .build()
        .map_err(|e| Error::malformed("key tokenizer.ggml.merges", "merges of tokens", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_gpt2s() {
        // Named in GPT-2's own vocabulary: space is Ġ, newline Ċ, tab ĉ, delete ġ, U+00AD's byte Ń.
        let named =
            [(b' ', 'Ġ'), (b'\n', 'Ċ'), (b'\t', 'ĉ'), (0, 'Ā'), (127, 'ġ'), (173, 'Ń'), (b'a', 'a'), (255, 'ÿ')];
        for (byte, c) in named {
            assert_eq!(ALPHABET[usize::from(byte)], c);
        }
        for byte in 0..=255 {
            assert_eq!(byte_of(ALPHABET[usize::from(byte)]), Some(byte));
        }
        assert_eq!([byte_of(' '), byte_of('\u{ad}'), byte_of('\u{144}'), byte_of('▁')], [None; 4]);
    }
}
