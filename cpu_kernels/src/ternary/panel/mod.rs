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

#[cfg(target_arch = "aarch64")]
pub mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

use super::Tile;
pub use crate::format::rows16::PANEL_ROWS;

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

    /// The steps of the first `cols` columns, to be filled.
    #[cfg(target_arch = "x86_64")]
    pub fn steps_mut(&mut self, cols: usize) -> &mut [[u8; PANEL_ROWS * STEP_COLS]] {
        &mut self.0[..cols / STEP_COLS]
    }

    /// The columns of the panels that make up a row.
    pub fn col_ranges(stride: usize) -> impl Iterator<Item = Range<usize>> {
        (0..stride).step_by(PANEL_COLS).map(move |start| start..stride.min(start + PANEL_COLS))
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
    /// `n`, or the number of the last token of the tile if there is none of that number.
    #[cfg(target_arch = "aarch64")]
    pub fn nth(&self, tile: &Tile, n: usize) -> usize {
        n.min(tile.tokens - 1 - self.first)
    }

    /// Where the sums of token `n` of these are, for the rows of one panel, in `sums` of the tile.
    pub fn sums(&self, tile: &Tile, n: usize) -> Range<usize> {
        let start = (self.first + n) * tile.rows + self.row;
        start..start + PANEL_ROWS
    }
}
