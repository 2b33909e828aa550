//! As [`super::avx2`], with vectors twice as wide, for the types whose decoding is more work than their reading.
//!
//! The plain types stay with AVX2: it streams them as fast, and 512-bit loads of tokens and of mapped weights, which
//! begin anywhere, touch two cache lines each (f16, cold: 28 GB/s against 31 on Zen 5).

use std::{arch::x86_64::*, ops::Range};

use super::{
    TOKENS,
    avx2::{STEP, WideWeight, types},
};
use crate::{format::DenseView, isa::Avx512Vnni, x86::wide::load};

/// Products of some rows of Q8_0 with up to [`TOKENS`] tokens `x` (tokens, cols), `products` (tokens, rows).
pub fn dot_q8_0(_: Avx512Vnni, w: &DenseView, rows: Range<usize>, x: &[f32], products: &mut [f32]) {
    // SAFETY: the capability token proves the features.
    unsafe { by_tokens::<types::Q8_0>(w, rows, x, products) }
}

/// As [`dot_q8_0`], for Q6_K.
pub fn dot_q6k(_: Avx512Vnni, w: &DenseView, rows: Range<usize>, x: &[f32], products: &mut [f32]) {
    // SAFETY: the capability token proves the features.
    unsafe { by_tokens::<types::Q6K>(w, rows, x, products) }
}

/// Chooses the loop for the number of tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw")]
fn by_tokens<W: WideWeight>(w: &DenseView, rows: Range<usize>, x: &[f32], products: &mut [f32]) {
    match x.len() / w.cols {
        1 => each_row::<W, 1>(w, rows, x, products),
        2 => each_row::<W, 2>(w, rows, x, products),
        3 => each_row::<W, 3>(w, rows, x, products),
        _ => each_row::<W, TOKENS>(w, rows, x, products),
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw")]
fn each_row<W: WideWeight, const N: usize>(w: &DenseView, rows: Range<usize>, x: &[f32], products: &mut [f32]) {
    let mut tokens: [&[f32]; N] = [&[]; N];
    for n in 0..N {
        tokens[n] = &x[n * w.cols..][..w.cols];
    }
    let row_count = rows.len();
    for (at, row) in rows.enumerate() {
        let row = row_products::<W, N>(w.row(row), tokens);
        for n in 0..N {
            products[n * row_count + at] = row[n];
        }
    }
}

/// One row times `N` tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw")]
fn row_products<W: WideWeight, const N: usize>(row: &[u8], x: [&[f32]; N]) -> [f32; N] {
    let mut sums = [[_mm512_setzero_ps(); 2]; N];
    for (i, unit) in row.chunks_exact(W::BYTES).enumerate() {
        // SAFETY: this function has the features.
        let unit = unsafe { W::unit(unit) };
        for step in 0..W::STEPS {
            // SAFETY: this function has the features.
            let weights = unsafe { W::wide_step(&unit, step) };
            for n in 0..N {
                let x = x[n][(i * W::STEPS + step) * STEP..][..STEP].as_chunks().0;
                for part in 0..2 {
                    sums[n][part] = _mm512_fmadd_ps(weights[part], load(&x[part]), sums[n][part]);
                }
            }
        }
    }
    let mut products = [0.0; N];
    for n in 0..N {
        products[n] = _mm512_reduce_add_ps(_mm512_add_ps(sums[n][0], sums[n][1]));
    }
    products
}
