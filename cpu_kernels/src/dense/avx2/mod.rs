//! 32 columns at a time: decoded once to four vectors of f32, multiplied with up to four tokens.

mod low_bits;

pub mod types;

use std::{arch::x86_64::*, ops::Range};

use super::TOKENS;
use crate::{
    format::{DenseType, DenseView, dense::decode_row},
    isa::Avx2,
    x86::{self, AHEAD, load, prefetch_ahead, store},
};

/// Columns of a step, the smallest block of a block type.
pub const STEP: usize = 32;

/// The weights of a step.
pub type Weights = [__m256; 4];

/// As [`Weights`], in 512-bit vectors.
pub type WideWeights = [__m512; 2];

/// A type of weights, in units of a whole number of steps.
pub trait Weight {
    /// Bytes of a unit.
    const BYTES: usize;
    /// Steps of a unit.
    const STEPS: usize;
    /// Data shared by the steps of a unit, worked out once.
    type Unit<'a>;

    /// `bytes` has [`Self::BYTES`].
    ///
    /// # Safety
    /// - The processor has AVX2, FMA and F16C.
    unsafe fn unit(bytes: &[u8]) -> Self::Unit<'_>;

    /// `step` is below [`Self::STEPS`].
    ///
    /// # Safety
    /// - The processor has AVX2, FMA and F16C.
    unsafe fn step(unit: &Self::Unit<'_>, step: usize) -> Weights;
}

/// A type that is also decoded to 512-bit vectors.
pub trait WideWeight: Weight {
    /// As [`Weight::step`].
    ///
    /// # Safety
    /// - The processor has AVX-512 F and BW, and the above.
    unsafe fn wide_step(unit: &Self::Unit<'_>, step: usize) -> WideWeights;
}

/// Products of some rows with up to [`TOKENS`] tokens `x` (tokens, cols), `products` (tokens, rows).
pub fn dot(_: Avx2, w: &DenseView, rows: Range<usize>, x: &[f32], products: &mut [f32]) {
    // SAFETY: the capability token proves the features.
    unsafe {
        match w.ty {
            DenseType::F32 => by_tokens::<types::F32>(w, rows, x, products),
            DenseType::F16 => by_tokens::<types::F16>(w, rows, x, products),
            DenseType::BF16 => by_tokens::<types::BF16>(w, rows, x, products),
            DenseType::Q8_0 => by_tokens::<types::Q8_0>(w, rows, x, products),
            DenseType::Q6K => by_tokens::<types::Q6K>(w, rows, x, products),
            DenseType::Q4K => by_tokens::<low_bits::Q4K>(w, rows, x, products),
            DenseType::Q4_0 => by_tokens::<low_bits::Q4_0>(w, rows, x, products),
            DenseType::TQ1_0 => by_tokens::<low_bits::TQ1_0>(w, rows, x, products),
            DenseType::TQ2_0 => by_tokens::<low_bits::TQ2_0>(w, rows, x, products),
            DenseType::Q2_0 => by_tokens::<low_bits::Q2_0>(w, rows, x, products),
            DenseType::Q2_0G128 => by_tokens::<low_bits::Q2_0G128>(w, rows, x, products),
            DenseType::PTQ1_0 => by_tokens::<low_bits::PTQ1_0>(w, rows, x, products),
        }
    }
}

/// As [`decode_row`].
pub fn decode(_: Avx2, ty: DenseType, row: &[u8], out: &mut [f32]) {
    // SAFETY: the capability token proves the features.
    unsafe {
        match ty {
            DenseType::F32 => decode_units::<types::F32>(ty, row, out),
            DenseType::F16 => decode_units::<types::F16>(ty, row, out),
            DenseType::BF16 => decode_units::<types::BF16>(ty, row, out),
            DenseType::Q8_0 => decode_units::<types::Q8_0>(ty, row, out),
            // Not decoded in numbers.
            _ => decode_row(ty, row, out),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn decode_units<W: Weight>(ty: DenseType, row: &[u8], out: &mut [f32]) {
    let units = row.chunks_exact(W::BYTES);
    let (whole, tail) = out.split_at_mut(units.len() * W::STEPS * STEP);
    decode_row(ty, units.remainder(), tail);
    for (unit, out) in units.zip(whole.chunks_exact_mut(W::STEPS * STEP)) {
        // SAFETY: this function has the features.
        let unit = unsafe { W::unit(unit) };
        for (step, out) in out.chunks_exact_mut(STEP).enumerate() {
            // SAFETY: this function has the features.
            let weights = unsafe { W::step(&unit, step) };
            for (weights, out) in weights.into_iter().zip(out.as_chunks_mut().0) {
                store(out, weights);
            }
        }
    }
}

/// Chooses the loop for the number of tokens.
#[target_feature(enable = "avx2,fma,f16c")]
fn by_tokens<W: Weight>(w: &DenseView, rows: Range<usize>, x: &[f32], products: &mut [f32]) {
    match x.len() / w.cols {
        1 => each_row::<W, 1>(w, rows, x, products),
        2 => each_row::<W, 2>(w, rows, x, products),
        3 => each_row::<W, 3>(w, rows, x, products),
        _ => each_row::<W, TOKENS>(w, rows, x, products),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn each_row<W: Weight, const N: usize>(w: &DenseView, rows: Range<usize>, x: &[f32], products: &mut [f32]) {
    let mut tokens: [&[f32]; N] = [&[]; N];
    for n in 0..N {
        tokens[n] = &x[n * w.cols..][..w.cols];
    }
    let row_count = rows.len();
    for (at, row) in rows.enumerate() {
        let row = row_products::<W, N>(w.ty, w.row(row), tokens);
        for n in 0..N {
            products[n * row_count + at] = row[n];
        }
    }
}

/// One row times `N` tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn row_products<W: Weight, const N: usize>(ty: DenseType, row: &[u8], x: [&[f32]; N]) -> [f32; N] {
    // Four chains of additions keep the multipliers busy for one token. More tokens have the same four, so that each
    // gets the bits it would get alone, but in two passes over the row: not all would find room in registers.
    let mut halves = [[_mm256_setzero_ps(); 2]; N];
    if N == 1 {
        let [[a, b, c, d]] = chains::<W, 1, 4, 0>(row, [x[0]]);
        halves[0] = [_mm256_add_ps(a, b), _mm256_add_ps(c, d)];
    } else {
        let first = chains::<W, N, 2, 0>(row, x);
        let second = chains::<W, N, 2, 2>(row, x);
        for n in 0..N {
            let ([a, b], [c, d]) = (first[n], second[n]);
            halves[n] = [_mm256_add_ps(a, b), _mm256_add_ps(c, d)];
        }
    }
    let mut products = halves.map(|[first, second]| x86::sum(_mm256_add_ps(first, second)));
    add_tail(ty, row.chunks_exact(W::BYTES).remainder(), x, &mut products);
    products
}

/// The sums of the products in vectors `FIRST` .. `FIRST` + `C` of every step of a row, for `N` tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn chains<W: Weight, const N: usize, const C: usize, const FIRST: usize>(
    row: &[u8],
    x: [&[f32]; N],
) -> [[__m256; C]; N] {
    let mut sums = [[_mm256_setzero_ps(); C]; N];
    for (i, unit) in row.chunks_exact(W::BYTES).enumerate() {
        if FIRST == 0 {
            for line in 0..W::BYTES.div_ceil(64) {
                prefetch_ahead::<AHEAD, _>(&unit[64 * line]);
            }
        }
        // SAFETY: this function has the features.
        let unit = unsafe { W::unit(unit) };
        for step in 0..W::STEPS {
            // SAFETY: this function has the features.
            let weights = unsafe { W::step(&unit, step) };
            for n in 0..N {
                let x = x[n][(i * W::STEPS + step) * STEP..][..STEP].as_chunks().0;
                for c in 0..C {
                    sums[n][c] = _mm256_fmadd_ps(weights[FIRST + c], load(&x[FIRST + c]), sums[n][c]);
                }
            }
        }
    }
    sums
}

/// The end of a row of a plain type that is not a whole step.
fn add_tail<const N: usize>(ty: DenseType, row_tail: &[u8], x: [&[f32]; N], products: &mut [f32; N]) {
    let mut weights = [0.0; STEP];
    let cols = row_tail.len() / ty.block_bytes();
    decode_row(ty, row_tail, &mut weights[..cols]);
    for (product, x) in products.iter_mut().zip(x) {
        *product += weights.iter().zip(&x[x.len() - cols..]).map(|(w, x)| w * x).sum::<f32>();
    }
}
