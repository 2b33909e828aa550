//! 64 columns at a time: a vector holds a run.

use std::arch::x86_64::*;

use super::{
    Planes, Sums,
    encode::{BLOCK, BLOCK_BYTES},
};
use crate::{
    isa::Avx512Vnni,
    x86::{
        AHEAD, prefetch_ahead,
        wide::{load_i8, load_u8, sum_each_i32},
    },
};

/// Sums of u times the upper and the lower bytes of each token, for each row.
pub fn sums(_: Avx512Vnni, codes: &[u8], tokens: &[Planes], sums: &mut [Sums]) {
    // SAFETY: the capability token proves the features.
    unsafe { sums_avx512(codes, tokens, sums) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn sums_avx512(codes: &[u8], tokens: &[Planes], sums: &mut [Sums]) {
    // Chains of additions enough to hide their four to five steps, and few enough for the registers.
    match tokens.len() {
        1 => pass::<1, 4>(codes, tokens, sums),
        2 => pass::<2, 4>(codes, tokens, sums),
        3 => pass::<3, 2>(codes, tokens, sums),
        4 => pass::<4, 2>(codes, tokens, sums),
        5 => pass::<5, 1>(codes, tokens, sums),
        6 => pass::<6, 1>(codes, tokens, sums),
        7 => pass::<7, 1>(codes, tokens, sums),
        8 => pass::<8, 1>(codes, tokens, sums),
        tokens => unreachable!("{tokens} tokens"),
    }
}

/// For `N` tokens, with `C` sums for each plane of a token.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn pass<const N: usize, const C: usize>(codes: &[u8], tokens: &[Planes], sums: &mut [Sums]) {
    let tokens: &[Planes; N] = tokens.first_chunk().expect("N tokens");
    let blocks = tokens[0][0].len() / BLOCK;
    // The same length for all, in sight of the compiler, which then checks one index for all.
    let planes = tokens.map(|planes| planes.map(|plane| &plane.as_chunks::<BLOCK>().0[..blocks]));
    for (at, row) in codes.chunks_exact(blocks * BLOCK_BYTES).enumerate() {
        let mut lanes = [[[_mm512_setzero_si512(); C]; 2]; N];
        for (at, block) in row.as_chunks::<BLOCK_BYTES>().0.iter().enumerate() {
            let runs: &[[u8; 64]] = block.as_chunks().0;
            for line in 0..3 {
                prefetch_ahead::<AHEAD, _>(&block[64 * line]);
            }
            let u = unpack(load_u8(&runs[0]), load_u8(&runs[1]), load_u8(&runs[2]));
            for n in 0..N {
                for plane in 0..2 {
                    let values: &[[i8; 64]] = planes[n][plane][at].as_chunks().0;
                    for run in 0..4 {
                        let sum = &mut lanes[n][plane][run % C];
                        *sum = _mm512_dpbusd_epi32(*sum, u[run], load_i8(&values[run]));
                    }
                }
            }
        }
        for n in (0..N).step_by(2) {
            // Both planes of two tokens; of the last twice where there is no other.
            let other = (n + 1).min(N - 1);
            let [a, b, c, d] = [(n, 0), (n, 1), (other, 0), (other, 1)].map(|(n, plane)| {
                let mut all = lanes[n][plane][0];
                for sum in &lanes[n][plane][1..] {
                    all = _mm512_add_epi32(all, *sum);
                }
                all
            });
            // Every code was multiplied by 4.
            let four = _mm_srai_epi32::<2>(sum_each_i32([a, b, c, d]));
            let [high, low, other_high, other_low]: [i32; 4] = bytemuck::cast(four);
            sums[n][at] = [high, low];
            sums[other][at] = [other_high, other_low];
        }
    }
}

/// 4 u of the four runs of columns.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn unpack(a: __m512i, b: __m512i, c: __m512i) -> [__m512i; 4] {
    /// Bit by bit: the mask chooses the first, else the second (0xCA as `vpternlog` numbers it).
    const SELECT: i32 = 0xCA;
    let six = _mm512_set1_epi8(0xFC_u8 as i8);
    let upper = |x| _mm512_and_si512(x, six);
    let (top, middle) = (_mm512_set1_epi8(0xC0_u8 as i8), _mm512_set1_epi8(0xF0_u8 as i8));
    let (high, low) = (_mm512_slli_epi16::<6>(a), _mm512_slli_epi16::<4>(b));
    let pairs = _mm512_ternarylogic_epi32::<SELECT>(top, high, low);
    let last = _mm512_ternarylogic_epi32::<SELECT>(middle, pairs, _mm512_slli_epi16::<2>(c));
    [upper(a), upper(b), upper(c), upper(last)]
}
