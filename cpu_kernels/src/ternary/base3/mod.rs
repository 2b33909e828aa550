//! Products of rows of five weights a byte, [`Layout::Base3`](crate::format::Layout::Base3): a fifth fewer bytes than
//! I2_S, for one or a few tokens, whose products are bound by reading them. More tokens, and processors without the
//! table instructions of AVX-512 VBMI, meet rows unpacked to I2_S.

#[cfg(target_arch = "x86_64")]
mod avx512vbmi;

use std::ops::Range;

use super::{plain_rows, tile_sums};
#[cfg(target_arch = "x86_64")]
use crate::format::{BASE3_BLOCK_BYTES, BASE3_RUN};
use crate::{Isa, format::TernaryView, quantize::QuantizedActs};

/// Most tokens that meet the rows as they are, eight at a time. More are faster with rows unpacked once for all.
pub(super) const MOST_FEW: usize = 24;

/// Some rows of a matrix and some tokens.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Tile<'a> {
    /// (rows, blocks) packed as [`Layout::Base3`](crate::format::Layout::Base3)
    codes: &'a [[u8; BASE3_BLOCK_BYTES]],
    rows: usize,
    /// Blocks of a row.
    blocks: usize,
    /// (tokens, runs), zero where a row's last block is padding
    values: &'a [[i8; BASE3_RUN]],
    tokens: usize,
    /// Runs of 64 columns of a token.
    runs: usize,
}

#[cfg(target_arch = "x86_64")]
impl<'a> Tile<'a> {
    fn new(weights: &TernaryView<'a>, acts: &'a QuantizedActs, rows: Range<usize>, tokens: Range<usize>) -> Self {
        let (row_bytes, stride) = (weights.row_bytes(), acts.stride());
        Self {
            codes: weights.codes[rows.start * row_bytes..rows.end * row_bytes].as_chunks().0,
            rows: rows.len(),
            blocks: row_bytes / BASE3_BLOCK_BYTES,
            values: acts.all_values()[tokens.start * stride..tokens.end * stride].as_chunks().0,
            tokens: tokens.len(),
            runs: stride / BASE3_RUN,
        }
    }

    /// The blocks of a row.
    fn row(&self, row: usize) -> &'a [[u8; BASE3_BLOCK_BYTES]] {
        &self.codes[row * self.blocks..][..self.blocks]
    }

    /// The values of a token by runs.
    fn token(&self, token: usize) -> &'a [[i8; BASE3_RUN]] {
        &self.values[token * self.runs..][..self.runs]
    }
}

/// D of each token and row, `sums` (tokens, rows).
pub(super) fn sums(
    isa: Isa,
    weights: &TernaryView,
    acts: &QuantizedActs,
    rows: Range<usize>,
    tokens: Range<usize>,
    sums: &mut [i32],
) {
    #[cfg(target_arch = "x86_64")]
    if tokens.len() <= MOST_FEW
        && let Isa::Avx512Vnni(vnni) = isa
        && let Some(vbmi) = vnni.vbmi()
    {
        return avx512vbmi::sums(vbmi, Tile::new(weights, acts, rows, tokens), sums);
    }
    plain_rows(weights, rows, |plain| tile_sums(isa, plain, acts, 0..plain.rows, tokens, sums));
}
