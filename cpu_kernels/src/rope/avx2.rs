//! 8 pairs at a time (half split) or 4 (interleaved).

use std::arch::x86_64::*;

use super::{Style, scalar};
use crate::{
    isa::Avx2,
    x86::{LANES, load, store},
};

/// Rotates one head; `x` has twice as many elements as `cos` and `sin`.
pub fn rotate(_: Avx2, x: &mut [f32], cos: &[f32], sin: &[f32], style: Style) {
    // SAFETY: the capability token proves the features.
    unsafe {
        match style {
            Style::HalfSplit => half_split(x, cos, sin),
            Style::Interleaved => interleaved(x, cos, sin),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn half_split(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = x.split_at_mut(cos.len());
    let (firsts, first_tail) = first.as_chunks_mut::<LANES>();
    let (seconds, second_tail) = second.as_chunks_mut::<LANES>();
    let ((coss, cos_tail), (sins, sin_tail)) = (cos.as_chunks::<LANES>(), sin.as_chunks::<LANES>());
    for (((first, second), cos), sin) in firsts.iter_mut().zip(seconds).zip(coss).zip(sins) {
        let (a, b, cos, sin) = (load(first), load(second), load(cos), load(sin));
        store(first, _mm256_fmsub_ps(a, cos, _mm256_mul_ps(b, sin)));
        store(second, _mm256_fmadd_ps(a, sin, _mm256_mul_ps(b, cos)));
    }
    for (((first, second), cos), sin) in first_tail.iter_mut().zip(second_tail).zip(cos_tail).zip(sin_tail) {
        let mut pair = [*first, *second];
        scalar::rotate(&mut pair, &[*cos], &[*sin], Style::HalfSplit);
        [*first, *second] = pair;
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn interleaved(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (xs, x_tail) = x.as_chunks_mut::<LANES>();
    let ((coss, cos_tail), (sins, sin_tail)) = (cos.as_chunks::<4>(), sin.as_chunks::<4>());
    for ((x, cos), sin) in xs.iter_mut().zip(coss).zip(sins) {
        // (a0 b0 a1 b1 ..) * (c0 c0 c1 c1 ..) -+ (b0 a0 b1 a1 ..) * (s0 s0 s1 s1 ..)
        let pairs = load(x);
        let swapped = _mm256_permute_ps::<0b10_11_00_01>(pairs);
        store(x, _mm256_fmaddsub_ps(pairs, twice(cos), _mm256_mul_ps(swapped, twice(sin))));
    }
    scalar::rotate(x_tail, cos_tail, sin_tail, Style::Interleaved);
}

/// (v0 v0 v1 v1 v2 v2 v3 v3)
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn twice(values: &[f32; 4]) -> __m256 {
    let [a, b, c, d] = *values;
    let values = _mm256_castps128_ps256(_mm_setr_ps(a, b, c, d));
    _mm256_permutevar8x32_ps(values, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3))
}
