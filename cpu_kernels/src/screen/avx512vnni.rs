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

/// Tokens whose sums for [`ROWS`] rows fit in registers.
const TOKENS: usize = 4;

/// Rows that share the loads of several tokens' values: with one, those took longer than the multiply-adds.
const ROWS: usize = 2;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn sums_avx512(codes: &[u8], tokens: &[Planes], sums: &mut [Sums]) {
    if let [token] = tokens {
        return one_token(codes, token, &mut sums[0]);
    }
    let row_bytes = tokens[0][0].len() / BLOCK * BLOCK_BYTES;
    let count = codes.len() / row_bytes;
    // Tokens outside: with rows outside, the values of eight tokens of 2560 columns pass through the first-level cache.
    for (tokens, sums) in tokens.chunks(TOKENS).zip(sums.chunks_mut(TOKENS)) {
        for first in (0..count).step_by(ROWS) {
            // The last row again for the one past it.
            let numbers: [usize; ROWS] = std::array::from_fn(|r| (first + r).min(count - 1));
            let rows = numbers.map(|number| codes[number * row_bytes..][..row_bytes].as_chunks().0);
            match tokens.len() {
                1 => some_tokens::<1>(rows, numbers, tokens, sums),
                2 => some_tokens::<2>(rows, numbers, tokens, sums),
                3 => some_tokens::<3>(rows, numbers, tokens, sums),
                _ => some_tokens::<TOKENS>(rows, numbers, tokens, sums),
            }
        }
    }
}

/// The rows `numbers` against `N` tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn some_tokens<const N: usize>(
    rows: [&[[u8; BLOCK_BYTES]]; ROWS],
    numbers: [usize; ROWS],
    tokens: &[Planes],
    sums: &mut [Sums],
) {
    let tokens: &[Planes; N] = tokens.first_chunk().expect("N tokens");
    let blocks = rows[0].len();
    // The same length for all, in sight of the compiler, which then checks one index for all.
    let rows = rows.map(|row| &row[..blocks]);
    let planes = tokens.map(|planes| planes.map(|plane| &plane.as_chunks::<BLOCK>().0[..blocks]));
    let mut lanes = [[[_mm512_setzero_si512(); 2]; ROWS]; N];
    for at in 0..blocks {
        let mut u = [[_mm512_setzero_si512(); 4]; ROWS];
        for r in 0..ROWS {
            u[r] = unpack_block(&rows[r][at]);
        }
        for n in 0..N {
            for plane in 0..2 {
                let values: &[[i8; 64]] = planes[n][plane][at].as_chunks().0;
                for run in 0..4 {
                    let values = load_i8(&values[run]);
                    for r in 0..ROWS {
                        lanes[n][r][plane] = _mm512_dpbusd_epi32(lanes[n][r][plane], u[r][run], values);
                    }
                }
            }
        }
    }
    for n in 0..N {
        let [[a, b], [c, d]] = lanes[n];
        let [first, second] = bytes_of([a, b, c, d]);
        sums[n][numbers[0]] = first;
        sums[n][numbers[1]] = second;
    }
}

/// All rows against one token: bound by memory.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn one_token(codes: &[u8], token: &Planes, sums: &mut Sums) {
    let blocks = token[0].len() / BLOCK;
    let planes = token.map(|plane| &plane.as_chunks::<BLOCK>().0[..blocks]);
    for (at, row) in codes.chunks_exact(blocks * BLOCK_BYTES).enumerate() {
        // A chain of additions for each run: enough to hide their four to five steps.
        let mut lanes = [[_mm512_setzero_si512(); 4]; 2];
        for (at, block) in row.as_chunks::<BLOCK_BYTES>().0.iter().enumerate() {
            let u = unpack_block(block);
            for plane in 0..2 {
                let values: &[[i8; 64]] = planes[plane][at].as_chunks().0;
                for run in 0..4 {
                    lanes[plane][run] = _mm512_dpbusd_epi32(lanes[plane][run], u[run], load_i8(&values[run]));
                }
            }
        }
        let mut all = [_mm512_setzero_si512(); 2];
        for plane in 0..2 {
            let [a, b, c, d] = lanes[plane];
            all[plane] = _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d));
        }
        [sums[at], _] = bytes_of([all[0], all[1], all[0], all[1]]);
    }
}

/// The sums of two rows, the upper and the lower bytes of each, from their lanes. Every code was multiplied by 4.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn bytes_of(lanes: [__m512i; 4]) -> [[i32; 2]; 2] {
    bytemuck::cast(_mm_srai_epi32::<2>(sum_each_i32(lanes)))
}

/// 4 u of the four runs of columns of a block; the one that comes into use next is fetched.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn unpack_block(block: &[u8; BLOCK_BYTES]) -> [__m512i; 4] {
    let runs: &[[u8; 64]] = block.as_chunks().0;
    for run in runs {
        prefetch_ahead::<AHEAD, _>(run);
    }
    unpack(load_u8(&runs[0]), load_u8(&runs[1]), load_u8(&runs[2]))
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
