//! Blocks of 32 keys: their scores, then their weights, then the mix of their values.
//!
//! Few rows (a decoded token) read keys and values straight from the cache; many rows (a prompt) share a block that is
//! converted to f32 once, and multiply it as a small matrix.

mod few;
pub(super) mod many;

use std::arch::x86_64::*;

use super::{Softmax, Tile, cache::UNIT};
use crate::{
    isa::Avx2,
    x86::{self, LANES, exp::exp, first_lanes, load, load_f16, load_i8x8, store},
};

/// Vectors of the elements that are loaded together.
const VECTORS: usize = UNIT / LANES;

/// Those elements as f32.
type Unit = [__m256; VECTORS];

/// Keys of a block: with heads of 128 its keys and values are 32 KiB as f32.
pub(super) const BLOCK: usize = 32;

/// Mixes the values of a tile's keys for each row, `results` (rows, stride), which is zero.
pub fn attend(_: Avx2, tile: &Tile, results: &mut [f32], softmaxes: &mut [Softmax]) {
    // SAFETY: the capability token proves the features.
    unsafe {
        if many::pays(tile) {
            many::attend(tile, results, softmaxes, many::weigh, many::multiply_add);
        } else {
            few::attend(tile, results, softmaxes);
        }
    }
}

impl Softmax {
    /// Turns the first `keys` scores of a block into weights e^(score - m), and the others into 0; returns what the
    /// sums so far must be multiplied by, because m has grown, or `None` if it has not.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn weigh(&mut self, scores: &mut [f32; BLOCK], keys: usize) -> Option<f32> {
        let lowest = _mm256_set1_ps(f32::NEG_INFINITY);
        let mut largest = lowest;
        let vectors = scores.as_chunks_mut::<LANES>().0;
        for (i, scores) in vectors.iter().enumerate() {
            let valid = first_lanes(keys.saturating_sub(i * LANES));
            largest = _mm256_max_ps(_mm256_blendv_ps(lowest, load(scores), valid), largest);
        }
        let max = x86::max(largest).max(self.max);
        let shrink = (max > self.max).then(|| (self.max - max).exp());
        self.max = max;
        self.sum *= shrink.unwrap_or(1.0);

        let mut sums = _mm256_setzero_ps();
        for (i, scores) in vectors.iter_mut().enumerate() {
            let valid = first_lanes(keys.saturating_sub(i * LANES));
            let score = load(scores);
            let weight = _mm256_and_ps(valid, exp(_mm256_sub_ps(score, _mm256_set1_ps(max))));
            store(scores, weight);
            // score * 0 is 0 for a number and NaN for -infinity, which must not pass as a weight of 0.
            let poison = _mm256_and_ps(valid, _mm256_mul_ps(score, _mm256_setzero_ps()));
            sums = _mm256_add_ps(sums, _mm256_add_ps(weight, poison));
        }
        self.sum += x86::sum(sums);
        shrink
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_f16s(from: &[u16; UNIT]) -> Unit {
    let vectors = from.as_chunks().0;
    [load_f16(&vectors[0]), load_f16(&vectors[1])]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_f32s(from: &[f32; UNIT]) -> Unit {
    let vectors = from.as_chunks().0;
    [load(&vectors[0]), load(&vectors[1])]
}

/// `scale`: bits of an f16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_q8s(from: &[i8; UNIT], scale: u16) -> Unit {
    let vectors: &[[u8; LANES]] = bytemuck::cast_slice::<i8, u8>(from).as_chunks().0;
    let scale = _mm256_cvtph_ps(_mm_set1_epi16(scale as i16));
    let vector = |i: usize| _mm256_mul_ps(scale, _mm256_cvtepi32_ps(load_i8x8(&vectors[i])));
    [vector(0), vector(1)]
}

/// `x` * `factor`, in place; `x` is whole vectors.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scale(x: &mut [f32], factor: f32) {
    for x in x.as_chunks_mut::<LANES>().0 {
        store(x, _mm256_mul_ps(load(x), _mm256_set1_ps(factor)));
    }
}
