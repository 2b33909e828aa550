//! RMS norm: y = x / sqrt(mean(x^2) + eps) * w.
//!
//! The squares are summed in f64, so that their order does not show in the f32 result and no finite input overflows;
//! the rest is f32: y = (x * factor) * w.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod scalar;

use crate::{Cpu, isa::Base, threads::Disjoint, tokens_of};

/// Values below which a row set is not worth waking a thread for (about 2 us of work).
const MIN_VALUES_PER_CHUNK: usize = 4096;

/// Norm of each row of `x` (T, cols) into `out` (T, cols).
///
/// # Panics
/// If `x` is not whole rows, or `weight` or `out` has another length.
pub fn rms_norm(cpu: &Cpu, x: &[f32], cols: usize, weight: &[f32], eps: f32, out: &mut [f32]) {
    assert_eq!(out.len(), x.len(), "rms_norm: values of the output");
    out.copy_from_slice(x);
    rms_norm_in_place(cpu, out, cols, weight, eps);
}

/// Norm of each row of `x` (T, cols) in place. Norms over heads have `cols` = head_dim.
///
/// # Panics
/// If `x` is not whole rows, or `weight` has not `cols` values.
pub fn rms_norm_in_place(cpu: &Cpu, x: &mut [f32], cols: usize, weight: &[f32], eps: f32) {
    let rows = tokens_of("rms_norm", x, cols);
    assert_eq!(weight.len(), cols, "rms_norm: weights of {cols} columns");
    let base = cpu.isa().base();
    let rows_per_chunk = MIN_VALUES_PER_CHUNK.div_ceil(cols);
    let x = Disjoint::new(x);
    cpu.pool().run(rows.div_ceil(rows_per_chunk), |chunk| {
        let first = chunk * rows_per_chunk;
        let last = rows.min(first + rows_per_chunk);
        // SAFETY: chunks are disjoint ranges of rows.
        let part = unsafe { x.part(first * cols..last * cols) };
        part.chunks_exact_mut(cols).for_each(|row| norm_row(base, row, weight, eps));
    });
}

/// Norm of one row in place.
pub(crate) fn norm_row(base: Base, row: &mut [f32], weight: &[f32], eps: f32) {
    match base {
        Base::Scalar => scalar::row(row, weight, eps),
        #[cfg(target_arch = "x86_64")]
        Base::Avx2(avx2) => avx2::row(avx2, row, weight, eps),
        #[cfg(target_arch = "aarch64")]
        Base::Neon(neon) => neon::row(neon, row, weight, eps),
    }
}

/// Whether no value is NaN or infinite.
pub fn all_finite(x: &[f32]) -> bool {
    // Without an early exit the loop is vectorised by the compiler on every target.
    x.iter().fold(true, |finite, x| finite & x.is_finite())
}

#[cfg(test)]
mod tests;
