//! SentencePiece byte-pair encoding with byte fallback (`tokenizer.ggml.model` = `llama`).
//!
//! Starting from characters, the adjacent pair whose concatenation is the token with the highest score is merged
//! (leftmost on ties), until no pair makes a token. What is then no token is spelled with byte tokens.
//! This is written out here, and not left to a merge list, because the scores alone decide.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap},
};

use crate::error::{Error, Result};

use super::{
    bpe::duplicate,
    vocab::{Kind, SPACE_MARK, Vocab, parse_byte},
};

/// Longer tokens are never made from text: every merge looks up its result, so a vocabulary of huge tokens would
/// make the time quadratic. Real vocabularies stay below 200 bytes.
const MAX_TOKEN_BYTES: usize = 1024;

/// A SentencePiece vocabulary ready for encoding.
#[derive(Debug)]
pub(super) struct Spm {
    ids: HashMap<String, u32>,
    scores: Vec<f32>,
    /// The token for each byte.
    bytes: Box<[Option<u32>; 256]>,
    unknown: Option<u32>,
    longest_bytes: usize,
}

impl Spm {
    pub fn new(vocab: &Vocab, scores: Vec<f32>, unknown: Option<u32>) -> Result<Self> {
        let mut all = HashMap::with_capacity(vocab.len());
        let mut bytes = Box::new([None; 256]);
        for (id, text, kind) in vocab.iter() {
            if let Some(first) = all.insert(text, id) {
                return Err(duplicate(text, first, id));
            }
            if let (Kind::Byte, Some(byte)) = (kind, parse_byte(text)) {
                bytes[usize::from(byte)] = Some(id);
            }
        }
        // Markup must not come out of plain text, however its characters happen to merge.
        let ids: HashMap<_, _> = vocab
            .iter()
            .filter(|(_, text, kind)| {
                !matches!(kind, Kind::Control | Kind::Unknown | Kind::Byte) && text.len() <= MAX_TOKEN_BYTES
            })
            .map(|(id, text, _)| (text.to_string(), id))
            .collect();
        let longest_bytes = ids.keys().map(String::len).max().unwrap_or(0);
        Ok(Self { ids, scores, bytes, unknown, longest_bytes })
    }

    /// Appends the ids of `text`; `space_first` puts a space before it.
    pub fn encode(&self, text: &str, space_first: bool, out: &mut Vec<u32>) -> Result<()> {
        let mut marked = String::with_capacity(text.len() + 3);
        marked.extend(space_first.then_some(SPACE_MARK));
        marked.extend(text.chars().map(|c| if c == ' ' { SPACE_MARK } else { c }));
        let symbols = self.merge(&marked);
        let mut at = 0;
        while let Some(symbol) = symbols.get(at) {
            self.push(&marked[symbol.start..symbol.start + symbol.len], out)?;
            at = symbol.next;
        }
        Ok(())
    }

    fn push(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        if let Some(&id) = self.ids.get(text) {
            out.push(id);
            return Ok(());
        }
        for byte in text.bytes() {
            let id = self.bytes[usize::from(byte)].or(self.unknown);
            out.push(id.ok_or_else(|| {
                Error::missing(format!("byte token <0x{byte:02X}>"), format!("the character \"{text}\""))
            })?);
        }
        Ok(())
    }

    /// Merges the characters of `text`; the symbols left are the chain of `next` from the first one.
    fn merge(&self, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<_> = text
            .char_indices()
            .enumerate()
            .map(|(at, (start, c))| Symbol { start, len: c.len_utf8(), previous: at.wrapping_sub(1), next: at + 1 })
            .collect();
        let mut queue = BinaryHeap::new();
        for left in 1..symbols.len() {
            self.propose(text, &symbols, left - 1, left, &mut queue);
        }
        while let Some(Merge { left, right, len, .. }) = queue.pop() {
            // A symbol that was merged away has no length; one that has grown no longer adds up.
            let (l, r) = (symbols[left].len, symbols[right].len);
            if l == 0 || r == 0 || l + r != len {
                continue;
            }
            let next = symbols[right].next;
            symbols[left].len = len;
            symbols[left].next = next;
            symbols[right].len = 0;
            if let Some(after) = symbols.get_mut(next) {
                after.previous = left;
            }
            let previous = symbols[left].previous;
            self.propose(text, &symbols, previous, left, &mut queue);
            self.propose(text, &symbols, left, next, &mut queue);
        }
        symbols
    }

    /// Queues the merge of two neighbours if it makes a token.
    fn propose(&self, text: &str, symbols: &[Symbol], left: usize, right: usize, queue: &mut BinaryHeap<Merge>) {
        let (Some(l), Some(r)) = (symbols.get(left), symbols.get(right)) else { return };
        let len = l.len + r.len;
        if len > self.longest_bytes {
            return;
        }
        if let Some(&id) = self.ids.get(&text[l.start..l.start + len]) {
            queue.push(Merge { score: self.scores[id as usize], left, right, len });
        }
    }
}

/// A stretch of the text and its neighbours; an index out of range stands for "none".
#[derive(Clone, Copy, Debug)]
struct Symbol {
    start: usize,
    len: usize,
    previous: usize,
    next: usize,
}

/// A possible merge; the greatest one is done first.
#[derive(Clone, Copy, Debug)]
struct Merge {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Ord for Merge {
    fn cmp(&self, other: &Self) -> Ordering {
        // Scores are never NaN (checked when read), and -0 equals 0.
        let by_score = self.score.partial_cmp(&other.score).unwrap_or(Ordering::Equal);
        by_score.then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Merge {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Merge {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Merge {}
