//! The highest products of a dense matrix (the output head) with each of a few tokens, without reading all of it: exactly
//! the rows and values that [`crate::dense::matmul`] and a sort would give.
//!
//! [`Screen::new`] makes a copy of the rows in 6 bits a weight, w ~ ŵ = scale * (u - 32), u = 0..63, and keeps with
//! each row the norm of what that leaves out. [`Screen::top_rows`] multiplies all of the copy, in whole numbers, with
//! tokens x as 16-bit numbers x̂, reading it once for all of them, and computes exactly only the rows that can still be
//! among a token's highest: since
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
    ALIKE_TOKENS, Cpu, Isa, dense,
    format::{DenseType, DenseView},
    isa::Base,
    memory::Memory,
    threads::Disjoint,
};

/// Rows of a chunk: 120 KiB of 2560 columns.
const CHUNK_ROWS: usize = 64;

/// Rows of a chunk of those that are computed exactly: 80 KiB of 2560 columns in f16.
const EXACT_ROWS: usize = 16;

/// At most one row in so many is computed exactly: beyond that the whole matrix is hardly slower, as it is read in its
/// order.
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
    /// Its product, as [`crate::dense::matmul`] computes it.
    pub value: f32,
}

impl Product {
    /// Highest first, lowest row first among equals; 0 and -0 are equal.
    pub fn by_rank(&self, other: &Self) -> std::cmp::Ordering {
        other.value.partial_cmp(&self.value).unwrap_or(std::cmp::Ordering::Equal).then(self.row.cmp(&other.row))
    }
}

/// The highest products wanted of one token, and what was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Top {
    /// How many are wanted.
    pub count: usize,
    /// They, in the order of [`Product::by_rank`].
    pub products: Vec<Product>,
    /// Rows that were computed exactly. `None`, without products, where the bounds are of no use and all of the head has
    /// to be multiplied: for too large a count, for too many rows that are nearly as high, for values that are not finite
    /// or may overflow.
    pub exact: Option<usize>,
}

/// The quantized head, which is multiplied in place of the head.
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
    /// Columns with those that fill the last block.
    stride: usize,
    /// Most tokens of a step.
    tokens: usize,
    /// (tokens)
    queries: Vec<Query>,
    /// Upper bytes, then lower bytes of each token; (tokens, 2, stride), zero past the columns
    planes: Vec<Line>,
    /// (tokens, rows) upper bounds of the products
    upper: Vec<f32>,
    /// (tokens, chunks) what is known of each
    chunks: Vec<Chunk>,
    /// Rows to be computed exactly for each token, and their products; (tokens)
    exact: Vec<Vec<Product>>,
}

/// The upper and the lower bytes of a token, (stride) each.
type Planes<'a> = [&'a [i8]; 2];

/// Sums of the codes of each row of a chunk times the upper and times the lower bytes of a token.
type Sums = [[i32; 2]; CHUNK_ROWS];

/// The best row of a chunk by the copy, and the highest upper bound.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    row: u32,
    approximate: f32,
    upper: f32,
}

impl Screen {
    /// Bytes that kernels of `isa` read of the copy of a (rows, cols) matrix of type `ty`, and those of the bounds for one
    /// token.
    pub fn bytes(isa: Isa, rows: usize, cols: usize, ty: DenseType) -> usize {
        let is_ternary = ty.dialect().is_some();
        let of_copy =
            if is_ternary { ternary::bytes(isa, rows, cols, ty) } else { rows.saturating_mul(row_bytes(cols)) };
        of_copy.saturating_add(rows.saturating_mul(size_of::<Row>() + size_of::<f32>()))
    }

    /// True where the copy is read and multiplied faster than a head of type `ty`: where it is no larger, as whole
    /// numbers are multiplied several times faster than weights that have to become f32 first. Ternary weights keep
    /// their bits.
    pub fn pays(rows: usize, cols: usize, ty: DenseType) -> bool {
        // The bytes of other types are the same for all kernels.
        let is_no_larger = || Self::bytes(Isa::Scalar, rows, cols, ty) <= ty.row_bytes(cols) * rows;
        cols <= MAX_COLS && (ty.dialect().is_some() || is_no_larger())
    }

    /// The most products of a token that can be asked for, of a matrix of so many rows.
    pub fn most_top(rows: usize) -> usize {
        (rows / MIN_ROWS_PER_TOP).clamp(1, MOST_TOP)
    }

    /// True where its kernels are vector code.
    pub fn is_fast() -> bool {
        cfg!(any(target_arch = "x86_64", target_arch = "aarch64"))
    }

    /// A copy of `head`, with room for `tokens` tokens at a time. `None` if it has a weight that is not finite, or no
    /// rows, or more columns than the sums have room for.
    ///
    /// # Panics
    /// If `tokens` is 0 or above [`ALIKE_TOKENS`].
    pub fn new(cpu: &Cpu, head: DenseView, tokens: usize) -> Option<Self> {
        assert!((1..=ALIKE_TOKENS).contains(&tokens), "Screen::new: {tokens} tokens (at most {ALIKE_TOKENS})");
        let DenseView { rows, cols, .. } = head;
        if rows == 0 || cols == 0 || cols > MAX_COLS || u32::try_from(rows).is_err() {
            return None;
        }
        let (copy, bounds, stride) = if head.ty.dialect().is_some() {
            let (codes, bounds) = ternary::Codes::new(cpu, &head, tokens)?;
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
            stride,
            tokens,
            queries: vec![Query::default(); tokens],
            planes: vec![Line([0; 64]); tokens * 2 * stride / size_of::<Line>()],
            upper: vec![0.0; tokens * rows],
            chunks: vec![chunk; tokens * rows.div_ceil(CHUNK_ROWS)],
            exact: (0..tokens).map(|_| Vec::with_capacity(rows / MOST_EXACT)).collect(),
        })
    }

    /// [`Self::top_rows`] for one token: its `k` highest products into `top`; returns how many rows were computed
    /// exactly.
    ///
    /// # Panics
    /// If `head` or `x` has another shape.
    pub fn top(&mut self, cpu: &Cpu, head: DenseView, x: &[f32], k: usize, top: &mut Vec<Product>) -> Option<usize> {
        let mut found = Top { count: k, products: std::mem::take(top), exact: None };
        self.top_rows(cpu, head, x, std::slice::from_mut(&mut found));
        *top = found.products;
        found.exact
    }

    /// The highest products of `head`, which the screen was made of, with each token of `x` (T, cols): as many as each
    /// of `tops` (T) asks for. The copy is read once for all tokens; what each gets is what it would get alone.
    ///
    /// # Panics
    /// If `head` or `x` has another shape, or there are more tokens than the screen has room for.
    pub fn top_rows(&mut self, cpu: &Cpu, head: DenseView, x: &[f32], tops: &mut [Top]) {
        assert_eq!((head.rows, head.cols), (self.bounds.len(), self.cols), "Screen: the shape of the head");
        assert_eq!(x.len(), tops.len() * self.cols, "Screen: columns of the head and of the tokens");
        assert!(tops.len() <= self.tokens, "Screen: {} tokens in room for {}", tops.len(), self.tokens);
        // Tokens that bounds say something about, side by side.
        let (mut tokens, mut count) = ([0; ALIKE_TOKENS], 0);
        for (t, (top, x)) in tops.iter_mut().zip(x.chunks_exact(self.cols)).enumerate() {
            top.products.clear();
            top.exact = None;
            if self.set(cpu.isa(), count, x, top.count) {
                tokens[count] = t;
                count += 1;
            }
        }
        if count == 0 {
            return;
        }
        self.bound_all(cpu, count);
        let Self { exact, upper, chunks, bounds, cols, .. } = self;
        let (rows, of_token) = (bounds.len(), bounds.len().div_ceil(CHUNK_ROWS));
        let (exact, chunks, tops) = (Disjoint::new(exact), Disjoint::new(chunks), Disjoint::new(tops));
        // Several tokens each on a thread of its own: what little there is for one has stretches that cannot be shared.
        cpu.pool().run(count, |slot| {
            let t = tokens[slot];
            // SAFETY: chunks are different slots, of different tokens.
            let (exact, chunks, top) = unsafe {
                let of_slot = chunks.part(slot * of_token..(slot + 1) * of_token);
                (&mut exact.part(slot..slot + 1)[0], of_slot, &mut tops.part(t..t + 1)[0])
            };
            let mut choice = Choice { upper: &upper[slot * rows..][..rows], chunks, exact };
            top.exact = choice.choose(cpu, head, &x[t * *cols..][..*cols], top.count);
            if top.exact.is_some() {
                top.products.extend_from_slice(&choice.exact[..top.count]);
                top.products.sort_unstable_by(Product::by_rank);
            }
        });
    }

    /// Makes `x` token number `slot`; false if its `k` highest products have to be found in another way.
    fn set(&mut self, isa: Isa, slot: usize, x: &[f32], k: usize) -> bool {
        if k == 0 || k > Self::most_top(self.bounds.len()) {
            return false;
        }
        let planes: &mut [i8] = bytemuck::cast_slice_mut(&mut self.planes);
        let (high, low) = planes[slot * 2 * self.stride..][..2 * self.stride].split_at_mut(self.stride);
        let Some(query) = Query::new(isa, x, high, low) else { return false };
        let fits = self.norm * query.norm() <= MAX_NORM;
        self.queries[slot] = query;
        fits
    }

    /// Multiplies the copy with the first `tokens` tokens, and notes the upper bounds of each row.
    fn bound_all(&mut self, cpu: &Cpu, tokens: usize) {
        let Self { copy, bounds, queries, planes, upper, chunks, cols, stride, .. } = self;
        let queries = &queries[..tokens];
        let planes: &[i8] = &bytemuck::cast_slice(planes)[..tokens * 2 * *stride];
        if let Copy::Ternary(codes) = copy {
            codes.multiply(cpu, queries, planes);
        }
        let mut of_tokens = planes.chunks_exact(*stride);
        let planes: [Planes; ALIKE_TOKENS] =
            std::array::from_fn(|_| [0, 1].map(|_| of_tokens.next().unwrap_or_default()));
        let pass =
            Pass { isa: cpu.isa(), copy, bounds, queries, planes: &planes[..tokens], row_bytes: row_bytes(*cols) };
        let rows = bounds.len();
        let count = rows.div_ceil(CHUNK_ROWS);
        let (upper, chunks) = (Disjoint::new(upper), Disjoint::new(chunks));
        cpu.pool().run(count, |n| {
            let range = n * CHUNK_ROWS..rows.min((n + 1) * CHUNK_ROWS);
            with_sums(tokens, |sums| {
                pass.multiply(range.clone(), sums);
                for (token, sums) in sums.iter().enumerate() {
                    let (first, chunk) = (token * rows, token * count + n);
                    // SAFETY: chunks are disjoint ranges of rows, each of every token.
                    let (upper, chunk) =
                        unsafe { (upper.part(first + range.start..first + range.end), chunks.part(chunk..chunk + 1)) };
                    chunk[0] = pass.bound(token, range.clone(), sums, upper);
                }
            });
        });
    }
}

/// Bounds of the products with one token, and the products themselves that are computed.
struct Choice<'a> {
    /// (rows)
    upper: &'a [f32],
    chunks: &'a mut [Chunk],
    /// Room for products.
    exact: &'a mut Vec<Product>,
}

impl Choice<'_> {
    /// The `k` highest products with the token, `x`, into the first places of `exact`, in no order. Returns how many rows
    /// were computed exactly.
    fn choose(&mut self, cpu: &Cpu, head: DenseView, x: &[f32], k: usize) -> Option<usize> {
        let Self { upper, chunks, exact } = self;
        let rows = upper.len();
        chunks.select_nth_unstable_by(k - 1, |a, b| b.approximate.total_cmp(&a.approximate));
        exact.clear();
        exact.extend(chunks[..k].iter().map(|chunk| Product { row: chunk.row, value: 0.0 }));
        multiply(cpu, head, x, exact);
        let threshold = exact.iter().map(|product| product.value).fold(f32::INFINITY, f32::min);

        exact.clear();
        for chunk in chunks.iter().filter(|chunk| chunk.upper >= threshold) {
            let start = chunk.row as usize / CHUNK_ROWS * CHUNK_ROWS;
            let uppers = &upper[start..rows.min(start + CHUNK_ROWS)];
            if exact.len() + uppers.len() > rows / MOST_EXACT {
                return None;
            }
            let possible = uppers.iter().zip(start as u32..).filter(|&(&upper, _)| upper >= threshold);
            exact.extend(possible.map(|(_, row)| Product { row, value: 0.0 }));
        }
        // In the order of memory.
        exact.sort_unstable_by_key(|product| product.row);
        multiply(cpu, head, x, exact);
        if exact.len() > k {
            exact.select_nth_unstable_by(k - 1, Product::by_rank);
        }
        Some(exact.len())
    }
}

/// Room for the sums of a chunk. That of one token is small: clearing room for eight would take 2 % of its time.
fn with_sums(tokens: usize, work: impl FnOnce(&mut [Sums])) {
    if tokens == 1 {
        work(&mut [[[0; 2]; CHUNK_ROWS]]);
    } else {
        work(&mut [[[0; 2]; CHUNK_ROWS]; ALIKE_TOKENS][..tokens]);
    }
}

/// One reading of the copy for some tokens.
struct Pass<'a> {
    isa: Isa,
    copy: &'a Copy,
    /// (rows)
    bounds: &'a [Row],
    /// (tokens)
    queries: &'a [Query],
    /// (tokens)
    planes: &'a [Planes<'a>],
    /// Bytes of a row in 6 bits.
    row_bytes: usize,
}

impl Pass<'_> {
    /// Products of some rows in 6 bits with the bytes of each token. Those of ternary rows are there already.
    fn multiply(&self, rows: Range<usize>, to: &mut [Sums]) {
        if let Copy::SixBits(codes) = self.copy {
            sums(self.isa, &codes[rows.start * self.row_bytes..rows.end * self.row_bytes], self.planes, to);
        }
    }

    /// Upper bounds of the products of some rows with a token.
    fn bound(&self, token: usize, rows: Range<usize>, sums: &Sums, upper: &mut [f32]) -> Chunk {
        let (query, bounds, sums) = (&self.queries[token], &self.bounds[rows.clone()], &sums[..rows.len()]);
        let mut approximate = [f32::NEG_INFINITY; CHUNK_ROWS];
        let approximate = &mut approximate[..rows.len()];
        match (self.copy, self.isa.base()) {
            #[cfg(target_arch = "x86_64")]
            (Copy::SixBits(_), Base::Avx2(avx2)) => avx2::bound(avx2, query, bounds, sums, approximate, upper),
            (Copy::SixBits(_), _) => query.bound(bounds, sums, approximate, upper),
            (Copy::Ternary(codes), _) => {
                let products = codes.products(token, rows.clone());
                query.bound_products(bounds, products, codes.groups(), approximate, upper);
            }
        }
        let highest = |values: &[f32]| values.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        let best = highest(approximate);
        let at = approximate.iter().position(|&product| product == best).unwrap_or(0);
        Chunk { row: (rows.start + at) as u32, approximate: best, upper: highest(upper) }
    }
}

/// Sums of u times the upper and the lower bytes of each token, for each row; the same on every variant.
fn sums(isa: Isa, codes: &[u8], tokens: &[Planes], sums: &mut [Sums]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni(vnni) => avx512vnni::sums(vnni, codes, tokens, sums),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot(dot) => neondot::sums(dot, codes, tokens, sums),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm(i8mm) => neondot::sums(i8mm.dot(), codes, tokens, sums),
        isa => match isa.base() {
            Base::Scalar => scalar::sums(codes, tokens, sums),
            #[cfg(target_arch = "x86_64")]
            Base::Avx2(avx2) => avx2::sums(avx2, codes, tokens, sums),
            #[cfg(target_arch = "aarch64")]
            Base::Neon(neon) => neon::sums(neon, codes, tokens, sums),
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
