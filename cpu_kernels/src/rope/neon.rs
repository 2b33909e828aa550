//! 4 pairs at a time.

use std::arch::aarch64::*;

use super::{Style, scalar};
use crate::{
    arm::{LANES, load, load_pairs, store, store_pairs},
    isa::Neon,
};

/// Rotates one head; `x` has twice as many elements as `cos` and `sin`.
pub fn rotate(_: Neon, x: &mut [f32], cos: &[f32], sin: &[f32], style: Style) {
    // SAFETY: the capability token proves the feature.
    unsafe {
        match style {
            Style::HalfSplit => half_split(x, cos, sin),
            Style::Interleaved => interleaved(x, cos, sin),
        }
    }
}

#[target_feature(enable = "neon")]
fn half_split(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = x.split_at_mut(cos.len());
    let (firsts, first_tail) = first.as_chunks_mut::<LANES>();
    let (seconds, second_tail) = second.as_chunks_mut::<LANES>();
    let ((coss, cos_tail), (sins, sin_tail)) = (cos.as_chunks::<LANES>(), sin.as_chunks::<LANES>());
    for (((first, second), cos), sin) in firsts.iter_mut().zip(seconds).zip(coss).zip(sins) {
        let [a, b] = turn([load(first), load(second)], load(cos), load(sin));
        store(first, a);
        store(second, b);
    }
    for (((first, second), cos), sin) in first_tail.iter_mut().zip(second_tail).zip(cos_tail).zip(sin_tail) {
        let mut pair = [*first, *second];
        scalar::rotate(&mut pair, &[*cos], &[*sin], Style::HalfSplit);
        [*first, *second] = pair;
    }
}

#[target_feature(enable = "neon")]
fn interleaved(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (xs, x_tail) = x.as_chunks_mut::<{ 2 * LANES }>();
    let ((coss, cos_tail), (sins, sin_tail)) = (cos.as_chunks::<LANES>(), sin.as_chunks::<LANES>());
    for ((x, cos), sin) in xs.iter_mut().zip(coss).zip(sins) {
        let turned = turn(load_pairs(x), load(cos), load(sin));
        store_pairs(x, turned);
    }
    scalar::rotate(x_tail, cos_tail, sin_tail, Style::Interleaved);
}

/// (a cos - b sin, a sin + b cos)
#[inline]
#[target_feature(enable = "neon")]
fn turn([a, b]: [float32x4_t; 2], cos: float32x4_t, sin: float32x4_t) -> [float32x4_t; 2] {
    [vfmsq_f32(vmulq_f32(a, cos), b, sin), vfmaq_f32(vmulq_f32(b, cos), a, sin)]
}
