//! AVX2: the sums of a group come out with rows side by side in lanes, so that scaling them is one operation for
//! eight rows.
//!
//! Few tokens: eight rows are multiplied group by group as they lie in memory, and their sums are added across
//! lanes together. Many tokens: panels, whose rows stand in lanes from the start.

use std::{arch::x86_64::*, array, ops::Range};

use super::{
    super::{
        SMALL_BATCH,
        avx2::{unpack, widen},
        panel::{PANEL_COLS, PANEL_ROWS, Panel, STEP_COLS},
    },
    Grouped,
};
use crate::{
    format::GROUP_SIZES,
    isa::Avx2,
    x86::{self, LANES, load, load_f16, load_i8, load_u8, store},
};

/// Columns of a part: a vector of codes or values.
const PART: usize = 32;

/// Rows that are multiplied together.
const ROWS: usize = LANES;

/// Groups whose scales are brought into lanes together.
const GROUPS: usize = LANES;

/// Tokens that meet a panel in registers, as for one scale per matrix.
const PANEL_TOKENS: usize = 4;

/// Products of each token and row, `out` (tokens, rows).
pub fn products(_: Avx2, tile: &Grouped, out: &mut [f32]) {
    // SAFETY: the capability token proves the features.
    unsafe {
        match tile.size {
            64 => products_of::<2>(tile, out),
            128 => products_of::<4>(tile, out),
            256 => products_of::<8>(tile, out),
            size => unreachable!("groups of {size}"),
        }
    }
}

/// For groups of `PARTS` parts.
#[target_feature(enable = "avx2,fma,f16c")]
fn products_of<const PARTS: usize>(tile: &Grouped, out: &mut [f32]) {
    if tile.tile.tokens <= SMALL_BATCH {
        few_tokens::<PARTS>(tile, 0..tile.tile.rows, out);
    } else {
        many_tokens::<PARTS>(tile, out);
    }
}

/// All given rows, as many tokens at a time as share unpacked codes in registers.
#[target_feature(enable = "avx2,fma,f16c")]
fn few_tokens<const PARTS: usize>(tile: &Grouped, rows: Range<usize>, out: &mut [f32]) {
    let mut first = 0;
    while first < tile.tile.tokens {
        first += match tile.tile.tokens - first {
            1 => pass::<PARTS, 1>(tile, rows.clone(), first, out),
            2 | 3 => pass::<PARTS, 2>(tile, rows.clone(), first, out),
            _ => pass::<PARTS, 4>(tile, rows.clone(), first, out),
        }
    }
}

/// All given rows against `N` tokens; returns `N`.
#[target_feature(enable = "avx2,fma,f16c")]
fn pass<const PARTS: usize, const N: usize>(
    tile: &Grouped,
    rows: Range<usize>,
    first: usize,
    out: &mut [f32],
) -> usize {
    let stride = tile.tile.stride;
    let values: [&[[i8; 128]]; N] =
        array::from_fn(|n| tile.tile.values[(first + n) * stride..][..stride].as_chunks().0);
    let acts: [_; N] = array::from_fn(|n| tile.of_token(first + n));
    for row in rows.clone().step_by(ROWS) {
        // Past the last row it is computed again, and not stored.
        let count = ROWS.min(rows.end - row);
        let at = |r: usize| row + r.min(count - 1);
        let codes: [&[[u8; 32]]; ROWS] = array::from_fn(|r| tile.codes(at(r)).as_chunks().0);
        let mut totals = [_mm256_setzero_ps(); N];
        for start in (0..tile.groups).step_by(GROUPS) {
            let scales = scales_by_group(tile, at, start);
            for (group, &scales) in (start..tile.groups).zip(&scales) {
                let mut lanes = [[_mm256_setzero_si256(); ROWS]; N];
                for r in 0..ROWS {
                    let sums = multiply::<PARTS, N>(codes[r], values, group);
                    (0..N).for_each(|n| lanes[n][r] = sums[n]);
                }
                for n in 0..N {
                    let (steps, sums) = acts[n];
                    totals[n] = add_group(totals[n], sum_each(lanes[n]), sums[group], scales, steps[group]);
                }
            }
        }
        for n in 0..N {
            let mut products = [0.0; ROWS];
            store(&mut products, totals[n]);
            out[(first + n) * tile.tile.rows + row..][..count].copy_from_slice(&products[..count]);
        }
    }
    N
}

/// The scales of eight groups from `start` on: vector i has that of group `start` + i of each row `at(r)`; 0 past
/// the last group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_by_group(tile: &Grouped, at: impl Fn(usize) -> usize, start: usize) -> [__m256; GROUPS] {
    let by_row = array::from_fn(|r| {
        let scales: &[u16] = bytemuck::cast_slice(&tile.scales(at(r))[start..]);
        let scales = scales.first_chunk().copied().unwrap_or_else(|| {
            let mut padded = [0; GROUPS];
            padded[..scales.len()].copy_from_slice(scales);
            padded
        });
        _mm256_castps_si256(load_f16(&scales))
    });
    x86::transpose(by_row).map(|scales| _mm256_castsi256_ps(scales))
}

/// Sums D of a group of one row and `N` tokens, spread over lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<const PARTS: usize, const N: usize>(
    codes: &[[u8; 32]],
    values: [&[[i8; 128]]; N],
    group: usize,
) -> [__m256i; N] {
    // 8 parts of at most 2 * 3 * 128 a lane fit in i16.
    let mut narrow = [_mm256_setzero_si256(); N];
    if PARTS == 2 {
        // Half a block: its codes are in the upper or the lower bits of each byte.
        let (block, half) = (group / 2, group % 2);
        let packed = _mm256_srl_epi16(load_u8(&codes[block]), _mm_cvtsi32_si128(4 * (1 - half as i32)));
        let [_, _, first, second] = unpack(packed);
        for n in 0..N {
            let values = values[n][block].as_chunks::<PART>().0;
            let product = |codes, part| _mm256_maddubs_epi16(codes, load_i8(&values[2 * half + part]));
            narrow[n] = _mm256_add_epi16(product(first, 0), product(second, 1));
        }
    } else {
        let blocks = PARTS / 4;
        for block in group * blocks..(group + 1) * blocks {
            let codes = unpack(load_u8(&codes[block]));
            for n in 0..N {
                let values = values[n][block].as_chunks::<PART>().0;
                let product = |part: usize| _mm256_maddubs_epi16(codes[part], load_i8(&values[part]));
                let pairs = (_mm256_add_epi16(product(0), product(1)), _mm256_add_epi16(product(2), product(3)));
                narrow[n] = _mm256_add_epi16(narrow[n], _mm256_add_epi16(pairs.0, pairs.1));
            }
        }
    }
    narrow.map(|narrow| widen(narrow))
}

/// Lane r of the result is the sum of the lanes of vector r.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_each(rows: [__m256i; ROWS]) -> __m256i {
    // Sums of the low and of the high half of four vectors.
    let quad =
        |rows: &[__m256i]| _mm256_hadd_epi32(_mm256_hadd_epi32(rows[0], rows[1]), _mm256_hadd_epi32(rows[2], rows[3]));
    let (a, b) = (quad(&rows[..4]), quad(&rows[4..]));
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
}

/// total + (D - S) * (scale * step), the sums D and the scales of eight rows in lanes. No fused multiply-add: it
/// would round once where the reference rounds twice.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_group(total: __m256, dots: __m256i, sum: i32, scales: __m256, step: f32) -> __m256 {
    let exact = _mm256_cvtepi32_ps(_mm256_sub_epi32(dots, _mm256_set1_epi32(sum)));
    _mm256_add_ps(total, _mm256_mul_ps(exact, _mm256_mul_ps(scales, _mm256_set1_ps(step))))
}

/// Panel by panel: 16 rows are unpacked once for all tokens.
#[target_feature(enable = "avx2,fma,f16c")]
fn many_tokens<const PARTS: usize>(tile: &Grouped, out: &mut [f32]) {
    let mut panel = Panel::new();
    let whole = tile.tile.rows / PANEL_ROWS * PANEL_ROWS;
    for row in (0..whole).step_by(PANEL_ROWS) {
        for cols in Panel::col_ranges(tile.tile.stride) {
            let steps = panel.fill(&tile.tile, row, cols.clone());
            let groups = cols.start / tile.size..tile.groups.min(cols.end / tile.size);
            let mut scales = [[_mm256_setzero_ps(); 2]; PANEL_COLS / GROUP_SIZES[0]];
            for (i, scales) in scales.chunks_exact_mut(GROUPS).enumerate() {
                let start = groups.start + i * GROUPS;
                if start < groups.end {
                    let halves = [0, ROWS].map(|half| scales_by_group(tile, |r| row + half + r, start));
                    (0..GROUPS).for_each(|g| scales[g] = [halves[0][g], halves[1][g]]);
                }
            }
            for first in (0..tile.tile.tokens).step_by(PANEL_TOKENS) {
                let at = PanelTokens { row, first, cols: cols.clone(), groups: groups.clone() };
                match tile.tile.tokens - first {
                    1 => multiply_panel::<PARTS, 1>(tile, at, steps, &scales, out),
                    2 => multiply_panel::<PARTS, 2>(tile, at, steps, &scales, out),
                    3 => multiply_panel::<PARTS, 3>(tile, at, steps, &scales, out),
                    _ => multiply_panel::<PARTS, PANEL_TOKENS>(tile, at, steps, &scales, out),
                }
            }
        }
    }
    few_tokens::<PARTS>(tile, whole..tile.tile.rows, out);
}

/// Where a panel and some tokens stand in a tile.
struct PanelTokens {
    row: usize,
    first: usize,
    cols: Range<usize>,
    groups: Range<usize>,
}

/// A panel times `N` tokens, added to `out` (or written there, by the first panel of the row). `scales` has those of
/// the panel's groups, for each half of its rows.
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_panel<const PARTS: usize, const N: usize>(
    tile: &Grouped,
    at: PanelTokens,
    steps: &[[u8; PANEL_ROWS * STEP_COLS]],
    scales: &[[__m256; 2]],
    out: &mut [f32],
) {
    /// Steps whose products fit in an i16 lane, at most 2 * 3 * 128 each: all of a group, or half of one of 256.
    const FITTING: usize = 32;
    let rows = tile.tile.rows;
    let values: [&[i32]; N] = array::from_fn(|n| &tile.tile.quads(at.first + n, &at.cols)[..steps.len()]);
    let acts: [_; N] = array::from_fn(|n| tile.of_token(at.first + n));
    let zero = _mm256_setzero_si256();
    let mut totals = [[_mm256_setzero_ps(); 2]; N];
    if at.cols.start > 0 {
        for n in 0..N {
            let out = out[(at.first + n) * rows + at.row..].first_chunk::<PANEL_ROWS>().expect("whole panels");
            totals[n] = array::from_fn(|half| load(&out.as_chunks().0[half]));
        }
    }
    let steps_of_group = PARTS * PART / STEP_COLS;
    for (i, (group, scales)) in at.groups.zip(scales).enumerate() {
        let mut wide = [[zero; 2]; N];
        let of_group = i * steps_of_group..(i + 1) * steps_of_group;
        for start in of_group.clone().step_by(FITTING) {
            let mut narrow = [[zero; 2]; N];
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
            let (steps, sums) = acts[n];
            for half in 0..2 {
                totals[n][half] = add_group(totals[n][half], wide[n][half], sums[group], scales[half], steps[group]);
            }
        }
    }
    for n in 0..N {
        let out = &mut out[(at.first + n) * rows + at.row..][..PANEL_ROWS];
        for (half, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
            store(out, totals[n][half]);
        }
    }
}
