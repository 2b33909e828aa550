//! AVX-VNNI: as [`super::avx2`], with sums that are i32 from the start.

use std::{arch::x86_64::*, ops::Range};

use super::{
    super::{
        SMALL_BATCH,
        avx2::unpack,
        panel::{PANEL_ROWS, Panel, PanelTokens, STEP_COLS},
    },
    Grouped, Token,
    few::{GROUPS, ROWS, blocks_of, few_tokens, prefetch, products, scaled, scales_by_group, sum_fours, sum_halves},
    many::panel_scales,
};
use crate::{
    format::I2S_BLOCK,
    isa::AvxVnni,
    x86::{load, load_i8, load_u8, store},
};

/// Tokens that meet a panel in registers, as for one scale per matrix.
const PANEL_TOKENS: usize = 6;

products!(AvxVnni, "avx2,fma,f16c,avxvnni", few: SMALL_BATCH);
few_tokens!("avx2,fma,f16c,avxvnni");

/// Sums D of a group of eight rows, one in a lane, for each of `N` tokens; and of the next group if half a block is one.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn group_dots<const BLOCKS: usize, const N: usize>(
    codes: &[&[[u8; 32]]; ROWS],
    values: &[&[[i8; I2S_BLOCK]]; N],
    group: usize,
) -> [[__m256i; N]; 2] {
    let mut quads = [[[_mm256_setzero_si256(); 2]; N]; 2];
    // Four rows at a time: the sums of eight and what makes them would not fit in the registers.
    for half in 0..2 {
        let mut lanes = [[[_mm256_setzero_si256(); 4]; N]; 2];
        for block in blocks_of::<BLOCKS>(group) {
            for r in 0..4 {
                let unpacked = unpack(load_u8(&codes[4 * half + r][block]));
                for n in 0..N {
                    let values = values[n][block].as_chunks().0;
                    let product =
                        |sum, part: usize| _mm256_dpbusd_avx_epi32(sum, unpacked[part], load_i8(&values[part]));
                    if BLOCKS == 4 {
                        lanes[0][n][r] = product(product(_mm256_setzero_si256(), 0), 1);
                        lanes[1][n][r] = product(product(_mm256_setzero_si256(), 2), 3);
                    } else {
                        lanes[0][n][r] = product(product(product(product(lanes[0][n][r], 0), 1), 2), 3);
                    }
                }
            }
        }
        for n in 0..N {
            quads[0][n][half] = sum_fours(&lanes[0][n]);
            if BLOCKS == 4 {
                quads[1][n][half] = sum_fours(&lanes[1][n]);
            }
        }
    }
    let mut dots = [[_mm256_setzero_si256(); N]; 2];
    for n in 0..N {
        dots[0][n] = sum_halves(quads[0][n]);
        if BLOCKS == 4 {
            dots[1][n] = sum_halves(quads[1][n]);
        }
    }
    dots
}

/// Panel by panel: 16 rows are unpacked once for all tokens.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn many_tokens<const BLOCKS: usize>(tile: &Grouped, out: &mut [f32]) {
    let mut panel = Panel::new();
    let whole = tile.tile.rows / PANEL_ROWS * PANEL_ROWS;
    for row in (0..whole).step_by(PANEL_ROWS) {
        for cols in Panel::col_ranges(tile.tile.stride) {
            let steps = panel.fill(&tile.tile, row, cols.clone());
            let scales = panel_scales(tile, row, tile.panel_groups(&cols));
            for first in (0..tile.tile.tokens).step_by(PANEL_TOKENS) {
                let at = PanelTokens { row, first, cols: cols.clone() };
                match tile.tile.tokens - first {
                    1 => multiply_panel::<BLOCKS, 1>(tile, at, steps, &scales, out),
                    2 => multiply_panel::<BLOCKS, 2>(tile, at, steps, &scales, out),
                    3 => multiply_panel::<BLOCKS, 3>(tile, at, steps, &scales, out),
                    4 => multiply_panel::<BLOCKS, 4>(tile, at, steps, &scales, out),
                    5 => multiply_panel::<BLOCKS, 5>(tile, at, steps, &scales, out),
                    _ => multiply_panel::<BLOCKS, PANEL_TOKENS>(tile, at, steps, &scales, out),
                }
            }
        }
    }
    few_tokens::<BLOCKS>(tile, whole..tile.tile.rows, out);
}

/// A panel times `N` tokens, added to `out` (or written there, by the first panel of the row). `scales` has those of
/// the panel's groups, for each half of its rows.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn multiply_panel<const BLOCKS: usize, const N: usize>(
    tile: &Grouped,
    at: PanelTokens,
    steps: &[[u8; PANEL_ROWS * STEP_COLS]],
    scales: &[[__m256; 2]],
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
    let steps_of_group = BLOCKS * I2S_BLOCK / GROUPS / STEP_COLS;
    for (i, (group, scales)) in tile.panel_groups(&at.cols).zip(scales).enumerate() {
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
            let sums = _mm256_set1_epi32(tokens[n].sums[group]);
            let steps = _mm256_set1_ps(tokens[n].steps[group]);
            for half in 0..2 {
                // No fused multiply-add: it would round once where the reference rounds twice.
                totals[n][half] = _mm256_add_ps(totals[n][half], scaled(lanes[n][half], sums, scales[half], steps));
            }
        }
    }
    for n in 0..N {
        let out = out[at.sums(&tile.tile, n)].as_chunks_mut().0;
        store(&mut out[0], totals[n][0]);
        store(&mut out[1], totals[n][1]);
    }
}
