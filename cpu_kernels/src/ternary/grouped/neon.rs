//! NEON: 16 rows in four vectors; and what the variants with other instructions share. The loop over rows is stamped for
//! each of them, because the functions it calls are inlined only where their target features are on.

use std::{arch::aarch64::*, ops::Range};

use super::{
    super::{LINE, LINES, neon::unpack},
    Grouped, PANEL_ROWS, Token,
};
use crate::{
    arm::{LANES, load_f16, load_u8, store},
    format::I2S_BLOCK,
    isa::Neon,
};

/// Vectors of 16 rows.
pub const QUADS: usize = PANEL_ROWS / LANES;

/// The sums D of 16 rows.
pub type Sums = [int32x4_t; QUADS];

/// Defines `few_tokens::<SIZE>(tile, rows, out)` for groups of `SIZE` columns. Where it stands, the names of this file
/// are in scope, and, with the same target features, `dots::<FIRST, END, N>(blocks, values) -> [Sums; N]`: the sums D
/// of quarters `FIRST` .. `END` of blocks of 16 rows.
macro_rules! stamp_few_tokens {
    ($features:literal) => {
        /// All given rows, as many tokens at a time as share unpacked codes in registers.
        #[target_feature(enable = $features)]
        pub fn few_tokens<const SIZE: usize>(tile: &Grouped, rows: Range<usize>, out: &mut [f32]) {
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
            let mut tokens = [Token::default(); N];
            for n in 0..N {
                tokens[n] = tile.token(first + n);
            }
            for row in rows.clone().step_by(PANEL_ROWS) {
                let count = PANEL_ROWS.min(rows.end - row);
                let panel = tile.tile.panel(row);
                let mut totals = [[vdupq_n_f32(0.0); QUADS]; N];
                for (group, scales) in tile.scales(row).iter().enumerate() {
                    let start = group * SIZE / I2S_BLOCK;
                    let blocks = start..start + (SIZE / I2S_BLOCK).max(1);
                    let panel = &panel[blocks.clone()];
                    let mut values: [&[[i8; I2S_BLOCK]]; N] = [&[]; N];
                    for n in 0..N {
                        values[n] = &tokens[n].values[blocks.clone()];
                    }
                    let sums = match (SIZE, group % 2) {
                        (64, 0) => dots::<0, 2, N>(panel, &values),
                        (64, _) => dots::<2, 4, N>(panel, &values),
                        _ => dots::<0, 4, N>(panel, &values),
                    };
                    for (quad, scales) in scales.as_chunks().0.iter().enumerate() {
                        let scales = load_f16(scales);
                        for n in 0..N {
                            totals[n][quad] = add_scaled(totals[n][quad], sums[n][quad], &tokens[n], scales, group);
                        }
                    }
                }
                for n in 0..N {
                    let mut products = [0.0; PANEL_ROWS];
                    for (to, total) in products.as_chunks_mut().0.iter_mut().zip(totals[n]) {
                        store(to, total);
                    }
                    out[(first + n) * tile.tile.rows + row..][..count].copy_from_slice(&products[..count]);
                }
            }
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
fn dots<const FIRST: usize, const END: usize, const N: usize>(
    blocks: &[[[u8; LINE]; LINES]],
    values: &[&[[i8; I2S_BLOCK]]; N],
) -> [Sums; N] {
    let mut sums = [[vdupq_n_s32(0); QUADS]; N];
    for (block, lines) in blocks.iter().enumerate() {
        for (at, line) in lines.iter().enumerate() {
            for (quad, packed) in line.as_chunks().0.iter().enumerate() {
                let codes = unpack(load_u8(packed));
                for n in 0..N {
                    let of_columns = values[n][block].as_chunks::<4>().0;
                    // Pairs of columns of four rows in eight lanes: those of all quarters, each at most 2 * 3 * 128.
                    let mut narrow = vdupq_n_s16(0);
                    for quarter in FIRST..END {
                        let values = i32::from_ne_bytes(of_columns[LINES * quarter + at].map(i8::cast_unsigned));
                        let values = vreinterpretq_s8_s32(vdupq_n_s32(values));
                        let low = vmull_s8(vget_low_s8(codes[quarter]), vget_low_s8(values));
                        let high = vmull_high_s8(codes[quarter], values);
                        narrow = vaddq_s16(narrow, vpaddq_s16(low, high));
                    }
                    sums[n][quad] = vpadalq_s16(sums[n][quad], narrow);
                }
            }
        }
    }
    sums
}

/// total + (D - S) * (scale * step)
#[inline]
#[target_feature(enable = "neon")]
pub fn add_scaled(
    total: float32x4_t,
    sums: int32x4_t,
    token: &Token,
    scales: float32x4_t,
    group: usize,
) -> float32x4_t {
    let exact = vcvtq_f32_s32(vsubq_s32(sums, vdupq_n_s32(token.sums[group])));
    vfmaq_f32(total, exact, vmulq_n_f32(scales, token.steps[group]))
}
