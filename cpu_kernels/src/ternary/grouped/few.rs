//! Few tokens: the loop over rows, stamped for each instruction set because the functions it calls are inlined only
//! where their target features are on.
//!
//! Rows are read one after the other, as they lie in memory. Eight groups of a row are scaled together, and the
//! products of eight rows are turned around to be added in order. Groups that fill no octet are scaled together with
//! those of the other rows.

use std::arch::x86_64::*;

use super::Grouped;
use crate::x86::{self, LANES, load_f16};

/// Rows whose products are added together.
pub const ROWS: usize = LANES;

/// Groups that are scaled together.
pub const GROUPS: usize = LANES;

/// Octets of groups before their products are added: at most 8 KiB of products wait for it.
pub const WAITING: usize = 8;

/// Defines `few_tokens::<BLOCKS>(tile, rows, out)` for groups of which eight fill `BLOCKS` blocks. Where it stands, the
/// names of this file and of [`crate::x86`] are in scope, and, with the same target features:
///
/// - `octet_dots::<BLOCKS, N>(codes, values) -> [__m256i; N]`: sums D of eight groups of a row and `N` tokens, each in
///   its lane;
/// - `group_lanes::<BLOCKS, N>(codes of a row, tokens, group) -> [__m256i; N]`: sums D of one group, spread over lanes;
/// - `sum_each::<BLOCKS>(vectors) -> __m256i`: lane i is the sum of the lanes of such a vector i.
macro_rules! few_tokens {
    ($features:literal) => {
        /// All given rows, as many tokens at a time as share unpacked codes in registers.
        #[target_feature(enable = $features)]
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
        #[target_feature(enable = $features)]
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
        #[target_feature(enable = $features)]
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

        /// Products (D - S) * (scale * step) of one group of up to eight rows, each in its lane, and `N` tokens: for the
        /// groups that fill no octet.
        #[inline]
        #[target_feature(enable = $features)]
        fn group_products<const BLOCKS: usize, const N: usize>(
            tile: &Grouped,
            rows: Range<usize>,
            tokens: &[Token; N],
            group: usize,
        ) -> [__m256; N] {
            let mut lanes = [[_mm256_setzero_si256(); ROWS]; N];
            let mut scales = [0; ROWS];
            for (r, row) in rows.enumerate() {
                scales[r] = tile.scales(row)[group].to_bits();
                let of_row = group_lanes::<BLOCKS, N>(tile.tile.row(row), tokens, group);
                for n in 0..N {
                    lanes[n][r] = of_row[n];
                }
            }
            let scales = load_f16(&scales);
            let mut products = [_mm256_setzero_ps(); N];
            for n in 0..N {
                let dots = sum_each::<BLOCKS>(&lanes[n]);
                let (sum, step) = (_mm256_set1_epi32(tokens[n].sums[group]), _mm256_set1_ps(tokens[n].steps[group]));
                products[n] = scaled(dots, sum, scales, step);
            }
            products
        }
    };
}

pub(super) use few_tokens;

/// Adds the products of eight groups, lane i of vector r being group i of row r, to the rows' totals.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn add_in_order(mut total: __m256, products: &[__m256; ROWS]) -> __m256 {
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

/// (D - S) * (scale * step)
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn scaled(dots: __m256i, sums: __m256i, scales: __m256, steps: __m256) -> __m256 {
    _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(dots, sums)), _mm256_mul_ps(scales, steps))
}

/// The scales of eight groups from `start` on: vector i has that of group `start` + i of each of eight rows; 0 past
/// the last group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn scales_by_group(tile: &Grouped, row: usize, start: usize) -> [__m256; GROUPS] {
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

/// Lane i of the result is the sum of the lanes of i32 of vector i.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn sum_each_i32(vectors: &[__m256i; LANES]) -> __m256i {
    // Each step brings the lanes of two vectors side by side and halves the number of lanes of each.
    let pairs = |i: usize| {
        let (a, b) = (vectors[i], vectors[i + 1]);
        _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b))
    };
    let fours = |i: usize| {
        let (a, b) = (pairs(i), pairs(i + 2));
        _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b))
    };
    let (a, b) = (fours(0), fours(4));
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
}
