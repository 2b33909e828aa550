//! The reference.

use std::ops::Range;

use crate::format::{DenseView, dense::decode_row};

/// Columns decoded at a time: a multiple of every block.
const STEP: usize = 256;

/// Products of some rows with a few tokens `x` (tokens, cols), `products` (tokens, rows).
pub fn dot(w: &DenseView, rows: Range<usize>, x: &[f32], products: &mut [f32]) {
    let row_count = rows.len();
    products.fill(0.0);
    for (at, row) in rows.enumerate() {
        let bytes = w.row(row);
        let mut weights = [0.0; STEP];
        for start in (0..w.cols).step_by(STEP) {
            let weights = &mut weights[..STEP.min(w.cols - start)];
            decode_row(w.ty, &bytes[w.ty.row_bytes(start)..][..w.ty.row_bytes(weights.len())], weights);
            for (t, x) in x.chunks_exact(w.cols).enumerate() {
                for (w, x) in weights.iter().zip(&x[start..]) {
                    products[t * row_count + at] += w * x;
                }
            }
        }
    }
}
