//! NEON with `smmla`: many tokens; few of them as in [`super::neondot`].

use std::arch::aarch64::*;

use super::{
    super::{
        SMALL_BATCH,
        neoni8mm::{PANEL_TOKENS, PairValues, by_token, multiply_steps},
        panel::{
            PANEL_ROWS, Panel, PanelTokens,
            neon::{PAIR_STEP_BYTES, PAIR_STEP_COLS},
        },
    },
    Grouped, Token,
    neon::QUADS,
    neondot::{self, add_group, few_tokens},
};
use crate::isa::NeonI8mm;

/// Products of each token and row, `out` (tokens, rows).
pub fn products(i8mm: NeonI8mm, tile: &Grouped, out: &mut [f32]) {
    if tile.tile.tokens <= SMALL_BATCH {
        return neondot::products(i8mm.dot(), tile, out);
    }
    // SAFETY: the capability token proves the features.
    unsafe {
        match tile.size {
            64 => many_tokens::<64>(tile, out),
            128 => many_tokens::<128>(tile, out),
            256 => many_tokens::<256>(tile, out),
            size => unreachable!("groups of {size}"),
        }
    }
}

/// Panel by panel: 16 rows are unpacked once for all tokens.
#[target_feature(enable = "neon,dotprod,i8mm")]
fn many_tokens<const SIZE: usize>(tile: &Grouped, out: &mut [f32]) {
    let mut panel = Panel::new();
    let whole = tile.tile.rows / PANEL_ROWS * PANEL_ROWS;
    for row in (0..whole).step_by(PANEL_ROWS) {
        for cols in Panel::col_ranges(tile.tile.stride) {
            let steps = panel.spread_pairs(tile.panel(row, &cols));
            for first in (0..tile.tile.tokens).step_by(PANEL_TOKENS) {
                let at = PanelTokens { row, first, cols: cols.clone() };
                match tile.tile.tokens - first {
                    1 | 2 => multiply_panel::<SIZE, 1>(tile, &at, steps, out),
                    _ => multiply_panel::<SIZE, 2>(tile, &at, steps, out),
                }
            }
        }
    }
    few_tokens::<SIZE>(tile, whole..tile.tile.rows, out);
}

/// A panel times `PAIRS` pairs of tokens, added to `out` (or written there, by the first panel of the row).
#[target_feature(enable = "neon,dotprod,i8mm")]
fn multiply_panel<const SIZE: usize, const PAIRS: usize>(
    tile: &Grouped,
    at: &PanelTokens,
    steps: &[[u8; PAIR_STEP_BYTES]],
    out: &mut [f32],
) {
    let mut tokens = [Token::default(); PANEL_TOKENS];
    for n in 0..2 * PAIRS {
        // The last one again for one past it, whose products are not stored.
        tokens[n] = tile.token(at.first + at.nth(&tile.tile, n));
    }
    let count = at.nth(&tile.tile, 2 * PAIRS - 1) + 1;
    for (i, group) in tile.panel_groups(&at.cols).enumerate() {
        let mut values: [PairValues; PAIRS] = [[&[]; 2]; PAIRS];
        for n in 0..2 * PAIRS {
            values[n / 2][n % 2] = tokens[n].values.as_flattened()[group * SIZE..][..SIZE].as_chunks().0;
        }
        let mut lanes = [[vdupq_n_s32(0); PANEL_ROWS / 2]; PAIRS];
        multiply_steps(&steps[i * SIZE / PAIR_STEP_COLS..][..SIZE / PAIR_STEP_COLS], values, &mut lanes);
        let mut dots = [[vdupq_n_s32(0); QUADS]; PANEL_TOKENS];
        for pair in 0..PAIRS {
            [dots[2 * pair], dots[2 * pair + 1]] = by_token(&lanes[pair]);
        }
        add_group(tile, at, group, &tokens[..count], &dots[..count], out);
    }
}
