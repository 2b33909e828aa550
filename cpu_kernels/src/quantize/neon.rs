//! 8 values at a time.

use std::arch::aarch64::*;

use super::{
    Token,
    scalar::{Range, round},
};
use crate::{
    arm::{load, store_i8x8},
    isa::Neon,
    norm,
};

/// Values of a step: two vectors, which pack into one of i8.
const STEP: usize = 8;

/// Norm and quantisation of one token.
pub fn token(_: Neon, x: &[f32], weight: Option<&[f32]>, eps: f32, out: Token) {
    // SAFETY: the capability token proves the feature.
    let factor = weight.map(|_| unsafe { norm::neon::inverse_rms_neon(x, eps) });
    for (g, values) in out.values.chunks_mut(out.group).enumerate() {
        let of_group = g * out.group..g * out.group + values.len();
        let x = &x[of_group.clone()];
        // SAFETY: the capability token proves the feature.
        (out.steps[g], out.sums[g]) = unsafe {
            match (weight, factor) {
                (Some(weight), Some(factor)) => quantize::<true>(x, &weight[of_group], factor, values),
                _ => quantize::<false>(x, x, 1.0, values),
            }
        };
    }
}

/// Quantises a group of y = (x * factor) * weight if `NORM`, else y = x; returns step and sum.
#[target_feature(enable = "neon")]
fn quantize<const NORM: bool>(x: &[f32], weight: &[f32], factor: f32, out: &mut [i8]) -> (f32, i32) {
    let (xs, x_tail) = x.as_chunks::<STEP>();
    let (weights, weight_tail) = weight.as_chunks::<STEP>();
    let (outs, out_tail) = out.as_chunks_mut::<STEP>();
    let y = |x: &[f32; STEP], w: &[f32; STEP], part: usize| {
        let x = load(&x.as_chunks().0[part]);
        if NORM { vmulq_f32(vmulq_n_f32(x, factor), load(&w.as_chunks().0[part])) } else { x }
    };
    let y_tail = |i: usize| if NORM { x_tail[i] * factor * weight_tail[i] } else { x_tail[i] };

    let (mut largest, mut poison) = ([vdupq_n_f32(0.0); 2], [vdupq_n_f32(0.0); 2]);
    for (x, w) in xs.iter().zip(weights) {
        for part in 0..2 {
            let y = y(x, w, part);
            // y * 0 is 0 for a number and NaN for a NaN or an infinity; the maximum skips NaN.
            largest[part] = vmaxnmq_f32(largest[part], vabsq_f32(y));
            poison[part] = vfmaq_n_f32(poison[part], y, 0.0);
        }
    }
    let mut range = Range::default();
    range.add(vmaxnmvq_f32(vmaxnmq_f32(largest[0], largest[1])));
    range.finite &= !vaddvq_f32(vaddq_f32(poison[0], poison[1])).is_nan();
    (0..x_tail.len()).for_each(|i| range.add(y_tail(i)));

    let inverse_step = range.inverse_step();
    let mut sums = vdupq_n_s32(0);
    for ((x, w), out) in xs.iter().zip(weights).zip(outs) {
        // The conversion rounds half to even, the narrowings clamp.
        let q = |part| vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(y(x, w, part), inverse_step)));
        let pair = vcombine_s16(q(0), q(1));
        store_i8x8(out, vqmovn_s16(pair));
        sums = vpadalq_s16(sums, vmovl_s8(vqmovn_s16(pair)));
    }
    let mut sum = vaddvq_s32(sums);
    for (i, q) in out_tail.iter_mut().enumerate() {
        *q = round(y_tail(i), inverse_step);
        sum += i32::from(*q);
    }
    (range.step(), sum)
}
