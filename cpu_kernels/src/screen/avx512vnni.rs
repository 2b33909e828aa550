//! 64 columns at a time: a vector holds a run.

use std::arch::x86_64::*;

use super::encode::{BLOCK, BLOCK_BYTES};
use crate::{
    isa::Avx512Vnni,
    x86::{
        AHEAD, prefetch_ahead,
        wide::{load_i8, load_u8},
    },
};

/// Sums of u times the upper and the lower bytes of the token, for each row.
pub fn sums(_: Avx512Vnni, codes: &[u8], planes: [&[i8]; 2], sums: &mut [[i32; 2]]) {
    // SAFETY: the capability token proves the features.
    unsafe { sums_avx512(codes, planes, sums) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn sums_avx512(codes: &[u8], planes: [&[i8]; 2], sums: &mut [[i32; 2]]) {
    let planes = [planes[0].as_chunks::<BLOCK>().0, planes[1].as_chunks::<BLOCK>().0];
    let row_bytes = planes[0].len() * BLOCK_BYTES;
    for (row, sums) in codes.chunks_exact(row_bytes).zip(sums) {
        // Four chains of additions for each plane: the instruction takes four to five steps.
        let mut lanes = [[_mm512_setzero_si512(); 4]; 2];
        for (at, block) in row.as_chunks::<BLOCK_BYTES>().0.iter().enumerate() {
            let runs: &[[u8; 64]] = block.as_chunks().0;
            for line in 0..3 {
                prefetch_ahead::<AHEAD, _>(&block[64 * line]);
            }
            let u = unpack(load_u8(&runs[0]), load_u8(&runs[1]), load_u8(&runs[2]));
            for plane in 0..2 {
                let values: &[[i8; 64]] = planes[plane][at].as_chunks().0;
                for run in 0..4 {
                    lanes[plane][run] = _mm512_dpbusd_epi32(lanes[plane][run], u[run], load_i8(&values[run]));
                }
            }
        }
        for plane in 0..2 {
            let [a, b, c, d] = lanes[plane];
            let all = _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d));
            // Every code was multiplied by 4.
            sums[plane] = _mm512_reduce_add_epi32(all) >> 2;
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
