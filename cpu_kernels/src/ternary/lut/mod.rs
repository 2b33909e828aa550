//! Ternary products by table lookups: TL1 (pairs of weights) and TL2 (triples and signs), exact in i32.
//!
//! For each group of two or three columns of a token, a table holds what every combination of their weights adds to the
//! sum: x1 (c0 - 1) + x2 (c1 - 1), .. A weight matrix holds indices into these tables, 32 rows side by side, so that one
//! shuffle of bytes looks up 16 to 64 of them; entries are i16, as a table of low and one of high bytes. After
//! bitnet.cpp (arXiv:2502.11880), whose layouts these are; unlike its kernels, sums are widened before they can
//! overflow, and any shape is padded to whole tiles.
//!
//! Tables are built once for all matrices that share a token. They pay for few tokens only: for more, rows are unpacked
//! and multiplied by the kernels of [`Layout::I2sP128`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod geometry;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
mod tables;
#[cfg(test)]
mod tests;

use std::ops::Range;

use geometry::Lookup;
use tables::Tables;

use super::{FEW, MAX_PARTS, PREFILL_ROWS, TILE_SUMS, nth, plain_rows, tile_sums, token_tiles};
use crate::{
    Cpu, Isa,
    format::{LOOKUP_ROWS, TernaryView},
    isa::Base,
    quantize::QuantizedActs,
    threads::Disjoint,
};

/// Tables of the tokens of a step, in [`Cpu`]: grown by the first step that needs more.
pub(crate) use tables::Scratch;

/// A matrix in a lookup layout and its output.
pub(super) struct Work<'a, T> {
    pub weights: TernaryView<'a>,
    pub out: Disjoint<'a, T>,
    pub add: bool,
}

/// Computes the sums D - S of all rows and tokens of `works` and hands each to `finish(sum, token, row, work, out)`.
pub(super) fn run<T: Send>(
    cpu: &Cpu,
    acts: &QuantizedActs,
    works: &[Option<Work<T>>; MAX_PARTS],
    finish: impl Fn(i32, usize, usize, &Work<T>, &mut T) + Sync,
) {
    let lookups: [Option<Lookup>; MAX_PARTS] = std::array::from_fn(|i| {
        let weights = works[i].as_ref()?.weights;
        Some(Lookup::new(&weights))
    });
    let few = acts.tokens() <= FEW;
    let mut scratch = cpu.tables();
    let tables = if few { tables::build(cpu, acts, lookups.iter().flatten(), &mut scratch) } else { &[] };
    let rows_per_chunk = |lookup: &Lookup| if few { lookup.chunk_rows(TILE_SUMS) } else { PREFILL_ROWS };
    let chunks = |i: usize| {
        let (work, lookup) = (works[i].as_ref()?, lookups[i].as_ref()?);
        Some((work, lookup, rows_per_chunk(lookup)))
    };
    let parts: [Option<_>; MAX_PARTS] = std::array::from_fn(chunks);
    let count = |(work, _, rows): &&(&Work<T>, &Lookup, usize)| work.weights.rows.div_ceil(*rows);
    cpu.pool().run(parts.iter().flatten().map(|part| count(&part)).sum(), |chunk| {
        let (&(work, lookup, rows), chunk) = nth(parts.iter().flatten(), count, chunk);
        let range = chunk * rows..work.weights.rows.min((chunk + 1) * rows);
        let put = |t: usize, sums: &[i32], shift: i32| {
            let width = work.weights.rows;
            // SAFETY: chunks are disjoint ranges of the rows of disjoint outputs, and tokens follow each other.
            let out = unsafe { work.out.part(t * width + range.start..t * width + range.end) };
            for ((row, out), &sum) in range.clone().zip(out).zip(sums) {
                finish(sum - shift, t, row, work, out);
            }
        };
        if few {
            let mut sums = [0; TILE_SUMS];
            for (t, tables) in tables.iter().enumerate() {
                let sums = &mut sums[..range.len().next_multiple_of(LOOKUP_ROWS)];
                sums.fill(0);
                look_up(cpu.isa(), lookup, tables, range.start, sums);
                put(t, sums, 0);
            }
        } else {
            unpacked(cpu.isa(), &work.weights, acts, range.clone(), |t, sums| put(t, sums, acts.sum(t)));
        }
    });
}

/// Adds the sums of the rows from `first` on, whole groups of 32.
fn look_up(isa: Isa, lookup: &Lookup, tables: &Tables, first: usize, sums: &mut [i32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni(avx512) => avx512::look_up(avx512, lookup, tables, first, sums),
        isa => match isa.base() {
            #[cfg(target_arch = "x86_64")]
            Base::Avx2(avx2) => avx2::look_up(avx2, lookup, tables, first, sums),
            #[cfg(target_arch = "aarch64")]
            Base::Neon(neon) => neon::look_up(neon, lookup, tables, first, sums),
            Base::Scalar => scalar::look_up(lookup, tables, first, sums),
        },
    }
}

/// Unpacks rows and multiplies them by all tokens: `put(token, D of the rows)`.
fn unpacked(
    isa: Isa,
    weights: &TernaryView,
    acts: &QuantizedActs,
    rows: Range<usize>,
    mut put: impl FnMut(usize, &[i32]),
) {
    plain_rows(weights, rows, |plain| {
        let mut sums = [0; TILE_SUMS];
        for tokens in token_tiles(acts.tokens()) {
            let sums = &mut sums[..tokens.len() * plain.rows];
            tile_sums(isa, plain, acts, 0..plain.rows, tokens.clone(), sums);
            tokens.zip(sums.chunks_exact(plain.rows)).for_each(|(t, sums)| put(t, sums));
        }
    });
}
