//! NEON: 16 columns by two `smlal`, which multiply signed bytes and add to i16.

use std::{arch::aarch64::*, ops::Range};

use super::{SMALL_BATCH, Tile};
use crate::{
    arm::{load_i8, load_u8},
    isa::Neon,
};

/// Blocks of a row between widenings: a block adds 8 products to each lane of a sum, each at most 3 * -128 (code 3 may
/// stand in a file), and 10 * 8 * 384 = 30720 fits in an i16.
const WIDEN_BLOCKS: usize = 10;

/// D of each token and row, `sums` (tokens, rows).
pub fn sums(_: Neon, tile: Tile, sums: &mut [i32]) {
    // SAFETY: the capability token proves the feature.
    unsafe { sums_neon(tile, sums) }
}

#[target_feature(enable = "neon")]
fn sums_neon(tile: Tile, sums: &mut [i32]) {
    for first in (0..tile.tokens).step_by(SMALL_BATCH) {
        let rows = 0..tile.rows;
        match tile.tokens - first {
            1 => pass::<1>(tile, rows, first, sums),
            2 => pass::<2>(tile, rows, first, sums),
            3 => pass::<3>(tile, rows, first, sums),
            4 => pass::<4>(tile, rows, first, sums),
            5 => pass::<5>(tile, rows, first, sums),
            6 => pass::<6>(tile, rows, first, sums),
            7 => pass::<7>(tile, rows, first, sums),
            _ => pass::<SMALL_BATCH>(tile, rows, first, sums),
        }
    }
}

/// All rows against `N` tokens.
#[target_feature(enable = "neon")]
fn pass<const N: usize>(tile: Tile, rows: Range<usize>, first_token: usize, sums: &mut [i32]) {
    let mut values: [&[[i8; 128]]; N] = [&[]; N];
    for n in 0..N {
        values[n] = tile.token(first_token + n);
    }
    for row in rows {
        let mut wide = [vdupq_n_s32(0); N];
        for (chunk, blocks) in tile.row(row).chunks(WIDEN_BLOCKS).enumerate() {
            let mut narrow = [[vdupq_n_s16(0); 2]; N];
            for (i, block) in blocks.iter().enumerate() {
                for half in 0..2 {
                    let codes = unpack(load_u8(&block.as_chunks().0[half]));
                    for n in 0..N {
                        // Vectors 2 * quarter + half of the block's 8.
                        let values = values[n][chunk * WIDEN_BLOCKS + i].as_chunks().0;
                        for quarter in 0..4 {
                            let values = load_i8(&values[2 * quarter + half]);
                            let (codes, [low, high]) = (codes[quarter], narrow[n]);
                            narrow[n] = [
                                vmlal_s8(low, vget_low_s8(codes), vget_low_s8(values)),
                                vmlal_high_s8(high, codes, values),
                            ];
                        }
                    }
                }
            }
            for n in 0..N {
                wide[n] = vpadalq_s16(vpadalq_s16(wide[n], narrow[n][0]), narrow[n][1]);
            }
        }
        for n in 0..N {
            sums[(first_token + n) * tile.rows + row] = vaddvq_s32(wide[n]);
        }
    }
}

/// The codes of 16 bytes, by quarters of their block.
#[inline]
#[target_feature(enable = "neon")]
pub fn unpack(bytes: uint8x16_t) -> [int8x16_t; 4] {
    let mask = vdupq_n_u8(3);
    [
        vreinterpretq_s8_u8(vshrq_n_u8::<6>(bytes)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<4>(bytes), mask)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<2>(bytes), mask)),
        vreinterpretq_s8_u8(vandq_u8(bytes, mask)),
    ]
}
