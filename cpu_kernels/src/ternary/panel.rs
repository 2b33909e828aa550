//! Some columns of 16 rows, unpacked once for all tokens of a tile and interleaved so that rows stand in lanes:
//! a step is 4 columns, row by row,
//!
//! ```text
//! byte     0 .. 3             4 .. 7             ..   60 .. 63
//! code of  row 0, cols c..c+3  row 1, cols c..c+3      row 15, cols c..c+3
//! ```
//!
//! and meets the 4 values of a token broadcast to all lanes. The sums of 16 rows then come out side by side, without
//! adding across lanes.

use std::{arch::x86_64::*, ops::Range};

use super::{Tile, avx2::unpack};
use crate::{
    format::I2S_BLOCK,
    x86::{load_u8, store_u8, transpose},
};

/// Rows of a panel.
pub const PANEL_ROWS: usize = 16;

/// Columns of a step: an i32 of values.
pub const STEP_COLS: usize = 4;

/// Columns of a panel: 16 KiB of codes, which stay in a first-level cache of 32 KiB beside the values of a few tokens.
pub const PANEL_COLS: usize = 1024;

/// See the module.
#[repr(align(64))]
pub struct Panel([[u8; PANEL_ROWS * STEP_COLS]; PANEL_COLS / STEP_COLS]);

impl Panel {
    pub fn new() -> Self {
        Self([[0; PANEL_ROWS * STEP_COLS]; PANEL_COLS / STEP_COLS])
    }

    /// The columns of the panels that make up a row.
    pub fn col_ranges(stride: usize) -> impl Iterator<Item = Range<usize>> {
        (0..stride).step_by(PANEL_COLS).map(move |start| start..stride.min(start + PANEL_COLS))
    }

    /// Unpacks columns `cols` of the 16 rows of `tile` from `row` on; returns their steps.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn fill(&mut self, tile: &Tile, row: usize, cols: Range<usize>) -> &[[u8; PANEL_ROWS * STEP_COLS]] {
        let steps = &mut self.0[..cols.len() / STEP_COLS];
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

/// Where a panel and some tokens stand in a tile.
pub struct PanelTokens {
    /// First row of the panel.
    pub row: usize,
    /// First token.
    pub first: usize,
    /// Columns of the panel.
    pub cols: Range<usize>,
}

impl PanelTokens {
    /// Where the sums of token `n` of these are, for the rows of one panel, in `sums` of the tile.
    pub fn sums(&self, tile: &Tile, n: usize) -> Range<usize> {
        let start = (self.first + n) * tile.rows + self.row;
        start..start + PANEL_ROWS
    }
}
