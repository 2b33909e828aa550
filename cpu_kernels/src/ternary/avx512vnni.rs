//! AVX-512 VNNI: as [`super::avxvnni`], on twice as many columns or rows at a time and with twice as many registers.

use std::{arch::x86_64::*, ops::Range};

use super::{
    MOST_PASSES, SMALL_BATCH, Tile,
    panel::{PANEL_ROWS, Panel, PanelTokens},
};
use crate::{
    format::{I2S_BLOCK, I2S_BLOCK_BYTES},
    isa::Avx512Vnni,
    x86::{
        AHEAD, load_i8, load_u8, prefetch_ahead,
        wide::{join, load_i32, load_u8 as load_codes, store_i32, sum_halves_i32},
    },
};

/// Tokens that meet two panels in registers. More would fit (12 make 24 accumulators of 32 registers), but then the
/// addresses of their values do not: 12 tokens ran at 160 G products/s, 10 and 8 at 450 (Zen 5).
const PANEL_TOKENS: usize = 8;

/// D of each token and row, `sums` (tokens, rows).
pub fn sums(_: Avx512Vnni, tile: Tile, sums: &mut [i32]) {
    // SAFETY: the capability token proves the features.
    unsafe {
        if tile.tokens <= MOST_PASSES {
            few_tokens(tile, 0..tile.rows, sums)
        } else {
            many_tokens(tile, 0..tile.rows, sums)
        }
    }
}

/// As [`sums`], for some of the rows and more than a few tokens.
pub fn rows(_: Avx512Vnni, tile: Tile, rows: Range<usize>, sums: &mut [i32]) {
    // SAFETY: the capability token proves the features.
    unsafe { many_tokens(tile, rows, sums) }
}

/// Few rows at a time, as many tokens as there are registers for.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn few_tokens(tile: Tile, rows: Range<usize>, sums: &mut [i32]) {
    for first in (0..tile.tokens).step_by(SMALL_BATCH) {
        // Each addition waits for the one before it in the same sum: as many sums as hide that.
        match tile.tokens - first {
            1 => pass::<1, 4>(tile, rows.clone(), first, sums),
            2 => pass::<2, 4>(tile, rows.clone(), first, sums),
            3 => pass::<3, 2>(tile, rows.clone(), first, sums),
            4 => pass::<4, 2>(tile, rows.clone(), first, sums),
            5 => pass::<5, 1>(tile, rows.clone(), first, sums),
            6 => pass::<6, 1>(tile, rows.clone(), first, sums),
            7 => pass::<7, 1>(tile, rows.clone(), first, sums),
            _ => pass::<SMALL_BATCH, 1>(tile, rows.clone(), first, sums),
        }
    }
}

/// Rows of a pass: two in the halves of each of two vectors, which share the loads of a token's values.
const ROWS: usize = 4;

/// All rows against `N` tokens, with `C` sums for each token and each vector of rows (see [`unpack`]).
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn pass<const N: usize, const C: usize>(tile: Tile, rows: Range<usize>, first_token: usize, sums: &mut [i32]) {
    let blocks = tile.stride / I2S_BLOCK;
    let mut values: [&[[i8; I2S_BLOCK]]; N] = [&[]; N];
    for n in 0..N {
        // The same length for all, in sight of the compiler, which then checks one index for all.
        values[n] = &tile.token(first_token + n)[..blocks];
    }
    for row in rows.clone().step_by(ROWS) {
        // The last row again for those past it; their sums are not kept.
        let of_row = |r: usize| &tile.row((row + r).min(rows.end - 1))[..blocks];
        let codes = [of_row(0), of_row(1), of_row(2), of_row(3)];
        let mut lanes = [[[_mm512_setzero_si512(); C]; N]; 2];
        for i in 0..blocks / 2 {
            for r in 0..ROWS {
                // A line.
                prefetch_ahead::<AHEAD, _>(&codes[r][2 * i]);
            }
            for i in [2 * i, 2 * i + 1] {
                add_block(&mut lanes, codes.map(|codes| &codes[i]), values.map(|values| &values[i]));
            }
        }
        if blocks % 2 == 1 {
            add_block(&mut lanes, codes.map(|codes| &codes[blocks - 1]), values.map(|values| &values[blocks - 1]));
        }
        let mut totals = [[_mm512_setzero_si512(); N]; 2];
        for pair in 0..2 {
            for n in 0..N {
                totals[pair][n] = total(lanes[pair][n]);
            }
        }
        // Four of the vectors at a time.
        for first in (0..2 * N).step_by(4) {
            let mut four = [_mm512_setzero_si512(); 4];
            for at in first..(2 * N).min(first + 4) {
                four[at - first] = totals[at / N][at % N];
            }
            for (half, of_four) in sum_halves_i32(four).into_iter().enumerate() {
                let of_four: [i32; 4] = bytemuck::cast(of_four);
                for at in first..(2 * N).min(first + 4) {
                    let row = row + 2 * (at / N) + half;
                    if row < rows.end {
                        sums[(first_token + at % N) * tile.rows + row] = of_four[at - first];
                    }
                }
            }
        }
    }
}

/// A block of columns, added to the sums of [`pass`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn add_block<const N: usize, const C: usize>(
    lanes: &mut [[[__m512i; C]; N]; 2],
    [a, b, c, d]: [&[u8; I2S_BLOCK_BYTES]; ROWS],
    values: [&[i8; I2S_BLOCK]; N],
) {
    let packed = [join(load_u8(a), load_u8(b)), join(load_u8(c), load_u8(d))];
    for part in 0..4 {
        let codes = [unpack::<C>(packed[0], part), unpack::<C>(packed[1], part)];
        for n in 0..N {
            let values = _mm512_broadcast_i64x4(load_i8(&values[n].as_chunks().0[part]));
            for pair in 0..2 {
                let sum = &mut lanes[pair][n][part % C];
                *sum = _mm512_dpbusd_epi32(*sum, codes[pair], values);
            }
        }
    }
}

/// The codes of quarter number `part` of blocks, at a place in the byte that part % `C` tells: with four sums they stay
/// where they are, as 64, 16, 4 and 1 times the code, with two they become 4 and 1 times it, with one the code itself.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack<const C: usize>(packed: __m512i, part: usize) -> __m512i {
    let masked = |x, mask: u8| _mm512_and_si512(x, _mm512_set1_epi8(mask.cast_signed()));
    match (C, part) {
        (4, _) => masked(packed, 0xC0 >> (2 * part)),
        (2, 0 | 1) => masked(_mm512_srli_epi16::<4>(packed), 0x0C >> (2 * part)),
        (2, _) => masked(packed, 0xC0 >> (2 * part)),
        (_, 0) => masked(_mm512_srli_epi16::<6>(packed), 3),
        (_, 1) => masked(_mm512_srli_epi16::<4>(packed), 3),
        (_, 2) => masked(_mm512_srli_epi16::<2>(packed), 3),
        _ => masked(packed, 3),
    }
}

/// The sums of a token as one: undoes the factors of [`unpack`], of which each lane is a multiple.
#[inline]
#[target_feature(enable = "avx512f")]
fn total<const C: usize>(lanes: [__m512i; C]) -> __m512i {
    let mut total = _mm512_setzero_si512();
    for c in 0..C {
        let bits = 2 * (C - 1 - c) as u32;
        total = _mm512_add_epi32(total, _mm512_srav_epi32(lanes[c], _mm512_set1_epi32(bits.cast_signed())));
    }
    total
}

/// Two panels at a time: 32 rows are unpacked once for all tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn many_tokens(tile: Tile, rows: Range<usize>, sums: &mut [i32]) {
    let mut panels = [Panel::new(), Panel::new()];
    let whole = rows.start + rows.len() / PANEL_ROWS * PANEL_ROWS;
    for row in (rows.start..whole).step_by(2 * PANEL_ROWS) {
        for cols in Panel::col_ranges(tile.stride) {
            let [first, second] = &mut panels;
            let first = first.fill(&tile, row, cols.clone());
            if whole - row < 2 * PANEL_ROWS {
                all_tokens(&tile, row, cols, [first], sums);
            } else {
                let second = second.fill(&tile, row + PANEL_ROWS, cols.clone());
                all_tokens(&tile, row, cols, [first, second], sums);
            }
        }
    }
    few_tokens(tile, whole..rows.end, sums);
}

/// `P` panels times all tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn all_tokens<const P: usize>(tile: &Tile, row: usize, cols: Range<usize>, steps: [&[[u8; 64]]; P], sums: &mut [i32]) {
    for first in (0..tile.tokens).step_by(PANEL_TOKENS) {
        let at = PanelTokens { row, first, cols: cols.clone() };
        match tile.tokens - first {
            1 => multiply_panels::<P, 1>(tile, at, steps, sums),
            2 => multiply_panels::<P, 2>(tile, at, steps, sums),
            3 => multiply_panels::<P, 3>(tile, at, steps, sums),
            4 => multiply_panels::<P, 4>(tile, at, steps, sums),
            5 => multiply_panels::<P, 5>(tile, at, steps, sums),
            6 => multiply_panels::<P, 6>(tile, at, steps, sums),
            7 => multiply_panels::<P, 7>(tile, at, steps, sums),
            _ => multiply_panels::<P, PANEL_TOKENS>(tile, at, steps, sums),
        }
    }
}

/// `P` panels times `N` tokens, added to `sums` (or written there, by the first panels of the rows).
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply_panels<const P: usize, const N: usize>(
    tile: &Tile,
    at: PanelTokens,
    steps: [&[[u8; 64]]; P],
    sums: &mut [i32],
) {
    let mut values: [&[i32]; N] = [&[]; N];
    let mut lanes = [[_mm512_setzero_si512(); P]; N];
    for n in 0..N {
        values[n] = tile.quads(at.first + n, &at.cols);
        if at.cols.start > 0 {
            for p in 0..P {
                lanes[n][p] =
                    load_i32(sums[at.sums(tile, n).start + p * PANEL_ROWS..].first_chunk().expect("whole panels"));
            }
        }
    }
    for step in 0..steps[0].len() {
        let mut codes = [_mm512_setzero_si512(); P];
        for p in 0..P {
            codes[p] = load_codes(&steps[p][step]);
        }
        for n in 0..N {
            let values = _mm512_set1_epi32(values[n][step]);
            for p in 0..P {
                lanes[n][p] = _mm512_dpbusd_epi32(lanes[n][p], codes[p], values);
            }
        }
    }
    for n in 0..N {
        for p in 0..P {
            let start = at.sums(tile, n).start + p * PANEL_ROWS;
            store_i32(sums[start..].first_chunk_mut().expect("whole panels"), lanes[n][p]);
        }
    }
}
