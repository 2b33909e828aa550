//! The reference: one key at a time.

use super::{KvCache, Softmax, Tile, cache::Store};

/// Mixes the values of a tile's keys for each row, `results` (rows, stride), which is zero.
pub fn attend(tile: &Tile, results: &mut [f32], softmaxes: &mut [Softmax]) {
    let KvCache { stride, head_dim, .. } = *tile.cache;
    for (row, (result, softmax)) in results.chunks_exact_mut(stride).zip(softmaxes).enumerate() {
        *softmax = attend_row(tile, row, &mut result[..head_dim]);
    }
}

fn attend_row(tile: &Tile, row: usize, result: &mut [f32]) -> Softmax {
    let query = tile.query(row);
    let Softmax { mut max, mut sum } = Softmax::START;
    for key in tile.keys.start..tile.end(row) {
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
    Softmax { max, sum }
}

fn element(tile: &Tile, store: &Store, position: usize, i: usize) -> f32 {
    store.element(tile.kv_head * tile.cache.capacity + position, tile.cache.stride, i)
}
