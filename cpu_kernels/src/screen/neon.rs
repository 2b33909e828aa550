//! 16 columns of each run at a time, in products of 16 bits.

use std::arch::aarch64::*;

use super::{
    Planes, Sums,
    encode::{BLOCK, BLOCK_BYTES},
};
use crate::{
    arm::{load_i8, load_u8},
    isa::Neon,
};

/// Vectors of a run.
pub const VECTORS: usize = 4;

/// Most tokens whose sums have room in registers beside the codes.
pub const TOKENS: usize = 4;

/// Sums of u times the upper and the lower bytes of each token, for each row.
pub fn sums(_: Neon, codes: &[u8], tokens: &[Planes], sums: &mut [Sums]) {
    // SAFETY: the capability token proves the feature.
    unsafe { sums_neon(codes, tokens, sums) }
}

#[target_feature(enable = "neon")]
fn sums_neon(codes: &[u8], tokens: &[Planes], sums: &mut [Sums]) {
    // More tokens read a chunk again, which is in the second-level cache then.
    for (tokens, sums) in tokens.chunks(TOKENS).zip(sums.chunks_mut(TOKENS)) {
        match tokens.len() {
            1 => pass::<1>(codes, tokens, sums),
            2 => pass::<2>(codes, tokens, sums),
            3 => pass::<3>(codes, tokens, sums),
            _ => pass::<TOKENS>(codes, tokens, sums),
        }
    }
}

/// For `N` tokens.
#[target_feature(enable = "neon")]
fn pass<const N: usize>(codes: &[u8], tokens: &[Planes], sums: &mut [Sums]) {
    let tokens: &[Planes; N] = tokens.first_chunk().expect("N tokens");
    let blocks = tokens[0][0].len() / BLOCK;
    // The same length for all, in sight of the compiler, which then checks one index for all.
    let planes = tokens.map(|planes| planes.map(|plane| &plane.as_chunks::<BLOCK>().0[..blocks]));
    for (at, row) in codes.chunks_exact(blocks * BLOCK_BYTES).enumerate() {
        let mut lanes = [[[vdupq_n_s32(0); 2]; 2]; N];
        for (at, block) in row.as_chunks::<BLOCK_BYTES>().0.iter().enumerate() {
            for vector in 0..VECTORS {
                let u = unpack(block, vector);
                for n in 0..N {
                    for plane in 0..2 {
                        let values: &[[i8; 16]] = planes[n][plane][at].as_chunks().0;
                        // The four products of a lane are at most 4 * 63 * 128 = 32256 together.
                        let (mut low, mut high) = (vdupq_n_s16(0), vdupq_n_s16(0));
                        for run in 0..4 {
                            let values = load_i8(&values[run * VECTORS + vector]);
                            low = vmlal_s8(low, vget_low_s8(u[run]), vget_low_s8(values));
                            high = vmlal_high_s8(high, u[run], values);
                        }
                        lanes[n][plane][0] = vpadalq_s16(lanes[n][plane][0], low);
                        lanes[n][plane][1] = vpadalq_s16(lanes[n][plane][1], high);
                    }
                }
            }
        }
        for n in 0..N {
            sums[n][at] = lanes[n].map(|[a, b]| vaddvq_s32(vaddq_s32(a, b)));
        }
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
