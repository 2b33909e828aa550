//! 8 values at a time.

use std::arch::aarch64::*;

use super::scalar;
use crate::{
    arm::{LANES, load, store},
    isa::Neon,
};

/// Values of a step of the sum: four f64 accumulators hide the latency of the addition.
const STEP: usize = 8;

/// Norm of one row in place.
pub fn row(_: Neon, x: &mut [f32], weight: &[f32], eps: f32) {
    // SAFETY: the capability token proves the feature.
    unsafe { row_neon(x, weight, eps) }
}

#[target_feature(enable = "neon")]
fn row_neon(x: &mut [f32], weight: &[f32], eps: f32) {
    let factor = inverse_rms_neon(x, eps);
    let (xs, x_tail) = x.as_chunks_mut::<LANES>();
    let (weights, weight_tail) = weight.as_chunks::<LANES>();
    for (x, w) in xs.iter_mut().zip(weights) {
        let y = vmulq_f32(vmulq_n_f32(load(x), factor), load(w));
        store(x, y);
    }
    for (x, w) in x_tail.iter_mut().zip(weight_tail) {
        *x = *x * factor * w;
    }
}

/// 1 / sqrt(mean(x^2) + eps)
#[target_feature(enable = "neon")]
pub fn inverse_rms_neon(x: &[f32], eps: f32) -> f32 {
    let (xs, tail) = x.as_chunks::<STEP>();
    let mut sums = [vdupq_n_f64(0.0); 4];
    for x in xs {
        for (part, x) in x.as_chunks().0.iter().enumerate() {
            let x = load(x);
            let (low, high) = (vcvt_f64_f32(vget_low_f32(x)), vcvt_high_f64_f32(x));
            sums[2 * part] = vfmaq_f64(sums[2 * part], low, low);
            sums[2 * part + 1] = vfmaq_f64(sums[2 * part + 1], high, high);
        }
    }
    let sum = vaddvq_f64(vaddq_f64(vaddq_f64(sums[0], sums[1]), vaddq_f64(sums[2], sums[3])));
    let tail: f64 = tail.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    scalar::factor(sum + tail, x.len(), eps)
}
