//! 16 columns of each run at a time, in products of 16 bits.

use std::arch::aarch64::*;

use super::encode::{BLOCK, BLOCK_BYTES};
use crate::{
    arm::{load_i8, load_u8},
    isa::Neon,
};

/// Vectors of a run.
pub const VECTORS: usize = 4;

/// Sums of u times the upper and the lower bytes of the token, for each row.
pub fn sums(_: Neon, codes: &[u8], planes: [&[i8]; 2], sums: &mut [[i32; 2]]) {
    // SAFETY: the capability token proves the feature.
    unsafe { sums_neon(codes, planes, sums) }
}

#[target_feature(enable = "neon")]
fn sums_neon(codes: &[u8], planes: [&[i8]; 2], sums: &mut [[i32; 2]]) {
    let planes = [planes[0].as_chunks::<BLOCK>().0, planes[1].as_chunks::<BLOCK>().0];
    let row_bytes = planes[0].len() * BLOCK_BYTES;
    for (row, sums) in codes.chunks_exact(row_bytes).zip(sums) {
        let mut lanes = [[vdupq_n_s32(0); 2]; 2];
        for (at, block) in row.as_chunks::<BLOCK_BYTES>().0.iter().enumerate() {
            for vector in 0..VECTORS {
                let u = unpack(block, vector);
                for plane in 0..2 {
                    let values: &[[i8; 16]] = planes[plane][at].as_chunks().0;
                    // The four products of a lane are at most 4 * 63 * 128 = 32256 together.
                    let (mut low, mut high) = (vdupq_n_s16(0), vdupq_n_s16(0));
                    for run in 0..4 {
                        let values = load_i8(&values[run * VECTORS + vector]);
                        low = vmlal_s8(low, vget_low_s8(u[run]), vget_low_s8(values));
                        high = vmlal_high_s8(high, u[run], values);
                    }
                    lanes[plane][0] = vpadalq_s16(lanes[plane][0], low);
                    lanes[plane][1] = vpadalq_s16(lanes[plane][1], high);
                }
            }
        }
        *sums = lanes.map(|[a, b]| vaddvq_s32(vaddq_s32(a, b)));
    }
}

/// u of vector number `vector` of each of the four runs of columns.
#[inline]
#[target_feature(enable = "neon")]
pub fn unpack(block: &[u8; BLOCK_BYTES], vector: usize) -> [int8x16_t; 4] {
    let vectors: &[[u8; 16]] = block.as_chunks().0;
    let [a, b, c] = [0, 1, 2].map(|run| load_u8(&vectors[run * VECTORS + vector]));
    // Shifted over all but the lower bits of the one below: pairs of a, b and c, and above them four bits of a.
    let pairs = vsliq_n_u8::<4>(vsliq_n_u8::<2>(c, b), a);
    let last = vandq_u8(pairs, vdupq_n_u8(0x3F));
    [vshrq_n_u8::<2>(a), vshrq_n_u8::<2>(b), vshrq_n_u8::<2>(c), last].map(|u| vreinterpretq_s8_u8(u))
}
