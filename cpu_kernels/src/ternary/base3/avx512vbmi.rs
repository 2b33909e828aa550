//! AVX-512 VBMI: two table instructions turn 64 bytes of five codes into 64 bytes of I2_S, a third gives the fifth codes
//! that do not stand in the bytes as they are. What follows is I2_S's way: codes stay at their bit positions, and each
//! position has a sum of its own.

use std::arch::x86_64::*;

use super::Tile;
use crate::{
    format::{
        BASE3_BLOCK_BYTES, BASE3_RUN,
        base3::{ABOVE, BASE3_BLOCK, DIGITS},
    },
    isa::Avx512Vbmi,
    ternary::SMALL_BATCH,
    x86::{
        AHEAD, prefetch_ahead,
        wide::{load_i8, load_u8},
    },
};

/// Runs of a whole block.
const RUNS: usize = BASE3_BLOCK / BASE3_RUN;

/// D of each token and row, `sums` (tokens, rows), eight tokens at a time.
pub fn sums(_: Avx512Vbmi, tile: Tile, sums: &mut [i32]) {
    // SAFETY: the capability token proves the features.
    unsafe {
        for first in (0..tile.tokens).step_by(SMALL_BATCH) {
            match tile.tokens - first {
                1 => pass::<1>(tile, first, sums),
                2 => pass::<2>(tile, first, sums),
                3 => pass::<3>(tile, first, sums),
                4 => shared::<4>(tile, first, sums),
                5 => shared::<5>(tile, first, sums),
                6 => shared::<6>(tile, first, sums),
                7 => shared::<7>(tile, first, sums),
                _ => shared::<SMALL_BATCH>(tile, first, sums),
            }
        }
    }
}

/// Rows that share the loads of a token's values in [`shared`]: with one, those took as long as the multiply-adds.
const ROWS: usize = 2;

/// All rows against `N` tokens that share the codes of a block, each brought to the lowest bits: then a token needs no sum
/// of its own for each bit position, and the sums of many fit in registers.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn shared<const N: usize>(tile: Tile, first_token: usize, sums: &mut [i32]) {
    let whole = tile.runs / RUNS;
    let mut values: [&[[[i8; BASE3_RUN]; RUNS]]; N] = [&[]; N];
    let mut rest: [&[[i8; BASE3_RUN]]; N] = [&[]; N];
    for n in 0..N {
        let (blocks, others) = tile.token(first_token + n).as_chunks();
        // The same length for all, in sight of the compiler, which then checks one index for all.
        (values[n], rest[n]) = (&blocks[..whole], others);
    }
    for row in (0..tile.rows).step_by(ROWS) {
        // The last row again for the one past it; its sums are not kept.
        let codes: [&[[u8; BASE3_BLOCK_BYTES]]; ROWS] =
            std::array::from_fn(|r| &tile.row((row + r).min(tile.rows - 1))[..tile.blocks]);
        let mut lanes = [[_mm512_setzero_si512(); ROWS]; N];
        for block in 0..whole {
            add_block::<N, RUNS>(&mut lanes, codes.map(|codes| &codes[block]), values.map(|values| &values[block]));
        }
        if whole < tile.blocks {
            let codes = codes.map(|codes| &codes[whole]);
            match tile.runs % RUNS {
                1 => add_block::<N, 1>(&mut lanes, codes, rest.map(runs)),
                2 => add_block::<N, 2>(&mut lanes, codes, rest.map(runs)),
                3 => add_block::<N, 3>(&mut lanes, codes, rest.map(runs)),
                _ => add_block::<N, 4>(&mut lanes, codes, rest.map(runs)),
            }
        }
        for n in 0..N {
            for r in 0..ROWS.min(tile.rows - row) {
                sums[(first_token + n) * tile.rows + row + r] = _mm512_reduce_add_epi32(lanes[n][r]);
            }
        }
    }
}

/// The values of a row's last block, which has not all runs.
#[inline]
fn runs<const R: usize>(rest: &[[i8; BASE3_RUN]]) -> &[[i8; BASE3_RUN]; R] {
    rest.first_chunk().expect("as many runs as are left")
}

/// The first `R` runs of a block, added to the sums of [`shared`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn add_block<const N: usize, const R: usize>(
    lanes: &mut [[__m512i; ROWS]; N],
    codes: [&[u8; BASE3_BLOCK_BYTES]; ROWS],
    values: [&[[i8; BASE3_RUN]; R]; N],
) {
    let three = _mm512_set1_epi8(3);
    let above = _mm512_set1_epi8(ABOVE.cast_signed());
    let (mut fours, mut fifths) = ([_mm512_setzero_si512(); ROWS], [_mm512_setzero_si512(); ROWS]);
    for r in 0..ROWS {
        prefetch_ahead::<AHEAD, _>(codes[r]);
        let bytes = load_u8(codes[r]);
        let is_above = _mm512_cmpge_epu8_mask(bytes, above);
        // Tables are indexed by the lower 6 bits.
        let below = _mm512_permutexvar_epi8(bytes, load_u8(&DIGITS.fours));
        fours[r] = _mm512_mask_permutexvar_epi8(below, is_above, bytes, load_u8(&DIGITS.fours_above));
        fifths[r] = _mm512_mask_permutexvar_epi8(bytes, is_above, bytes, load_u8(&DIGITS.fifths_above));
    }
    for run in 0..R {
        let mut of_run = [_mm512_setzero_si512(); ROWS];
        for r in 0..ROWS {
            let shifted = match run {
                0 => _mm512_srli_epi16::<6>(fours[r]),
                1 => _mm512_srli_epi16::<4>(fours[r]),
                2 => _mm512_srli_epi16::<2>(fours[r]),
                3 => fours[r],
                _ => _mm512_srli_epi16::<6>(fifths[r]),
            };
            // Bits that come from the byte beside are cut off.
            of_run[r] = _mm512_and_si512(shifted, three);
        }
        for n in 0..N {
            let values = load_i8(&values[n][run]);
            for r in 0..ROWS {
                lanes[n][r] = _mm512_dpbusd_epi32(lanes[n][r], of_run[r], values);
            }
        }
    }
}

/// All rows against `N` tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn pass<const N: usize>(tile: Tile, first_token: usize, sums: &mut [i32]) {
    let mut values: [&[[i8; BASE3_RUN]]; N] = [&[]; N];
    for n in 0..N {
        values[n] = tile.token(first_token + n);
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
                let mut add = |run: usize, codes: __m512i, values: &[i8; BASE3_RUN]| {
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
            sums[(first_token + n) * tile.rows + row] = _mm512_reduce_add_epi32(_mm512_add_epi32(high, low));
        }
    }
}
