//! Filling a panel: 4 rows at a time, or 2 for products of matrices.

use std::{arch::aarch64::*, ops::Range};

use super::{PANEL_ROWS, Panel, STEP_COLS};
use crate::{
    arm::{load_u8, store_u8},
    format::I2S_BLOCK,
    ternary::{LINE, LINES, Tile, neon::unpack},
};

impl Panel {
    /// Unpacks columns `cols` of the 16 rows of `tile` from `row` on; returns their steps.
    #[target_feature(enable = "neon")]
    pub fn fill(&mut self, tile: &Tile, row: usize, cols: Range<usize>) -> &[[u8; PANEL_ROWS * STEP_COLS]] {
        let steps = &mut self.0[..cols.len() / STEP_COLS];
        for (block, steps) in steps.chunks_exact_mut(I2S_BLOCK / STEP_COLS).enumerate() {
            for at in 0..8 {
                let (quad, half) = (at / 2, at % 2);
                let bytes = |r: usize| {
                    let block = &tile.row(row + 4 * quad + r)[cols.start / I2S_BLOCK + block];
                    vreinterpretq_u32_u8(load_u8(&block.as_chunks().0[half]))
                };
                // Column c of a block is in byte c % 32: 4 neighbouring bytes hold 4 neighbouring columns of each of
                // the block's quarters, so the packed bytes are transposed, which is 4 times fewer than the codes.
                let packed = transpose([bytes(0), bytes(1), bytes(2), bytes(3)]);
                for group in 0..4 {
                    let codes = unpack(vreinterpretq_u8_u32(packed[group]));
                    for quarter in 0..4 {
                        let step = &mut steps[8 * quarter + 4 * half + group];
                        store_u8(&mut step.as_chunks_mut().0[quad], vreinterpretq_u8_s8(codes[quarter]));
                    }
                }
            }
        }
        steps
    }
}

/// Bytes of a step for products of matrices: 8 columns, rows by twos,
///
/// ```text
/// byte     0 .. 7             8 .. 15            ..   120 .. 127
/// code of  row 0, cols c..c+7  row 1, cols c..c+7      row 15, cols c..c+7
/// ```
pub const PAIR_STEP_BYTES: usize = PANEL_ROWS * PAIR_STEP_COLS;

/// Columns of such a step.
pub const PAIR_STEP_COLS: usize = 8;

impl Panel {
    /// As [`Self::fill`], in steps of [`PAIR_STEP_BYTES`].
    #[target_feature(enable = "neon")]
    pub fn fill_pairs(&mut self, tile: &Tile, row: usize, cols: Range<usize>) -> &[[u8; PAIR_STEP_BYTES]] {
        let steps = self.0.as_flattened_mut().as_chunks_mut::<PAIR_STEP_BYTES>().0;
        let steps = &mut steps[..cols.len() / PAIR_STEP_COLS];
        for (block, steps) in steps.chunks_exact_mut(I2S_BLOCK / PAIR_STEP_COLS).enumerate() {
            for at in 0..PANEL_ROWS {
                let (pair, half) = (at / 2, at % 2);
                let bytes = |r: usize| {
                    let block = &tile.row(row + 2 * pair + r)[cols.start / I2S_BLOCK + block];
                    vreinterpretq_u64_u8(load_u8(&block.as_chunks().0[half]))
                };
                // As above, 8 neighbouring bytes of two rows.
                let (a, b) = (bytes(0), bytes(1));
                for (eight, packed) in [vzip1q_u64(a, b), vzip2q_u64(a, b)].into_iter().enumerate() {
                    let codes = unpack(vreinterpretq_u8_u64(packed));
                    for quarter in 0..4 {
                        let step = &mut steps[4 * quarter + 2 * half + eight];
                        store_u8(&mut step.as_chunks_mut().0[pair], vreinterpretq_u8_s8(codes[quarter]));
                    }
                }
            }
        }
        steps
    }
}

impl Panel {
    /// As [`Self::fill`], from the blocks of rows that already stand side by side.
    #[target_feature(enable = "neon")]
    pub fn spread(&mut self, blocks: &[[[u8; LINE]; LINES]]) -> &[[u8; PANEL_ROWS * STEP_COLS]] {
        let steps = &mut self.0[..blocks.len() * I2S_BLOCK / STEP_COLS];
        for (lines, steps) in blocks.iter().zip(steps.chunks_exact_mut(I2S_BLOCK / STEP_COLS)) {
            for (at, line) in lines.iter().enumerate() {
                for (quad, packed) in line.as_chunks().0.iter().enumerate() {
                    let codes = unpack(load_u8(packed));
                    for quarter in 0..4 {
                        let step = &mut steps[LINES * quarter + at];
                        store_u8(&mut step.as_chunks_mut().0[quad], vreinterpretq_u8_s8(codes[quarter]));
                    }
                }
            }
        }
        steps
    }

    /// As [`Self::fill_pairs`], from the same.
    #[target_feature(enable = "neon")]
    pub fn spread_pairs(&mut self, blocks: &[[[u8; LINE]; LINES]]) -> &[[u8; PAIR_STEP_BYTES]] {
        let steps = self.0.as_flattened_mut().as_chunks_mut::<PAIR_STEP_BYTES>().0;
        let steps = &mut steps[..blocks.len() * I2S_BLOCK / PAIR_STEP_COLS];
        for (lines, steps) in blocks.iter().zip(steps.chunks_exact_mut(I2S_BLOCK / PAIR_STEP_COLS)) {
            for (at, [first, second]) in lines.as_chunks::<2>().0.iter().enumerate() {
                for quad in 0..PANEL_ROWS / 4 {
                    let rows = |line: &[u8; LINE]| vreinterpretq_u32_u8(load_u8(&line.as_chunks().0[quad]));
                    // 8 neighbouring columns of two rows.
                    let (a, b) = (rows(first), rows(second));
                    for (pair, packed) in [vzip1q_u32(a, b), vzip2q_u32(a, b)].into_iter().enumerate() {
                        let codes = unpack(vreinterpretq_u8_u32(packed));
                        for quarter in 0..4 {
                            let step = &mut steps[LINES / 2 * quarter + at];
                            let to = &mut step.as_chunks_mut().0[2 * quad + pair];
                            store_u8(to, vreinterpretq_u8_s8(codes[quarter]));
                        }
                    }
                }
            }
        }
        steps
    }
}

/// Vector i of the result has element i of each of the 4 vectors, in their order.
#[target_feature(enable = "neon")]
fn transpose([a, b, c, d]: [uint32x4_t; 4]) -> [uint32x4_t; 4] {
    let (ab_low, ab_high) = (vreinterpretq_u64_u32(vzip1q_u32(a, b)), vreinterpretq_u64_u32(vzip2q_u32(a, b)));
    let (cd_low, cd_high) = (vreinterpretq_u64_u32(vzip1q_u32(c, d)), vreinterpretq_u64_u32(vzip2q_u32(c, d)));
    [
        vreinterpretq_u32_u64(vzip1q_u64(ab_low, cd_low)),
        vreinterpretq_u32_u64(vzip2q_u64(ab_low, cd_low)),
        vreinterpretq_u32_u64(vzip1q_u64(ab_high, cd_high)),
        vreinterpretq_u32_u64(vzip2q_u64(ab_high, cd_high)),
    ]
}
