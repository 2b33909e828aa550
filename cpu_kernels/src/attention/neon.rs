//! Blocks of 32 keys: their scores, then their weights, then the mix of their values. Each key and value is loaded once
//! for up to four rows.

use std::arch::aarch64::*;

use super::{
    Softmax, Tile,
    cache::{Store, UNIT, with_rows},
};
use crate::{
    arm::{LANES, exp::exp, load, load_f16, load_i8, store},
    isa::Neon,
};

/// Vectors of the elements that are loaded together.
const VECTORS: usize = UNIT / LANES;

/// Those elements as f32.
type Unit = [float32x4_t; VECTORS];

/// Keys of a block.
const BLOCK: usize = 32;

/// Mixes the values of a tile's keys for each row, `results` (rows, stride), which is zero.
pub fn attend(_: Neon, tile: &Tile, results: &mut [f32], softmaxes: &mut [Softmax]) {
    // SAFETY: the capability token proves the feature.
    unsafe { attend_neon(tile, results, softmaxes) }
}

#[target_feature(enable = "neon")]
fn attend_neon(tile: &Tile, results: &mut [f32], softmaxes: &mut [Softmax]) {
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
#[target_feature(enable = "neon")]
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
            } else if let Some(shrink) = weigh(&mut softmaxes[r], &mut weights[r], visible) {
                results[r * stride..][..stride].iter_mut().for_each(|x| *x *= shrink);
            }
        }
        with_rows!(tile, &tile.cache.v, start, keys, |rows, load| mix(&weights, rows, stride, results, load));
    }
}

/// Turns the first `keys` scores of a block into weights e^(score - m), and the others into 0; returns what the sums so
/// far must be multiplied by, because m has grown, or `None` if it has not.
#[target_feature(enable = "neon")]
fn weigh(softmax: &mut Softmax, scores: &mut [f32; BLOCK], keys: usize) -> Option<f32> {
    // f32::max skips NaN.
    let max = scores[..keys].iter().fold(softmax.max, |max, score| max.max(*score));
    let shrink = (max > softmax.max).then(|| (softmax.max - max).exp());
    softmax.max = max;
    softmax.sum *= shrink.unwrap_or(1.0);
    // The product is 0 for a number and NaN for a score of -infinity, which must not pass as a weight of 0.
    let poison: f32 = scores[..keys].iter().map(|score| score * 0.0).sum();
    for scores in scores.as_chunks_mut().0 {
        let weights = exp(vsubq_f32(load(scores), vdupq_n_f32(max)));
        store(scores, weights);
    }
    scores[keys..].fill(0.0);
    softmax.sum += scores.iter().sum::<f32>() + poison;
    shrink
}

/// scores\[r\]\[key\] = query r * key.
#[inline]
#[target_feature(enable = "neon")]
fn scores<const R: usize, T>(
    queries: &[&[[f32; UNIT]]; R],
    keys: &[T],
    scores: &mut [[f32; BLOCK]; R],
    load_key: impl Fn(&[T; UNIT], usize, usize) -> Unit,
) {
    let units = queries[0].len();
    for (at, key) in keys.chunks_exact(units * UNIT).enumerate() {
        // Two chains of additions a row: eight with four rows, which hides their latency.
        let mut sums = [[vdupq_n_f32(0.0); 2]; R];
        for (unit, key) in key.as_chunks().0[..units].iter().enumerate() {
            let key = load_key(key, at, unit);
            for r in 0..R {
                let query = queries[r][unit].as_chunks().0;
                for i in 0..VECTORS {
                    sums[r][i % 2] = vfmaq_f32(sums[r][i % 2], load(&query[i]), key[i]);
                }
            }
        }
        for r in 0..R {
            scores[r][at] = vaddvq_f32(vaddq_f32(sums[r][0], sums[r][1]));
        }
    }
}

/// results\[r\] += sum over keys of weights\[r\]\[key\] * value, a unit of columns at a time.
#[inline]
#[target_feature(enable = "neon")]
fn mix<const R: usize, T>(
    weights: &[[f32; BLOCK]; R],
    values: &[T],
    stride: usize,
    results: &mut [f32],
    load_value: impl Fn(&[T; UNIT], usize, usize) -> Unit,
) {
    for unit in 0..stride / UNIT {
        let mut sums = [[vdupq_n_f32(0.0); VECTORS]; R];
        for (key, value) in values.chunks_exact(stride).enumerate() {
            let value = load_value(&value.as_chunks().0[unit], key, unit);
            for r in 0..R {
                for i in 0..VECTORS {
                    sums[r][i] = vfmaq_n_f32(sums[r][i], value[i], weights[r][key]);
                }
            }
        }
        for r in 0..R {
            for (i, result) in results[r * stride + unit * UNIT..][..UNIT].as_chunks_mut().0.iter_mut().enumerate() {
                let sum = vaddq_f32(load(result), sums[r][i]);
                store(result, sum);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_f16s(from: &[u16; UNIT]) -> Unit {
    let vectors = from.as_chunks().0;
    [load_f16(&vectors[0]), load_f16(&vectors[1]), load_f16(&vectors[2]), load_f16(&vectors[3])]
}

#[inline]
#[target_feature(enable = "neon")]
fn load_f32s(from: &[f32; UNIT]) -> Unit {
    let vectors = from.as_chunks().0;
    [load(&vectors[0]), load(&vectors[1]), load(&vectors[2]), load(&vectors[3])]
}

/// `scale`: bits of an f16.
#[inline]
#[target_feature(enable = "neon")]
fn load_q8s(from: &[i8; UNIT], scale: u16) -> Unit {
    let codes = load_i8(from);
    let (low, high) = (vmovl_s8(vget_low_s8(codes)), vmovl_high_s8(codes));
    let scale = vgetq_lane_f32::<0>(load_f16(&[scale; LANES]));
    let vector = |x| vmulq_n_f32(vcvtq_f32_s32(x), scale);
    [
        vector(vmovl_s16(vget_low_s16(low))),
        vector(vmovl_high_s16(low)),
        vector(vmovl_s16(vget_low_s16(high))),
        vector(vmovl_high_s16(high)),
    ]
}
