//! Causal attention over a key/value cache: out = softmax(q K^T * scale) V for each query head, over the positions
//! up to the query's own.
//!
//! `heads / kv_heads` query heads (a group) share one key/value head, which is read once for all of them: a tile is
//! some rows (token, head of the group) that meet the keys of their head block by block, with a running maximum and
//! sum (online softmax, Milakov and Gimelshein 2018), so that no row of scores is ever stored whole.
//!
//! A step of few tokens has few tiles. Where there are not enough for the threads, the keys are split as well, and the
//! partial results are merged by the same formula ("flash decoding", Dao et al. 2023).
//!
//! A step has tokens of one or several sequences, each with a cache of its own ([`Placed`]): a few of each, which share
//! parallel regions, and prompts, which have one each.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod cache;
#[cfg(target_arch = "aarch64")]
mod neon;
mod placed;
mod rows;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod stream;

use std::{ops::Range, sync::PoisonError};

pub use cache::{KvCache, KvType, Q8_BLOCK, append};
use placed::Heads;
pub use placed::Placed;
pub(crate) use placed::{are_different, groups};
pub use rows::KvRows;

use crate::{Cpu, Isa, isa::Base, threads::Disjoint, tokens_of};

/// Most values of the queries, and of the results, of a tile: on the stack, 32 KiB each.
const TILE_VALUES: usize = 8192;

/// As [`TILE_VALUES`], for small tiles: clearing 64 KiB for each group of a decoded token would take longer than short
/// contexts do.
const SMALL_TILE_VALUES: usize = 1024;

/// Rows of a tile: keys that a tile has converted from f16 serve all of them, and 64 hide the conversion.
const TILE_ROWS: usize = 64;

/// Fewest keys of a split: about 20 us of work for a group of 4 heads of 128.
const SPLIT_KEYS: usize = 512;

/// Widest head.
pub const MAX_HEAD_DIM: usize = TILE_VALUES;

/// Rows of queries that share a key/value head, and the keys they meet. Row r is token r / group, head r % group of the
/// group.
struct Tile<'a> {
    cache: &'a KvCache,
    kv_head: usize,
    /// (rows, cache.stride), times the scale, zero from head_dim on
    queries: &'a [f32],
    first_row: usize,
    /// Part of a prompt: the way through a tile must not depend on how many tokens of it there are.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "one way for all"))]
    is_prompt: bool,
    group: usize,
    start_pos: usize,
    /// Positions; rows see those of them that are not after their own.
    keys: Range<usize>,
}

impl Tile<'_> {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn rows(&self) -> usize {
        self.queries.len() / self.cache.stride
    }

    /// `keys` positions from `start` on of one of the cache's arrays, (keys, stride).
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn block<'a, T>(&self, store: &'a [T], start: usize, keys: usize) -> &'a [T] {
        let stride = self.cache.stride;
        &store[(self.kv_head * self.cache.capacity + start) * stride..][..keys * stride]
    }

    /// The scales of `keys` positions from `start` on of an array of 8-bit values, (keys, blocks).
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn scales<'a>(&self, scales: &'a [u16], start: usize, keys: usize) -> &'a [u16] {
        let blocks = cache::q8_blocks(self.cache.stride);
        &scales[(self.kv_head * self.cache.capacity + start) * blocks..][..keys * blocks]
    }

    fn query(&self, row: usize) -> &[f32] {
        &self.queries[row * self.cache.stride..][..self.cache.stride]
    }

    /// End of the keys that a row sees.
    fn end(&self, row: usize) -> usize {
        self.keys.end.min(self.start_pos + (self.first_row + row) / self.group + 1)
    }
}

/// The online softmax of one row: with m the largest score so far, sum = sum of e^(score - m), and the row's result =
/// sum of e^(score - m) * value.
#[derive(Clone, Copy)]
struct Softmax {
    max: f32,
    sum: f32,
}

impl Softmax {
    const START: Self = Self { max: f32::NEG_INFINITY, sum: 0.0 };
}

/// Attention of `q` (T, heads, head_dim), whose tokens stand where `rows` say: each meets the keys of its sequence's cache
/// up to its own position. Their own keys and values are in the caches. `out` (T, heads * head_dim).
///
/// # Panics
/// If `q` is not the tokens of `rows`, caches have other heads, `heads` are not whole groups, a position is past the
/// capacity, or `out` has another length.
pub fn attend(cpu: &Cpu, q: &[f32], heads: usize, caches: &[KvCache], rows: &[Placed], scale: f32, out: &mut [f32]) {
    assert_eq!(out.len(), q.len(), "attend: values of the output");
    let Some(Heads { kv_heads, head_dim }) = placed::check("attend", caches, rows) else {
        return assert!(q.is_empty(), "attend: {} values of no token", q.len());
    };
    let tokens = tokens_of("attend", q, heads * head_dim);
    assert_eq!(tokens, placed::tokens(rows), "attend: tokens of the queries, and of the rows");
    assert!(heads.is_multiple_of(kv_heads), "attend: {heads} heads over {kv_heads} key/value heads");
    let width = heads * head_dim;
    for (of_group, rows) in groups(rows) {
        let values = of_group.start * width..of_group.end * width;
        attend_group(cpu, &q[values.clone()], heads, caches, rows, scale, &mut out[values]);
    }
}

/// As [`attend`], for rows that run side by side.
fn attend_group(cpu: &Cpu, q: &[f32], heads: usize, caches: &[KvCache], rows: &[Placed], scale: f32, out: &mut [f32]) {
    let KvCache { kv_heads, head_dim, .. } = caches[rows[0].cache];
    let tokens = placed::tokens(rows);
    // Few tokens are as many steps of one, side by side: each gives the bits it would give alone. A reading of the keys
    // for all tokens of a sequence would save less than the order of its sums costs, see [`ALIKE_TOKENS`].
    let is_prompt = rows[0].is_together();
    let (runs, run_tokens) = if is_prompt { (1, tokens) } else { (tokens, 1) };
    let (run_rows, run_values) = (run_tokens * heads, run_tokens * heads * head_dim);
    let run_at = |run: usize| {
        let (row, start) = placed::locate(rows, run * run_tokens);
        Placed { cache: rows[row].cache, start, tokens: run_tokens, is_prompt }
    };
    let step = |run: usize| {
        let (q, at) = (&q[run * run_values..][..run_values], run_at(run));
        Step { isa: cpu.isa(), q, heads, cache: &caches[at.cache], start_pos: at.start, scale, is_prompt }
    };
    // All runs have as many, and so has each alone.
    let tiles = if runs == 0 { 0 } else { kv_heads * step(0).tiles_per_head() };
    // A prompt has tiles enough, and where it is cut must not change how its sums are ordered.
    let splits_of = |run: usize| if is_prompt { 1 } else { splits(cpu.threads(), tiles, run_at(run).end()) };
    let most_splits = (0..runs).map(splits_of).max().unwrap_or(1);
    if most_splits == 1 {
        let out = Disjoint::new(out);
        return cpu.pool().run(tiles * runs, |chunk| {
            let (tile, run) = (chunk / runs, chunk % runs);
            step(run).attend_tile(tile, 0..run_at(run).end(), |row, result, softmax| {
                let row = run * run_rows + row;
                // SAFETY: tiles are disjoint sets of rows, and the rows of a tile are different ones.
                let out = unsafe { out.part(row * head_dim..(row + 1) * head_dim) };
                out.iter_mut().zip(result).for_each(|(out, x)| *out = x / softmax.sum);
            });
        });
    }
    // Partial results (T * heads, splits, head_dim + 2): the mix, the maximum, the sum.
    let partial_len = head_dim + 2;
    let mut partials = cpu.scratch.lock().unwrap_or_else(PoisonError::into_inner);
    partials.resize(tokens * heads * most_splits * partial_len, 0.0);
    let parts = Disjoint::new(&mut partials);
    cpu.pool().run(tiles * most_splits * runs, |chunk| {
        let (tile, split, run) = (chunk / runs / most_splits, chunk / runs % most_splits, chunk % runs);
        let (splits, end) = (splits_of(run), run_at(run).end());
        if split >= splits {
            return;
        }
        step(run).attend_tile(tile, split * end / splits..(split + 1) * end / splits, |row, result, softmax| {
            let at = ((run * run_rows + row) * most_splits + split) * partial_len;
            // SAFETY: as above, and splits are different ones.
            let part = unsafe { parts.part(at..at + partial_len) };
            part[..head_dim].copy_from_slice(result);
            part[head_dim..].copy_from_slice(&[softmax.max, softmax.sum]);
        });
    });
    let rows = out.chunks_exact_mut(head_dim).zip(partials.chunks_exact(most_splits * partial_len));
    for (row, (out, parts)) in rows.enumerate() {
        merge(&parts[..splits_of(row / run_rows) * partial_len], out);
    }
}

/// In how many parts the keys are cut: one, unless threads would have nothing to do.
fn splits(threads: usize, tiles: usize, keys: usize) -> usize {
    // Four chunks a thread share the work out evenly enough.
    let wanted = if threads > 1 && tiles < 4 * threads { (4 * threads).div_ceil(tiles.max(1)) } else { 1 };
    wanted.min(keys / SPLIT_KEYS).max(1)
}

/// The result of a row from its parts, each (head_dim + 2), by the formula of [`Softmax`].
fn merge(parts: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    let mut all = Softmax::START;
    for part in parts.chunks_exact(out.len() + 2) {
        let (result, softmax) = part.split_at(out.len());
        let max = all.max.max(softmax[0]);
        // The first part has keys for every row, so the larger maximum is not -infinity.
        let (old, new) = ((all.max - max).exp(), (softmax[0] - max).exp());
        out.iter_mut().zip(result).for_each(|(out, x)| *out = *out * old + x * new);
        all = Softmax { max, sum: all.sum * old + softmax[1] * new };
    }
    out.iter_mut().for_each(|x| *x /= all.sum);
}

/// The checked inputs of one run: tokens of one sequence that are computed together.
struct Step<'a> {
    isa: Isa,
    q: &'a [f32],
    heads: usize,
    cache: &'a KvCache,
    start_pos: usize,
    scale: f32,
    is_prompt: bool,
}

impl Step<'_> {
    fn group(&self) -> usize {
        self.heads / self.cache.kv_heads
    }

    /// Rows of queries for each key/value head.
    fn rows(&self) -> usize {
        self.q.len() / (self.cache.kv_heads * self.cache.head_dim)
    }

    fn rows_per_tile(&self) -> usize {
        TILE_ROWS.min(TILE_VALUES / self.cache.stride)
    }

    fn tiles_per_head(&self) -> usize {
        self.rows().div_ceil(self.rows_per_tile())
    }

    /// Tile number `tile` of the run over positions `keys`. For each of its rows, calls `put` with the row's number in
    /// (T, heads), and with the mix and the state of [`Softmax`].
    fn attend_tile(&self, tile: usize, keys: Range<usize>, put: impl FnMut(usize, &[f32], Softmax)) {
        let rows = self.rows().min(self.rows_per_tile());
        if rows * self.cache.stride <= SMALL_TILE_VALUES {
            self.attend_in::<SMALL_TILE_VALUES>(tile, keys, put);
        } else {
            self.attend_in::<TILE_VALUES>(tile, keys, put);
        }
    }

    fn attend_in<const VALUES: usize>(
        &self,
        tile: usize,
        keys: Range<usize>,
        mut put: impl FnMut(usize, &[f32], Softmax),
    ) {
        let KvCache { kv_heads, head_dim, stride, .. } = *self.cache;
        let group = self.group();
        // The last tokens see the most keys: they go first, so that no thread begins a long tile at the end.
        let (kv_head, tile) = (tile % kv_heads, self.tiles_per_head() - 1 - tile / kv_heads);
        let first_row = tile * self.rows_per_tile();
        let rows = self.rows_per_tile().min(self.rows() - first_row);
        let number = |row: usize| {
            let row = first_row + row;
            row / group * self.heads + kv_head * group + row % group
        };

        let mut queries = [0.0; VALUES];
        for (row, query) in queries.chunks_exact_mut(stride).take(rows).enumerate() {
            let q = &self.q[number(row) * head_dim..][..head_dim];
            query.iter_mut().zip(q).for_each(|(x, q)| *x = q * self.scale);
        }
        let queries = &queries[..rows * stride];
        let Self { cache, start_pos, is_prompt, .. } = *self;
        let tile = Tile { cache, kv_head, queries, first_row, is_prompt, group, start_pos, keys };
        let mut results = [0.0; VALUES];
        let mut softmaxes = [Softmax::START; TILE_ROWS];
        let softmaxes = &mut softmaxes[..rows];
        let mixes = &mut results[..rows * stride];
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni(avx512) => avx512::attend(avx512, &tile, mixes, softmaxes),
            isa => match isa.base() {
                Base::Scalar => scalar::attend(&tile, mixes, softmaxes),
                #[cfg(target_arch = "x86_64")]
                Base::Avx2(avx2) => avx2::attend(avx2, &tile, mixes, softmaxes),
                #[cfg(target_arch = "aarch64")]
                Base::Neon(neon) => neon::attend(neon, &tile, mixes, softmaxes),
            },
        }
        for (row, (result, softmax)) in results.chunks_exact(stride).zip(softmaxes).enumerate() {
            put(number(row), &result[..head_dim], *softmax);
        }
    }
}

#[cfg(test)]
mod tests;
