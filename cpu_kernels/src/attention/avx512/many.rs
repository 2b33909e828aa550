//! The matrix products and weights of many rows.

use std::arch::x86_64::*;

use crate::{
    attention::{
        avx2::many::{Factors, Rows},
        cache::UNIT,
    },
    x86::{exp::exp_wide, wide},
};

/// As [`crate::attention::avx2::many::weigh`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
pub fn weigh(rows: &mut Rows, scores: &mut [f32], columns: usize) {
    let keys = scores.len() / columns;
    for first in (0..columns).step_by(UNIT) {
        let at = |key: usize| key * columns + first..key * columns + first + UNIT;
        let visible = wide::load_i32(rows.visible[first..].first_chunk().expect("whole vectors of rows"));
        let sees = |key: usize| _mm512_cmpgt_epi32_mask(visible, _mm512_set1_epi32(key as i32));
        let [max, sum, shrink] = [&mut rows.max, &mut rows.sum, &mut rows.shrink]
            .map(|all| all[first..].first_chunk_mut::<UNIT>().expect("whole vectors of rows"));
        let before = wide::load(max);
        let mut largest = before;
        for key in 0..keys {
            // The second operand is the result where one is NaN: NaN is skipped.
            let score = wide::load(scores[at(key)].first_chunk().expect("a vector of scores"));
            largest = _mm512_mask_max_ps(largest, sees(key), score, largest);
        }
        let grown = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(largest, before);
        let factor = _mm512_mask_mov_ps(_mm512_set1_ps(1.0), grown, exp_wide(_mm512_sub_ps(before, largest)));
        wide::store(max, largest);
        wide::store(shrink, factor);
        let mut total = _mm512_mul_ps(wide::load(sum), factor);
        for key in 0..keys {
            let scores = scores[at(key)].first_chunk_mut().expect("a vector of scores");
            let (score, sees) = (wide::load(scores), sees(key));
            let weight = _mm512_maskz_mov_ps(sees, exp_wide(_mm512_sub_ps(score, largest)));
            wide::store(scores, weight);
            // score * 0 is 0 for a number and NaN for -infinity, which must not pass as a weight of 0.
            let poison = _mm512_maskz_mul_ps(sees, score, _mm512_setzero_ps());
            total = _mm512_add_ps(total, _mm512_add_ps(weight, poison));
        }
        wide::store(sum, total);
    }
}

/// `c` (rows, cols) += `a` (rows, n) * `b` (n, cols); `cols` is a multiple of a vector.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
pub fn multiply_add(a: Factors, b: &[f32], c: &mut [f32], cols: usize) {
    let rows = c.len() / cols;
    let mut row = 0;
    while row < rows {
        let (a, c) = (a.skip_rows(row), &mut c[row * cols..]);
        // Rows that share a load of `b`: with four vectors of columns 24 of the 32 registers are sums.
        row += match rows - row {
            6.. => some_rows::<6>(a, b, c, cols),
            3.. => some_rows::<3>(a, b, c, cols),
            _ => some_rows::<1>(a, b, c, cols),
        };
    }
}

/// The first `R` rows; returns `R`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
fn some_rows<const R: usize>(a: Factors, b: &[f32], c: &mut [f32], cols: usize) -> usize {
    let mut col = 0;
    while col < cols {
        col += UNIT
            * match (cols - col) / UNIT {
                4.. => block::<R, 4>(a, b, c, cols, col),
                3 => block::<R, 3>(a, b, c, cols, col),
                2 => block::<R, 2>(a, b, c, cols, col),
                _ => block::<R, 1>(a, b, c, cols, col),
            };
    }
    R
}

/// `R` rows and `V` vectors of columns from `col` on; returns `V`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
fn block<const R: usize, const V: usize>(a: Factors, b: &[f32], c: &mut [f32], cols: usize, col: usize) -> usize {
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    a.columns::<R>(b.len() / cols, |i, column| {
        let b = &b[i * cols + col..][..V * UNIT].as_chunks::<UNIT>().0;
        let mut vectors = [_mm512_setzero_ps(); V];
        for v in 0..V {
            vectors[v] = wide::load(&b[v]);
        }
        for r in 0..R {
            let factor = _mm512_set1_ps(column[r]);
            for v in 0..V {
                sums[r][v] = _mm512_fmadd_ps(factor, vectors[v], sums[r][v]);
            }
        }
    });
    for r in 0..R {
        let c = c[r * cols + col..][..V * UNIT].as_chunks_mut().0;
        for v in 0..V {
            wide::add_to(&mut c[v], sums[r][v]);
        }
    }
    V
}
