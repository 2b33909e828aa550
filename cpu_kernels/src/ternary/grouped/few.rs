//! Few tokens: the loop over rows, stamped for each instruction set because the functions it calls are inlined only
//! where their target features are on; and what the variants share.
//!
//! 16 rows stand side by side in memory and in the lanes of a vector, or of two: nothing is added across lanes, the sums
//! of a group are scaled together, and memory is read in its order.

use crate::{
    format::{I2S_BLOCK, rows16::PANEL_ROWS},
    x86,
};

/// Columns of the values that meet a line of codes at once.
pub const QUADS: usize = I2S_BLOCK / 4;

/// Defines `few_tokens::<SIZE>(tile, rows, out)` for groups of `SIZE` columns. Where it stands, the names of this file
/// are in scope, and, with the same target features,
/// - `dots::<FIRST, END, B, N>(blocks, values) -> [Sums; N]`: the sums D of quarters `FIRST` .. `END` of `B` blocks of 16
///   rows,
/// - `zero() -> Totals` and `load_scales(&[u16; 16]) -> Totals`, of 16 rows,
/// - `add_scaled(totals, sums, S, scales, step) -> Totals`: totals + (D - S) * (scale * step),
/// - `store_totals(&mut [f32; 16], Totals)`.
macro_rules! few_tokens {
    ($features:literal) => {
        /// All given rows, as many tokens at a time as share unpacked codes in registers.
        #[target_feature(enable = $features)]
        fn few_tokens<const SIZE: usize>(tile: &Grouped, rows: Range<usize>, out: &mut [f32]) {
            for first in (0..tile.tile.tokens).step_by(4) {
                match tile.tile.tokens - first {
                    1 => pass::<SIZE, 1>(tile, rows.clone(), first, out),
                    2 => pass::<SIZE, 2>(tile, rows.clone(), first, out),
                    3 => pass::<SIZE, 3>(tile, rows.clone(), first, out),
                    _ => pass::<SIZE, 4>(tile, rows.clone(), first, out),
                }
            }
        }

        /// All given rows against `N` tokens.
        #[target_feature(enable = $features)]
        fn pass<const SIZE: usize, const N: usize>(tile: &Grouped, rows: Range<usize>, first: usize, out: &mut [f32]) {
            let blocks = tile.tile.stride / I2S_BLOCK;
            let mut values: [&[[i32; QUADS]]; N] = [&[]; N];
            let mut tokens = [Token::default(); N];
            for n in 0..N {
                tokens[n] = tile.token(first + n);
                // The same length for all, in sight of the compiler, which then checks one index for all.
                values[n] = &bytemuck::cast_slice(tokens[n].values)[..blocks];
            }
            for row in rows.clone().step_by(PANEL_ROWS) {
                let count = PANEL_ROWS.min(rows.end - row);
                let panel = tile.tile.panel(row);
                let mut totals = [zero(); N];
                for (group, scales) in tile.scales(row).iter().enumerate() {
                    prefetch_scales(scales);
                    let sums = group_dots::<SIZE, N>(panel, &values, group);
                    let scales = load_scales(scales);
                    for n in 0..N {
                        let (sum, step) = (tokens[n].sums[group], tokens[n].steps[group]);
                        totals[n] = add_scaled(totals[n], sums[n], sum, scales, step);
                    }
                }
                for n in 0..N {
                    let mut products = [0.0; PANEL_ROWS];
                    store_totals(&mut products, totals[n]);
                    out[(first + n) * tile.tile.rows + row..][..count].copy_from_slice(&products[..count]);
                }
            }
        }

        /// The sums D of a group of 16 rows for each of `N` tokens.
        #[inline]
        #[target_feature(enable = $features)]
        fn group_dots<const SIZE: usize, const N: usize>(
            panel: &[[[u8; LINE]; LINES]],
            values: &[&[[i32; QUADS]]; N],
            group: usize,
        ) -> [Sums; N] {
            let start = group * SIZE / I2S_BLOCK;
            match (SIZE, group % 2) {
                (64, 0) => dots::<0, 2, 1, N>(blocks(panel, start), &blocks_of_each(values, start)),
                (64, _) => dots::<2, 4, 1, N>(blocks(panel, start), &blocks_of_each(values, start)),
                (128, _) => dots::<0, 4, 1, N>(blocks(panel, start), &blocks_of_each(values, start)),
                _ => dots::<0, 4, 2, N>(blocks(panel, start), &blocks_of_each(values, start)),
            }
        }
    };
}

/// Defines `products(token, tile, out)`, the products of each token and row, `out` (tokens, rows): up to `$few` tokens
/// by `few_tokens::<SIZE>`, more by `many_tokens::<SIZE>`, both with the same target features.
macro_rules! products {
    ($isa:ty, $features:literal, few: $few:expr) => {
        /// Products of each token and row, `out` (tokens, rows).
        pub fn products(_: $isa, tile: &Grouped, out: &mut [f32]) {
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

        /// For groups of `SIZE` columns.
        #[target_feature(enable = $features)]
        fn products_of<const SIZE: usize>(tile: &Grouped, out: &mut [f32]) {
            if tile.tile.tokens <= $few {
                few_tokens::<SIZE>(tile, 0..tile.tile.rows, out);
            } else {
                many_tokens::<SIZE>(tile, out);
            }
        }
    };
}

pub(super) use few_tokens;
pub(super) use products;

/// `B` blocks from `start` on, of a number that the compiler sees.
#[inline]
pub fn blocks<T, const B: usize>(all: &[T], start: usize) -> &[T; B] {
    all[start..].first_chunk().expect("the blocks of a group")
}

/// As [`blocks`], of each token.
#[inline]
pub fn blocks_of_each<'a, T, const B: usize, const N: usize>(all: &[&'a [T]; N], start: usize) -> [&'a [T; B]; N] {
    all.map(|all| blocks(all, start))
}

/// Fetches the scales of the groups whose codes [`prefetch_ahead`](crate::x86::prefetch_ahead) fetches.
#[inline]
pub fn prefetch_scales(scales: &[u16; PANEL_ROWS]) {
    /// Bytes of the scales of 8 groups of 128.
    const AHEAD: usize = 8 * size_of::<[u16; PANEL_ROWS]>();
    x86::prefetch_at(scales.as_ptr().cast(), AHEAD);
}

/// Code shared by the variants of 256-bit vectors: 16 rows are two vectors.
pub mod halves {
    use std::arch::x86_64::*;

    use super::PANEL_ROWS;
    use crate::x86::{load_f16, store};

    /// The sums D of 16 rows.
    pub type Sums = [__m256i; 2];

    /// The products of 16 rows.
    pub type Totals = [__m256; 2];

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn zero() -> Totals {
        [_mm256_setzero_ps(); 2]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn load_scales(scales: &[u16; PANEL_ROWS]) -> Totals {
        let [low, high] = scales.as_chunks().0 else { unreachable!("two halves of 16 rows") };
        [load_f16(low), load_f16(high)]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn add_scaled(mut totals: Totals, sums: Sums, of_token: i32, scales: Totals, step: f32) -> Totals {
        let (of_token, step) = (_mm256_set1_epi32(of_token), _mm256_set1_ps(step));
        for half in 0..2 {
            let exact = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[half], of_token));
            totals[half] = _mm256_fmadd_ps(exact, _mm256_mul_ps(scales[half], step), totals[half]);
        }
        totals
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn store_totals(to: &mut [f32; PANEL_ROWS], totals: Totals) {
        let to = to.as_chunks_mut().0;
        store(&mut to[0], totals[0]);
        store(&mut to[1], totals[1]);
    }
}
