//! AVX-512 VBMI: two table instructions turn 64 bytes of five codes into 64 bytes of I2_S, a third gives the fifth codes
//! that do not stand in the bytes as they are. What follows is I2_S's way: codes stay at their bit positions, and each
//! position has a sum of its own.

use std::arch::x86_64::*;

use super::Tile;
use crate::{
    format::base3::{ABOVE, DIGITS},
    isa::Avx512Vbmi,
    x86::{
        AHEAD, prefetch_ahead,
        wide::{load_i8, load_u8},
    },
};

/// D of each token and row, `sums` (tokens, rows), for up to eight tokens.
pub fn sums(_: Avx512Vbmi, tile: Tile, sums: &mut [i32]) {
    // SAFETY: the capability token proves the features.
    unsafe {
        match tile.tokens {
            1 => pass::<1>(tile, sums),
            2 => pass::<2>(tile, sums),
            3 => pass::<3>(tile, sums),
            4 => shared::<4, 2>(tile, sums),
            5 => shared::<5, 1>(tile, sums),
            6 => shared::<6, 1>(tile, sums),
            7 => shared::<7, 1>(tile, sums),
            8 => shared::<8, 1>(tile, sums),
            tokens => unreachable!("{tokens} tokens"),
        }
    }
}

/// All rows against `N` tokens that share the codes of a block, each brought to the lowest bits: then a token needs no sum
/// of its own for each bit position, and the sums of many fit in registers. `A` sums a token hide the latency of the
/// multiply-adds where there are few.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn shared<const N: usize, const A: usize>(tile: Tile, sums: &mut [i32]) {
    let mut values: [&[[i8; 64]]; N] = [&[]; N];
    for n in 0..N {
        values[n] = tile.token(n);
    }
    let three = _mm512_set1_epi8(3);
    let below = load_u8(&DIGITS.fours);
    let (fours_above, fifths_above) = (load_u8(&DIGITS.fours_above), load_u8(&DIGITS.fifths_above));
    let above = _mm512_set1_epi8(ABOVE.cast_signed());
    for row in 0..tile.rows {
        let mut lanes = [[_mm512_setzero_si512(); A]; N];
        for (block, codes) in tile.row(row).iter().enumerate() {
            prefetch_ahead::<AHEAD, _>(codes);
            let bytes = load_u8(codes);
            let is_above = _mm512_cmpge_epu8_mask(bytes, above);
            // Tables are indexed by the lower 6 bits.
            let fours = _mm512_permutexvar_epi8(bytes, below);
            let fours = _mm512_mask_permutexvar_epi8(fours, is_above, bytes, fours_above);
            let fifths = _mm512_mask_permutexvar_epi8(bytes, is_above, bytes, fifths_above);
            // Bits that come from the byte beside are cut off.
            let runs = [
                _mm512_and_si512(_mm512_srli_epi16::<6>(fours), three),
                _mm512_and_si512(_mm512_srli_epi16::<4>(fours), three),
                _mm512_and_si512(_mm512_srli_epi16::<2>(fours), three),
                _mm512_and_si512(fours, three),
                _mm512_and_si512(_mm512_srli_epi16::<6>(fifths), three),
            ];
            for n in 0..N {
                let mut add = |run: usize, values: &[i8; 64]| {
                    lanes[n][run % A] = _mm512_dpbusd_epi32(lanes[n][run % A], runs[run], load_i8(values));
                };
                if let Some(values) = values[n][5 * block..].first_chunk::<5>() {
                    for run in 0..5 {
                        add(run, &values[run]);
                    }
                } else {
                    // A row's last block: it has no fifth run with values.
                    values[n][5 * block..].iter().enumerate().for_each(|(run, values)| add(run, values));
                }
            }
        }
        for n in 0..N {
            let all = lanes[n].into_iter().fold(_mm512_setzero_si512(), |all, lane| _mm512_add_epi32(all, lane));
            sums[n * tile.rows + row] = _mm512_reduce_add_epi32(all);
        }
    }
}

/// All rows against `N` tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn pass<const N: usize>(tile: Tile, sums: &mut [i32]) {
    let mut values: [&[[i8; 64]]; N] = [&[]; N];
    for n in 0..N {
        values[n] = tile.token(n);
    }
    let masks =
        [_mm512_set1_epi8(0xC0_u8 as i8), _mm512_set1_epi8(0x30), _mm512_set1_epi8(0x0C), _mm512_set1_epi8(0x03)];
    let below = load_u8(&DIGITS.fours);
    let (fours_above, fifths_above) = (load_u8(&DIGITS.fours_above), load_u8(&DIGITS.fifths_above));
    let above = _mm512_set1_epi8(ABOVE.cast_signed());
    for row in 0..tile.rows {
        // Of 64, 16, 4, 1 and 64 times the code.
        let mut lanes = [[_mm512_setzero_si512(); 5]; N];
        for (block, codes) in tile.row(row).iter().enumerate() {
            prefetch_ahead::<AHEAD, _>(codes);
            let bytes = load_u8(codes);
            let is_above = _mm512_cmpge_epu8_mask(bytes, above);
            // Tables are indexed by the lower 6 bits.
            let fours = _mm512_permutexvar_epi8(bytes, below);
            let fours = _mm512_mask_permutexvar_epi8(fours, is_above, bytes, fours_above);
            let fifths = _mm512_and_si512(bytes, masks[0]);
            let fifths = _mm512_mask_permutexvar_epi8(fifths, is_above, bytes, fifths_above);
            for n in 0..N {
                let mut add = |run: usize, codes: __m512i, values: &[i8; 64]| {
                    lanes[n][run] = _mm512_dpbusd_epi32(lanes[n][run], codes, load_i8(values));
                };
                if let Some(values) = values[n][5 * block..].first_chunk::<5>() {
                    for run in 0..4 {
                        add(run, _mm512_and_si512(fours, masks[run]), &values[run]);
                    }
                    add(4, fifths, &values[4]);
                } else {
                    // A row's last block: it has no fifth run with values.
                    for (run, values) in values[n][5 * block..].iter().enumerate() {
                        add(run, _mm512_and_si512(fours, masks[run]), values);
                    }
                }
            }
        }
        for n in 0..N {
            let [a, b, c, d, e] = lanes[n];
            let high = _mm512_add_epi32(_mm512_srai_epi32::<6>(_mm512_add_epi32(a, e)), _mm512_srai_epi32::<4>(b));
            let low = _mm512_add_epi32(_mm512_srai_epi32::<2>(c), d);
            sums[n * tile.rows + row] = _mm512_reduce_add_epi32(_mm512_add_epi32(high, low));
        }
    }
}
