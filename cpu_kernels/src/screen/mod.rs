//! The highest products of a dense matrix (the output head) with one token, without reading all of it: exactly the
//! rows and values that [`crate::dense::matmul`] and a sort would give.
//!
//! [`Screen::new`] makes a copy of the rows in 6 bits a weight, w ~ ŵ = scale * (u - 32), u = 0..63, and keeps with
//! each row the norm of what that leaves out. [`Screen::top`] multiplies all of the copy, in whole numbers, with the
//! token x as 16-bit numbers x̂, and computes exactly only the rows that can still be among the highest: since
//!
//! w x = ŵ x̂ + (w - ŵ) x + ŵ (x - x̂), the inequality of Cauchy and Schwarz gives
//!
//! |w x - ŵ x̂| <= |w - ŵ| |x| + (|w| + |w - ŵ|) |x - x̂|,
//!
//! and the sum that `dense::matmul` makes of n rounded products, in whatever order, is off by at most
//! gamma |w| |x| with gamma = n u / (1 - n u), u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms,
//! chapter 4). The highest rows of the copy are computed exactly first; the k-th highest of those is a threshold T that
//! the k-th highest of all reaches. Every row whose upper bound is below T is out, for certain; the others are
//! computed exactly, by the kernels of `dense::matmul`.
//!
//! Heads of ternary weights need no fewer bits: their copy is what they are, laid out for whole numbers, and w = ŵ
//! (see the module `ternary`).
//!
//! With 6 bits and 2560 columns the bound is 1.7 standard deviations of the products of random rows. The highest of
//! 128256 stands at 4.3, so 0.4 % of the rows are computed exactly; with 5 bits it would be 10 %, with 4 bits all.
//! 7 and 8 bits leave fewer, but read more.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
mod encode;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neondot;
mod query;
mod scalar;
mod ternary;

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

pub use self::encode::{BLOCK, BLOCK_BYTES, Row, row_bytes};
use self::query::Query;
use crate::{
    Cpu, Isa, dense,
    format::{DenseType, DenseView},
    isa::Base,
    memory::Memory,
    threads::Disjoint,
};

/// Rows of a chunk: 120 KiB of 2560 columns.
const CHUNK_ROWS: usize = 64;

/// Rows of a chunk of those that are computed exactly: 80 KiB of 2560 columns in f16.
const EXACT_ROWS: usize = 16;

/// Of the rows at most one in so many is computed exactly: beyond that the whole matrix is hardly slower, as it is
/// read in its order.
const MOST_EXACT: usize = 4;

/// Rows that there have to be for each of the highest wanted. The k-th highest of the best rows of the chunks stands in
/// for the k-th highest of all; with more, it would be further below, and leave more rows.
const MIN_ROWS_PER_TOP: usize = 1024;

/// Most of the highest: of 128256 random rows of 2560 columns, the bound leaves about 9 % for the 128 highest (by
/// estimate, not measured).
const MOST_TOP: usize = 128;

/// Columns that i32 sums of 252 * -128 have room for.
pub const MAX_COLS: usize = 1 << 16;

/// Norms whose product is above this may overflow f32 on the way.
const MAX_NORM: f64 = 1e37;

/// A cache line of the copy.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// One row of the head and its product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// Which row.
    pub row: u32,
    /// What [`crate::dense::matmul`] gives for it.
    pub value: f32,
}

impl Product {
    /// Highest first, lowest row first among equals; 0 and -0 are equal.
    pub fn by_rank(&self, other: &Self) -> std::cmp::Ordering {
        other.value.partial_cmp(&self.value).unwrap_or(std::cmp::Ordering::Equal).then(self.row.cmp(&other.row))
    }
}

/// What is multiplied in place of the head.
#[derive(Debug)]
enum Copy {
    /// (rows, blocks), [`BLOCK_BYTES`] each
    SixBits(Memory),
    Ternary(Box<ternary::Codes>),
}

/// See the module.
#[derive(Debug)]
pub struct Screen {
    copy: Copy,
    /// (rows)
    bounds: Vec<Row>,
    /// The highest norm of a row.
    norm: f64,
    cols: usize,
    query: Query,
    /// (rows) upper bounds of the products
    upper: Vec<f32>,
    /// (chunks) what is known of each
    chunks: Vec<Chunk>,
    /// Rows to be computed exactly, and their products.
    exact: Vec<Product>,
}

/// The best row of a chunk by the copy, and the highest upper bound.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    row: u32,
    approximate: f32,
    upper: f32,
}

impl Screen {
    /// Bytes of the copy of a (rows, cols) matrix of type `ty`.
    pub fn bytes(rows: usize, cols: usize, ty: DenseType) -> usize {
        let is_ternary = ty.dialect().is_some();
        let of_copy = if is_ternary { ternary::bytes(rows, cols, ty) } else { rows.saturating_mul(row_bytes(cols)) };
        of_copy.saturating_add(rows.saturating_mul(size_of::<Row>() + size_of::<f32>()))
    }

    /// True where the copy is read and multiplied faster than a head of type `ty`: where it is no larger, as whole
    /// numbers are multiplied several times faster than weights that have to become f32 first. Ternary weights keep
    /// their bits.
    pub fn pays(rows: usize, cols: usize, ty: DenseType) -> bool {
        let is_no_larger = || Self::bytes(rows, cols, ty) <= ty.row_bytes(cols) * rows;
        cols <= MAX_COLS && (ty.dialect().is_some() || is_no_larger())
    }

    /// The largest `k` of [`Self::top`] for a matrix of so many rows.
    pub fn most_top(rows: usize) -> usize {
        (rows / MIN_ROWS_PER_TOP).clamp(1, MOST_TOP)
    }

    /// True where its kernels are vector code.
    pub fn is_fast() -> bool {
        cfg!(any(target_arch = "x86_64", target_arch = "aarch64"))
    }

    /// A copy of `head`. `None` if it has a weight that is not finite, or no rows, or more columns than the sums have
    /// room for.
    pub fn new(cpu: &Cpu, head: DenseView) -> Option<Self> {
        let DenseView { rows, cols, .. } = head;
        if rows == 0 || cols == 0 || cols > MAX_COLS || u32::try_from(rows).is_err() {
            return None;
        }
        let (copy, bounds, stride) = if head.ty.dialect().is_some() {
            let (codes, bounds) = ternary::Codes::new(cpu, &head)?;
            // Their kernels take tokens of exactly their columns, which are whole lines.
            (Copy::Ternary(Box::new(codes)), bounds, cols)
        } else {
            let row_bytes = row_bytes(cols);
            let mut codes = Memory::zeroed(rows * row_bytes);
            let mut bounds = vec![Row::default(); rows];
            encode_rows(cpu, &head, 0..rows, row_bytes, &mut codes, &mut bounds);
            (Copy::SixBits(codes), bounds, cols.next_multiple_of(BLOCK))
        };
        let norm = bounds.iter().map(|bound| f64::from(bound.norm)).fold(0.0, f64::max);
        if bounds.iter().any(|bound| !bound.norm.is_finite()) {
            return None;
        }
        let chunk = Chunk { row: 0, approximate: 0.0, upper: 0.0 };
        Some(Self {
            copy,
            bounds,
            norm,
            cols,
            query: Query::new(stride),
            upper: vec![0.0; rows],
            chunks: vec![chunk; rows.div_ceil(CHUNK_ROWS)],
            exact: Vec::with_capacity(rows / MOST_EXACT),
        })
    }

    /// The `k` highest products of `head`, which the screen was made of, with `x` (cols), in the order of
    /// [`Product::by_rank`], into `top`. Returns how many rows were computed exactly; `None`, with `top` empty, where
    /// the bounds are of no use and the whole of `head` has to be multiplied: for too large a `k`, for too many rows
    /// that are nearly as high, for values that are not finite or may overflow.
    ///
    /// # Panics
    /// If `head` or `x` has another shape.
    pub fn top(&mut self, cpu: &Cpu, head: DenseView, x: &[f32], k: usize, top: &mut Vec<Product>) -> Option<usize> {
        assert_eq!((head.rows, head.cols), (self.bounds.len(), self.cols), "Screen::top: the shape of the head");
        assert_eq!(x.len(), self.cols, "Screen::top: columns of the head and of the token");
        top.clear();
        if k == 0 || k > Self::most_top(self.bounds.len()) {
            return None;
        }
        self.query.set(cpu.isa(), x)?;
        if self.norm * self.query.norm() > MAX_NORM {
            return None;
        }
        self.bound_all(cpu);

        self.chunks.select_nth_unstable_by(k - 1, |a, b| b.approximate.total_cmp(&a.approximate));
        self.exact.clear();
        self.exact.extend(self.chunks[..k].iter().map(|chunk| Product { row: chunk.row, value: 0.0 }));
        multiply(cpu, head, x, &mut self.exact);
        let threshold = self.exact.iter().map(|product| product.value).fold(f32::INFINITY, f32::min);

        self.exact.clear();
        for chunk in self.chunks.iter().filter(|chunk| chunk.upper >= threshold) {
            let start = chunk.row as usize / CHUNK_ROWS * CHUNK_ROWS;
            let uppers = &self.upper[start..self.upper.len().min(start + CHUNK_ROWS)];
            if self.exact.len() + uppers.len() > self.upper.len() / MOST_EXACT {
                return None;
            }
            let possible = uppers.iter().zip(start as u32..).filter(|&(&upper, _)| upper >= threshold);
            self.exact.extend(possible.map(|(_, row)| Product { row, value: 0.0 }));
        }
        // In the order of memory.
        self.exact.sort_unstable_by_key(|product| product.row);
        multiply(cpu, head, x, &mut self.exact);
        if self.exact.len() > k {
            self.exact.select_nth_unstable_by(k - 1, Product::by_rank);
        }
        top.extend_from_slice(&self.exact[..k]);
        top.sort_unstable_by(Product::by_rank);
        Some(self.exact.len())
    }

    /// Multiplies the copy, and notes the upper bound of each row.
    fn bound_all(&mut self, cpu: &Cpu) {
        let Self { copy, bounds, query, upper, chunks, cols, .. } = self;
        if let Copy::Ternary(codes) = copy {
            codes.multiply(cpu, query);
        }
        let copy = &*copy;
        let (rows, isa) = (bounds.len(), cpu.isa());
        let (to_upper, to_chunks) = (Disjoint::new(upper), Disjoint::new(chunks));
        cpu.pool().run(rows.div_ceil(CHUNK_ROWS), |n| {
            let range = n * CHUNK_ROWS..rows.min((n + 1) * CHUNK_ROWS);
            // SAFETY: chunks are disjoint ranges of rows.
            let (upper, chunk) = unsafe { (to_upper.part(range.clone()), &mut to_chunks.part(n..n + 1)[0]) };
            let bounds = &bounds[range.clone()];
            let mut approximate = [f32::NEG_INFINITY; CHUNK_ROWS];
            let approximate = &mut approximate[..range.len()];
            match copy {
                Copy::SixBits(codes) => {
                    let row_bytes = row_bytes(*cols);
                    let codes = &codes[range.start * row_bytes..range.end * row_bytes];
                    let mut of_rows = [[0; 2]; CHUNK_ROWS];
                    let of_rows = &mut of_rows[..range.len()];
                    sums(isa, codes, query.planes(), of_rows);
                    match isa.base() {
                        #[cfg(target_arch = "x86_64")]
                        Base::Avx2(avx2) => avx2::bound(avx2, query, bounds, of_rows, approximate, upper),
                        _ => query.bound(bounds, of_rows, approximate, upper),
                    }
                }
                Copy::Ternary(codes) => {
                    query.bound_products(bounds, codes.products(range.clone()), codes.groups(), approximate, upper);
                }
            }
            let highest = |values: &[f32]| values.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
            let best = highest(approximate);
            let at = approximate.iter().position(|&product| product == best).unwrap_or(0);
            *chunk = Chunk { row: (range.start + at) as u32, approximate: best, upper: highest(upper) };
        });
    }
}

/// Sums of u times the upper and the lower bytes of the token, for each row; the same on every variant.
fn sums(isa: Isa, codes: &[u8], planes: [&[i8]; 2], sums: &mut [[i32; 2]]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni(vnni) => avx512vnni::sums(vnni, codes, planes, sums),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot(dot) => neondot::sums(dot, codes, planes, sums),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm(i8mm) => neondot::sums(i8mm.dot(), codes, planes, sums),
        isa => match isa.base() {
            Base::Scalar => scalar::sums(codes, planes, sums),
            #[cfg(target_arch = "x86_64")]
            Base::Avx2(avx2) => avx2::sums(avx2, codes, planes, sums),
            #[cfg(target_arch = "aarch64")]
            Base::Neon(neon) => neon::sums(neon, codes, planes, sums),
        },
    }
}

/// Encodes some rows of `head`: the codes of each into the first bytes of `stride` in `codes`, what is kept beside them
/// into `bounds`. All instruction sets give the same bits.
///
/// # Panics
/// If `codes` or `bounds` is not of so many rows, or `stride` less than a row.
pub fn encode_rows(
    cpu: &Cpu,
    head: &DenseView,
    rows: Range<usize>,
    stride: usize,
    codes: &mut [u8],
    bounds: &mut [Row],
) {
    let row_bytes = row_bytes(head.cols);
    assert!(row_bytes <= stride, "encode_rows: {row_bytes} bytes of a row in {stride}");
    assert_eq!((codes.len(), bounds.len()), (rows.len() * stride, rows.len()), "encode_rows: rows");
    let (to_codes, to_bounds) = (Disjoint::new(codes), Disjoint::new(bounds));
    let base = cpu.isa().base();
    cpu.pool().run(rows.len().div_ceil(CHUNK_ROWS), |chunk| {
        let range = chunk * CHUNK_ROWS..rows.len().min((chunk + 1) * CHUNK_ROWS);
        // SAFETY: chunks are disjoint ranges of rows.
        let (codes, bounds) =
            unsafe { (to_codes.part(range.start * stride..range.end * stride), to_bounds.part(range.clone())) };
        // Zeros fill the last block.
        let mut weights = vec![0.0; head.cols.next_multiple_of(BLOCK)];
        for ((row, codes), bound) in range.zip(codes.chunks_exact_mut(stride)).zip(bounds) {
            let (row, codes) = (rows.start + row, &mut codes[..row_bytes]);
            *bound = match base {
                #[cfg(target_arch = "x86_64")]
                Base::Avx2(avx2) => avx2::encode(avx2, head, row, &mut weights, codes),
                _ => scalar::encode(head, row, &mut weights, codes),
            };
        }
    });
}

/// The exact products of some rows.
fn multiply(cpu: &Cpu, head: DenseView, x: &[f32], products: &mut [Product]) {
    let (isa, len) = (cpu.isa(), products.len());
    let products = Disjoint::new(products);
    cpu.pool().run(len.div_ceil(EXACT_ROWS), |chunk| {
        // SAFETY: chunks are disjoint ranges.
        for product in unsafe { products.part(chunk * EXACT_ROWS..len.min((chunk + 1) * EXACT_ROWS)) } {
            product.value = dense::one_row(isa, &head, product.row as usize, x);
        }
    });
}

#[cfg(test)]
mod tests;
