//! 32 columns at a time.

use std::arch::x86_64::*;

use super::{
    Planes, Sums,
    encode::{self, BLOCK, BLOCK_BYTES, Row},
    query::{self, Query, Rounded},
};
use crate::{
    dense::avx2::decode,
    format::DenseView,
    isa::Avx2,
    x86::{AHEAD, load_i8, load_u8, prefetch_ahead, sum_i32},
};

/// Row `row` of `head` into `codes`; `weights` has room for it in whole blocks, zero past it.
pub fn encode(avx2: Avx2, head: &DenseView, row: usize, weights: &mut [f32], codes: &mut [u8]) -> Row {
    decode(avx2, head.ty, head.row(row), &mut weights[..head.cols]);
    // SAFETY: the capability token proves the features.
    unsafe { encode_avx2(weights, codes) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn encode_avx2(weights: &[f32], codes: &mut [u8]) -> Row {
    encode::encode(weights, codes)
}

/// See [`query::round`].
pub fn round(_: Avx2, x: &[f32], high: &mut [i8], low: &mut [i8]) -> Option<Rounded> {
    // SAFETY: the capability token proves the features.
    unsafe { round_avx2(x, high, low) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn round_avx2(x: &[f32], high: &mut [i8], low: &mut [i8]) -> Option<Rounded> {
    query::round(x, high, low)
}

/// See [`Query::bound`].
pub fn bound(_: Avx2, query: &Query, rows: &[Row], sums: &[[i32; 2]], approximate: &mut [f32], upper: &mut [f32]) {
    // SAFETY: the capability token proves the features.
    unsafe { bound_avx2(query, rows, sums, approximate, upper) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn bound_avx2(query: &Query, rows: &[Row], sums: &[[i32; 2]], approximate: &mut [f32], upper: &mut [f32]) {
    query.bound(rows, sums, approximate, upper);
}

/// Most tokens whose sums have room in registers beside the codes.
const TOKENS: usize = 4;

/// Sums of u times the upper and the lower bytes of each token, for each row.
pub fn sums(_: Avx2, codes: &[u8], tokens: &[Planes], sums: &mut [Sums]) {
    // SAFETY: the capability token proves the features.
    unsafe { sums_avx2(codes, tokens, sums) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn sums_avx2(codes: &[u8], tokens: &[Planes], sums: &mut [Sums]) {
    // More tokens read a chunk again, which is in the second-level cache then.
    for (tokens, sums) in tokens.chunks(TOKENS).zip(sums.chunks_mut(TOKENS)) {
        match tokens.len() {
            1 => pass::<1>(codes, tokens, sums),
            2 => pass::<2>(codes, tokens, sums),
            3 => pass::<3>(codes, tokens, sums),
            _ => pass::<TOKENS>(codes, tokens, sums),
        }
    }
}

/// For `N` tokens.
#[target_feature(enable = "avx2,fma,f16c")]
fn pass<const N: usize>(codes: &[u8], tokens: &[Planes], sums: &mut [Sums]) {
    let tokens: &[Planes; N] = tokens.first_chunk().expect("N tokens");
    let blocks = tokens[0][0].len() / BLOCK;
    // The same length for all, in sight of the compiler, which then checks one index for all.
    let planes = tokens.map(|planes| planes.map(|plane| &plane.as_chunks::<BLOCK>().0[..blocks]));
    for (at, row) in codes.chunks_exact(blocks * BLOCK_BYTES).enumerate() {
        let mut lanes = [[_mm256_setzero_si256(); 2]; N];
        for (at, block) in row.as_chunks::<BLOCK_BYTES>().0.iter().enumerate() {
            let runs: &[[u8; 32]] = block.as_chunks().0;
            for line in 0..3 {
                prefetch_ahead::<AHEAD, _>(&block[64 * line]);
            }
            for half in 0..2 {
                let u = unpack(load_u8(&runs[half]), load_u8(&runs[2 + half]), load_u8(&runs[4 + half]));
                for n in 0..N {
                    for plane in 0..2 {
                        let values: &[[i8; 32]] = planes[n][plane][at].as_chunks().0;
                        let product = |run: usize| _mm256_maddubs_epi16(u[run], load_i8(&values[2 * run + half]));
                        // A pair of products is at most 2 * 63 * 128 = 16128: two of them fit 16 bits.
                        for pair in 0..2 {
                            let narrow = _mm256_add_epi16(product(2 * pair), product(2 * pair + 1));
                            let wide = _mm256_madd_epi16(narrow, _mm256_set1_epi16(1));
                            lanes[n][plane] = _mm256_add_epi32(lanes[n][plane], wide);
                        }
                    }
                }
            }
        }
        for n in 0..N {
            sums[n][at] = lanes[n].map(|lanes| sum_i32(lanes));
        }
    }
}

/// u of the four runs of columns.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack(a: __m256i, b: __m256i, c: __m256i) -> [__m256i; 4] {
    let six = _mm256_set1_epi8(0x3F);
    let upper = |x| _mm256_and_si256(_mm256_srli_epi16::<2>(x), six);
    let pair = |x, shifted: u8| _mm256_and_si256(x, _mm256_set1_epi8(shifted as i8));
    let high = pair(_mm256_slli_epi16::<4>(a), 0x30);
    let middle = pair(_mm256_slli_epi16::<2>(b), 0x0C);
    let last = _mm256_or_si256(_mm256_or_si256(high, middle), pair(c, 0x03));
    [upper(a), upper(b), upper(c), last]
}
