//! AVX2: 16 rows in two vectors, pairs of whose products are added in i16 lanes.

use std::{arch::x86_64::*, ops::Range};

use super::{
    super::{
        LINE, LINES, MOST_PASSES,
        avx2::{unpack, unpack_in_halves, widen},
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
    isa::Avx2,
    x86::{AHEAD, load, load_u8, prefetch_ahead},
};

/// Tokens that meet a panel in registers, as for one scale per matrix.
const PANEL_TOKENS: usize = 4;

products!(Avx2, "avx2,fma,f16c", few: MOST_PASSES);
few_tokens!("avx2,fma,f16c");

/// The sums D of quarters `FIRST` .. `END` of blocks of 16 rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots<const FIRST: usize, const END: usize, const B: usize, const N: usize>(
    panel: &[[[u8; LINE]; LINES]; B],
    values: &[&[[i32; QUADS]; B]; N],
) -> [Sums; N] {
    if N == 1 { dots_by::<FIRST, END, B, N, 2>(panel, values) } else { dots_by::<FIRST, END, B, N, 1>(panel, values) }
}

/// As [`dots`]. With `C` = 2, codes of quarters 0 and 2 stay at the third and fourth bit: a shift less for each, and
/// twice the sums.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots_by<const FIRST: usize, const END: usize, const B: usize, const N: usize, const C: usize>(
    panel: &[[[u8; LINE]; LINES]; B],
    values: &[&[[i32; QUADS]; B]; N],
) -> [Sums; N] {
    let mut sums = [[_mm256_setzero_si256(); 2]; N];
    for (block, lines) in panel.iter().enumerate() {
        // A product is at most 2 * 3 * 128: 32 of a block fit in an i16 lane, and 8 of four times as much. With two
        // sums, that of quarters 1 and 3, those of quarters 0 and 2.
        let mut ones = [[_mm256_setzero_si256(); 2]; N];
        let mut fours = [[[_mm256_setzero_si256(); 2]; 2]; N];
        for (at, line) in lines.iter().enumerate() {
            prefetch_ahead::<AHEAD, _>(line);
            let [low, high] = line.as_chunks().0 else { unreachable!("two halves of a line") };
            let unpacked = |half| if C == 1 { unpack(load_u8(half)) } else { unpack_in_halves(load_u8(half)) };
            let codes = [unpacked(low), unpacked(high)];
            for quarter in FIRST..END {
                for n in 0..N {
                    let values = _mm256_set1_epi32(values[n][block][LINES * quarter + at]);
                    for half in 0..2 {
                        let product = _mm256_maddubs_epi16(codes[half][quarter], values);
                        let sum = if C == 2 && quarter % 2 == 0 {
                            &mut fours[n][quarter / 2][half]
                        } else {
                            &mut ones[n][half]
                        };
                        *sum = _mm256_add_epi16(*sum, product);
                    }
                }
            }
        }
        for n in 0..N {
            for half in 0..2 {
                let mut narrow = ones[n][half];
                if C == 2 {
                    for fours in fours[n] {
                        narrow = _mm256_add_epi16(narrow, _mm256_srai_epi16::<2>(fours[half]));
                    }
                }
                sums[n][half] = _mm256_add_epi32(sums[n][half], widen(narrow));
            }
        }
    }
    sums
}

/// Panel by panel: 16 rows are unpacked once for all tokens.
#[target_feature(enable = "avx2,fma,f16c")]
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
                    _ => multiply_panel::<SIZE, PANEL_TOKENS>(tile, at, steps, out),
                }
            }
        }
    }
    few_tokens::<SIZE>(tile, whole..tile.tile.rows, out);
}

/// A panel times `N` tokens, added to `out` (or written there, by the first panel of the row).
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_panel<const SIZE: usize, const N: usize>(
    tile: &Grouped,
    at: PanelTokens,
    steps: &[[u8; PANEL_ROWS * STEP_COLS]],
    out: &mut [f32],
) {
    /// Steps whose products fit in an i16 lane, at most 2 * 3 * 128 each: all of a group, or half of one of 256.
    const FITTING: usize = 32;
    let mut values: [&[i32]; N] = [&[]; N];
    let mut tokens = [Token::default(); N];
    let mut totals = [[_mm256_setzero_ps(); 2]; N];
    for n in 0..N {
        values[n] = &tile.tile.quads(at.first + n, &at.cols)[..steps.len()];
        tokens[n] = tile.token(at.first + n);
        if at.cols.start > 0 {
            let out = out[at.sums(&tile.tile, n)].as_chunks().0;
            totals[n] = [load(&out[0]), load(&out[1])];
        }
    }
    let steps_of_group = SIZE / STEP_COLS;
    for (i, group) in tile.panel_groups(&at.cols).enumerate() {
        let scales = load_scales(&tile.scales(at.row)[group]);
        let mut wide = [[_mm256_setzero_si256(); 2]; N];
        let of_group = i * steps_of_group..(i + 1) * steps_of_group;
        for start in of_group.clone().step_by(FITTING.min(steps_of_group)) {
            let mut narrow = [[_mm256_setzero_si256(); 2]; N];
            for step in start..of_group.end.min(start + FITTING) {
                let codes = steps[step].as_chunks().0;
                let codes = [load_u8(&codes[0]), load_u8(&codes[1])];
                for n in 0..N {
                    let values = _mm256_set1_epi32(values[n][step]);
                    for half in 0..2 {
                        narrow[n][half] = _mm256_add_epi16(narrow[n][half], _mm256_maddubs_epi16(codes[half], values));
                    }
                }
            }
            for n in 0..N {
                for half in 0..2 {
                    wide[n][half] = _mm256_add_epi32(wide[n][half], widen(narrow[n][half]));
                }
            }
        }
        for n in 0..N {
            let (sum, step) = (tokens[n].sums[group], tokens[n].steps[group]);
            totals[n] = add_scaled(totals[n], wide[n], sum, scales, step);
        }
    }
    for n in 0..N {
        let out = &mut out[at.sums(&tile.tile, n)];
        store_totals(out.first_chunk_mut().expect("16 rows"), totals[n]);
    }
}
