//! AVX2: the products of a group come out side by side in lanes with those of other groups or rows, so that scaling
//! them is one operation for eight.
//!
//! Few tokens: the rows are read one after the other, as they lie in memory; eight groups of a row are scaled
//! together, and the products of eight rows are turned around to be added in order. Many tokens: panels, whose rows
//! stand in lanes from the start.

use std::{arch::x86_64::*, ops::Range};

use super::{
    super::{
        SMALL_BATCH,
        avx2::{unpack, widen},
        panel::{PANEL_COLS, PANEL_ROWS, Panel, STEP_COLS},
    },
    Grouped, Token,
};
use crate::{
    format::{GROUP_SIZES, I2S_BLOCK},
    isa::Avx2,
    x86::{self, LANES, load, load_f16, load_i8, load_i32, load_u8, store},
};

/// Columns of a part: a vector of codes or values.
const PART: usize = 32;

/// Rows whose products are added together.
const ROWS: usize = LANES;

/// Groups that are scaled together.
const GROUPS: usize = LANES;

/// Octets of groups before their products are added: at most 8 KiB of products wait for it.
const WAITING: usize = 8;

/// Tokens that meet a panel in registers, as for one scale per matrix.
const PANEL_TOKENS: usize = 4;

/// Products of each token and row, `out` (tokens, rows).
pub fn products(_: Avx2, tile: &Grouped, out: &mut [f32]) {
    // SAFETY: the capability token proves the features.
    unsafe {
        match tile.size {
            64 => products_of::<4>(tile, out),
            128 => products_of::<8>(tile, out),
            256 => products_of::<16>(tile, out),
            size => unreachable!("groups of {size}"),
        }
    }
}

/// For groups of which eight fill `BLOCKS` blocks.
#[target_feature(enable = "avx2,fma,f16c")]
fn products_of<const BLOCKS: usize>(tile: &Grouped, out: &mut [f32]) {
    if tile.tile.tokens <= SMALL_BATCH {
        few_tokens::<BLOCKS>(tile, 0..tile.tile.rows, out);
    } else {
        many_tokens::<BLOCKS>(tile, out);
    }
}

/// All given rows, as many tokens at a time as share unpacked codes in registers.
#[target_feature(enable = "avx2,fma,f16c")]
fn few_tokens<const BLOCKS: usize>(tile: &Grouped, rows: Range<usize>, out: &mut [f32]) {
    let mut first = 0;
    while first < tile.tile.tokens {
        first += match tile.tile.tokens - first {
            1 => pass::<BLOCKS, 1>(tile, rows.clone(), first, out),
            2 | 3 => pass::<BLOCKS, 2>(tile, rows.clone(), first, out),
            _ => pass::<BLOCKS, 4>(tile, rows.clone(), first, out),
        }
    }
}

/// All given rows against `N` tokens; returns `N`.
#[target_feature(enable = "avx2,fma,f16c")]
fn pass<const BLOCKS: usize, const N: usize>(
    tile: &Grouped,
    rows: Range<usize>,
    first: usize,
    out: &mut [f32],
) -> usize {
    let mut tokens = [Token::default(); N];
    for n in 0..N {
        tokens[n] = tile.token(first + n);
    }
    let octets = tile.groups / GROUPS;
    for row in rows.clone().step_by(ROWS) {
        let count = ROWS.min(rows.end - row);
        let mut totals = [_mm256_setzero_ps(); N];
        for start in (0..octets).step_by(WAITING) {
            let octets = start..octets.min(start + WAITING);
            // Of rows past the end: zeros, which are added and not stored.
            let mut waiting = [[[_mm256_setzero_ps(); ROWS]; N]; WAITING];
            for r in 0..count {
                row_products::<BLOCKS, N>(tile, row + r, &tokens, octets.clone(), r, &mut waiting);
            }
            for waiting in &waiting[..octets.len()] {
                for n in 0..N {
                    totals[n] = add_in_order(totals[n], &waiting[n]);
                }
            }
        }
        for group in octets * GROUPS..tile.groups {
            let products = group_products::<BLOCKS, N>(tile, row..row + count, &tokens, group);
            for n in 0..N {
                totals[n] = _mm256_add_ps(totals[n], products[n]);
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

/// Products (D - S) * (scale * step) of a row and `N` tokens for some octets of groups, into place `r` of each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn row_products<const BLOCKS: usize, const N: usize>(
    tile: &Grouped,
    row: usize,
    tokens: &[Token; N],
    octets: Range<usize>,
    r: usize,
    products: &mut [[[__m256; ROWS]; N]; WAITING],
) {
    let codes = &tile.tile.row(row).as_chunks::<BLOCKS>().0[octets.clone()];
    let scales = &bytemuck::cast_slice(tile.scales(row)).as_chunks::<GROUPS>().0[octets.clone()];
    let mut values: [&[[[i8; 128]; BLOCKS]]; N] = [&[]; N];
    let mut steps: [&[[f32; GROUPS]]; N] = [&[]; N];
    let mut sums: [&[[i32; GROUPS]]; N] = [&[]; N];
    for n in 0..N {
        values[n] = &tokens[n].values.as_chunks().0[octets.clone()];
        steps[n] = &tokens[n].steps.as_chunks().0[octets.clone()];
        sums[n] = &tokens[n].sums.as_chunks().0[octets.clone()];
    }
    for (octet, products) in products[..octets.len()].iter_mut().enumerate() {
        let mut of_octet = [&values[0][octet]; N];
        for n in 0..N {
            of_octet[n] = &values[n][octet];
        }
        let dots = octet_dots(&codes[octet], of_octet);
        let scales = load_f16(&scales[octet]);
        for n in 0..N {
            products[n][r] = scaled(dots[n], load_i32(&sums[n][octet]), scales, load(&steps[n][octet]));
        }
    }
}

/// Sums D of eight groups of a row and `N` tokens, each in its lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn octet_dots<const BLOCKS: usize, const N: usize>(
    codes: &[[u8; 32]; BLOCKS],
    values: [&[[i8; 128]; BLOCKS]; N],
) -> [__m256i; N] {
    let mut lanes = [[_mm256_setzero_si256(); GROUPS]; N];
    for block in 0..BLOCKS {
        let unpacked = unpack(load_u8(&codes[block]));
        for n in 0..N {
            let (low, high) = (product(&unpacked, &values[n][block], 0), product(&unpacked, &values[n][block], 2));
            match BLOCKS {
                4 => (lanes[n][2 * block], lanes[n][2 * block + 1]) = (low, high),
                8 => lanes[n][block] = _mm256_add_epi16(low, high),
                _ => lanes[n][block / 2] = _mm256_add_epi16(lanes[n][block / 2], _mm256_add_epi16(low, high)),
            }
        }
    }
    sum_each::<BLOCKS, N>(&lanes)
}

/// Products (D - S) * (scale * step) of one group of up to eight rows, each in its lane, and `N` tokens: for the
/// groups that fill no octet.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn group_products<const BLOCKS: usize, const N: usize>(
    tile: &Grouped,
    rows: Range<usize>,
    tokens: &[Token; N],
    group: usize,
) -> [__m256; N] {
    let mut lanes = [[_mm256_setzero_si256(); ROWS]; N];
    let mut scales = [0; ROWS];
    for (r, row) in rows.enumerate() {
        let codes = tile.tile.row(row);
        scales[r] = tile.scales(row)[group].to_bits();
        if BLOCKS == 4 {
            let unpacked = unpack(load_u8(&codes[group / 2]));
            for n in 0..N {
                let values = &tokens[n].values[group / 2];
                lanes[n][r] =
                    if group.is_multiple_of(2) { product(&unpacked, values, 0) } else { product(&unpacked, values, 2) };
            }
        } else {
            for block in group * BLOCKS / GROUPS..(group + 1) * BLOCKS / GROUPS {
                let unpacked = unpack(load_u8(&codes[block]));
                for n in 0..N {
                    let values = &tokens[n].values[block];
                    let sum = _mm256_add_epi16(product(&unpacked, values, 0), product(&unpacked, values, 2));
                    lanes[n][r] = _mm256_add_epi16(lanes[n][r], sum);
                }
            }
        }
    }
    let (dots, scales) = (sum_each::<BLOCKS, N>(&lanes), load_f16(&scales));
    let mut products = [_mm256_setzero_ps(); N];
    for n in 0..N {
        let (sum, step) = (_mm256_set1_epi32(tokens[n].sums[group]), _mm256_set1_ps(tokens[n].steps[group]));
        products[n] = scaled(dots[n], sum, scales, step);
    }
    products
}

/// Adds the products of eight groups, lane i of vector r being group i of row r, to the rows' totals.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_in_order(mut total: __m256, products: &[__m256; ROWS]) -> __m256 {
    let mut by_row = [_mm256_setzero_si256(); ROWS];
    for r in 0..ROWS {
        by_row[r] = _mm256_castps_si256(products[r]);
    }
    let by_group = x86::transpose(by_row);
    for i in 0..GROUPS {
        total = _mm256_add_ps(total, _mm256_castsi256_ps(by_group[i]));
    }
    total
}

/// The first eight values, filled up with zeros.
#[inline]
fn first_eight<T: Copy + Default>(values: &[T]) -> [T; LANES] {
    match values.first_chunk() {
        Some(values) => *values,
        None => {
            let mut padded = [T::default(); LANES];
            padded[..values.len()].copy_from_slice(values);
            padded
        }
    }
}

/// Products of parts `part` and `part` + 1 of a block, added in pairs: at most 2 * 768 a lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn product(codes: &[__m256i; 4], values: &[i8; 128], part: usize) -> __m256i {
    let values = values.as_chunks::<PART>().0;
    let one = |part: usize| _mm256_maddubs_epi16(codes[part], load_i8(&values[part]));
    _mm256_add_epi16(one(part), one(part + 1))
}

/// Lane i of result n is the sum of the lanes of vector (n, i).
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_each<const BLOCKS: usize, const N: usize>(vectors: &[[__m256i; LANES]; N]) -> [__m256i; N] {
    let mut sums = [_mm256_setzero_si256(); N];
    for n in 0..N {
        sums[n] = if BLOCKS == 16 { sum_each_wide(&vectors[n]) } else { sum_each_narrow(&vectors[n]) };
    }
    sums
}

/// Lane i of the result is the sum of the 16 lanes of vector i, each at most 4 * 768: eight of them fit in i16.
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

/// As [`sum_each_narrow`], for lanes of twice that size.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_each_wide(vectors: &[__m256i; GROUPS]) -> __m256i {
    let pairs = |i: usize| {
        let (a, b) = (widen(vectors[i]), widen(vectors[i + 1]));
        _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b))
    };
    let fours = |i: usize| {
        let (a, b) = (pairs(i), pairs(i + 2));
        _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b))
    };
    let (a, b) = (fours(0), fours(4));
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
}

/// (D - S) * (scale * step)
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scaled(dots: __m256i, sums: __m256i, scales: __m256, steps: __m256) -> __m256 {
    _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(dots, sums)), _mm256_mul_ps(scales, steps))
}

/// Panel by panel: 16 rows are unpacked once for all tokens.
#[target_feature(enable = "avx2,fma,f16c")]
fn many_tokens<const BLOCKS: usize>(tile: &Grouped, out: &mut [f32]) {
    let mut panel = Panel::new();
    let whole = tile.tile.rows / PANEL_ROWS * PANEL_ROWS;
    for row in (0..whole).step_by(PANEL_ROWS) {
        for cols in Panel::col_ranges(tile.tile.stride) {
            let steps = panel.fill(&tile.tile, row, cols.clone());
            let groups = cols.start / tile.size..tile.groups.min(cols.end / tile.size);
            let mut scales = [[_mm256_setzero_ps(); 2]; PANEL_COLS / GROUP_SIZES[0]];
            for (octet, scales) in scales.chunks_exact_mut(GROUPS).enumerate() {
                let start = groups.start + octet * GROUPS;
                if start < groups.end {
                    for half in 0..2 {
                        let by_group = scales_by_group(tile, row + half * ROWS, start);
                        for i in 0..GROUPS {
                            scales[i][half] = by_group[i];
                        }
                    }
                }
            }
            for first in (0..tile.tile.tokens).step_by(PANEL_TOKENS) {
                let at = PanelTokens { row, first, cols: cols.clone(), groups: groups.clone() };
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

/// The scales of eight groups from `start` on: vector i has that of group `start` + i of each of eight rows; 0 past
/// the last group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_by_group(tile: &Grouped, row: usize, start: usize) -> [__m256; GROUPS] {
    let mut by_row = [_mm256_setzero_si256(); ROWS];
    for r in 0..ROWS {
        let scales: &[u16] = bytemuck::cast_slice(&tile.scales(row + r)[start..]);
        by_row[r] = _mm256_castps_si256(load_f16(&first_eight(scales)));
    }
    let by_group = x86::transpose(by_row);
    let mut scales = [_mm256_setzero_ps(); GROUPS];
    for i in 0..GROUPS {
        scales[i] = _mm256_castsi256_ps(by_group[i]);
    }
    scales
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
fn multiply_panel<const BLOCKS: usize, const N: usize>(
    tile: &Grouped,
    at: PanelTokens,
    steps: &[[u8; PANEL_ROWS * STEP_COLS]],
    scales: &[[__m256; 2]],
    out: &mut [f32],
) {
    /// Steps whose products fit in an i16 lane, at most 2 * 3 * 128 each: all of a group, or half of one of 256.
    const FITTING: usize = 32;
    let rows = tile.tile.rows;
    let mut values: [&[i32]; N] = [&[]; N];
    let mut tokens = [Token::default(); N];
    let mut totals = [[_mm256_setzero_ps(); 2]; N];
    for n in 0..N {
        values[n] = &tile.tile.quads(at.first + n, &at.cols)[..steps.len()];
        tokens[n] = tile.token(at.first + n);
        if at.cols.start > 0 {
            let out = out[(at.first + n) * rows + at.row..].first_chunk::<PANEL_ROWS>().expect("whole panels");
            for half in 0..2 {
                totals[n][half] = load(&out.as_chunks().0[half]);
            }
        }
    }
    let steps_of_group = BLOCKS * I2S_BLOCK / GROUPS / STEP_COLS;
    for (i, (group, scales)) in at.groups.zip(scales).enumerate() {
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
        let out = &mut out[(at.first + n) * rows + at.row..][..PANEL_ROWS];
        for (half, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
            store(out, totals[n][half]);
        }
    }
}
