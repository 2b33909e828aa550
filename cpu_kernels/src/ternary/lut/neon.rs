//! NEON: a table instruction looks up 16 rows.

use std::arch::aarch64::*;

use super::{
    LOOKUP_ROWS,
    geometry::{Lookup, Run},
    tables::{Quad, Tables, place},
};
use crate::{
    arm::{load_i32, load_u8, store_i32},
    isa::Neon,
};

/// Quads of triples between widenings: a lane holds at most 16 * 4 * 3 * 128 = 24576.
const TRIPLE_QUADS: usize = 16;

/// Quads of pairs between widenings: at most 30 * 4 * 2 * 128 = 30720.
const PAIR_QUADS: usize = 30;

/// Adds the sums of the rows from `first` on.
pub fn look_up(_: Neon, lookup: &Lookup, tables: &Tables, first: usize, sums: &mut [i32]) {
    // SAFETY: the capability token proves the feature.
    unsafe { look_up_neon(lookup, tables, first, sums) }
}

#[target_feature(enable = "neon")]
fn look_up_neon(lookup: &Lookup, tables: &Tables, first: usize, sums: &mut [i32]) {
    let sums = sums.as_chunks_mut::<LOOKUP_ROWS>().0;
    lookup.runs(tables, first, sums.len(), |group, run| match run {
        Run::Triples { codes, signs, tables } => {
            let chunks = codes.chunks(TRIPLE_QUADS).zip(signs.chunks(TRIPLE_QUADS / 2));
            for ((codes, signs), tables) in chunks.zip(tables.chunks(TRIPLE_QUADS)) {
                triples(codes, signs, tables, &mut sums[group]);
            }
        }
        Run::Pairs { codes, tables, split } => {
            for (codes, tables) in codes.chunks(PAIR_QUADS).zip(tables.chunks(PAIR_QUADS)) {
                pairs(codes, tables, split, &mut sums[group]);
            }
        }
    });
}

/// The indices of two groups of each byte, high nibbles first.
#[inline]
#[target_feature(enable = "neon")]
fn nibbles(codes: uint8x16_t) -> [uint8x16_t; 2] {
    [vshrq_n_u8::<4>(codes), vandq_u8(codes, vdupq_n_u8(15))]
}

/// Entries of the table of a group: of the first eight indices and of the others.
#[inline]
#[target_feature(enable = "neon")]
fn entries(tables: &Quad, group: usize, index: uint8x16_t) -> [int16x8_t; 2] {
    let (pair, slot) = place(group);
    let look_up = |high: usize| vqtbl1q_u8(load_u8(&tables.0[2 * pair + high].as_chunks().0[slot]), index);
    let (low, high) = (look_up(0), look_up(1));
    [vreinterpretq_s16_u8(vzip1q_u8(low, high)), vreinterpretq_s16_u8(vzip2q_u8(low, high))]
}

#[inline]
#[target_feature(enable = "neon")]
fn triples(codes: &[[u8; 64]], signs: &[[u8; 32]], tables: &[Quad], sums: &mut [i32; 32]) {
    // Each of 8 rows, in their order.
    let (mut all, mut negative) = ([vdupq_n_s16(0); 4], [vdupq_n_s16(0); 4]);
    for (at, (codes, tables)) in codes.iter().zip(tables).enumerate() {
        let words = signs[at / 2].as_chunks().0;
        let words = [vreinterpretq_u16_u8(load_u8(&words[0])), vreinterpretq_u16_u8(load_u8(&words[1]))];
        for (part, codes) in codes.as_chunks().0.iter().enumerate() {
            // Rows 0-7 and 16-23, or 8-15 and 24-31, of two groups.
            let (half, index) = (part % 2, nibbles(load_u8(codes)));
            for n in 0..2 {
                let group = part / 2 * 2 + n;
                let entries = entries(tables, group, index[n]);
                for upper in 0..2 {
                    let rows = half + 2 * upper;
                    let bit = 15 - 2 * (at % 2 * 4 + group) - upper;
                    let is_negative = vtstq_u16(words[half], vdupq_n_u16(1 << bit));
                    all[rows] = vaddq_s16(all[rows], entries[upper]);
                    let subtracted = vandq_s16(entries[upper], vreinterpretq_s16_u16(is_negative));
                    negative[rows] = vaddq_s16(negative[rows], subtracted);
                }
            }
        }
    }
    for rows in 0..4 {
        // Each was added once and has to be subtracted.
        all[rows] = vsubq_s16(all[rows], vshlq_n_s16::<1>(negative[rows]));
    }
    add(all, sums);
}

/// `split`: in the order of TL1, where 16 bytes are 16 rows that follow each other.
#[inline]
#[target_feature(enable = "neon")]
fn pairs(codes: &[[u8; 64]], tables: &[Quad], split: bool, sums: &mut [i32; 32]) {
    let mut all = [vdupq_n_s16(0); 4];
    for (codes, tables) in codes.iter().zip(tables) {
        for (part, codes) in codes.as_chunks().0.iter().enumerate() {
            let index = nibbles(load_u8(codes));
            for n in 0..2 {
                let (group, rows) = if split {
                    (part % 2 * 2 + n, [part / 2 * 2, part / 2 * 2 + 1])
                } else {
                    (part / 2 * 2 + n, [part % 2, part % 2 + 2])
                };
                let entries = entries(tables, group, index[n]);
                for upper in 0..2 {
                    all[rows[upper]] = vaddq_s16(all[rows[upper]], entries[upper]);
                }
            }
        }
    }
    add(all, sums);
}

/// Adds 32 rows.
#[inline]
#[target_feature(enable = "neon")]
fn add(rows: [int16x8_t; 4], sums: &mut [i32; 32]) {
    for (rows, sums) in rows.into_iter().zip(sums.as_chunks_mut::<8>().0) {
        let [low, high] = sums.as_chunks_mut::<4>().0 else { unreachable!("eight are two times four") };
        let (first, second) = (vmovl_s16(vget_low_s16(rows)), vmovl_high_s16(rows));
        store_i32(low, vaddq_s32(load_i32(low), first));
        store_i32(high, vaddq_s32(load_i32(high), second));
    }
}
