//! Filling a panel: 8 rows at a time.

use std::{arch::x86_64::*, ops::Range};

use super::{PANEL_COLS, PANEL_ROWS, Panel, STEP_COLS};
use crate::{
    format::I2S_BLOCK,
    ternary::{LINE, LINES, Tile, avx2::unpack},
    x86::{load_u8, prefetch_at, store_u8, transpose},
};

impl Panel {
    /// Unpacks columns `cols` of the 16 rows of `tile` from `row` on; returns their steps.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn fill(&mut self, tile: &Tile, row: usize, cols: Range<usize>) -> &[[u8; PANEL_ROWS * STEP_COLS]] {
        fetch_next(tile, row, &cols);
        let steps = self.steps_mut(cols.len());
        for (block, steps) in steps.chunks_exact_mut(I2S_BLOCK / STEP_COLS).enumerate() {
            for half in 0..2 {
                let mut packed = [_mm256_setzero_si256(); 8];
                for r in 0..8 {
                    packed[r] = load_u8(&tile.row(row + 8 * half + r)[cols.start / I2S_BLOCK + block]);
                }
                // Column c of a block is in byte c % 32: 4 neighbouring bytes hold 4 neighbouring columns of each of
                // the block's quarters, so the packed bytes are transposed, which is 4 times fewer than the codes.
                let packed = transpose(packed);
                for group in 0..8 {
                    let codes = unpack(packed[group]);
                    for quarter in 0..4 {
                        store_u8(&mut steps[8 * quarter + group].as_chunks_mut().0[half], codes[quarter]);
                    }
                }
            }
        }
        steps
    }
}

impl Panel {
    /// As [`Self::fill`], from the blocks of rows that already stand side by side.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn spread(&mut self, blocks: &[[[u8; LINE]; LINES]]) -> &[[u8; PANEL_ROWS * STEP_COLS]] {
        /// The codes of the panel that follows: see [`fetch_next`].
        const AHEAD: usize = PANEL_ROWS * PANEL_COLS / 4;
        let steps = self.steps_mut(blocks.len() * I2S_BLOCK);
        for (lines, steps) in blocks.iter().zip(steps.chunks_exact_mut(I2S_BLOCK / STEP_COLS)) {
            for (at, line) in lines.iter().enumerate() {
                prefetch_at(line.as_ptr(), AHEAD);
                for (half, packed) in line.as_chunks().0.iter().enumerate() {
                    let codes = unpack(load_u8(packed));
                    for quarter in 0..4 {
                        store_u8(&mut steps[LINES * quarter + at].as_chunks_mut().0[half], codes[quarter]);
                    }
                }
            }
        }
        steps
    }
}

/// Fetches the codes of the panel that follows: the next columns of these rows or, at their end, the first columns of
/// the rows that come after the tile. They arrive while this panel meets its tokens; without, unpacking took 14 % of the
/// time of these products for a prompt of 128 tokens (Zen 5).
#[inline]
fn fetch_next(tile: &Tile, row: usize, cols: &Range<usize>) {
    /// Packed bytes of the columns of a panel.
    const PANEL_BYTES: usize = PANEL_COLS / 4;
    let row_bytes = tile.stride / 4;
    let (ahead, bytes) = if cols.end < tile.stride {
        (cols.end / 4, PANEL_BYTES.min(row_bytes - cols.end / 4))
    } else {
        (tile.rows * row_bytes, PANEL_BYTES.min(row_bytes))
    };
    for r in 0..PANEL_ROWS {
        let from = tile.codes[(row + r) * row_bytes..].as_ptr();
        for line in (0..bytes).step_by(64) {
            prefetch_at(from, ahead + line);
        }
    }
}
