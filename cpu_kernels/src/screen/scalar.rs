//! The reference.

use super::{
    Planes, Sums,
    encode::{self, BLOCK, BLOCK_BYTES, Row, code_at},
};
use crate::format::{DenseView, dense::decode_row};

/// Row `row` of `head` into `codes`; `weights` has room for it in whole blocks, zero past it.
pub fn encode(head: &DenseView, row: usize, weights: &mut [f32], codes: &mut [u8]) -> Row {
    decode_row(head.ty, head.row(row), &mut weights[..head.cols]);
    encode::encode(weights, codes)
}

/// Sums of u times the upper and the lower bytes of each token, for each row.
pub fn sums(codes: &[u8], tokens: &[Planes], sums: &mut [Sums]) {
    for (planes, sums) in tokens.iter().zip(sums) {
        let row_bytes = planes[0].len() / BLOCK * BLOCK_BYTES;
        for (row, sums) in codes.chunks_exact(row_bytes).zip(sums) {
            *sums = [0; 2];
            for (block, at) in row.chunks_exact(BLOCK_BYTES).zip((0..).step_by(BLOCK)) {
                for col in 0..BLOCK {
                    for plane in 0..2 {
                        sums[plane] += i32::from(code_at(block, col)) * i32::from(planes[plane][at + col]);
                    }
                }
            }
        }
    }
}
