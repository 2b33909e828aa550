//! 16 columns of each run at a time, with `sdot`.

use std::arch::aarch64::*;

use super::{
    Planes, Sums,
    encode::{BLOCK, BLOCK_BYTES},
    neon::{TOKENS, VECTORS, unpack},
};
use crate::{
    arm::{dot, load_i8},
    isa::NeonDot,
};

/// Sums of u times the upper and the lower bytes of each token, for each row.
pub fn sums(_: NeonDot, codes: &[u8], tokens: &[Planes], sums: &mut [Sums]) {
    // SAFETY: the capability token proves the features.
    unsafe { sums_dot(codes, tokens, sums) }
}

#[target_feature(enable = "neon,dotprod")]
fn sums_dot(codes: &[u8], tokens: &[Planes], sums: &mut [Sums]) {
    // More tokens read a chunk again, which is in the second-level cache then.
    for (tokens, sums) in tokens.chunks(TOKENS).zip(sums.chunks_mut(TOKENS)) {
        // Chains of additions enough to hide their latency, and few enough for the registers.
        match tokens.len() {
            1 => pass::<1, 4>(codes, tokens, sums),
            2 => pass::<2, 4>(codes, tokens, sums),
            3 => pass::<3, 2>(codes, tokens, sums),
            _ => pass::<TOKENS, 2>(codes, tokens, sums),
        }
    }
}

/// For `N` tokens, with `C` sums for each plane of a token.
#[target_feature(enable = "neon,dotprod")]
fn pass<const N: usize, const C: usize>(codes: &[u8], tokens: &[Planes], sums: &mut [Sums]) {
    let tokens: &[Planes; N] = tokens.first_chunk().expect("N tokens");
    let blocks = tokens[0][0].len() / BLOCK;
    // The same length for all, in sight of the compiler, which then checks one index for all.
    let planes = tokens.map(|planes| planes.map(|plane| &plane.as_chunks::<BLOCK>().0[..blocks]));
    for (at, row) in codes.chunks_exact(blocks * BLOCK_BYTES).enumerate() {
        let mut lanes = [[[vdupq_n_s32(0); C]; 2]; N];
        for (at, block) in row.as_chunks::<BLOCK_BYTES>().0.iter().enumerate() {
            for vector in 0..VECTORS {
                let u = unpack(block, vector);
                for n in 0..N {
                    for plane in 0..2 {
                        let values: &[[i8; 16]] = planes[n][plane][at].as_chunks().0;
                        for run in 0..4 {
                            let values = load_i8(&values[run * VECTORS + vector]);
                            lanes[n][plane][run % C] = dot(lanes[n][plane][run % C], u[run], values);
                        }
                    }
                }
            }
        }
        for n in 0..N {
            sums[n][at] = lanes[n].map(|lanes| {
                let mut all = lanes[0];
                for sum in &lanes[1..] {
                    all = vaddq_s32(all, *sum);
                }
                vaddvq_s32(all)
            });
        }
    }
}
