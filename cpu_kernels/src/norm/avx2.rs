//! 16 values at a time.

use std::arch::x86_64::*;

use super::scalar;
use crate::{
    isa::Avx2,
    x86::{self, LANES, load, store},
};

/// Values of a step of the sum: four f64 accumulators hide the latency of the addition.
const STEP: usize = 16;

/// Norm of one row in place.
pub fn row(_: Avx2, x: &mut [f32], weight: &[f32], eps: f32) {
    // SAFETY: the capability token proves the features.
    unsafe { row_avx2(x, weight, eps) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn row_avx2(x: &mut [f32], weight: &[f32], eps: f32) {
    let factor = inverse_rms_avx2(x, eps);
    let (xs, x_tail) = x.as_chunks_mut::<LANES>();
    let (weights, weight_tail) = weight.as_chunks::<LANES>();
    for (x, w) in xs.iter_mut().zip(weights) {
        let y = _mm256_mul_ps(_mm256_mul_ps(load(x), _mm256_set1_ps(factor)), load(w));
        store(x, y);
    }
    for (x, w) in x_tail.iter_mut().zip(weight_tail) {
        *x = *x * factor * w;
    }
}

/// 1 / sqrt(mean(x^2) + eps)
#[target_feature(enable = "avx2,fma,f16c")]
pub fn inverse_rms_avx2(x: &[f32], eps: f32) -> f32 {
    let (xs, tail) = x.as_chunks::<STEP>();
    let mut sums = [_mm256_setzero_pd(); 4];
    for x in xs {
        for (part, x) in x.as_chunks::<LANES>().0.iter().enumerate() {
            let x = load(x);
            let (low, high) =
                (_mm256_cvtps_pd(_mm256_castps256_ps128(x)), _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(x)));
            sums[2 * part] = _mm256_fmadd_pd(low, low, sums[2 * part]);
            sums[2 * part + 1] = _mm256_fmadd_pd(high, high, sums[2 * part + 1]);
        }
    }
    let sum = _mm256_add_pd(_mm256_add_pd(sums[0], sums[1]), _mm256_add_pd(sums[2], sums[3]));
    let tail: f64 = tail.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    scalar::factor(x86::sum_f64(sum) + tail, x.len(), eps)
}
