//! Causal attention over a key/value cache: out = softmax(q K^T * scale) V for each query head, over the positions
//! up to the query's own.
//!
//! `heads / kv_heads` query heads (a group) share one key/value head, which is read once for all of them: a tile is
//! some rows (token, head of the group) that meet the keys of their head block by block, with a running maximum and
//! sum (online softmax, Milakov and Gimelshein 2018), so that no row of scores is ever stored whole.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod cache;
mod scalar;

pub use cache::{KvCache, KvType};

use crate::{Cpu, isa::Base, threads::Disjoint, tokens_of};

/// Values of the queries, and of the results, of a tile: on the stack, 32 KiB each.
const TILE_VALUES: usize = 8192;

/// Rows of a tile: keys that a tile has converted from f16 serve all of them, and 64 hide the conversion.
const TILE_ROWS: usize = 64;

/// Widest head.
pub const MAX_HEAD_DIM: usize = TILE_VALUES;

/// Rows of queries that share a key/value head. Row r is token r / group, head r % group of the group.
struct Tile<'a> {
    cache: &'a KvCache,
    kv_head: usize,
    /// (rows, cache.stride), times the scale, zero from head_dim on
    queries: &'a [f32],
    first_row: usize,
    group: usize,
    start_pos: usize,
}

impl Tile<'_> {
    #[cfg(target_arch = "x86_64")]
    fn rows(&self) -> usize {
        self.queries.len() / self.cache.stride
    }

    /// `keys` positions from `start` on of one of the cache's arrays, (keys, stride).
    #[cfg(target_arch = "x86_64")]
    fn block<'a, T>(&self, store: &'a [T], start: usize, keys: usize) -> &'a [T] {
        let stride = self.cache.stride;
        &store[(self.kv_head * self.cache.capacity + start) * stride..][..keys * stride]
    }

    fn query(&self, row: usize) -> &[f32] {
        &self.queries[row * self.cache.stride..][..self.cache.stride]
    }

    /// Keys that row `row` of the tile sees: those of its own position and before.
    fn keys(&self, row: usize) -> usize {
        self.start_pos + (self.first_row + row) / self.group + 1
    }
}

/// Attention of `q` (T, heads, head_dim) over `cache`; token t stands at position `start_pos` + t, and its own key and
/// value are in the cache. `out` (T, heads * head_dim).
///
/// # Panics
/// If `q` is not whole tokens, `heads` not whole groups, a position is past the capacity, or `out` has another length.
pub fn attend(cpu: &Cpu, q: &[f32], heads: usize, cache: &KvCache, start_pos: usize, scale: f32, out: &mut [f32]) {
    let KvCache { kv_heads, head_dim, stride, capacity, .. } = *cache;
    let tokens = tokens_of("attend", q, heads * head_dim);
    assert!(heads.is_multiple_of(kv_heads), "attend: {heads} heads over {kv_heads} key/value heads");
    assert!(start_pos + tokens <= capacity, "attend: positions {start_pos} .. {} of {capacity}", start_pos + tokens);
    assert_eq!(out.len(), q.len(), "attend: values of the output");

    let base = cpu.isa().base();
    let group = heads / kv_heads;
    let rows = tokens * group;
    let rows_per_tile = TILE_ROWS.min(TILE_VALUES / stride);
    let tiles = rows.div_ceil(rows_per_tile);
    let out = Disjoint::new(out);
    cpu.pool().run(kv_heads * tiles, |chunk| {
        // The last tokens see the most keys: they go first, so that no thread begins a long tile at the end.
        let (kv_head, tile) = (chunk % kv_heads, tiles - 1 - chunk / kv_heads);
        let first_row = tile * rows_per_tile;
        let rows = rows_per_tile.min(rows - first_row);
        let place = |row: usize| {
            let (token, head) = ((first_row + row) / group, kv_head * group + (first_row + row) % group);
            let start = (token * heads + head) * head_dim;
            start..start + head_dim
        };

        let mut queries = [0.0; TILE_VALUES];
        for (row, query) in queries.chunks_exact_mut(stride).take(rows).enumerate() {
            query.iter_mut().zip(&q[place(row)]).for_each(|(x, q)| *x = q * scale);
        }
        let tile = Tile { cache, kv_head, queries: &queries[..rows * stride], first_row, group, start_pos };
        let mut results = [0.0; TILE_VALUES];
        attend_tile(base, &tile, &mut results[..rows * stride]);
        for (row, result) in results.chunks_exact(stride).take(rows).enumerate() {
            // SAFETY: chunks are disjoint sets of (token, head), and rows of a tile are different ones.
            unsafe { out.part(place(row)) }.copy_from_slice(&result[..head_dim]);
        }
    });
}

/// One tile into `results` (rows, stride), which is zero.
fn attend_tile(base: Base, tile: &Tile, results: &mut [f32]) {
    match base {
        Base::Scalar => scalar::attend(tile, results),
        #[cfg(target_arch = "x86_64")]
        Base::Avx2(avx2) => avx2::attend(avx2, tile, results),
    }
}

#[cfg(test)]
mod tests;
