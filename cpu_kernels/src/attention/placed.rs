//! Where the tokens of a step stand: each row of a step is one sequence, with a cache and positions of its own.

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
}

impl Placed {
    /// Positions up to and with the last token's.
    pub(super) fn end(&self) -> usize {
        self.start + self.tokens
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
/// If caches have different heads, a position is past the capacity of its cache, or several rows have more than
/// [`ALIKE_TOKENS`] tokens.
pub(super) fn check(what: &str, caches: &[KvCache], rows: &[Placed]) -> Option<Heads> {
    let heads = Heads::of(&caches[rows.first()?.cache]);
    let tokens = tokens(rows);
    assert!(
        rows.len() == 1 || rows.len().max(tokens) <= ALIKE_TOKENS,
        "{what}: {tokens} tokens of {} sequences (at most {ALIKE_TOKENS})",
        rows.len()
    );
    for row in rows {
        let cache = &caches[row.cache];
        assert_eq!(Heads::of(cache), heads, "{what}: heads of the caches");
        let fits = row.start.checked_add(row.tokens).is_some_and(|end| end <= cache.capacity);
        assert!(fits, "{what}: {} positions from {} on, of {}", row.tokens, row.start, cache.capacity);
    }
    Some(heads)
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
