//! 8 values at a time, several stages while they are in registers.

use std::arch::x86_64::*;

use super::scalar;
use crate::{
    isa::Avx2,
    x86::{LANES, load, store},
};

/// Vectors in registers: three stages each time they are loaded.
const VECTORS: usize = 8;

/// Values in registers.
const GROUP: usize = VECTORS * LANES;

/// x <- the transform of factors o x.
pub fn forward(_: Avx2, x: &mut [f32], factors: &[f32]) {
    if x.len() < GROUP {
        return scalar::forward(x, factors);
    }
    // SAFETY: the capability token proves the features.
    unsafe { transform::<true>(x, factors) }
}

/// x <- factors o the transform of x.
pub fn inverse(_: Avx2, x: &mut [f32], factors: &[f32]) {
    if x.len() < GROUP {
        return scalar::inverse(x, factors);
    }
    // SAFETY: the capability token proves the features.
    unsafe { transform::<false>(x, &[]) }
    x.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
}

/// All stages, after a product with `factors` if `SCALED`.
#[target_feature(enable = "avx2,fma,f16c")]
fn transform<const SCALED: bool>(x: &mut [f32], factors: &[f32]) {
    for (at, group) in x.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
        let vectors = group.as_chunks_mut::<LANES>().0;
        let mut y = [_mm256_setzero_ps(); VECTORS];
        for i in 0..VECTORS {
            y[i] = load(&vectors[i]);
            if SCALED {
                let factors = factors[at * GROUP + i * LANES..].first_chunk().expect("as many factors as values");
                y[i] = _mm256_mul_ps(y[i], load(factors));
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
#[target_feature(enable = "avx2,fma,f16c")]
fn within(x: __m256) -> __m256 {
    let x = _mm256_fmadd_ps(
        x,
        _mm256_setr_ps(1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0),
        _mm256_permute_ps::<0b10_11_00_01>(x),
    );
    let x = _mm256_fmadd_ps(
        x,
        _mm256_setr_ps(1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0),
        _mm256_permute_ps::<0b01_00_11_10>(x),
    );
    _mm256_fmadd_ps(x, _mm256_setr_ps(1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0), _mm256_permute2f128_ps::<1>(x, x))
}

/// The stages of values `apart`, 2 `apart` and so on from each other, `N` of them; returns `N`.
#[target_feature(enable = "avx2,fma,f16c")]
fn across<const N: usize>(x: &mut [f32], apart: usize) -> usize {
    let step = apart / LANES;
    for group in x.as_chunks_mut::<LANES>().0.chunks_exact_mut(N * step) {
        for at in 0..step {
            let mut y = [_mm256_setzero_ps(); N];
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
#[target_feature(enable = "avx2,fma,f16c")]
fn butterflies<const N: usize>(y: &mut [__m256; N]) {
    let mut apart = 1;
    while apart < N {
        for i in 0..N {
            if i & apart == 0 {
                let (a, b) = (y[i], y[i + apart]);
                (y[i], y[i + apart]) = (_mm256_add_ps(a, b), _mm256_sub_ps(a, b));
            }
        }
        apart *= 2;
    }
}
