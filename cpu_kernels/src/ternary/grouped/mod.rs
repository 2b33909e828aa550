//! Ternary matrix with one scale per group of columns, times activations with one scale per group.
//!
//! With D and S of a group as in [`super`], w its scale in the row and s the step of the token:
//! out = sum over groups of (D - S) * (w * s), in f32, group after group from the left, each product rounded before
//! it is added. D - S is exact, and every variant keeps that order, so all of them give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
#[cfg(target_arch = "x86_64")]
mod few;
#[cfg(target_arch = "x86_64")]
mod many;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neondot;
#[cfg(target_arch = "aarch64")]
mod neoni8mm;
mod scalar;

use std::ops::Range;

use half::f16;

use super::Tile;
use crate::{
    Isa,
    format::{I2S_BLOCK, Layout, Scales, TernaryView},
    quantize::QuantizedActs,
};

/// A tile with the scales of its rows and tokens.
#[derive(Clone, Copy)]
struct Grouped<'a> {
    tile: Tile<'a>,
    /// (rows, groups)
    scales: &'a [f16],
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
    /// Scales of a row.
    fn scales(&self, row: usize) -> &'a [f16] {
        &self.scales[row * self.groups..][..self.groups]
    }

    /// The groups of the columns `cols`, a panel's.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn panel_groups(&self, cols: &Range<usize>) -> Range<usize> {
        // The last columns may be padding.
        cols.start / self.size..self.groups.min(cols.end / self.size)
    }

    fn token(&self, token: usize) -> Token<'a> {
        let of_token = token * self.groups..(token + 1) * self.groups;
        Token { values: self.tile.token(token), steps: &self.steps[of_token.clone()], sums: &self.sums[of_token] }
    }
}

/// Products of a tile of `weights`, which have group scales, into `out` (tokens, rows).
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
    let tile = Grouped {
        tile: Tile::new(&weights, acts, rows.clone(), tokens.clone()),
        scales: &values[rows.start * groups..rows.end * groups],
        steps: &acts.all_steps()[tokens.start * groups..tokens.end * groups],
        sums: &acts.all_sums()[tokens.start * groups..tokens.end * groups],
        size,
        groups,
    };
    match (weights.layout, isa) {
        (Layout::I2sP128, Isa::Scalar) => scalar::products(&tile, out),
        #[cfg(target_arch = "x86_64")]
        (Layout::I2sP128, Isa::Avx2(avx2)) => avx2::products(avx2, &tile, out),
        #[cfg(target_arch = "x86_64")]
        (Layout::I2sP128, Isa::AvxVnni(vnni)) => avxvnni::products(vnni, &tile, out),
        #[cfg(target_arch = "x86_64")]
        (Layout::I2sP128, Isa::Avx512Vnni(vnni)) => avx512vnni::products(vnni, &tile, out),
        #[cfg(target_arch = "aarch64")]
        (Layout::I2sP128, Isa::Neon(neon)) => neon::products(neon, &tile, out),
        #[cfg(target_arch = "aarch64")]
        (Layout::I2sP128, Isa::NeonDot(neon)) => neondot::products(neon, &tile, out),
        #[cfg(target_arch = "aarch64")]
        (Layout::I2sP128, Isa::NeonI8mm(neon)) => neoni8mm::products(neon, &tile, out),
        (Layout::Tl1(_) | Layout::Tl2(_) | Layout::Base3, _) => unreachable!("only I2_S has groups"),
    }
}

#[cfg(test)]
mod tests;
