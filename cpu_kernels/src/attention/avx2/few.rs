//! Few rows: each key and value is loaded once for up to four rows.

use std::arch::x86_64::*;

use super::{BLOCK, Unit, VECTORS, load_f16s, load_f32s, load_q8s, scale};
use crate::{
    attention::{
        Softmax, Tile,
        cache::{Store, UNIT, with_rows},
    },
    x86::{self, load},
};

/// Rows above which converting a block for all of them pays.
pub const MOST_ROWS: usize = 8;

#[target_feature(enable = "avx2,fma,f16c")]
pub fn attend(tile: &Tile, results: &mut [f32], softmaxes: &mut [Softmax]) {
    let stride = tile.cache.stride;
    let rows = tile.rows();
    for first in (0..rows).step_by(4) {
        let last = rows.min(first + 4);
        let (results, softmaxes) = (&mut results[first * stride..last * stride], &mut softmaxes[first..last]);
        match last - first {
            1 => attend_rows::<1>(tile, first, results, softmaxes),
            2 => attend_rows::<2>(tile, first, results, softmaxes),
            3 => attend_rows::<3>(tile, first, results, softmaxes),
            _ => attend_rows::<4>(tile, first, results, softmaxes),
        }
    }
}

/// `R` rows from `first` on, `results` (R, stride).
#[target_feature(enable = "avx2,fma,f16c")]
fn attend_rows<const R: usize>(tile: &Tile, first: usize, results: &mut [f32], softmaxes: &mut [Softmax]) {
    let stride = tile.cache.stride;
    let mut queries: [&[[f32; UNIT]]; R] = [&[]; R];
    for r in 0..R {
        queries[r] = tile.query(first + r).as_chunks().0;
    }
    // Positions rise with the row: the last one sees the most keys.
    let end = tile.end(first + R - 1);
    for start in (tile.keys.start..end).step_by(BLOCK) {
        let keys = BLOCK.min(end - start);
        let mut weights = [[0.0; BLOCK]; R];
        with_rows!(tile, &tile.cache.k, start, keys, |rows, load| scores(&queries, rows, &mut weights, load));
        for r in 0..R {
            let visible = tile.end(first + r).saturating_sub(start).min(keys);
            if visible == 0 {
                weights[r] = [0.0; BLOCK];
            } else if let Some(shrink) = softmaxes[r].weigh(&mut weights[r], visible) {
                scale(&mut results[r * stride..][..stride], shrink);
            }
        }
        with_rows!(tile, &tile.cache.v, start, keys, |rows, load| mix(&weights, rows, stride, results, load));
    }
}

/// scores\[r\]\[key\] = query r * key.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scores<const R: usize, T>(
    queries: &[&[[f32; UNIT]]; R],
    keys: &[T],
    scores: &mut [[f32; BLOCK]; R],
    load_key: impl Fn(&[T; UNIT], usize, usize) -> Unit,
) {
    let units = queries[0].len();
    for (at, key) in keys.chunks_exact(units * UNIT).enumerate() {
        let mut sums = [[_mm256_setzero_ps(); VECTORS]; R];
        for (unit, key) in key.as_chunks().0[..units].iter().enumerate() {
            let key = load_key(key, at, unit);
            for r in 0..R {
                let query = queries[r][unit].as_chunks().0;
                for i in 0..VECTORS {
                    sums[r][i] = _mm256_fmadd_ps(load(&query[i]), key[i], sums[r][i]);
                }
            }
        }
        for r in 0..R {
            scores[r][at] = x86::sum(_mm256_add_ps(sums[r][0], sums[r][1]));
        }
    }
}

/// results\[r\] += sum over keys of weights\[r\]\[key\] * value, a unit of columns at a time.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn mix<const R: usize, T>(
    weights: &[[f32; BLOCK]; R],
    values: &[T],
    stride: usize,
    results: &mut [f32],
    load_value: impl Fn(&[T; UNIT], usize, usize) -> Unit,
) {
    for unit in 0..stride / UNIT {
        let mut sums = [[_mm256_setzero_ps(); VECTORS]; R];
        for (key, value) in values.chunks_exact(stride).enumerate() {
            let value = load_value(&value.as_chunks().0[unit], key, unit);
            for r in 0..R {
                let weight = _mm256_set1_ps(weights[r][key]);
                for i in 0..VECTORS {
                    sums[r][i] = _mm256_fmadd_ps(weight, value[i], sums[r][i]);
                }
            }
        }
        for r in 0..R {
            let result = results[r * stride + unit * UNIT..][..UNIT].as_chunks_mut().0;
            for i in 0..VECTORS {
                x86::add_to(&mut result[i], sums[r][i]);
            }
        }
    }
}
