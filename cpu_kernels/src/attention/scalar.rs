//! The reference: one key at a time.

use half::f16;

use super::{KvCache, Tile, cache::Store};

/// Attention of each row of a tile into `results` (rows, stride), which is zero.
pub fn attend(tile: &Tile, results: &mut [f32]) {
    let KvCache { stride, head_dim, .. } = *tile.cache;
    for (row, result) in results.chunks_exact_mut(stride).enumerate() {
        attend_row(tile, row, &mut result[..head_dim]);
    }
}

/// After each key, with m the largest score so far: sum = sum of e^(score - m), result = sum of e^(score - m) * v.
fn attend_row(tile: &Tile, row: usize, result: &mut [f32]) {
    let query = tile.query(row);
    let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0);
    for key in 0..tile.keys(row) {
        let score: f32 = query.iter().enumerate().map(|(i, q)| q * element(tile, &tile.cache.k, key, i)).sum();
        if score > max {
            let shrink = (max - score).exp();
            sum *= shrink;
            result.iter_mut().for_each(|x| *x *= shrink);
            max = score;
        }
        let weight = (score - max).exp();
        // The product is 0 for a number and NaN for a score of -infinity, which must not pass as a weight of 0.
        sum += weight + score * 0.0;
        for (i, x) in result.iter_mut().enumerate() {
            *x += weight * element(tile, &tile.cache.v, key, i);
        }
    }
    result.iter_mut().for_each(|x| *x /= sum);
}

fn element(tile: &Tile, store: &Store, position: usize, i: usize) -> f32 {
    let at = (tile.kv_head * tile.cache.capacity + position) * tile.cache.stride + i;
    match store {
        Store::F16(bits) => f16::from_bits(bits[at]).to_f32(),
        Store::F32(values) => values[at],
    }
}
