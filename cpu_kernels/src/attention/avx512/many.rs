//! The matrix products of many rows.

use std::arch::x86_64::*;

use crate::{attention::cache::UNIT, x86::wide};

/// `c` (rows, cols) += `a` (rows, a_stride) * `b` (n, cols), with the first n columns of `a`; `cols` is a multiple of a
/// vector.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
pub fn multiply_add(a: &[f32], a_stride: usize, b: &[f32], c: &mut [f32], cols: usize) {
    let rows = c.len() / cols;
    let mut row = 0;
    while row < rows {
        let (a, c) = (&a[row * a_stride..], &mut c[row * cols..]);
        // Rows that share a load of `b`: with four vectors of columns 24 of the 32 registers are sums.
        row += match rows - row {
            6.. => some_rows::<6>(a, a_stride, b, c, cols),
            3.. => some_rows::<3>(a, a_stride, b, c, cols),
            _ => some_rows::<1>(a, a_stride, b, c, cols),
        };
    }
}

/// The first `R` rows; returns `R`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
fn some_rows<const R: usize>(a: &[f32], a_stride: usize, b: &[f32], c: &mut [f32], cols: usize) -> usize {
    let mut col = 0;
    while col < cols {
        col += UNIT
            * match (cols - col) / UNIT {
                4.. => block::<R, 4>(a, a_stride, b, c, cols, col),
                2.. => block::<R, 2>(a, a_stride, b, c, cols, col),
                _ => block::<R, 1>(a, a_stride, b, c, cols, col),
            };
    }
    R
}

/// `R` rows and `V` vectors of columns from `col` on; returns `V`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
fn block<const R: usize, const V: usize>(
    a: &[f32],
    a_stride: usize,
    b: &[f32],
    c: &mut [f32],
    cols: usize,
    col: usize,
) -> usize {
    let n = b.len() / cols;
    let mut rows: [&[f32]; R] = [&[]; R];
    for r in 0..R {
        rows[r] = &a[r * a_stride..][..n];
    }
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    for (i, b) in b.chunks_exact(cols).enumerate() {
        let b = &b[col..][..V * UNIT].as_chunks::<UNIT>().0;
        let mut vectors = [_mm512_setzero_ps(); V];
        for v in 0..V {
            vectors[v] = wide::load(&b[v]);
        }
        for r in 0..R {
            let factor = _mm512_set1_ps(rows[r][i]);
            for v in 0..V {
                sums[r][v] = _mm512_fmadd_ps(factor, vectors[v], sums[r][v]);
            }
        }
    }
    for r in 0..R {
        let c = c[r * cols + col..][..V * UNIT].as_chunks_mut().0;
        for v in 0..V {
            wide::add_to(&mut c[v], sums[r][v]);
        }
    }
    V
}
