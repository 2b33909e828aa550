//! NEON with `sdot`: as [`super::neon`], with sums that are i32 from the start, and panels for many tokens.

use std::{arch::aarch64::*, ops::Range};

use super::{
    super::{
        SMALL_BATCH,
        neon::unpack,
        neondot::{PANEL_TOKENS, multiply_steps},
        panel::{PANEL_ROWS, Panel, PanelTokens, STEP_COLS},
    },
    Grouped, Token,
    neon::{ROWS, blocks_of, scaled, scales, stamp_few_tokens, sum_each},
};
use crate::{
    arm::{dot, load, load_i8, load_u8, store},
    format::I2S_BLOCK,
    isa::NeonDot,
};

/// Products of each token and row, `out` (tokens, rows).
pub fn products(_: NeonDot, tile: &Grouped, out: &mut [f32]) {
    // SAFETY: the capability token proves the features.
    unsafe {
        match tile.size {
            64 => products_of::<64>(tile, out),
            128 => products_of::<128>(tile, out),
            256 => products_of::<256>(tile, out),
            size => unreachable!("groups of {size}"),
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
fn products_of<const SIZE: usize>(tile: &Grouped, out: &mut [f32]) {
    if tile.tile.tokens <= SMALL_BATCH {
        few_tokens::<SIZE>(tile, 0..tile.tile.rows, out);
    } else {
        many_tokens::<SIZE>(tile, out);
    }
}

stamp_few_tokens!("neon,dotprod");

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn group_dots<const SIZE: usize, const N: usize>(
    codes: &[&[[u8; 32]]; ROWS],
    values: &[&[[i8; I2S_BLOCK]]; N],
    group: usize,
) -> [[int32x4_t; N]; 2] {
    let mut lanes = [[[vdupq_n_s32(0); ROWS]; N]; 2];
    for block in blocks_of::<SIZE>(group) {
        for r in 0..ROWS {
            for half in 0..2 {
                let codes = unpack(load_u8(&codes[r][block].as_chunks().0[half]));
                for n in 0..N {
                    // Vectors 2 * quarter + half of the block's 8.
                    let values = values[n][block].as_chunks().0;
                    for quarter in 0..4 {
                        let lanes = &mut lanes[if SIZE == 64 { quarter / 2 } else { 0 }][n][r];
                        *lanes = dot(*lanes, codes[quarter], load_i8(&values[2 * quarter + half]));
                    }
                }
            }
        }
    }
    let mut dots = [[vdupq_n_s32(0); N]; 2];
    for (dots, lanes) in dots.iter_mut().zip(&lanes).take(if SIZE == 64 { 2 } else { 1 }) {
        for n in 0..N {
            dots[n] = sum_each(lanes[n]);
        }
    }
    dots
}

/// Panel by panel: 16 rows are unpacked once for all tokens.
#[target_feature(enable = "neon,dotprod")]
fn many_tokens<const SIZE: usize>(tile: &Grouped, out: &mut [f32]) {
    let mut panel = Panel::new();
    let whole = tile.tile.rows / PANEL_ROWS * PANEL_ROWS;
    for row in (0..whole).step_by(PANEL_ROWS) {
        for cols in Panel::col_ranges(tile.tile.stride) {
            let steps = panel.fill(&tile.tile, row, cols.clone());
            for first in (0..tile.tile.tokens).step_by(PANEL_TOKENS) {
                let at = PanelTokens { row, first, cols: cols.clone() };
                match tile.tile.tokens - first {
                    1 => multiply_panel::<SIZE, 1>(tile, &at, steps, out),
                    2 => multiply_panel::<SIZE, 2>(tile, &at, steps, out),
                    3 => multiply_panel::<SIZE, 3>(tile, &at, steps, out),
                    _ => multiply_panel::<SIZE, PANEL_TOKENS>(tile, &at, steps, out),
                }
            }
        }
    }
    few_tokens::<SIZE>(tile, whole..tile.tile.rows, out);
}

/// A panel times `N` tokens, added to `out` (or written there, by the first panel of the row).
#[target_feature(enable = "neon,dotprod")]
fn multiply_panel<const SIZE: usize, const N: usize>(
    tile: &Grouped,
    at: &PanelTokens,
    steps: &[[u8; PANEL_ROWS * STEP_COLS]],
    out: &mut [f32],
) {
    for (i, group) in tile.panel_groups(&at.cols).enumerate() {
        let mut values: [&[[i8; 16]]; N] = [&[]; N];
        let mut tokens = [Token::default(); N];
        for n in 0..N {
            tokens[n] = tile.token(at.first + n);
            values[n] = tokens[n].values.as_flattened()[group * SIZE..][..SIZE].as_chunks().0;
        }
        let mut lanes = [[vdupq_n_s32(0); PANEL_ROWS / ROWS]; N];
        multiply_steps(&steps[i * SIZE / STEP_COLS..][..SIZE / STEP_COLS], values, &mut lanes);
        add_group(tile, at, group, &tokens, &lanes, out);
    }
}

/// Adds the products of a group of 16 rows with some tokens, of which `at` has the first, to `out`, or writes those of
/// the first group. `dots` has the sums D of each token, by rows.
#[inline]
#[target_feature(enable = "neon")]
pub fn add_group(
    tile: &Grouped,
    at: &PanelTokens,
    group: usize,
    tokens: &[Token],
    dots: &[[int32x4_t; PANEL_ROWS / ROWS]],
    out: &mut [f32],
) {
    for quad in 0..PANEL_ROWS / ROWS {
        let scales = scales(tile, at.row + quad * ROWS, ROWS, group);
        for (n, (token, dots)) in tokens.iter().zip(dots).enumerate() {
            let out = &mut out[at.sums(&tile.tile, n)].as_chunks_mut().0[quad];
            let total = if group == 0 { vdupq_n_f32(0.0) } else { load(out) };
            // No fused multiply-add: it would round once where the reference rounds twice.
            store(out, vaddq_f32(total, scaled(dots[quad], token, scales, group)));
        }
    }
}
