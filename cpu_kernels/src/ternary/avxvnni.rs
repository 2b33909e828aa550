//! AVX-VNNI: `vpdpbusd` multiplies unsigned codes by signed values and adds groups of four to i32 lanes: nothing
//! overflows on the way and nothing is widened.
//!
//! A lane has room for codes that still stand at their bit positions, as 64, 16, 4 or 1 times the code: masking
//! replaces shifting, and one shift of the sum at the end makes up for it.

use std::{arch::x86_64::*, ops::Range};

use super::{
    MOST_PASSES, SMALL_BATCH, Tile, avx2,
    panel::{PANEL_ROWS, Panel, PanelTokens},
};
use crate::{
    isa::AvxVnni,
    x86::{AHEAD, load_i8, load_i32, load_u8, prefetch_ahead, store_i32, sum_i32},
};

/// Tokens that meet a panel in registers: with two vectors of rows 12 accumulators, 2 vectors of codes and 1 of values
/// fill 15 of the 16 registers.
const PANEL_TOKENS: usize = 6;

/// D of each token and row, `sums` (tokens, rows).
pub fn sums(_: AvxVnni, tile: Tile, sums: &mut [i32]) {
    // SAFETY: the capability token proves the features.
    unsafe { if tile.tokens <= MOST_PASSES { few_tokens(tile, 0..tile.rows, sums) } else { many_tokens(tile, sums) } }
}

/// Row by row, as [`avx2::few_tokens`].
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn few_tokens(tile: Tile, rows: Range<usize>, sums: &mut [i32]) {
    for first in (0..tile.tokens).step_by(SMALL_BATCH) {
        // Each addition waits for the one before it in the same sum: as many sums as there are registers for.
        match tile.tokens - first {
            1 => pass::<1, 4, 2>(tile, rows.clone(), first, sums),
            2 => pass::<2, 4, 1>(tile, rows.clone(), first, sums),
            3 => pass::<3, 2, 1>(tile, rows.clone(), first, sums),
            4 => pass::<4, 2, 1>(tile, rows.clone(), first, sums),
            5 => pass::<5, 2, 1>(tile, rows.clone(), first, sums),
            6 => pass::<6, 2, 1>(tile, rows.clone(), first, sums),
            7 => pass::<7, 1, 1>(tile, rows.clone(), first, sums),
            _ => pass::<SMALL_BATCH, 1, 1>(tile, rows.clone(), first, sums),
        }
    }
}

/// All rows against `N` tokens, with `C` sums (see [`unpack`]) for each token and each of `U` neighbouring blocks.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn pass<const N: usize, const C: usize, const U: usize>(
    tile: Tile,
    rows: Range<usize>,
    first_token: usize,
    sums: &mut [i32],
) {
    let mut values: [&[[i8; 128]]; N] = [&[]; N];
    for n in 0..N {
        values[n] = tile.token(first_token + n);
    }
    for row in rows {
        let mut lanes = [[[_mm256_setzero_si256(); C]; N]; U];
        for (i, blocks) in tile.row(row).chunks(U).enumerate() {
            prefetch_ahead::<AHEAD, _>(&blocks[0]);
            for (lanes, (block, i)) in lanes.iter_mut().zip(blocks.iter().zip(U * i..)) {
                let codes = unpack::<C>(load_u8(block));
                for n in 0..N {
                    let values = values[n][i].as_chunks().0;
                    for part in 0..4 {
                        let sum = &mut lanes[n][part % C];
                        *sum = _mm256_dpbusd_avx_epi32(*sum, codes[part], load_i8(&values[part]));
                    }
                }
            }
        }
        for n in 0..N {
            let mut all = _mm256_setzero_si256();
            for u in 0..U {
                all = _mm256_add_epi32(all, total(lanes[u][n]));
            }
            sums[(first_token + n) * tile.rows + row] = sum_i32(all);
        }
    }
}

/// The codes of a block, 32 columns a vector. Vector i belongs to sum i % `C`, where all codes are multiplied by the
/// same: with four sums by 64, 16, 4 and 1, with two by 4 and 1, with one not at all.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub fn unpack<const C: usize>(block: __m256i) -> [__m256i; 4] {
    let masked = |x, mask: u8| _mm256_and_si256(x, _mm256_set1_epi8(mask as i8));
    match C {
        4 => [masked(block, 0xC0), masked(block, 0x30), masked(block, 0x0C), masked(block, 0x03)],
        2 => {
            let high = _mm256_srli_epi16::<4>(block);
            [masked(high, 0x0C), masked(high, 0x03), masked(block, 0x0C), masked(block, 0x03)]
        }
        _ => avx2::unpack(block),
    }
}

/// The sums of a token as one: undoes the factors of [`unpack`], of which each lane is a multiple.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub fn total<const C: usize>(lanes: [__m256i; C]) -> __m256i {
    let mut total = _mm256_setzero_si256();
    for c in 0..C {
        let bits = 2 * (C - 1 - c) as i32;
        total = _mm256_add_epi32(total, _mm256_sra_epi32(lanes[c], _mm_cvtsi32_si128(bits)));
    }
    total
}

/// Panel by panel, as in [`avx2`].
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn many_tokens(tile: Tile, sums: &mut [i32]) {
    let mut panel = Panel::new();
    let whole = tile.rows / PANEL_ROWS * PANEL_ROWS;
    for row in (0..whole).step_by(PANEL_ROWS) {
        for cols in Panel::col_ranges(tile.stride) {
            let steps = panel.fill(&tile, row, cols.clone());
            for first in (0..tile.tokens).step_by(PANEL_TOKENS) {
                let at = PanelTokens { row, first, cols: cols.clone() };
                match tile.tokens - first {
                    1 => multiply_panel::<1>(&tile, at, steps, sums),
                    2 => multiply_panel::<2>(&tile, at, steps, sums),
                    3 => multiply_panel::<3>(&tile, at, steps, sums),
                    4 => multiply_panel::<4>(&tile, at, steps, sums),
                    5 => multiply_panel::<5>(&tile, at, steps, sums),
                    _ => multiply_panel::<PANEL_TOKENS>(&tile, at, steps, sums),
                }
            }
        }
    }
    few_tokens(tile, whole..tile.rows, sums);
}

/// A panel times `N` tokens, added to `sums` (or written there, by the first panel of the row).
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn multiply_panel<const N: usize>(tile: &Tile, at: PanelTokens, steps: &[[u8; 64]], sums: &mut [i32]) {
    let mut values: [&[i32]; N] = [&[]; N];
    let mut lanes = [[_mm256_setzero_si256(); 2]; N];
    for n in 0..N {
        values[n] = tile.quads(at.first + n, &at.cols);
        if at.cols.start > 0 {
            let sums = sums[at.sums(tile, n)].as_chunks().0;
            lanes[n] = [load_i32(&sums[0]), load_i32(&sums[1])];
        }
    }
    for (step, codes) in steps.iter().enumerate() {
        let codes = codes.as_chunks().0;
        let codes = [load_u8(&codes[0]), load_u8(&codes[1])];
        for n in 0..N {
            let values = _mm256_set1_epi32(values[n][step]);
            for half in 0..2 {
                lanes[n][half] = _mm256_dpbusd_avx_epi32(lanes[n][half], codes[half], values);
            }
        }
    }
    for n in 0..N {
        let sums = sums[at.sums(tile, n)].as_chunks_mut().0;
        store_i32(&mut sums[0], lanes[n][0]);
        store_i32(&mut sums[1], lanes[n][1]);
    }
}
