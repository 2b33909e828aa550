//! Dense matrix times f32 activations (the output head), and single rows (the embedding table).
//!
//! out\[t\]\[row\] = sum over columns of w\[row\]\[col\] * x\[t\]\[col\], in f32. Head rows are read once for up to
//! [`TOKENS`] tokens.

mod scalar;

use crate::{
    Cpu, Isa,
    format::{DenseView, dense::decode_row},
    threads::Disjoint,
    tokens_of,
};

/// Tokens that share a decoded weight in registers.
const TOKENS: usize = 4;

/// Weights of a chunk: see `ternary::TILE_BYTES`.
const CHUNK_BYTES: usize = 128 << 10;

/// Products of `x` (T, cols) with `w` (rows, cols) into `out` (T, rows).
///
/// # Panics
/// If a length does not fit the shapes.
pub fn matmul(cpu: &Cpu, w: DenseView, x: &[f32], out: &mut [f32]) {
    check(&w);
    let tokens = tokens_of("dense::matmul", x, w.cols);
    assert_eq!(out.len(), tokens * w.rows, "dense::matmul: {tokens} x {} outputs", w.rows);
    let isa = cpu.isa();
    let rows_per_chunk = (CHUNK_BYTES / w.ty.row_bytes(w.cols)).max(1);
    let out = Disjoint::new(out);
    cpu.pool().run(w.rows.div_ceil(rows_per_chunk), |chunk| {
        for row in chunk * rows_per_chunk..w.rows.min((chunk + 1) * rows_per_chunk) {
            for (i, x) in x.chunks(TOKENS * w.cols).enumerate() {
                let mut products = [0.0; TOKENS];
                dot(isa, &w, row, x, &mut products);
                for (j, product) in products.into_iter().take(x.len() / w.cols).enumerate() {
                    let at = (i * TOKENS + j) * w.rows + row;
                    // SAFETY: chunks are disjoint ranges of rows, and this one writes its elements one by one.
                    unsafe { out.part(at..at + 1)[0] = product };
                }
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

/// The fields of a view are public: it may not have come from [`DenseView::new`].
fn check(w: &DenseView) {
    if let Err(error) = DenseView::new(w.rows, w.cols, w.data, w.ty) {
        panic!("dense: {error}");
    }
}

/// Products of one row with up to [`TOKENS`] tokens.
fn dot(isa: Isa, w: &DenseView, row: usize, x: &[f32], products: &mut [f32; TOKENS]) {
    match isa {
        Isa::Scalar => scalar::dot(w, row, x, products),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(_) => scalar::dot(w, row, x, products),
    }
}

#[cfg(test)]
mod tests;
