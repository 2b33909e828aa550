//! 32 values at a time.

use std::arch::x86_64::*;

use super::{
    Token,
    scalar::{Range, round},
};
use crate::{
    isa::Avx2,
    norm,
    x86::{self, LANES, load},
};

/// Values of a step: four vectors hide the latency of the maximum, and pack into one vector of i8.
const STEP: usize = 4 * LANES;

/// Norm and quantisation of one token.
pub fn token(_: Avx2, x: &[f32], weight: Option<&[f32]>, eps: f32, out: Token) {
    // SAFETY: the capability token proves the features.
    let factor = weight.map(|_| unsafe { norm::avx2::inverse_rms_avx2(x, eps) });
    for (g, values) in out.values.chunks_mut(out.group).enumerate() {
        let of_group = g * out.group..g * out.group + values.len();
        let x = &x[of_group.clone()];
        // SAFETY: the capability token proves the features.
        (out.steps[g], out.sums[g]) = unsafe {
            match (weight, factor) {
                (Some(weight), Some(factor)) => quantize::<true>(x, &weight[of_group], factor, values),
                _ => quantize::<false>(x, x, 1.0, values),
            }
        };
    }
}

/// Quantises a group of y = (x * factor) * weight if `NORM`, else y = x; returns step and sum.
#[target_feature(enable = "avx2,fma,f16c")]
fn quantize<const NORM: bool>(x: &[f32], weight: &[f32], factor: f32, out: &mut [i8]) -> (f32, i32) {
    let (xs, x_tail) = x.as_chunks::<STEP>();
    let (weights, weight_tail) = weight.as_chunks::<STEP>();
    let (outs, out_tail) = out.as_chunks_mut::<STEP>();
    let factors = _mm256_set1_ps(factor);
    let y = |x: &[f32; STEP], w: &[f32; STEP], part: usize| {
        let x = load(&x.as_chunks().0[part]);
        if NORM { _mm256_mul_ps(_mm256_mul_ps(x, factors), load(&w.as_chunks().0[part])) } else { x }
    };
    let y_tail = |i: usize| if NORM { x_tail[i] * factor * weight_tail[i] } else { x_tail[i] };

    let sign = _mm256_set1_ps(-0.0);
    let (mut largest, mut poison) = ([_mm256_setzero_ps(); 4], [_mm256_setzero_ps(); 4]);
    for (x, w) in xs.iter().zip(weights) {
        for part in 0..4 {
            let y = y(x, w, part);
            largest[part] = _mm256_max_ps(largest[part], _mm256_andnot_ps(sign, y));
            // y * 0 is 0 for a number and NaN for a NaN or an infinity, which the maximum may skip.
            poison[part] = _mm256_fmadd_ps(y, _mm256_setzero_ps(), poison[part]);
        }
    }
    let mut range = Range::default();
    for part in 0..4 {
        range.add(x86::max(largest[part]));
        range.finite &= !x86::sum(poison[part]).is_nan();
    }
    (0..x_tail.len()).for_each(|i| range.add(y_tail(i)));

    let inverse_steps = _mm256_set1_ps(range.inverse_step());
    let mut sums = _mm256_setzero_si256();
    for ((x, w), out) in xs.iter().zip(weights).zip(outs) {
        // The conversion rounds half to even, the packs clamp.
        let q = |part| _mm256_cvtps_epi32(_mm256_mul_ps(y(x, w, part), inverse_steps));
        let pairs = (_mm256_packs_epi32(q(0), q(1)), _mm256_packs_epi32(q(2), q(3)));
        let bytes = _mm256_packs_epi16(pairs.0, pairs.1);
        // The packs work in each 128-bit half: put the groups of 4 back in order.
        let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        x86::store_i8(out, bytes);
        // 1 * q summed in pairs and fours.
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    let mut sum = x86::sum_i32(sums);
    for (i, q) in out_tail.iter_mut().enumerate() {
        *q = round(y_tail(i), range.inverse_step());
        sum += i32::from(*q);
    }
    (range.step(), sum)
}
