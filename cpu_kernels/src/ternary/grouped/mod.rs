//! Ternary matrix with one scale per group of columns, times activations with one scale per group.
//!
//! With D and S of a group as in [`super`], w its scale in the row and s the step of the token:
//! out = sum over groups of (D - S) * (w * s), in f32, group after group from the left, each by a fused multiply-add.
//! D - S is exact, and every variant keeps that order, so all of them give the same bits.
//!
//! The kernels read [`Layout::I2sR16`], those of `base3` [`Layout::Base3R16`]. Rows one after the other would have each sum of a group spread over the lanes of
//! a vector: adding those up, eight rows at a time, took as long as the products (one token with cold weights in groups
//! of 128, Zen 5: 25 GB/s where one scale a matrix has 33).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
mod base3;
#[cfg(target_arch = "x86_64")]
mod few;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neondot;
#[cfg(target_arch = "aarch64")]
mod neoni8mm;
mod scalar;

use std::ops::Range;

use super::{LINE, LINES, PANEL_ROWS, Tile};
use crate::{
    Isa,
    format::{I2S_BLOCK, Layout, Scales, TernaryView, rows16, ternary_bytes},
    quantize::QuantizedActs,
};

/// A tile with the scales of its rows and tokens.
#[derive(Clone, Copy)]
struct Grouped<'a> {
    tile: Tile<'a>,
    /// (rows / 16, groups) binary16 numbers of 16 rows
    scales: &'a [[u16; PANEL_ROWS]],
    /// (tokens, groups)
    steps: &'a [f32],
    /// (tokens, groups)
    sums: &'a [i32],
    /// Columns of a group.
    size: usize,
    groups: usize,
}

/// One token of a tile.
#[derive(Clone, Copy, Default)]
struct Token<'a> {
    /// (stride / 128) blocks
    values: &'a [[i8; I2S_BLOCK]],
    /// (groups)
    steps: &'a [f32],
    /// (groups)
    sums: &'a [i32],
}

impl<'a> Grouped<'a> {
    /// Scales of 16 rows from `row` on, a multiple of 16: (groups).
    fn scales(&self, row: usize) -> &'a [[u16; PANEL_ROWS]] {
        &self.scales[row / PANEL_ROWS * self.groups..][..self.groups]
    }

    /// The groups of the columns `cols`, a panel's.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn panel_groups(&self, cols: &Range<usize>) -> Range<usize> {
        // The last columns may be padding.
        cols.start / self.size..self.groups.min(cols.end / self.size)
    }

    /// The blocks of columns `cols` of 16 rows from `row` on.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn panel(&self, row: usize, cols: &Range<usize>) -> &'a [[[u8; LINE]; LINES]] {
        &self.tile.panel(row)[cols.start / I2S_BLOCK..cols.end / I2S_BLOCK]
    }

    fn token(&self, token: usize) -> Token<'a> {
        let of_token = token * self.groups..(token + 1) * self.groups;
        Token { values: self.tile.token(token), steps: &self.steps[of_token.clone()], sums: &self.sums[of_token] }
    }
}

/// Products of a tile of `weights`, which have group scales, into `out` (tokens, rows). Rows one after the other are
/// put side by side first, which takes longer than the product of one token: that is for matrices multiplied once.
pub(super) fn tile_products(
    isa: Isa,
    weights: TernaryView,
    acts: &QuantizedActs,
    rows: Range<usize>,
    tokens: Range<usize>,
    out: &mut [f32],
) {
    let Scales::PerGroup { size, values } = weights.scales else {
        unreachable!("the scales of a matrix have the groups of its activations")
    };
    let groups = weights.cols / size;
    if weights.layout == Layout::I2sP128 {
        let row_bytes = weights.row_bytes();
        let mut codes = vec![0; ternary_bytes(Layout::I2sR16, rows.len(), weights.cols)];
        rows16::interleave(&weights.codes[rows.start * row_bytes..rows.end * row_bytes], row_bytes, &mut codes);
        let values = rows16::interleave_scales(&values[rows.start * groups..rows.end * groups], groups);
        let scales = Scales::PerGroup { size, values: &values };
        let weights = TernaryView { rows: rows.len(), codes: &codes, layout: Layout::I2sR16, scales, ..weights };
        return tile_products(isa, weights, acts, 0..rows.len(), tokens, out);
    }
    let panels = rows.start / PANEL_ROWS..rows.end.div_ceil(PANEL_ROWS);
    let tile = Grouped {
        tile: Tile::new(&weights, acts, rows.clone(), tokens.clone()),
        scales: &bytemuck::cast_slice(values)[panels.start * groups..panels.end * groups],
        steps: &acts.all_steps()[tokens.start * groups..tokens.end * groups],
        sums: &acts.all_sums()[tokens.start * groups..tokens.end * groups],
        size,
        groups,
    };
    if weights.layout == Layout::Base3R16 {
        #[cfg(target_arch = "x86_64")]
        if base3::products(isa, &weights, rows.clone(), &tile, out) {
            return;
        }
        return base3::as_two_bits(isa, &weights, rows, |weights| {
            tile_products(isa, weights, acts, 0..weights.rows, tokens, out);
        });
    }
    assert_eq!(weights.layout, Layout::I2sR16, "ternary::matmul: the layout of a matrix with group scales");
    match isa {
        Isa::Scalar => scalar::products(&tile, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(avx2) => avx2::products(avx2, &tile, out),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni(vnni) => avxvnni::products(vnni, &tile, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni(vnni) => avx512vnni::products(vnni, &tile, out),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(neon) => neon::products(neon, &tile, out),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot(neon) => neondot::products(neon, &tile, out),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm(neon) => neoni8mm::products(neon, &tile, out),
    }
}

#[cfg(test)]
mod tests;
