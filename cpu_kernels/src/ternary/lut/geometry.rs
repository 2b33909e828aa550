//! Where the codes of 32 rows and some columns lie, and the tables they index.

use super::tables::{PAIR_QUAD, Quad, TRIPLE_QUAD, Tables};
use crate::format::{LOOKUP_ROWS, Layout, TernaryView, Tile, lookup::lookup_shape};

/// Columns of a tile of the pairs of TL2.
const PAIR_TILE: usize = 32;

/// A matrix as lookups see it: checked and padded.
pub struct Lookup<'a> {
    codes: &'a [u8],
    /// Signs of the triples: 32 bytes for each 24 columns of 32 rows.
    signs: &'a [u8],
    pairs: &'a [u8],
    tile: Tile,
    /// TL1: pairs only, with the rows of a vector in another order.
    split: bool,
    /// Columns in triples.
    triple_cols: usize,
    cols: usize,
}

/// Some columns of 32 rows, whose codes lie one after the other.
pub enum Run<'a> {
    /// Two quads of codes and 16 words of signs for 24 columns.
    Triples { codes: &'a [[u8; 64]], signs: &'a [[u8; 32]], tables: &'a [Quad] },
    /// A quad of codes for 8 columns; `split`: the first 32 bytes are rows 0 to 15.
    Pairs { codes: &'a [[u8; 64]], tables: &'a [Quad], split: bool },
}

impl<'a> Lookup<'a> {
    /// # Panics
    /// If the view is of another layout; its size was checked.
    pub fn new(weights: &TernaryView<'a>) -> Self {
        let (rows, cols) = lookup_shape(weights.rows, weights.cols);
        match weights.layout {
            Layout::I2sP128 | Layout::I2sR16 | Layout::Base3 | Layout::Base3R16 => {
                unreachable!("rows of whole codes are multiplied")
            }
            Layout::Tl1(tile) => {
                let pairs = weights.codes;
                Self { codes: &[], signs: &[], pairs, tile, split: true, triple_cols: 0, cols }
            }
            Layout::Tl2(tile) => {
                let triple_cols = cols / tile.cols * tile.cols;
                let (codes, rest) = weights.codes.split_at(rows * triple_cols / 6);
                let (signs, pairs) = rest.split_at(rows * triple_cols / 24);
                Self { codes, signs, pairs, tile, split: false, triple_cols, cols }
            }
        }
    }

    /// Columns in triples.
    pub fn triple_cols(&self) -> usize {
        self.triple_cols
    }

    /// All columns, those of the padding too.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Rows of a tile, whose codes lie one after the other; of a part of one that has more than `most`.
    pub fn chunk_rows(&self, most: usize) -> usize {
        let groups = self.tile.rows / LOOKUP_ROWS;
        let fits = |n: &usize| groups.is_multiple_of(*n) && *n <= most / LOOKUP_ROWS;
        (1..=groups).rev().find(fits).unwrap_or(1) * LOOKUP_ROWS
    }

    /// Calls `look_up` with every run of `groups` groups of 32 rows from row `first` on, which lie in one tile, and the
    /// group's number among these.
    #[inline(always)]
    pub fn runs<'t>(&self, tables: &'t Tables, first: usize, groups: usize, mut look_up: impl FnMut(usize, Run<'a>))
    where
        't: 'a,
    {
        let per_tile = self.tile.rows / LOOKUP_ROWS;
        let (row_tile, group) = (first / self.tile.rows, first % self.tile.rows / LOOKUP_ROWS);
        debug_assert!(group + groups <= per_tile);
        // The place of a run of `len` bytes in column tile `at` of `of`.
        let place = |at: usize, of: usize, n: usize, len: usize| {
            let start = ((row_tile * of + at) * per_tile + group + n) * len;
            start..start + len
        };
        let (codes_len, signs_len) = (self.tile.cols / 6 * 32, self.tile.cols / 24 * 32);
        let tiles = self.triple_cols / self.tile.cols;
        for at in 0..tiles {
            let quads = self.tile.cols / TRIPLE_QUAD;
            let tables = &tables.triples()[at * quads..][..quads];
            for n in 0..groups {
                let codes = self.codes[place(at, tiles, n, codes_len)].as_chunks().0;
                let signs = self.signs[place(at, tiles, n, signs_len)].as_chunks().0;
                look_up(n, Run::Triples { codes, signs, tables });
            }
        }
        let tile_cols = if self.split { self.tile.cols } else { PAIR_TILE };
        let tiles = (self.cols - self.triple_cols) / tile_cols;
        for at in 0..tiles {
            let quads = tile_cols / PAIR_QUAD;
            let tables = &tables.pairs_from(self.triple_cols + at * tile_cols)[..quads];
            for n in 0..groups {
                let codes = self.pairs[place(at, tiles, n, quads * 64)].as_chunks().0;
                look_up(n, Run::Pairs { codes, tables, split: self.split });
            }
        }
    }
}
