//! NEON with `sdot`: as [`super::neon`], with sums that are i32 from the start, and panels for many tokens.

use std::{arch::aarch64::*, ops::Range};

use super::{
    super::{
        LINE, LINES, SMALL_BATCH,
        neon::unpack,
        neondot::{PANEL_TOKENS, multiply_steps},
        panel::{PANEL_ROWS, Panel, PanelTokens, STEP_COLS},
    },
    Grouped, Token,
    neon::{QUADS, Sums, add_scaled, stamp_few_tokens},
};
use crate::{
    arm::{dot_lane, load, load_f16, load_i8, load_u8, store},
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
fn dots<const FIRST: usize, const END: usize, const N: usize>(
    blocks: &[[[u8; LINE]; LINES]],
    values: &[&[[i8; I2S_BLOCK]]; N],
) -> [Sums; N] {
    let mut sums = [[vdupq_n_s32(0); QUADS]; N];
    for (block, lines) in blocks.iter().enumerate() {
        for (half, lines) in lines.as_chunks::<4>().0.iter().enumerate() {
            // 16 columns of each quarter: four of them meet each of four lines.
            let mut of_tokens = [[vdupq_n_s8(0); 4]; N];
            for n in 0..N {
                for quarter in FIRST..END {
                    of_tokens[n][quarter] = load_i8(&values[n][block].as_chunks().0[2 * quarter + half]);
                }
            }
            line_dots::<FIRST, END, 0, N>(&lines[0], &of_tokens, &mut sums);
            line_dots::<FIRST, END, 1, N>(&lines[1], &of_tokens, &mut sums);
            line_dots::<FIRST, END, 2, N>(&lines[2], &of_tokens, &mut sums);
            line_dots::<FIRST, END, 3, N>(&lines[3], &of_tokens, &mut sums);
        }
    }
    sums
}

/// A line of codes times values 4 * `LANE` .. of 16 of each quarter.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn line_dots<const FIRST: usize, const END: usize, const LANE: i32, const N: usize>(
    line: &[u8; LINE],
    values: &[[int8x16_t; 4]; N],
    sums: &mut [Sums; N],
) {
    for (quad, packed) in line.as_chunks().0.iter().enumerate() {
        let codes = unpack(load_u8(packed));
        for n in 0..N {
            for quarter in FIRST..END {
                sums[n][quad] = dot_lane::<LANE>(sums[n][quad], codes[quarter], values[n][quarter]);
            }
        }
    }
}

/// Panel by panel: 16 rows are unpacked once for all tokens.
#[target_feature(enable = "neon,dotprod")]
fn many_tokens<const SIZE: usize>(tile: &Grouped, out: &mut [f32]) {
    let mut panel = Panel::new();
    let whole = tile.tile.rows / PANEL_ROWS * PANEL_ROWS;
    for row in (0..whole).step_by(PANEL_ROWS) {
        for cols in Panel::col_ranges(tile.tile.stride) {
            let steps = panel.spread(tile.panel(row, &cols));
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
        let mut lanes = [[vdupq_n_s32(0); QUADS]; N];
        multiply_steps(&steps[i * SIZE / STEP_COLS..][..SIZE / STEP_COLS], values, &mut lanes);
        add_group(tile, at, group, &tokens, &lanes, out);
    }
}

/// Adds the products of a group of 16 rows with some tokens, of which `at` has the first, to `out`, or writes those of
/// the first group. `dots` has the sums D of each token, by rows.
#[inline]
#[target_feature(enable = "neon")]
pub fn add_group(tile: &Grouped, at: &PanelTokens, group: usize, tokens: &[Token], dots: &[Sums], out: &mut [f32]) {
    for (quad, scales) in tile.scales(at.row)[group].as_chunks().0.iter().enumerate() {
        let scales = load_f16(scales);
        for (n, (token, dots)) in tokens.iter().zip(dots).enumerate() {
            let out = &mut out[at.sums(&tile.tile, n)].as_chunks_mut().0[quad];
            let total = if group == 0 { vdupq_n_f32(0.0) } else { load(out) };
            store(out, add_scaled(total, dots[quad], token, scales, group));
        }
    }
}
