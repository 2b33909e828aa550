//! Dense matrix times f32 activations (the output head), and single rows (the embedding table).
//!
//! out\[t\]\[row\] = sum over columns of w\[row\]\[col\] * x\[t\]\[col\], in f32. Rows are read once for up to four
//! tokens.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::format::DenseType;
use crate::{
    Cpu, Isa,
    format::{DenseView, dense::decode_row},
    isa::Base,
    threads::Disjoint,
    tokens_of,
};

/// Tokens that share a decoded weight in registers.
const TOKENS: usize = 4;

/// Weights of a chunk: enough that claiming it (0.1 us) does not show, few enough that the last chunk does not keep
/// the other threads waiting (10 us at 13 GB/s).
const CHUNK_BYTES: usize = 128 << 10;

/// Most rows of a chunk: its products stand on the stack.
const CHUNK_ROWS: usize = 256;

/// Products of `x` (T, cols) with `w` (rows, cols) into `out` (T, rows).
///
/// # Panics
/// If a length does not fit the shapes.
pub fn matmul(cpu: &Cpu, w: DenseView, x: &[f32], out: &mut [f32]) {
    check(&w);
    let tokens = tokens_of("dense::matmul", x, w.cols);
    assert_eq!(out.len(), tokens * w.rows, "dense::matmul: {tokens} x {} outputs", w.rows);
    let isa = cpu.isa();
    let rows_per_chunk = (CHUNK_BYTES / w.ty.row_bytes(w.cols)).clamp(1, CHUNK_ROWS);
    let out = Disjoint::new(out);
    cpu.pool().run(w.rows.div_ceil(rows_per_chunk), |chunk| {
        let rows = chunk * rows_per_chunk..w.rows.min((chunk + 1) * rows_per_chunk);
        let mut products = [0.0; TOKENS * CHUNK_ROWS];
        for (i, x) in x.chunks(TOKENS * w.cols).enumerate() {
            let products = &mut products[..x.len() / w.cols * rows.len()];
            dot(isa, &w, rows.clone(), x, products);
            for (j, products) in products.chunks_exact(rows.len()).enumerate() {
                let start = (i * TOKENS + j) * w.rows;
                // SAFETY: chunks are disjoint ranges of rows, and tokens follow each other.
                unsafe { out.part(start + rows.start..start + rows.end) }.copy_from_slice(products);
            }
        }
    });
}

/// Row `row` of `w` as f32.
///
/// # Panics
/// If there is no such row, or `out` has not `cols` values.
pub fn gather(w: DenseView, row: usize, out: &mut [f32]) {
    check(&w);
    assert!(row < w.rows, "dense::gather: row {row} of {}", w.rows);
    decode_row(w.ty, w.row(row), out);
}

/// The product of one row with one token `x`, bit for bit as [`matmul`] computes it.
pub(crate) fn one_row(isa: Isa, w: &DenseView, row: usize, x: &[f32]) -> f32 {
    let mut product = [0.0];
    dot(isa, w, row..row + 1, x, &mut product);
    product[0]
}

/// The fields of a view are public: it may not have come from [`DenseView::new`].
fn check(w: &DenseView) {
    if let Err(error) = DenseView::new(w.rows, w.cols, w.data, w.ty) {
        panic!("dense: {error}");
    }
}

/// Products of some rows with up to [`TOKENS`] tokens `x` (tokens, cols), `products` (tokens, rows).
fn dot(isa: Isa, w: &DenseView, rows: Range<usize>, x: &[f32], products: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    match (isa, w.ty) {
        (Isa::Avx512Vnni(avx512), DenseType::Q8_0) => return avx512::dot_q8_0(avx512, w, rows, x, products),
        (Isa::Avx512Vnni(avx512), DenseType::Q6K) => return avx512::dot_q6k(avx512, w, rows, x, products),
        _ => {}
    }
    match isa.base() {
        Base::Scalar => scalar::dot(w, rows, x, products),
        #[cfg(target_arch = "x86_64")]
        Base::Avx2(avx2) => avx2::dot(avx2, w, rows, x, products),
        #[cfg(target_arch = "aarch64")]
        Base::Neon(neon) => neon::dot(neon, w, rows, x, products),
    }
}

#[cfg(test)]
mod tests;
