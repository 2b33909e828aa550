//! 4 values at a time, several stages while they are in registers.

use std::arch::aarch64::*;

use super::scalar;
use crate::{
    arm::{LANES, load, store},
    isa::Neon,
};

/// Vectors in registers: three stages each time they are loaded.
const VECTORS: usize = 8;

/// Values in registers.
const GROUP: usize = VECTORS * LANES;

/// x <- the transform of factors o x.
pub fn forward(_: Neon, x: &mut [f32], factors: &[f32]) {
    if x.len() < GROUP {
        return scalar::forward(x, factors);
    }
    // SAFETY: the capability token proves the feature.
    unsafe { transform::<true>(x, factors) }
}

/// x <- factors o the transform of x.
pub fn inverse(_: Neon, x: &mut [f32], factors: &[f32]) {
    if x.len() < GROUP {
        return scalar::inverse(x, factors);
    }
    // SAFETY: the capability token proves the feature.
    unsafe { transform::<false>(x, &[]) }
    x.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
}

/// All stages, after a product with `factors` if `SCALED`.
#[target_feature(enable = "neon")]
fn transform<const SCALED: bool>(x: &mut [f32], factors: &[f32]) {
    for (at, group) in x.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
        let vectors = group.as_chunks_mut::<LANES>().0;
        let mut y = [vdupq_n_f32(0.0); VECTORS];
        for i in 0..VECTORS {
            y[i] = load(&vectors[i]);
            if SCALED {
                let factors = factors[at * GROUP + i * LANES..].first_chunk().expect("as many factors as values");
                y[i] = vmulq_f32(y[i], load(factors));
            }
            y[i] = within(y[i]);
        }
        butterflies::<VECTORS>(&mut y);
        for i in 0..VECTORS {
            store(&mut vectors[i], y[i]);
        }
    }
    let mut apart = GROUP;
    while apart < x.len() {
        apart *= match x.len() / apart {
            2 => across::<2>(x, apart),
            4 => across::<4>(x, apart),
            _ => across::<8>(x, apart),
        };
    }
}

/// The stages whose pairs are in one vector: b + a and a - b are what is beside plus what is there times 1 and -1.
#[inline]
#[target_feature(enable = "neon")]
fn within(x: float32x4_t) -> float32x4_t {
    let x = vfmaq_f32(vrev64q_f32(x), x, load(&[1.0, -1.0, 1.0, -1.0]));
    vfmaq_f32(vextq_f32::<2>(x, x), x, load(&[1.0, 1.0, -1.0, -1.0]))
}

/// The stages of values `apart`, 2 `apart` and so on from each other, `N` of them; returns `N`.
#[target_feature(enable = "neon")]
fn across<const N: usize>(x: &mut [f32], apart: usize) -> usize {
    let step = apart / LANES;
    for group in x.as_chunks_mut::<LANES>().0.chunks_exact_mut(N * step) {
        for at in 0..step {
            let mut y = [vdupq_n_f32(0.0); N];
            for i in 0..N {
                y[i] = load(&group[at + i * step]);
            }
            butterflies(&mut y);
            for i in 0..N {
                store(&mut group[at + i * step], y[i]);
            }
        }
    }
    N
}

/// The stages among `N` vectors.
#[inline]
#[target_feature(enable = "neon")]
fn butterflies<const N: usize>(y: &mut [float32x4_t; N]) {
    let mut apart = 1;
    while apart < N {
        for i in 0..N {
            if i & apart == 0 {
                let (a, b) = (y[i], y[i + apart]);
                (y[i], y[i + apart]) = (vaddq_f32(a, b), vsubq_f32(a, b));
            }
        }
        apart *= 2;
    }
}
