//! The reference.

use super::TOKENS;
use crate::format::{DenseView, dense::decode_row};

/// Columns decoded at a time: a multiple of every block.
const STEP: usize = 256;

/// Products of one row with up to [`TOKENS`] tokens `x` (tokens, cols).
pub fn dot(w: &DenseView, row: usize, x: &[f32], products: &mut [f32; TOKENS]) {
    let bytes = w.row(row);
    let mut weights = [0.0; STEP];
    for start in (0..w.cols).step_by(STEP) {
        let weights = &mut weights[..STEP.min(w.cols - start)];
        decode_row(w.ty, &bytes[w.ty.row_bytes(start)..][..w.ty.row_bytes(weights.len())], weights);
        for (x, product) in x.chunks_exact(w.cols).zip(&mut *products) {
            for (w, x) in weights.iter().zip(&x[start..]) {
                *product += w * x;
            }
        }
    }
}
