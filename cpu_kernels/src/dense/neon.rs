//! Up to 256 columns at a time: decoded once, multiplied with up to four tokens.

use std::{arch::aarch64::*, ops::Range};

use super::TOKENS;
use crate::{
    arm::{LANES, load, load_f16, store},
    format::{DenseType, DenseView, dense::decode_row},
    isa::Neon,
};

/// Most columns decoded at a time: the largest block.
const STEP: usize = 256;

/// Products of some rows with up to [`TOKENS`] tokens `x` (tokens, cols), `products` (tokens, rows).
pub fn dot(_: Neon, w: &DenseView, rows: Range<usize>, x: &[f32], products: &mut [f32]) {
    // SAFETY: the capability token proves the feature.
    unsafe { dot_neon(w, rows, x, products) }
}

#[target_feature(enable = "neon")]
fn dot_neon(w: &DenseView, rows: Range<usize>, x: &[f32], products: &mut [f32]) {
    let row_count = rows.len();
    for (at, row) in rows.enumerate() {
        let mut sums = [[vdupq_n_f32(0.0); 4]; TOKENS];
        let mut tails = [0.0; TOKENS];
        let row = w.row(row);
        for start in (0..w.cols).step_by(STEP) {
            let mut weights = [0.0; STEP];
            let weights = &mut weights[..STEP.min(w.cols - start)];
            decode(w.ty, &row[w.ty.row_bytes(start)..][..w.ty.row_bytes(weights.len())], weights);
            let (groups, weight_tail) = weights.as_chunks::<{ 4 * LANES }>();
            for (t, x) in x.chunks_exact(w.cols).enumerate() {
                let (x_groups, x_tail) = x[start..][..weights.len()].as_chunks::<{ 4 * LANES }>();
                for (w, x) in groups.iter().zip(x_groups) {
                    for (sum, (w, x)) in sums[t].iter_mut().zip(w.as_chunks().0.iter().zip(x.as_chunks().0)) {
                        *sum = vfmaq_f32(*sum, load(w), load(x));
                    }
                }
                tails[t] += weight_tail.iter().zip(x_tail).map(|(w, x)| w * x).sum::<f32>();
            }
        }
        for t in 0..x.len() / w.cols {
            let [a, b, c, d] = sums[t];
            products[t * row_count + at] = vaddvq_f32(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d))) + tails[t];
        }
    }
}

/// As [`decode_row`], whose loops the compiler turns into NEON, but for the conversion of binary16.
#[target_feature(enable = "neon")]
fn decode(ty: DenseType, bytes: &[u8], out: &mut [f32]) {
    if ty != DenseType::F16 {
        return decode_row(ty, bytes, out);
    }
    let (outs, out_tail) = out.as_chunks_mut::<LANES>();
    let (groups, tail) = bytes.as_chunks::<{ 2 * LANES }>();
    for (group, out) in groups.iter().zip(outs) {
        let at = |i: usize| u16::from_le_bytes([group[2 * i], group[2 * i + 1]]);
        store(out, load_f16(&[at(0), at(1), at(2), at(3)]));
    }
    decode_row(ty, tail, out_tail);
}
