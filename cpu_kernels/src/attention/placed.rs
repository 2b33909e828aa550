//! Where the tokens of a step stand: each row of a step is one sequence, with a cache and positions of its own.

use std::{iter, ops::Range};

use super::KvCache;
use crate::ALIKE_TOKENS;

/// Tokens of one sequence in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Index of the sequence's cache.
    pub cache: usize,
    /// Position of the first token.
    pub start: usize,
    /// Tokens, at `start` and the positions after it.
    pub tokens: usize,
    /// Part of a prompt: its sums are ordered alike for any number of tokens, so that where a prompt is cut does not change
    /// what its tokens get.
    pub is_prompt: bool,
}

impl Placed {
    /// Positions up to and with the last token's.
    pub(super) fn end(&self) -> usize {
        self.start + self.tokens
    }

    /// True where its tokens are computed together, false where each is as a step of its own.
    pub(super) fn is_together(&self) -> bool {
        self.is_prompt || self.tokens > ALIKE_TOKENS
    }
}

/// Heads of every cache of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Heads {
    fn of(cache: &KvCache) -> Self {
        Self { kv_heads: cache.kv_heads, head_dim: cache.head_dim }
    }
}

/// The heads of the caches; `None` if there are no rows.
///
/// # Panics
/// If caches have different heads, or a position is past the capacity of its cache.
pub(super) fn check(what: &str, caches: &[KvCache], rows: &[Placed]) -> Option<Heads> {
    let heads = Heads::of(&caches[rows.first()?.cache]);
    for row in rows {
        let cache = &caches[row.cache];
        assert_eq!(Heads::of(cache), heads, "{what}: heads of the caches");
        let fits = row.start.checked_add(row.tokens).is_some_and(|end| end <= cache.capacity);
        assert!(fits, "{what}: {} positions from {} on, of {}", row.tokens, row.start, cache.capacity);
    }
    Some(heads)
}

/// The rows of a step in groups that an operation runs side by side, each with its tokens: a prompt by itself, neighbours of
/// together at most [`ALIKE_TOKENS`] tokens as one. What a row gets does not depend on who is beside it.
pub(crate) fn groups(rows: &[Placed]) -> impl Iterator<Item = (Range<usize>, &[Placed])> {
    let (mut row, mut token) = (0, 0);
    iter::from_fn(move || {
        let (first, start) = (row, token);
        token += rows.get(first)?.tokens;
        row += 1;
        let joins = |row: &Placed, tokens: usize| !row.is_together() && tokens + row.tokens <= ALIKE_TOKENS;
        while !rows[first].is_together()
            && row < rows.len().min(first + ALIKE_TOKENS)
            && joins(&rows[row], token - start)
        {
            token += rows[row].tokens;
            row += 1;
        }
        Some((start..token, &rows[first..row]))
    })
}

/// True where no cache is that of two rows.
pub(crate) fn are_different(rows: &[Placed]) -> bool {
    rows.iter().enumerate().all(|(at, row)| rows[..at].iter().all(|other| other.cache != row.cache))
}

/// Tokens of all rows.
pub(super) fn tokens(rows: &[Placed]) -> usize {
    rows.iter().map(|row| row.tokens).sum()
}

/// Row and position of token `t`, which is below [`tokens`].
pub(super) fn locate(rows: &[Placed], t: usize) -> (usize, usize) {
    let mut left = t;
    for (number, row) in rows.iter().enumerate() {
        if left < row.tokens {
            return (number, row.start + left);
        }
        left -= row.tokens;
    }
    panic!("token {t} of {rows:?}")
}
