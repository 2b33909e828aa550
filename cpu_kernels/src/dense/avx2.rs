//! 32 columns at a time: decoded once to four vectors of f32, multiplied with up to four tokens.

use std::{arch::x86_64::*, ops::Range};

use half::f16;

use super::TOKENS;
use crate::{
    format::{
        DenseType, DenseView,
        dense::{Q6K_BYTES, Q8_0_BYTES, decode_row},
    },
    isa::Avx2,
    x86::{self, load, load_u8},
};

/// Columns of a step, the smallest block of a block type.
const STEP: usize = 32;

/// The weights of a step.
type Weights = [__m256; 4];

/// Products of some rows with up to [`TOKENS`] tokens `x` (tokens, cols), `products` (tokens, rows).
pub fn dot(_: Avx2, w: &DenseView, rows: Range<usize>, x: &[f32], products: &mut [f32]) {
    // SAFETY: the capability token proves the features.
    unsafe { dot_avx2(w, rows, x, products) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn dot_avx2(w: &DenseView, rows: Range<usize>, x: &[f32], products: &mut [f32]) {
    // Bytes of the unit that a row is made of, its steps, and how to decode one of them.
    match w.ty {
        DenseType::F32 => by_tokens::<128, 1, _>(w, rows, x, products, |bytes, _| f32_step(bytes)),
        DenseType::F16 => by_tokens::<64, 1, _>(w, rows, x, products, |bytes, _| f16_step(bytes)),
        DenseType::BF16 => by_tokens::<64, 1, _>(w, rows, x, products, |bytes, _| bf16_step(bytes)),
        DenseType::Q8_0 => by_tokens::<Q8_0_BYTES, 1, _>(w, rows, x, products, |bytes, _| q8_0_step(bytes)),
        DenseType::Q6K => by_tokens::<Q6K_BYTES, 8, _>(w, rows, x, products, |bytes, step| q6k_step(bytes, step)),
    }
}

/// Chooses the loop for the number of tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn by_tokens<const BYTES: usize, const STEPS: usize, D: Fn(&[u8; BYTES], usize) -> Weights>(
    w: &DenseView,
    rows: Range<usize>,
    x: &[f32],
    products: &mut [f32],
    decode: D,
) {
    match x.len() / w.cols {
        1 => each_row::<BYTES, STEPS, 1, D>(w, rows, x, products, decode),
        2 => each_row::<BYTES, STEPS, 2, D>(w, rows, x, products, decode),
        3 => each_row::<BYTES, STEPS, 3, D>(w, rows, x, products, decode),
        _ => each_row::<BYTES, STEPS, TOKENS, D>(w, rows, x, products, decode),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn each_row<const BYTES: usize, const STEPS: usize, const N: usize, D: Fn(&[u8; BYTES], usize) -> Weights>(
    w: &DenseView,
    rows: Range<usize>,
    x: &[f32],
    products: &mut [f32],
    decode: D,
) {
    let mut tokens: [&[f32]; N] = [&[]; N];
    for n in 0..N {
        tokens[n] = &x[n * w.cols..][..w.cols];
    }
    let row_count = rows.len();
    for (at, row) in rows.enumerate() {
        let row = row_products::<BYTES, STEPS, N, D>(w.ty, w.row(row), tokens, &decode);
        for n in 0..N {
            products[n * row_count + at] = row[n];
        }
    }
}

/// One row times `N` tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn row_products<const BYTES: usize, const STEPS: usize, const N: usize, D: Fn(&[u8; BYTES], usize) -> Weights>(
    ty: DenseType,
    row: &[u8],
    x: [&[f32]; N],
    decode: &D,
) -> [f32; N] {
    let (units, row_tail) = row.as_chunks::<BYTES>();
    // Four chains of additions for one token, one each for four: enough to keep the multipliers busy either way.
    let mut sums = [[_mm256_setzero_ps(); 4]; N];
    for (unit, bytes) in units.iter().enumerate() {
        for step in 0..STEPS {
            let weights = decode(bytes, step);
            for n in 0..N {
                let x = x[n][(unit * STEPS + step) * STEP..][..STEP].as_chunks().0;
                for part in 0..4 {
                    let chain = if N == 1 { part } else { part % 2 };
                    sums[n][chain] = _mm256_fmadd_ps(weights[part], load(&x[part]), sums[n][chain]);
                }
            }
        }
    }
    // Only the plain types have rows that end within a step.
    let mut tail = [0.0; STEP];
    let tail_cols = row_tail.len() / ty.block_bytes();
    decode_row(ty, row_tail, &mut tail[..tail_cols]);
    let mut products = [0.0; N];
    for n in 0..N {
        let [a, b, c, d] = sums[n];
        let sum = x86::sum(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)));
        let x_tail = &x[n][x[n].len() - tail_cols..];
        products[n] = sum + tail.iter().zip(x_tail).map(|(w, x)| w * x).sum::<f32>();
    }
    products
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn f32_step(bytes: &[u8; 128]) -> Weights {
    let vectors = bytes.as_chunks().0;
    let weights = |part: usize| _mm256_castsi256_ps(load_u8(&vectors[part]));
    [weights(0), weights(1), weights(2), weights(3)]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn f16_step(bytes: &[u8; 64]) -> Weights {
    let vectors = bytes.as_chunks().0;
    let weights = |part: usize| _mm256_cvtph_ps(x86::load_u8x16(&vectors[part]));
    [weights(0), weights(1), weights(2), weights(3)]
}

/// A bf16 is the upper half of its f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bf16_step(bytes: &[u8; 64]) -> Weights {
    let vectors = bytes.as_chunks().0;
    let weights = |part: usize| {
        let halves = _mm256_cvtepu16_epi32(x86::load_u8x16(&vectors[part]));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
    };
    [weights(0), weights(1), weights(2), weights(3)]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q8_0_step(bytes: &[u8; Q8_0_BYTES]) -> Weights {
    let d = _mm256_set1_ps(f16_at(bytes, 0));
    let values = bytes[2..].first_chunk().expect("32 values after the scale");
    let [a, b, c, e] = x86::widen_i8(load_u8(values));
    [_mm256_mul_ps(d, a), _mm256_mul_ps(d, b), _mm256_mul_ps(d, c), _mm256_mul_ps(d, e)]
}

/// See `format::dense`: step = 4 * half + quarter.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q6k_step(bytes: &[u8; Q6K_BYTES], step: usize) -> Weights {
    let (half, quarter) = (step / 4, step % 4);
    let vector = |at: usize| load_u8(bytes[at..].first_chunk().expect("a block has 210 bytes"));
    let shift = |x, bits: usize| _mm256_srl_epi16(x, _mm_cvtsi32_si128(bits as i32));
    let nibbles = shift(vector(64 * half + 32 * (quarter % 2)), 4 * (quarter / 2));
    let pairs = shift(vector(128 + 32 * half), 2 * quarter);
    let q = _mm256_or_si256(
        _mm256_and_si256(nibbles, _mm256_set1_epi8(15)),
        _mm256_slli_epi16::<4>(_mm256_and_si256(pairs, _mm256_set1_epi8(3))),
    );
    let q = x86::widen_i8(_mm256_sub_epi8(q, _mm256_set1_epi8(32)));
    let d = f16_at(bytes, 208);
    let scale = |at: usize| _mm256_set1_ps(d * f32::from(bytes[192 + 2 * step + at] as i8));
    let (first, second) = (scale(0), scale(1));
    [_mm256_mul_ps(first, q[0]), _mm256_mul_ps(first, q[1]), _mm256_mul_ps(second, q[2]), _mm256_mul_ps(second, q[3])]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}
