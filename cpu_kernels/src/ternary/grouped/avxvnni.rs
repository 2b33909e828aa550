//! AVX-VNNI: as [`super::avx2`], with sums that are i32 from the start.

use std::{arch::x86_64::*, ops::Range};

use super::{
    super::{
        LINE, LINES, MOST_PASSES,
        avxvnni::{total, unpack},
        panel::{PANEL_ROWS, Panel, PanelTokens, STEP_COLS},
    },
    Grouped, Token,
    few::{
        QUADS, blocks, blocks_of_each, few_tokens,
        halves::{Sums, add_scaled, load_scales, store_totals, zero},
        prefetch_scales, products,
    },
};
use crate::{
    format::I2S_BLOCK,
    isa::AvxVnni,
    x86::{AHEAD, load, load_u8, prefetch_ahead},
};

/// Tokens that meet a panel in registers, as for one scale per matrix.
const PANEL_TOKENS: usize = 6;

products!(AvxVnni, "avx2,fma,f16c,avxvnni", few: MOST_PASSES);
few_tokens!("avx2,fma,f16c,avxvnni");

/// The sums D of quarters `FIRST` .. `END` of blocks of 16 rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn dots<const FIRST: usize, const END: usize, const B: usize, const N: usize>(
    panel: &[[[u8; LINE]; LINES]; B],
    values: &[&[[i32; QUADS]; B]; N],
) -> [Sums; N] {
    // As many sums as there are registers for.
    match N {
        1 => dots_by::<FIRST, END, B, N, 4>(panel, values),
        2 => dots_by::<FIRST, END, B, N, 2>(panel, values),
        _ => dots_by::<FIRST, END, B, N, 1>(panel, values),
    }
}

/// As [`dots`], with `C` sums (see [`unpack`]) of each half of the rows for each token.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn dots_by<const FIRST: usize, const END: usize, const B: usize, const N: usize, const C: usize>(
    panel: &[[[u8; LINE]; LINES]; B],
    values: &[&[[i32; QUADS]; B]; N],
) -> [Sums; N] {
    let mut lanes = [[[_mm256_setzero_si256(); C]; 2]; N];
    for (block, lines) in panel.iter().enumerate() {
        for (at, line) in lines.iter().enumerate() {
            prefetch_ahead::<AHEAD, _>(line);
            let [low, high] = line.as_chunks().0 else { unreachable!("two halves of a line") };
            let codes = [unpack::<C>(load_u8(low)), unpack::<C>(load_u8(high))];
            for quarter in FIRST..END {
                for n in 0..N {
                    let values = _mm256_set1_epi32(values[n][block][LINES * quarter + at]);
                    for half in 0..2 {
                        let sum = &mut lanes[n][half][quarter % C];
                        *sum = _mm256_dpbusd_avx_epi32(*sum, codes[half][quarter], values);
                    }
                }
            }
        }
    }
    let mut sums = [[_mm256_setzero_si256(); 2]; N];
    for n in 0..N {
        sums[n] = [total(lanes[n][0]), total(lanes[n][1])];
    }
    sums
}

/// Panel by panel: 16 rows are unpacked once for all tokens.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn many_tokens<const SIZE: usize>(tile: &Grouped, out: &mut [f32]) {
    let mut panel = Panel::new();
    let whole = tile.tile.rows / PANEL_ROWS * PANEL_ROWS;
    for row in (0..whole).step_by(PANEL_ROWS) {
        for cols in Panel::col_ranges(tile.tile.stride) {
            let steps = panel.spread(tile.panel(row, &cols));
            for first in (0..tile.tile.tokens).step_by(PANEL_TOKENS) {
                let at = PanelTokens { row, first, cols: cols.clone() };
                match tile.tile.tokens - first {
                    1 => multiply_panel::<SIZE, 1>(tile, at, steps, out),
                    2 => multiply_panel::<SIZE, 2>(tile, at, steps, out),
                    3 => multiply_panel::<SIZE, 3>(tile, at, steps, out),
                    4 => multiply_panel::<SIZE, 4>(tile, at, steps, out),
                    5 => multiply_panel::<SIZE, 5>(tile, at, steps, out),
                    _ => multiply_panel::<SIZE, PANEL_TOKENS>(tile, at, steps, out),
                }
            }
        }
    }
    few_tokens::<SIZE>(tile, whole..tile.tile.rows, out);
}

/// A panel times `N` tokens, added to `out` (or written there, by the first panel of the row).
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn multiply_panel<const SIZE: usize, const N: usize>(
    tile: &Grouped,
    at: PanelTokens,
    steps: &[[u8; PANEL_ROWS * STEP_COLS]],
    out: &mut [f32],
) {
    let mut values: [&[i32]; N] = [&[]; N];
    let mut tokens = [Token::default(); N];
    let mut totals = [[_mm256_setzero_ps(); 2]; N];
    for n in 0..N {
        values[n] = tile.tile.quads(at.first + n, &at.cols);
        tokens[n] = tile.token(at.first + n);
        if at.cols.start > 0 {
            let out = out[at.sums(&tile.tile, n)].as_chunks().0;
            totals[n] = [load(&out[0]), load(&out[1])];
        }
    }
    let steps_of_group = SIZE / STEP_COLS;
    for (i, group) in tile.panel_groups(&at.cols).enumerate() {
        let scales = load_scales(&tile.scales(at.row)[group]);
        let mut lanes = [[_mm256_setzero_si256(); 2]; N];
        for step in i * steps_of_group..(i + 1) * steps_of_group {
            let codes = steps[step].as_chunks().0;
            let codes = [load_u8(&codes[0]), load_u8(&codes[1])];
            for n in 0..N {
                let values = _mm256_set1_epi32(values[n][step]);
                for half in 0..2 {
                    lanes[n][half] = _mm256_dpbusd_avx_epi32(lanes[n][half], codes[half], values);
                }
            }
        }
        for n in 0..N {
            let (sum, step) = (tokens[n].sums[group], tokens[n].steps[group]);
            totals[n] = add_scaled(totals[n], lanes[n], sum, scales, step);
        }
    }
    for n in 0..N {
        let out = &mut out[at.sums(&tile.tile, n)];
        store_totals(out.first_chunk_mut().expect("16 rows"), totals[n]);
    }
}
