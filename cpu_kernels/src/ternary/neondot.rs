//! NEON with `sdot`, which multiplies signed bytes and adds groups of four to i32 lanes.

use std::{arch::aarch64::*, ops::Range};

use super::{
    SMALL_BATCH, Tile,
    panel::{PANEL_ROWS, Panel, PanelTokens, STEP_COLS},
};
use crate::{
    arm::{dot, dot_lane, load_i8, load_i32, load_u8, store_i32},
    isa::NeonDot,
};

/// Tokens that meet a panel in registers: 16 accumulators, 4 vectors of codes and 4 of values of 32 registers.
pub const PANEL_TOKENS: usize = 4;

/// D of each token and row, `sums` (tokens, rows).
pub fn sums(_: NeonDot, tile: Tile, sums: &mut [i32]) {
    // SAFETY: the capability token proves the feature.
    unsafe { if tile.tokens <= SMALL_BATCH { few_tokens(tile, 0..tile.rows, sums) } else { many_tokens(tile, sums) } }
}

/// Row by row, unpacked in registers.
#[target_feature(enable = "neon,dotprod")]
pub fn few_tokens(tile: Tile, rows: Range<usize>, sums: &mut [i32]) {
    for first in (0..tile.tokens).step_by(SMALL_BATCH) {
        match tile.tokens - first {
            1 => pass::<1>(tile, rows.clone(), first, sums),
            2 => pass::<2>(tile, rows.clone(), first, sums),
            3 => pass::<3>(tile, rows.clone(), first, sums),
            4 => pass::<4>(tile, rows.clone(), first, sums),
            5 => pass::<5>(tile, rows.clone(), first, sums),
            6 => pass::<6>(tile, rows.clone(), first, sums),
            7 => pass::<7>(tile, rows.clone(), first, sums),
            _ => pass::<SMALL_BATCH>(tile, rows.clone(), first, sums),
        }
    }
}

/// All rows against `N` tokens. Two of four codes stay at their bit positions: a token has three sums, of 16, 4 and 1
/// times the code. (The upper two bits would be a sign: they are shifted down.)
#[target_feature(enable = "neon,dotprod")]
fn pass<const N: usize>(tile: Tile, rows: Range<usize>, first_token: usize, sums: &mut [i32]) {
    let mut values: [&[[i8; 128]]; N] = [&[]; N];
    for n in 0..N {
        values[n] = tile.token(first_token + n);
    }
    for row in rows {
        let mut lanes = [[vdupq_n_s32(0); 3]; N];
        for (i, block) in tile.row(row).iter().enumerate() {
            for half in 0..2 {
                let bytes = load_u8(&block.as_chunks().0[half]);
                let masked = |mask| vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(mask)));
                let (ones, sixteens, fours) = (vreinterpretq_s8_u8(vshrq_n_u8::<6>(bytes)), masked(0x30), masked(0x0C));
                let last = masked(0x03);
                for n in 0..N {
                    // Vectors 2 * quarter + half of the block's 8.
                    let values = values[n][i].as_chunks().0;
                    let [a, b, c] = lanes[n];
                    let c = dot(c, ones, load_i8(&values[half]));
                    let a = dot(a, sixteens, load_i8(&values[2 + half]));
                    let b = dot(b, fours, load_i8(&values[4 + half]));
                    lanes[n] = [a, b, dot(c, last, load_i8(&values[6 + half]))];
                }
            }
        }
        for n in 0..N {
            // Each lane is a multiple of the factor that its codes stood at.
            let [sixteens, fours, ones] = lanes[n];
            let total = vaddq_s32(ones, vaddq_s32(vshrq_n_s32::<4>(sixteens), vshrq_n_s32::<2>(fours)));
            sums[(first_token + n) * tile.rows + row] = vaddvq_s32(total);
        }
    }
}

/// Panel by panel: 16 rows are unpacked once for all tokens.
#[target_feature(enable = "neon,dotprod")]
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
                    _ => multiply_panel::<PANEL_TOKENS>(&tile, at, steps, sums),
                }
            }
        }
    }
    few_tokens(tile, whole..tile.rows, sums);
}

/// A panel times `N` tokens, added to `sums` (or written there, by the first panel of the row).
#[target_feature(enable = "neon,dotprod")]
fn multiply_panel<const N: usize>(tile: &Tile, at: PanelTokens, steps: &[[u8; 64]], sums: &mut [i32]) {
    let mut values: [&[[i8; 16]]; N] = [&[]; N];
    let mut lanes = [[vdupq_n_s32(0); 4]; N];
    for n in 0..N {
        values[n] = tile.values[(at.first + n) * tile.stride..][at.cols.clone()].as_chunks().0;
        if at.cols.start > 0 {
            let sums = sums[at.sums(tile, n)].as_chunks().0;
            for quad in 0..4 {
                lanes[n][quad] = load_i32(&sums[quad]);
            }
        }
    }
    multiply_steps(steps, values, &mut lanes);
    for n in 0..N {
        let sums = sums[at.sums(tile, n)].as_chunks_mut().0;
        for quad in 0..4 {
            store_i32(&mut sums[quad], lanes[n][quad]);
        }
    }
}

/// Steps of 16 rows times the values of `N` tokens, added to `lanes`: of each token, the rows in four vectors.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub fn multiply_steps<const N: usize>(
    steps: &[[u8; PANEL_ROWS * STEP_COLS]],
    values: [&[[i8; 16]]; N],
    lanes: &mut [[int32x4_t; 4]; N],
) {
    // Four steps meet 16 values of each token.
    for (i, steps) in steps.as_chunks::<4>().0.iter().enumerate() {
        let mut of_tokens = [vdupq_n_s8(0); N];
        for n in 0..N {
            of_tokens[n] = load_i8(&values[n][i]);
        }
        multiply_step::<0, N>(&steps[0], of_tokens, lanes);
        multiply_step::<1, N>(&steps[1], of_tokens, lanes);
        multiply_step::<2, N>(&steps[2], of_tokens, lanes);
        multiply_step::<3, N>(&steps[3], of_tokens, lanes);
    }
}

/// 4 columns of 16 rows, times values 4 * `LANE` .. of 16 of each token.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn multiply_step<const LANE: i32, const N: usize>(
    step: &[u8; 64],
    values: [int8x16_t; N],
    lanes: &mut [[int32x4_t; 4]; N],
) {
    for quad in 0..4 {
        let codes = vreinterpretq_s8_u8(load_u8(&step.as_chunks().0[quad]));
        for n in 0..N {
            lanes[n][quad] = dot_lane::<LANE>(lanes[n][quad], codes, values[n]);
        }
    }
}
