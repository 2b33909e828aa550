//! Byte-level byte-pair encoding (`tokenizer.ggml.model` = `gpt2`).
//!
//! Text is cut into words (see [`super::pre`]), the bytes of a word are spelled with GPT-2's alphabet of 256
//! printable characters, and the word is merged pair by pair, lowest rank first, leftmost on ties. A byte whose
//! character is not in the vocabulary is dropped, as llama.cpp and Hugging Face do; vocabularies lack only bytes
//! that UTF-8 never uses and some control characters.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use tokenizers::{
    Model,
    models::bpe::{BPE, Merges, Vocab as IdMap},
};

use crate::error::{Error, Result, shown};

use super::{
    alphabet::ALPHABET,
    pre::{Pre, Splitter},
    vocab::Vocab,
};

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
        // Where the ids of each word stand in `out`: most words of a text come again.
        let mut known = HashMap::new();
        for range in self.splitter.split(text)? {
            let plain = &text[range];
            if let Some(ids) = known.get(plain) {
                out.extend_from_within(Range::clone(ids));
                continue;
            }
            word.clear();
            word.extend(plain.bytes().map(|byte| ALPHABET[usize::from(byte)]));
            let start = out.len();
            let tokens =
                self.model.tokenize(&word).map_err(|e| Error::malformed("vocabulary", "a token per word", e))?;
            out.extend(tokens.iter().map(|token| token.id));
            known.insert(plain, start..out.len());
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
        // The crate's cache has up to 10 000 words of each model in every thread, and keeps them for as long as the thread
        // lives: megabytes that a server never gets back.
        .cache_capacity(0)
        .build()
        .map_err(|e| Error::malformed("key tokenizer.ggml.merges", "merges of tokens", e))
}
