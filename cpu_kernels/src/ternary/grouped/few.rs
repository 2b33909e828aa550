//! Few tokens: the loop over rows, stamped for each instruction set because the functions it calls are inlined only
//! where their target features are on.
//!
//! Eight rows are multiplied group by group, so that their sums come out side by side in lanes and are scaled together.
//! That reads eight stretches of memory at once, which the processor's prefetchers follow badly: the next eight rows are
//! fetched ahead in the order they lie in memory.

use std::{arch::x86_64::*, ops::Range};

use super::Grouped;
use crate::x86::{self, LANES, load_f16};

/// Rows that are multiplied together.
pub const ROWS: usize = LANES;

/// Groups whose scales are brought into lanes together.
pub const GROUPS: usize = LANES;

/// Defines `few_tokens::<BLOCKS>(tile, rows, out)` for groups of which eight fill `BLOCKS` blocks. Where it stands, the
/// names of this file and of [`crate::x86`] are in scope, and, with the same target features,
/// `group_dots::<BLOCKS, N>(codes of eight rows, values of tokens, group) -> [[__m256i; N]; 2]`: the sums D of a group,
/// one row in a lane, and of the next one if the groups are half a block each; then `group` is even.
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
            let blocks = tile.tile.stride / I2S_BLOCK;
            let mut values: [&[[i8; I2S_BLOCK]]; N] = [&[]; N];
            let mut tokens = [Token::default(); N];
            for n in 0..N {
                tokens[n] = tile.token(first + n);
                // The same length for all, in sight of the compiler, which then checks one index for all.
                values[n] = &tokens[n].values[..blocks];
            }
            for row in rows.clone().step_by(ROWS) {
                let count = ROWS.min(rows.end - row);
                // The last row again for those past it; their products are not stored.
                let mut codes: [&[[u8; 32]]; ROWS] = [&[]; ROWS];
                for r in 0..ROWS {
                    codes[r] = &tile.tile.row(row + r.min(count - 1))[..blocks];
                }
                let mut totals = [_mm256_setzero_ps(); N];
                for start in (0..tile.groups).step_by(GROUPS) {
                    let scales = scales_by_group(tile, row, count, start);
                    let end = tile.groups.min(start + GROUPS);
                    let mut group = start;
                    while group < end {
                        let together = group..end.min(group + if BLOCKS == 4 { 2 } else { 1 });
                        prefetch::<BLOCKS>(&codes, group);
                        let dots = group_dots::<BLOCKS, N>(&codes, &values, group);
                        for (dots, group) in dots.iter().zip(together.clone()) {
                            for n in 0..N {
                                let sum = _mm256_set1_epi32(tokens[n].sums[group]);
                                let step = _mm256_set1_ps(tokens[n].steps[group]);
                                // No fused multiply-add: it would round once where the reference rounds twice.
                                let product = scaled(dots[n], sum, scales[group - start], step);
                                totals[n] = _mm256_add_ps(totals[n], product);
                            }
                        }
                        group = together.end;
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
    };
}

/// Defines `products(token, tile, out)`, the products of each token and row, `out` (tokens, rows): up to `$few` tokens
/// by `few_tokens::<BLOCKS>`, more by `many_tokens::<BLOCKS>`, both with the same target features.
macro_rules! products {
    ($isa:ty, $features:literal, few: $few:expr) => {
        /// Products of each token and row, `out` (tokens, rows).
        pub fn products(_: $isa, tile: &Grouped, out: &mut [f32]) {
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
        #[target_feature(enable = $features)]
        fn products_of<const BLOCKS: usize>(tile: &Grouped, out: &mut [f32]) {
            if tile.tile.tokens <= $few {
                few_tokens::<BLOCKS>(tile, 0..tile.tile.rows, out);
            } else {
                many_tokens::<BLOCKS>(tile, out);
            }
        }
    };
}

pub(super) use few_tokens;
pub(super) use products;

/// The blocks of a group; of two, if half a block is one.
#[inline]
pub fn blocks_of<const BLOCKS: usize>(group: usize) -> Range<usize> {
    let start = group * BLOCKS / GROUPS;
    start..start + (BLOCKS / GROUPS).max(1)
}

/// Fetches a part of the eight rows behind these: all of them in the course of all groups.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn prefetch<const BLOCKS: usize>(codes: &[&[[u8; 32]]; ROWS], group: usize) {
    const LINE: usize = 64;
    // Eight rows of a group are as many bytes as a row of eight groups.
    let ahead = ROWS * size_of_val(codes[0]) + group * BLOCKS * 32;
    let lines = if BLOCKS == 4 { 2 } else { 1 } * BLOCKS * 32 / LINE;
    for line in 0..lines {
        _mm_prefetch::<_MM_HINT_T0>(codes[0].as_ptr().cast::<i8>().wrapping_add(ahead + line * LINE));
    }
}

/// (D - S) * (scale * step)
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn scaled(dots: __m256i, sums: __m256i, scales: __m256, steps: __m256) -> __m256 {
    _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(dots, sums)), _mm256_mul_ps(scales, steps))
}

/// The scales of eight groups from `start` on for `count` rows: vector i has that of group `start` + i of each row.
/// Unspecified past the last group and the last row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn scales_by_group(tile: &Grouped, row: usize, count: usize, start: usize) -> [__m256; GROUPS] {
    let mut by_row = [_mm256_setzero_si256(); ROWS];
    for r in 0..count {
        // Past the end of a row stand the scales of the next one, and only past the last row nothing.
        let scales: &[u16] = bytemuck::cast_slice(&tile.scales[(row + r) * tile.groups + start..]);
        let scales = scales.first_chunk().copied().unwrap_or_else(|| {
            let mut padded = [0; GROUPS];
            padded[..scales.len()].copy_from_slice(scales);
            padded
        });
        by_row[r] = _mm256_castps_si256(load_f16(&scales));
    }
    let by_group = x86::transpose(by_row);
    let mut scales = [_mm256_setzero_ps(); GROUPS];
    for i in 0..GROUPS {
        scales[i] = _mm256_castsi256_ps(by_group[i]);
    }
    scales
}

/// Lane i of the result is the sum of the lanes of i32 of vector i.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn sum_each_i32(vectors: &[__m256i; LANES]) -> __m256i {
    let (low, high) = vectors.split_at(4);
    sum_halves([sum_fours(low.first_chunk().expect("four")), sum_fours(high.first_chunk().expect("four"))])
}

/// Elements i of both halves of the result are the sums of the halves of vector i.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn sum_fours([a, b, c, d]: &[__m256i; 4]) -> __m256i {
    // Each step brings the lanes of two vectors side by side and halves the number of lanes of each.
    let ab = _mm256_add_epi32(_mm256_unpacklo_epi32(*a, *b), _mm256_unpackhi_epi32(*a, *b));
    let cd = _mm256_add_epi32(_mm256_unpacklo_epi32(*c, *d), _mm256_unpackhi_epi32(*c, *d));
    _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd))
}

/// The halves of each of two vectors added.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn sum_halves([a, b]: [__m256i; 2]) -> __m256i {
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
}
