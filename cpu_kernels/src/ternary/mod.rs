//! Ternary matrix times int8 activations, exact in i32.
//!
//! With codes c = 0, 1, 2 for the weights -1, 0, +1, and values q of a token:
//! D = sum(c * q), S = sum(q), so that sum((c - 1) * q) = D - S and out = (D - S) * (scale * step).
//! Kernels compute D for a tile of rows and tokens; the rest is here, once. Matrices with one scale per group of
//! columns have kernels of their own, in the module `grouped`.
//!
//! One token reads every weight once and is bound by memory; a few tokens share each unpacked weight in registers;
//! many tokens are bound by multiply-adds, so a tile of rows is unpacked once and meets all tokens (where AVX-512 VBMI
//! gains by it, some columns are looked up meanwhile: see the module `mixed`).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
mod base3;
mod grouped;
mod lut;
#[cfg(target_arch = "x86_64")]
mod mixed;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neondot;
#[cfg(target_arch = "aarch64")]
mod neoni8mm;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod panel;
mod scalar;
mod tiling;

use std::{cell::RefCell, ops::Range};

use bytemuck::Pod;
use half::f16;

pub(crate) use lut::Scratch as LookupScratch;
pub use tiling::Tiling;

use crate::{
    Cpu, Isa,
    format::{I2S_BLOCK, I2S_BLOCK_BYTES, Layout, PANEL_ROWS, Scales, TernaryView, ternary_bytes, unpack_rows},
    quantize::QuantizedActs,
    threads::Disjoint,
};

/// One matrix of a [`matmul`] and where its product goes.
#[derive(Debug)]
pub struct Part<'a> {
    /// (rows, cols)
    pub weights: TernaryView<'a>,
    /// (T, rows)
    pub out: &'a mut [f32],
    /// Add to what `out` holds instead of overwriting it.
    pub add: bool,
}

/// Most matrices of one [`matmul`]; q, k and v are three.
pub const MAX_PARTS: usize = 4;

/// Sums D of a tile, (tokens, rows) i32: on the stack of the thread that computes it, 64 KiB. A pass of the kernels over
/// 1024 columns touches 1 KiB of it, so it may leave the first-level cache.
const TILE_SUMS: usize = 16384;

/// As many for one token, which has tiles of up to so many rows.
const FEW_SUMS: usize = 512;

/// As many for a few tokens, or a short prompt.
const SOME_SUMS: usize = FEW_SUMS * SMALL_BATCH;

/// Rows of a panel twice: what a tile has a multiple of.
const PREFILL_ROWS: usize = 32;

/// Four columns of each of a block's quarters of 16 rows side by side.
const LINE: usize = 4 * PANEL_ROWS;

/// Lines of a block of 16 rows.
const LINES: usize = I2S_BLOCK_BYTES / 4;

/// Most tokens that lookup layouts have kernels for: they are looked up one by one. More meet rows unpacked to I2_S.
const FEW: usize = 4;

/// Most tokens that share weights in registers or in the caches of a core.
const SMALL_BATCH: usize = 8;

/// Most tokens that meet rows as they are packed, a few at a time: for more it pays to unpack rows once for all.
#[cfg(target_arch = "x86_64")]
const MOST_PASSES: usize = 2 * SMALL_BATCH;

/// Most tokens that a matrix packed as `layout` has kernels for; more meet rows that are unpacked to I2_S on the way.
pub fn most_few(layout: Layout) -> usize {
    match layout {
        Layout::I2sP128 | Layout::I2sR16 | Layout::Base3R16 => usize::MAX,
        Layout::Base3 => base3::MOST_FEW,
        Layout::Tl1(_) | Layout::Tl2(_) => FEW,
    }
}

/// Some rows of a matrix and some tokens: what a kernel multiplies.
#[derive(Clone, Copy)]
struct Tile<'a> {
    /// (rows, blocks) packed as [`Layout::I2sP128`], or for group scales as [`Layout::I2sR16`]
    codes: &'a [u8],
    rows: usize,
    /// (tokens, stride), zero where a row's last block is padding
    values: &'a [i8],
    tokens: usize,
    /// Columns, a multiple of 128.
    stride: usize,
}

impl<'a> Tile<'a> {
    fn new(weights: &TernaryView<'a>, acts: &'a QuantizedActs, rows: Range<usize>, tokens: Range<usize>) -> Self {
        let (row_bytes, stride) = (weights.row_bytes(), acts.stride());
        let end = if weights.layout.is_side_by_side() { rows.end.next_multiple_of(PANEL_ROWS) } else { rows.end };
        Self {
            codes: &weights.codes[rows.start * row_bytes..end * row_bytes],
            rows: rows.len(),
            values: &acts.all_values()[tokens.start * stride..tokens.end * stride],
            tokens: tokens.len(),
            stride,
        }
    }

    /// The blocks of a row.
    fn row(&self, row: usize) -> &'a [[u8; I2S_BLOCK_BYTES]] {
        self.codes[row * self.stride / 4..][..self.stride / 4].as_chunks().0
    }

    /// The blocks of 16 rows side by side, from a multiple of 16 on: see [`Layout::I2sR16`].
    fn panel(&self, row: usize) -> &'a [[[u8; LINE]; LINES]] {
        self.codes[row * self.stride / 4..][..PANEL_ROWS * self.stride / 4].as_chunks().0.as_chunks().0
    }

    /// The values of a token, by blocks.
    fn token(&self, token: usize) -> &'a [[i8; I2S_BLOCK]] {
        self.values[token * self.stride..][..self.stride].as_chunks().0
    }

    /// The values of a token at columns `cols`, four to an i32.
    #[cfg(target_arch = "x86_64")]
    fn quads(&self, token: usize, cols: &Range<usize>) -> &'a [i32] {
        bytemuck::cast_slice(&self.values[token * self.stride..][cols.clone()])
    }
}

/// Products of `acts` with each of `parts`, which share it: out = (D - S) * (scale * step), or with group scales the
/// sum of that over groups.
///
/// # Panics
/// If a matrix has not the columns or not the groups of `acts`, or its codes, scales or output have another length
/// than its shape says, or there are more than [`MAX_PARTS`].
pub fn matmul(cpu: &Cpu, acts: &QuantizedActs, parts: &mut [Part]) {
    assert!(parts.len() <= MAX_PARTS, "ternary::matmul: {} parts", parts.len());
    // A call that mixes layouts runs as several.
    let kind = |part: &Part| part.weights.layout.is_lookup();
    for parts in parts.chunk_by_mut(|a, b| kind(a) == kind(b)) {
        if kind(&parts[0]) { look_up(cpu, acts, parts) } else { multiply(cpu, acts, parts) }
    }
}

/// Has threads that wait for each other fetch the weights that they will read first in a [`matmul`] of so many tokens, if
/// that is bound by reading them; else nothing. A single thread waits for nobody.
pub fn fetch_ahead<'a>(cpu: &Cpu, tokens: usize, parts: impl Iterator<Item = TernaryView<'a>> + Clone) {
    if cpu.threads() == 1 {
        return;
    }
    // Rows for lookups are not read one after the other.
    let parts = || parts.clone().filter(|part| tokens <= SMALL_BATCH && !part.layout.is_lookup());
    let rows = |part: &TernaryView| few_rows(cpu, part);
    let tiles = |part: &TernaryView| part.rows.div_ceil(rows(part));
    cpu.pool().fetch_ahead(parts().map(|part| tiles(&part)).sum(), |chunk| {
        let (part, tile) = nth(parts(), tiles, chunk);
        let start = tile * rows(&part) * part.row_bytes();
        &part.codes[start..part.codes.len().min(start + FETCHED_AHEAD)]
    });
}

/// Products of matrices in lookup layouts.
fn look_up(cpu: &Cpu, acts: &QuantizedActs, parts: &mut [Part]) {
    let mut parts = parts.iter_mut();
    let works: [Option<lut::Work<f32>>; MAX_PARTS] = std::array::from_fn(|_| {
        let part = parts.next()?;
        check(acts, &part.weights, part.out.len());
        Some(lut::Work { weights: part.weights, out: Disjoint::new(part.out), add: part.add })
    });
    lut::run(cpu, acts, &works, |sum, t, row, work, out| {
        let product = sum as f32 * (row_scale(&work.weights, row) * acts.step(t));
        *out = if work.add { *out + product } else { product };
    });
}

/// Products of matrices of whole codes.
fn multiply(cpu: &Cpu, acts: &QuantizedActs, parts: &mut [Part]) {
    let mut parts = parts.iter_mut();
    let works: [Option<Work<f32>>; MAX_PARTS] = std::array::from_fn(|_| {
        let part = parts.next()?;
        Some(Work::new(cpu, acts, part.weights, part.out, part.add))
    });
    if acts.group().is_some() {
        run(cpu, acts, &works, grouped::tile_products, |products, _, _, work, out| {
            put(work, out, products.iter().copied());
        });
    } else {
        run(cpu, acts, &works, tile_sums, |sums, t, rows, work, out| {
            let (of_token, step) = (acts.sum(t), acts.step(t));
            // Loops without branches, which become vector instructions: one that chose row by row took 12 % of a prompt.
            match work.weights.scales {
                Scales::PerTensor(scale) => {
                    let factor = scale * step;
                    put(work, out, sums.iter().map(|sum| (sum - of_token) as f32 * factor));
                }
                Scales::PerRow(scales) => {
                    let scaled = sums.iter().zip(&scales[rows]);
                    put(work, out, scaled.map(|(sum, scale)| (sum - of_token) as f32 * (scale * step)));
                }
                Scales::PerGroup { .. } => unreachable!("the scales of a matrix have the groups of its activations"),
            }
        });
    }
}

/// Writes or adds the products of some rows with one token.
fn put(work: &Work<f32>, out: &mut [f32], products: impl Iterator<Item = f32>) {
    if work.add {
        out.iter_mut().zip(products).for_each(|(out, product)| *out += product);
    } else {
        out.iter_mut().zip(products).for_each(|(out, product)| *out = product);
    }
}

/// The scale of a row of a matrix without groups.
fn row_scale(weights: &TernaryView, row: usize) -> f32 {
    match weights.scales {
        Scales::PerTensor(scale) => scale,
        Scales::PerRow(scales) => scales[row],
        Scales::PerGroup { .. } => unreachable!("the scales of a matrix have the groups of its activations"),
    }
}

/// True where [`Layout::Base3`] and [`Layout::Base3R16`] have kernels of their own; elsewhere their rows are unpacked to
/// I2_S, which is slow.
pub fn multiplies_base3(isa: Isa) -> bool {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni(vnni) => vnni.vbmi().is_some(),
        _ => false,
    }
}

/// The exact sums D - S over whole rows, `out` (T, rows): the same kernels, for self-checks and tests.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_i32(cpu: &Cpu, acts: &QuantizedActs, weights: TernaryView, out: &mut [i32]) {
    if weights.layout.is_lookup() {
        check(acts, &weights, out.len());
        let mut works = [const { None }; MAX_PARTS];
        works[0] = Some(lut::Work { weights, out: Disjoint::new(out), add: false });
        return lut::run(cpu, acts, &works, |sum, _, _, _, out| *out = sum);
    }
    if let Scales::PerGroup { size, values } = weights.scales {
        // With scales and steps of 1, the products of the groups and their sum are whole numbers, which f32 holds
        // exactly up to 2^24.
        assert!(weights.cols <= MAX_EXACT_COLS, "ternary::matmul_i32: {} columns", weights.cols);
        let ones = vec![f16::ONE; values.len()];
        let weights = TernaryView { scales: Scales::PerGroup { size, values: &ones }, ..weights };
        let acts = acts.with_unit_steps();
        let work = Work::new(cpu, &acts, weights, out, false);
        run(cpu, &acts, &[Some(work)], grouped::tile_products, |sums, _, _, _, out| {
            out.iter_mut().zip(sums).for_each(|(out, &sum)| *out = sum as i32);
        });
    } else {
        let work = Work::new(cpu, acts, weights, out, false);
        run(cpu, acts, &[Some(work)], tile_sums, |sums, t, _, _, out| {
            out.iter_mut().zip(sums).for_each(|(out, &sum)| *out = sum - acts.sum(t));
        });
    }
}

/// Bytes that a thread fetches while it waits: 7 us of reading, and within the second-level cache of any processor that such
/// models run on.
const FETCHED_AHEAD: usize = 256 << 10;

/// Columns whose sums stay below 2^24 even with code 3 (+2) everywhere.
const MAX_EXACT_COLS: usize = (1 << 24) / (2 * 128) - 1;

/// A checked matrix, its output, and how it is cut into tiles.
struct Work<'a, T> {
    weights: TernaryView<'a>,
    out: Disjoint<'a, T>,
    add: bool,
    rows_per_tile: usize,
    tokens_per_tile: usize,
    tiles: usize,
}

impl<'a, T> Work<'a, T> {
    fn new(cpu: &Cpu, acts: &QuantizedActs, weights: TernaryView<'a>, out: &'a mut [T], add: bool) -> Self {
        check(acts, &weights, out.len());
        let rows = weights.rows;
        let (rows_per_tile, tokens_per_tile) = if acts.tokens() <= SMALL_BATCH {
            (few_rows(cpu, &weights), SMALL_BATCH)
        } else {
            let tiling = cpu.tiling(rows, weights.cols);
            mixed_tile(cpu, &weights, acts).unwrap_or((tiling.rows(), tiling.tokens()))
        };
        let tiles = rows.div_ceil(rows_per_tile);
        Self { weights, out: Disjoint::new(out), add, rows_per_tile, tokens_per_tile, tiles }
    }
}

/// Rows of a tile of few tokens.
fn few_rows(cpu: &Cpu, weights: &TernaryView) -> usize {
    cpu.tiling(weights.rows, weights.cols).few_rows(weights.rows, weights.row_bytes(), cpu.threads())
}

/// Rows and tokens of a tile of many tokens where looking up beside multiplying is the fastest here.
fn mixed_tile(cpu: &Cpu, weights: &TernaryView, acts: &QuantizedActs) -> Option<(usize, usize)> {
    #[cfg(target_arch = "x86_64")]
    if let Isa::Avx512Vnni(vnni) = cpu.isa()
        && weights.layout == Layout::I2sP128
        && weights.scales.group().is_none()
    {
        return mixed::tile(vnni, weights.rows, acts.tokens(), cpu.threads());
    }
    let _ = (cpu, weights, acts);
    None
}

/// # Panics
/// If a matrix, the activations and `outputs` values of its product do not fit each other.
fn check(acts: &QuantizedActs, weights: &TernaryView, outputs: usize) {
    let TernaryView { rows, cols, codes, layout, .. } = *weights;
    assert_eq!(cols, acts.cols(), "ternary::matmul: columns of the matrix and of the activations");
    assert_eq!(codes.len(), ternary_bytes(layout, rows, cols), "ternary::matmul: bytes of {rows} x {cols} codes");
    let group = weights.scales.group();
    assert_eq!(group, acts.group(), "ternary::matmul: groups of the matrix and of the activations");
    let has_kernel = match layout {
        Layout::I2sP128 => true,
        Layout::I2sR16 | Layout::Base3R16 => group.is_some(),
        Layout::Tl1(_) | Layout::Tl2(_) | Layout::Base3 => group.is_none(),
    };
    assert!(has_kernel, "ternary::matmul: {layout:?} with scales in groups of {group:?}");
    if let Err(error) = weights.check() {
        panic!("ternary::matmul: {error}");
    }
    assert_eq!(outputs, acts.tokens() * rows, "ternary::matmul: {} x {rows} outputs", acts.tokens());
}

/// Results of some rows and tokens into a slice (tokens, rows).
type TileKernel<R> = fn(Isa, TernaryView, &QuantizedActs, Range<usize>, Range<usize>, &mut [R]);

/// Computes every tile of every work, and hands the results of each token to
/// `finish(results, token, rows, work, out)`.
fn run<T: Send, R: Default + Pod>(
    cpu: &Cpu,
    acts: &QuantizedActs,
    works: &[Option<Work<T>>],
    tile_results: TileKernel<R>,
    finish: impl Fn(&[R], usize, Range<usize>, &Work<T>, &mut [T]) + Sync,
) {
    let isa = cpu.isa();
    let works = || works.iter().flatten();
    cpu.pool().run(works().map(|work| work.tiles).sum(), |chunk| {
        let (work, tile) = nth(works(), |work| work.tiles, chunk);
        let rows = work.weights.rows;
        let range = tile * work.rows_per_tile..rows.min((tile + 1) * work.rows_per_tile);
        let most = work.tokens_per_tile;
        with_results(acts.tokens().min(most) * range.len(), |results| {
            for tokens in token_tiles(acts.tokens(), most) {
                let results = &mut results[..tokens.len() * range.len()];
                tile_results(isa, work.weights, acts, range.clone(), tokens.clone(), results);
                for (t, results) in tokens.zip(results.chunks_exact(range.len())) {
                    // SAFETY: chunks are disjoint ranges of the rows of disjoint outputs, and tokens follow each other.
                    let out = unsafe { work.out.part(t * rows + range.start..t * rows + range.end) };
                    finish(results, t, range.clone(), work, out);
                }
            }
        });
    });
}

/// Room for `len` results: on the stack, or where it does not fit there, room that stays with the thread. Clearing all of
/// the former for few, and losing as much of the first-level cache, would take 2 % of a decode step.
fn with_results<R: Default + Pod>(len: usize, work: impl FnOnce(&mut [R])) {
    thread_local! {
        static ROOM: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    }
    if len <= FEW_SUMS {
        work(&mut [R::default(); FEW_SUMS]);
    } else if len <= SOME_SUMS {
        work(&mut [R::default(); SOME_SUMS]);
    } else if len <= TILE_SUMS {
        work(&mut [R::default(); TILE_SUMS]);
    } else {
        ROOM.with_borrow_mut(|room| {
            if room.len() < len {
                room.resize(len, 0);
            }
            work(bytemuck::cast_slice_mut(&mut room[..len]));
        });
    }
}

/// The item that holds chunk number `n`, counted through all items, and the chunk's number within it.
fn nth<I>(mut items: impl Iterator<Item = I>, chunks: impl Fn(&I) -> usize, mut n: usize) -> (I, usize) {
    let item = items.find(|item| {
        let here = n < chunks(item);
        n -= if here { 0 } else { chunks(item) };
        here
    });
    (item.expect("chunks are those of all items"), n)
}

/// Tiles of up to `most` of `tokens` tokens.
fn token_tiles(tokens: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    (0..tokens).step_by(most).map(move |start| start..tokens.min(start + most))
}

/// D of a tile into `sums` (tokens, rows).
fn tile_sums(
    isa: Isa,
    weights: TernaryView,
    acts: &QuantizedActs,
    rows: Range<usize>,
    tokens: Range<usize>,
    sums: &mut [i32],
) {
    if weights.layout == Layout::Base3 {
        return base3::sums(isa, &weights, acts, rows, tokens, sums);
    }
    let tile = Tile::new(&weights, acts, rows, tokens);
    match (weights.layout, isa) {
        (Layout::I2sP128, Isa::Scalar) => scalar::sums(tile, sums),
        #[cfg(target_arch = "x86_64")]
        (Layout::I2sP128, Isa::Avx2(avx2)) => avx2::sums(avx2, tile, sums),
        #[cfg(target_arch = "x86_64")]
        (Layout::I2sP128, Isa::AvxVnni(vnni)) => avxvnni::sums(vnni, tile, sums),
        #[cfg(target_arch = "x86_64")]
        (Layout::I2sP128, Isa::Avx512Vnni(vnni)) => match mixed::choice(vnni, tile.rows, tile.tokens) {
            Some(vbmi) => mixed::sums(vbmi, tile, sums),
            None => avx512vnni::sums(vnni, tile, sums),
        },
        #[cfg(target_arch = "aarch64")]
        (Layout::I2sP128, Isa::Neon(neon)) => neon::sums(neon, tile, sums),
        #[cfg(target_arch = "aarch64")]
        (Layout::I2sP128, Isa::NeonDot(neon)) => neondot::sums(neon, tile, sums),
        #[cfg(target_arch = "aarch64")]
        (Layout::I2sP128, Isa::NeonI8mm(neon)) => neoni8mm::sums(neon, tile, sums),
        (Layout::I2sR16 | Layout::Base3R16, _) => unreachable!("rows side by side have group scales"),
        (Layout::Tl1(_) | Layout::Tl2(_) | Layout::Base3, _) => unreachable!("they have kernels of their own"),
    }
}

/// Rows of a matrix without groups as I2_S; the scales mean nothing. The room for them stays with the thread.
fn plain_rows(weights: &TernaryView, rows: Range<usize>, work: impl FnOnce(TernaryView)) {
    thread_local! {
        static PLAIN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    PLAIN.with_borrow_mut(|plain| {
        let TernaryView { cols, layout, .. } = *weights;
        plain.resize(ternary_bytes(Layout::I2sP128, rows.len(), cols), 0);
        unpack_rows(layout, (weights.rows, cols), weights.codes, rows.clone(), plain);
        let scales = Scales::PerTensor(1.0);
        work(TernaryView { rows: rows.len(), cols, codes: plain, layout: Layout::I2sP128, scales });
    });
}

#[cfg(test)]
mod tests;
