//! NEON: a group of four rows comes out of the products side by side in lanes; and what the variants with other
//! instructions share. The loop over rows is stamped for each of them, because the functions it calls are inlined only
//! where their target features are on.

use std::{arch::aarch64::*, ops::Range};

use super::{super::neon::unpack, Grouped, Token};
use crate::{
    arm::{LANES, load_f16, load_i8, load_u8, store},
    format::I2S_BLOCK,
    isa::Neon,
};

/// Rows that are multiplied together.
pub const ROWS: usize = LANES;

/// Defines `few_tokens::<SIZE>(tile, rows, out)` for groups of `SIZE` columns. Where it stands, the names of this file
/// are in scope, and, with the same target features,
/// `group_dots::<SIZE, N>(codes of four rows, values of tokens, group) -> [[int32x4_t; N]; 2]`: the sums D of a group,
/// one row in a lane, and of the next one if the groups are half a block each; then `group` is even.
macro_rules! stamp_few_tokens {
    ($features:literal) => {
        /// All given rows, as many tokens at a time as share unpacked codes in registers.
        #[target_feature(enable = $features)]
        pub fn few_tokens<const SIZE: usize>(tile: &Grouped, rows: Range<usize>, out: &mut [f32]) {
            let mut first = 0;
            while first < tile.tile.tokens {
                first += match tile.tile.tokens - first {
                    1 => pass::<SIZE, 1>(tile, rows.clone(), first, out),
                    2 | 3 => pass::<SIZE, 2>(tile, rows.clone(), first, out),
                    _ => pass::<SIZE, 4>(tile, rows.clone(), first, out),
                }
            }
        }

        /// All given rows against `N` tokens; returns `N`.
        #[target_feature(enable = $features)]
        fn pass<const SIZE: usize, const N: usize>(
            tile: &Grouped,
            rows: Range<usize>,
            first: usize,
            out: &mut [f32],
        ) -> usize {
            let mut values: [&[[i8; I2S_BLOCK]]; N] = [&[]; N];
            let mut tokens = [Token::default(); N];
            for n in 0..N {
                tokens[n] = tile.token(first + n);
                values[n] = tokens[n].values;
            }
            for row in rows.clone().step_by(ROWS) {
                let count = ROWS.min(rows.end - row);
                // The last row again for those past it; their products are not stored.
                let mut codes: [&[[u8; 32]]; ROWS] = [&[]; ROWS];
                for r in 0..ROWS {
                    codes[r] = tile.tile.row(row + r.min(count - 1));
                }
                let mut totals = [vdupq_n_f32(0.0); N];
                let mut group = 0;
                while group < tile.groups {
                    let together = group..tile.groups.min(group + if SIZE == 64 { 2 } else { 1 });
                    let dots = group_dots::<SIZE, N>(&codes, &values, group);
                    for (dots, group) in dots.iter().zip(together.clone()) {
                        let scales = scales(tile, row, count, group);
                        for n in 0..N {
                            // No fused multiply-add: it would round once where the reference rounds twice.
                            totals[n] = vaddq_f32(totals[n], scaled(dots[n], &tokens[n], scales, group));
                        }
                    }
                    group = together.end;
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

pub(super) use stamp_few_tokens;

/// Products of each token and row, `out` (tokens, rows).
pub fn products(_: Neon, tile: &Grouped, out: &mut [f32]) {
    // SAFETY: the capability token proves the feature.
    unsafe {
        match tile.size {
            64 => few_tokens::<64>(tile, 0..tile.tile.rows, out),
            128 => few_tokens::<128>(tile, 0..tile.tile.rows, out),
            256 => few_tokens::<256>(tile, 0..tile.tile.rows, out),
            size => unreachable!("groups of {size}"),
        }
    }
}

stamp_few_tokens!("neon");

#[inline]
#[target_feature(enable = "neon")]
fn group_dots<const SIZE: usize, const N: usize>(
    codes: &[&[[u8; 32]]; ROWS],
    values: &[&[[i8; I2S_BLOCK]]; N],
    group: usize,
) -> [[int32x4_t; N]; 2] {
    // 256 columns in 8 lanes of at most 3 * 128 for each fit in i16.
    let mut lanes = [[[vdupq_n_s16(0); ROWS]; N]; 2];
    for block in blocks_of::<SIZE>(group) {
        for r in 0..ROWS {
            for half in 0..2 {
                let codes = unpack(load_u8(&codes[r][block].as_chunks().0[half]));
                for n in 0..N {
                    // Vectors 2 * quarter + half of the block's 8.
                    let values = values[n][block].as_chunks().0;
                    for quarter in 0..4 {
                        let (codes, values) = (codes[quarter], load_i8(&values[2 * quarter + half]));
                        let lanes = &mut lanes[if SIZE == 64 { quarter / 2 } else { 0 }][n][r];
                        *lanes = vmlal_s8(*lanes, vget_low_s8(codes), vget_low_s8(values));
                        *lanes = vmlal_high_s8(*lanes, codes, values);
                    }
                }
            }
        }
    }
    let mut dots = [[vdupq_n_s32(0); N]; 2];
    for (dots, lanes) in dots.iter_mut().zip(&lanes).take(if SIZE == 64 { 2 } else { 1 }) {
        for n in 0..N {
            let [a, b, c, d] = lanes[n];
            dots[n] = sum_each([vpaddlq_s16(a), vpaddlq_s16(b), vpaddlq_s16(c), vpaddlq_s16(d)]);
        }
    }
    dots
}

/// The blocks of a group; of two, if half a block is one.
#[inline]
pub fn blocks_of<const SIZE: usize>(group: usize) -> Range<usize> {
    let start = group * SIZE / I2S_BLOCK;
    start..start + (SIZE / I2S_BLOCK).max(1)
}

/// Lane i of the result is the sum of the lanes of vector i.
#[inline]
#[target_feature(enable = "neon")]
pub fn sum_each([a, b, c, d]: [int32x4_t; ROWS]) -> int32x4_t {
    vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d))
}

/// The scales of a group for `count` rows, 0 for those past them.
#[inline]
#[target_feature(enable = "neon")]
pub fn scales(tile: &Grouped, row: usize, count: usize, group: usize) -> float32x4_t {
    let mut bits = [0; ROWS];
    for r in 0..count {
        bits[r] = tile.scales[(row + r) * tile.groups + group].to_bits();
    }
    load_f16(&bits)
}

/// (D - S) * (scale * step)
#[inline]
#[target_feature(enable = "neon")]
pub fn scaled(dots: int32x4_t, token: &Token, scales: float32x4_t, group: usize) -> float32x4_t {
    let sums = vcvtq_f32_s32(vsubq_s32(dots, vdupq_n_s32(token.sums[group])));
    vmulq_f32(sums, vmulq_n_f32(scales, token.steps[group]))
}
