//! AVX-512 VBMI: two table instructions turn 64 bytes of five codes into 64 bytes of I2_S, a third gives the fifth codes
//! that do not stand in the bytes as they are. What follows is I2_S's way: codes stay at their bit positions, and each
//! position has a sum of its own.

use std::{arch::x86_64::*, ops::Range};

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
        wide::{load_i8, load_u8, store_i32, sum_sixteen_i32},
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
                4 => in_strips::<4>(tile, first, sums),
                5 => in_strips::<5>(tile, first, sums),
                6 => in_strips::<6>(tile, first, sums),
                7 => in_strips::<7>(tile, first, sums),
                _ => in_strips::<SMALL_BATCH>(tile, first, sums),
            }
        }
    }
}

/// Rows that share the loads of a token's values in [`shared`]: with one, those took as long as the multiply-adds.
const ROWS: usize = 2;

/// Bytes of the values of all tokens of a strip of [`in_strips`]: they stay in a first-level cache of 32 KiB or more beside the
/// codes that pass through it.
const STRIP_BYTES: usize = 28 << 10;

/// All rows against `N` tokens, strip after strip of the columns.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn in_strips<const N: usize>(tile: Tile, first_token: usize, sums: &mut [i32]) {
    let strips = (N * BASE3_BLOCK * tile.blocks).div_ceil(STRIP_BYTES);
    let blocks = tile.blocks.div_ceil(strips);
    for start in (0..tile.blocks).step_by(blocks) {
        shared::<N>(tile, first_token, start..tile.blocks.min(start + blocks), sums);
    }
}

/// Some blocks of all rows against `N` tokens, added to `sums` but for the first ones. Tokens share the codes of a block,
/// each brought to the lowest bits: then a token needs no sum of its own for each bit position, and the sums of many fit in
/// registers.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn shared<const N: usize>(tile: Tile, first_token: usize, strip: Range<usize>, sums: &mut [i32]) {
    let whole = strip.start..strip.end.min(tile.runs / RUNS);
    let mut values: [&[[[i8; BASE3_RUN]; RUNS]]; N] = [&[]; N];
    let mut rest: [&[[i8; BASE3_RUN]]; N] = [&[]; N];
    for n in 0..N {
        let (blocks, others) = tile.token(first_token + n).as_chunks();
        // The same length for all, in sight of the compiler, which then checks one index for all.
        (values[n], rest[n]) = (&blocks[whole.clone()][..whole.len()], others);
    }
    for row in (0..tile.rows).step_by(ROWS) {
        // The last row again for the one past it; its sums are not kept.
        let mut codes: [&[[u8; BASE3_BLOCK_BYTES]]; ROWS] = [&[]; ROWS];
        for r in 0..ROWS {
            codes[r] = &tile.row((row + r).min(tile.rows - 1))[strip.clone()][..strip.len()];
        }
        let mut lanes = [[_mm512_setzero_si512(); ROWS]; N];
        for block in 0..whole.len() {
            let mut of_block = [&NO_RUNS; N];
            for n in 0..N {
                of_block[n] = &values[n][block];
            }
            add_block::<N, RUNS>(&mut lanes, [&codes[0][block], &codes[1][block]], of_block);
        }
        if whole.len() < strip.len() {
            let codes = [&codes[0][whole.len()], &codes[1][whole.len()]];
            match tile.runs % RUNS {
                1 => add_block::<N, 1>(&mut lanes, codes, runs(rest)),
                2 => add_block::<N, 2>(&mut lanes, codes, runs(rest)),
                3 => add_block::<N, 3>(&mut lanes, codes, runs(rest)),
                _ => add_block::<N, 4>(&mut lanes, codes, runs(rest)),
            }
        }
        let mut vectors = [[_mm512_setzero_si512(); 4]; 4];
        for n in 0..N {
            for r in 0..ROWS {
                vectors[(n * ROWS + r) / 4][(n * ROWS + r) % 4] = lanes[n][r];
            }
        }
        let mut all = [0; ROWS * SMALL_BATCH];
        store_i32(&mut all, sum_sixteen_i32(&vectors));
        for (n, of_rows) in all.as_chunks::<ROWS>().0[..N].iter().enumerate() {
            let sums = &mut sums[(first_token + n) * tile.rows + row..][..ROWS.min(tile.rows - row)];
            for (sum, &of_row) in sums.iter_mut().zip(of_rows) {
                *sum = if strip.start == 0 { of_row } else { *sum + of_row };
            }
        }
    }
}

/// Values of a block, to be overwritten.
static NO_RUNS: [[i8; BASE3_RUN]; RUNS] = [[0; BASE3_RUN]; RUNS];

/// The values of a row's last block, which has not all runs.
#[inline]
fn runs<const N: usize, const R: usize>(rest: [&[[i8; BASE3_RUN]]; N]) -> [&[[i8; BASE3_RUN]; R]; N] {
    rest.map(|rest| rest.first_chunk().expect("as many runs as are left"))
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
