//! 16 columns of each run at a time, with `sdot`.

use std::arch::aarch64::*;

use super::{
    encode::{BLOCK, BLOCK_BYTES},
    neon::{VECTORS, unpack},
};
use crate::{
    arm::{dot, load_i8},
    isa::NeonDot,
};

/// Sums of u times the upper and the lower bytes of the token, for each row.
pub fn sums(_: NeonDot, codes: &[u8], planes: [&[i8]; 2], sums: &mut [[i32; 2]]) {
    // SAFETY: the capability token proves the features.
    unsafe { sums_dot(codes, planes, sums) }
}

#[target_feature(enable = "neon,dotprod")]
fn sums_dot(codes: &[u8], planes: [&[i8]; 2], sums: &mut [[i32; 2]]) {
    let planes = [planes[0].as_chunks::<BLOCK>().0, planes[1].as_chunks::<BLOCK>().0];
    let row_bytes = planes[0].len() * BLOCK_BYTES;
    for (row, sums) in codes.chunks_exact(row_bytes).zip(sums) {
        // Four chains of additions for each plane hide their latency.
        let mut lanes = [[vdupq_n_s32(0); 4]; 2];
        for (at, block) in row.as_chunks::<BLOCK_BYTES>().0.iter().enumerate() {
            for vector in 0..VECTORS {
                let u = unpack(block, vector);
                for plane in 0..2 {
                    let values: &[[i8; 16]] = planes[plane][at].as_chunks().0;
                    for run in 0..4 {
                        let values = load_i8(&values[run * VECTORS + vector]);
                        lanes[plane][run] = dot(lanes[plane][run], u[run], values);
                    }
                }
            }
        }
        for plane in 0..2 {
            let [a, b, c, d] = lanes[plane];
            sums[plane] = vaddvq_s32(vaddq_s32(vaddq_s32(a, b), vaddq_s32(c, d)));
        }
    }
}
