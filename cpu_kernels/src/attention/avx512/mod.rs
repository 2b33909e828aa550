//! The blocks of [`super::avx2`], with a unit of 16 elements in one vector and, of few rows, four keys at once.

mod few;
mod many;

use std::arch::x86_64::*;

use super::{
    Softmax, Tile,
    avx2::{self, BLOCK},
    cache::UNIT,
};
use crate::{
    isa::Avx512Vnni,
    x86::{
        exp::exp_wide,
        wide::{load, load_f16, load_i8x16_as_f32, store},
    },
};

/// Mixes the values of a tile's keys for each row, `results` (rows, stride), which is zero.
pub fn attend(_: Avx512Vnni, tile: &Tile, results: &mut [f32], softmaxes: &mut [Softmax]) {
    // SAFETY: the capability token proves the features.
    unsafe {
        if avx2::many::pays(tile) {
            avx2::many::attend(tile, results, softmaxes, many::weigh, many::multiply_add);
        } else {
            few::attend(tile, results, softmaxes);
        }
    }
}

impl Softmax {
    /// As [`Softmax::weigh`].
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
    fn weigh_wide(&mut self, scores: &mut [f32; BLOCK], keys: usize) -> Option<f32> {
        let valid = |i: usize| (1_u32 << keys.saturating_sub(i * UNIT).min(UNIT)).wrapping_sub(1) as __mmask16;
        let vectors = scores.as_chunks_mut::<UNIT>().0;
        let mut largest = _mm512_set1_ps(f32::NEG_INFINITY);
        for (i, scores) in vectors.iter().enumerate() {
            // The second operand is the result where one is NaN: NaN is skipped.
            largest = _mm512_mask_max_ps(largest, valid(i), load(scores), largest);
        }
        let max = _mm512_reduce_max_ps(largest).max(self.max);
        let shrink = (max > self.max).then(|| (self.max - max).exp());
        self.max = max;
        self.sum *= shrink.unwrap_or(1.0);

        let mut sums = _mm512_setzero_ps();
        for (i, scores) in vectors.iter_mut().enumerate() {
            let score = load(scores);
            let weight = _mm512_maskz_mov_ps(valid(i), exp_wide(_mm512_sub_ps(score, _mm512_set1_ps(max))));
            store(scores, weight);
            // score * 0 is 0 for a number and NaN for -infinity, which must not pass as a weight of 0.
            let poison = _mm512_maskz_mul_ps(valid(i), score, _mm512_setzero_ps());
            sums = _mm512_add_ps(sums, _mm512_add_ps(weight, poison));
        }
        self.sum += _mm512_reduce_add_ps(sums);
        shrink
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
fn load_f16s(from: &[u16; UNIT]) -> __m512 {
    load_f16(from)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
fn load_f32s(from: &[f32; UNIT]) -> __m512 {
    load(from)
}

/// `scale`: bits of an f16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
fn load_q8s(from: &[i8; UNIT], scale: u16) -> __m512 {
    let scale = _mm512_cvtph_ps(_mm256_set1_epi16(scale as i16));
    _mm512_mul_ps(scale, load_i8x16_as_f32(bytemuck::cast_ref(from)))
}
