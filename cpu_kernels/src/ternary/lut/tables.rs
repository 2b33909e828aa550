//! The tables of a token.
//!
//! Entry c of the table of a pair (x0, x1), c = 0 .. 8: (c / 3 - 1) x0 + (c % 3 - 1) x1. Entry c of the table of a
//! triple, c = 0 .. 13: a x0 + b x1 + d x2 with a, b, d = -1, 0, 1 and 9 a + 3 b + d = c. The others are 0.
//!
//! Four tables make a quad, as the codes of four groups of columns lie in 64 bytes; the tables that are looked up
//! together stand side by side:
//!
//! ```text
//! bytes    0 .. 15   16 .. 31   32 .. 47   48 .. 63   64 .. 79   80 .. 95   96 .. 111  112 .. 127
//!          0, low    2, low     0, high    2, high    1, low     3, low     1, high    3, high
//! ```

use std::sync::MutexGuard;

use super::geometry::Lookup;
#[cfg(target_arch = "x86_64")]
use crate::isa::Base;
use crate::{Cpu, quantize::QuantizedActs};

/// Columns of a quad of triples.
pub const TRIPLE_QUAD: usize = 12;

/// Columns of a quad of pairs.
pub const PAIR_QUAD: usize = 8;

/// See the module.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Quad(pub [[u8; 32]; 4]);

/// The tables of a token.
#[derive(Debug, Default)]
pub struct Tables {
    /// Tables of the columns from 0 on.
    triples: Vec<Quad>,
    /// Tables of the columns from `first_pair` on.
    pairs: Vec<Quad>,
    first_pair: usize,
}

impl Tables {
    /// The quads of the triples from column 0 on.
    pub fn triples(&self) -> &[Quad] {
        &self.triples
    }

    /// The quads of the pairs from column `col` on.
    pub fn pairs_from(&self, col: usize) -> &[Quad] {
        &self.pairs[(col - self.first_pair) / PAIR_QUAD..]
    }
}

/// Tables that were used, to be used again.
#[derive(Debug, Default)]
pub struct Scratch(Vec<Tables>);

/// The weights of a triple with the value `c` = 9 a + 3 b + d.
const fn triple(c: i32) -> [i32; 3] {
    // In codes 0, 1, 2, the digits of c + 13.
    [(c + 13) / 9 - 1, (c + 13) / 3 % 3 - 1, (c + 13) % 3 - 1]
}

/// By column of a triple and entry, its weight.
pub const TRIPLES: [[i16; 16]; 3] = {
    let mut weights = [[0; 16]; 3];
    let mut c = 0;
    while c < 14 {
        let mut i = 0;
        while i < 3 {
            weights[i][c] = triple(c as i32)[i] as i16;
            i += 1;
        }
        c += 1;
    }
    weights
};

/// By column of a pair and entry, its weight.
pub const PAIRS: [[i16; 16]; 2] = {
    let mut weights = [[0; 16]; 2];
    let mut c = 0;
    while c < 9 {
        weights[0][c] = c as i16 / 3 - 1;
        weights[1][c] = c as i16 % 3 - 1;
        c += 1;
    }
    weights
};

/// The tables that `lookups` need, for each token of `acts`.
pub fn build<'s, 'a: 'l, 'l>(
    cpu: &Cpu,
    acts: &QuantizedActs,
    lookups: impl Iterator<Item = &'l Lookup<'a>>,
    scratch: &'s mut MutexGuard<Scratch>,
) -> &'s [Tables] {
    let (mut triples, mut first_pair, mut cols) = (0, usize::MAX, 0);
    for lookup in lookups {
        triples = triples.max(lookup.triple_cols() / TRIPLE_QUAD);
        if lookup.cols() > lookup.triple_cols() {
            first_pair = first_pair.min(lookup.triple_cols());
        }
        cols = lookup.cols();
    }
    let first_pair = first_pair.min(cols);
    let zero = Quad([[0; 32]; 4]);
    if scratch.0.len() < acts.tokens() {
        scratch.0.resize_with(acts.tokens(), Tables::default);
    }
    let tables = &mut scratch.0[..acts.tokens()];
    for (t, tables) in tables.iter_mut().enumerate() {
        tables.triples.resize(triples, zero);
        tables.pairs.resize((cols - first_pair) / PAIR_QUAD, zero);
        tables.first_pair = first_pair;
        let values = acts.values(t);
        match cpu.isa().base() {
            #[cfg(target_arch = "x86_64")]
            Base::Avx2(avx2) => {
                super::avx2::triples(avx2, values, &mut tables.triples);
                super::avx2::pairs(avx2, values.get(first_pair..).unwrap_or_default(), &mut tables.pairs);
            }
            _ => {
                fill(values, &TRIPLES, &mut tables.triples);
                fill(values.get(first_pair..).unwrap_or_default(), &PAIRS, &mut tables.pairs);
            }
        }
    }
    tables
}

/// Tables of groups of `N` columns; columns past the end of `values` are zeros.
fn fill<const N: usize>(values: &[i8], weights: &[[i16; 16]; N], quads: &mut [Quad]) {
    for (at, quad) in quads.iter_mut().enumerate() {
        for group in 0..4 {
            let x: [i16; N] =
                std::array::from_fn(|i| values.get((4 * at + group) * N + i).map_or(0, |&value| i16::from(value)));
            let (pair, slot) = place(group);
            for entry in 0..16 {
                let sum: i16 = x.iter().zip(weights).map(|(x, weights)| x * weights[entry]).sum();
                let [low, high] = sum.to_le_bytes();
                quad.0[2 * pair][16 * slot + entry] = low;
                quad.0[2 * pair + 1][16 * slot + entry] = high;
            }
        }
    }
}

/// Which half of a quad a group's table is in, and which half of those 32 bytes.
pub const fn place(group: usize) -> (usize, usize) {
    (group % 2, group / 2)
}
