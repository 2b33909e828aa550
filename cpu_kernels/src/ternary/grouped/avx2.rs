//! AVX2: eight groups, or a group of eight rows, come out of the products side by side in lanes.

use std::{arch::x86_64::*, ops::Range};

use super::{
    super::{
        SMALL_BATCH,
        avx2::{unpack, widen},
        panel::{PANEL_ROWS, Panel, PanelTokens, STEP_COLS},
    },
    Grouped, Token,
    few::{GROUPS, ROWS, blocks_of, few_tokens, prefetch, products, scaled, scales_by_group, sum_each_i32},
    many::panel_scales,
};
use crate::{
    format::I2S_BLOCK,
    isa::Avx2,
    x86::{load, load_i8, load_u8, store},
};

/// Columns of a part: a vector of codes or values.
const PART: usize = 32;

/// Tokens that meet a panel in registers, as for one scale per matrix.
const PANEL_TOKENS: usize = 4;

products!(Avx2, "avx2,fma,f16c", few: SMALL_BATCH);
few_tokens!("avx2,fma,f16c");

/// Sums D of a group of eight rows, one in a lane, for each of `N` tokens; and of the next group if half a block is one.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn group_dots<const BLOCKS: usize, const N: usize>(
    codes: &[&[[u8; 32]]; ROWS],
    values: &[&[[i8; I2S_BLOCK]]; N],
    group: usize,
) -> [[__m256i; N]; 2] {
    // 8 parts of at most 2 * 3 * 128 a lane fit in i16.
    let mut lanes = [[[_mm256_setzero_si256(); ROWS]; N]; 2];
    for block in blocks_of::<BLOCKS>(group) {
        for r in 0..ROWS {
            let unpacked = unpack(load_u8(&codes[r][block]));
            for n in 0..N {
                let (low, high) = (product(&unpacked, &values[n][block], 0), product(&unpacked, &values[n][block], 2));
                if BLOCKS == 4 {
                    (lanes[0][n][r], lanes[1][n][r]) = (low, high);
                } else {
                    lanes[0][n][r] = _mm256_add_epi16(lanes[0][n][r], _mm256_add_epi16(low, high));
                }
            }
        }
    }
    let mut dots = [[_mm256_setzero_si256(); N]; 2];
    for n in 0..N {
        dots[0][n] = sum_each::<BLOCKS>(&lanes[0][n]);
        if BLOCKS == 4 {
            dots[1][n] = sum_each::<BLOCKS>(&lanes[1][n]);
        }
    }
    dots
}

/// Products of parts `part` and `part` + 1 of a block, added in pairs: at most 2 * 768 a lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn product(codes: &[__m256i; 4], values: &[i8; 128], part: usize) -> __m256i {
    let values = values.as_chunks::<PART>().0;
    let one = |part: usize| _mm256_maddubs_epi16(codes[part], load_i8(&values[part]));
    _mm256_add_epi16(one(part), one(part + 1))
}

/// Lane i of the result is the sum of the lanes of vector i.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_each<const BLOCKS: usize>(vectors: &[__m256i; GROUPS]) -> __m256i {
    if BLOCKS < 16 {
        return sum_each_narrow(vectors);
    }
    let mut wide = [_mm256_setzero_si256(); GROUPS];
    for i in 0..GROUPS {
        wide[i] = widen(vectors[i]);
    }
    sum_each_i32(&wide)
}

/// Of lanes of i16 that are at most 4 * 768: eight of them fit in i16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_each_narrow(vectors: &[__m256i; GROUPS]) -> __m256i {
    // Each step brings the lanes of two vectors side by side and halves the number of lanes of each.
    let pairs = |i: usize| {
        let (a, b) = (vectors[i], vectors[i + 1]);
        _mm256_add_epi16(_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b))
    };
    let fours = |i: usize| {
        let (a, b) = (pairs(i), pairs(i + 2));
        _mm256_add_epi16(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b))
    };
    let (a, b) = (fours(0), fours(4));
    let sums = _mm256_add_epi16(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let half = |half| _mm256_cvtepi16_epi32(half);
    _mm256_add_epi32(half(_mm256_castsi256_si128(sums)), half(_mm256_extracti128_si256::<1>(sums)))
}

/// Panel by panel: 16 rows are unpacked once for all tokens.
#[target_feature(enable = "avx2,fma,f16c")]
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
                    _ => multiply_panel::<BLOCKS, PANEL_TOKENS>(tile, at, steps, &scales, out),
                }
            }
        }
    }
    few_tokens::<BLOCKS>(tile, whole..tile.tile.rows, out);
}

/// A panel times `N` tokens, added to `out` (or written there, by the first panel of the row). `scales` has those of
/// the panel's groups, for each half of its rows.
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_panel<const BLOCKS: usize, const N: usize>(
    tile: &Grouped,
    at: PanelTokens,
    steps: &[[u8; PANEL_ROWS * STEP_COLS]],
    scales: &[[__m256; 2]],
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
    let steps_of_group = BLOCKS * I2S_BLOCK / GROUPS / STEP_COLS;
    for (i, (group, scales)) in tile.panel_groups(&at.cols).zip(scales).enumerate() {
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
            let sums = _mm256_set1_epi32(tokens[n].sums[group]);
            let steps = _mm256_set1_ps(tokens[n].steps[group]);
            for half in 0..2 {
                // No fused multiply-add: it would round once where the reference rounds twice.
                let product = scaled(wide[n][half], sums, scales[half], steps);
                totals[n][half] = _mm256_add_ps(totals[n][half], product);
            }
        }
    }
    for n in 0..N {
        let out = out[at.sums(&tile.tile, n)].as_chunks_mut().0;
        store(&mut out[0], totals[n][0]);
        store(&mut out[1], totals[n][1]);
    }
}
