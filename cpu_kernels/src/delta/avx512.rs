//! 16 keys at a time, and four rows of S, whose sums come out side by side.

use std::arch::x86_64::*;

use super::{
    Token,
    rows::{self, Head, ROWS},
};
use crate::{
    isa::Avx512Vnni,
    x86::{
        store_four,
        wide::{load, store, sum_each},
    },
};

/// f32 values of a vector.
pub const LANES: usize = 16;

/// One token through some rows of S, (v.len(), dim), where dim is whole vectors.
pub fn step(_: Avx512Vnni, token: &Token, v: &[f32], memory: &mut [f32], out: &mut [f32]) {
    // SAFETY: the capability token proves the features.
    unsafe { step_avx512(token, v, memory, out) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512vl")]
fn step_avx512(token: &Token, v: &[f32], memory: &mut [f32], out: &mut [f32]) {
    let [mut qq, mut kk, mut kq] = [_mm512_setzero_ps(); 3];
    for (q, k) in token.q.as_chunks().0.iter().zip(token.k.as_chunks().0) {
        let (q, k) = (load(q), load(k));
        qq = _mm512_fmadd_ps(q, q, qq);
        kk = _mm512_fmadd_ps(k, k, kk);
        kq = _mm512_fmadd_ps(k, q, kq);
    }
    let head = Head::<LANES>::new(token, [qq, kk, kq].map(|x| _mm512_reduce_add_ps(x)));
    rows::each(
        token.k.len(),
        v,
        memory,
        out,
        |v, rows, out| head.rows::<ROWS>(v, rows, out),
        |v, row, out| head.rows::<1>(v, row, out),
    );
}

impl Head<'_, LANES> {
    /// `R` rows of S, (R, dim).
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512vl")]
    fn rows<const R: usize>(&self, v: &[f32; ROWS], rows: &mut [f32], out: &mut [f32; ROWS]) {
        let Self { q, k, q_factor, k_factor, kq, decay, beta } = *self;
        let rows = rows.as_chunks_mut().0;
        let (mut of_k, mut of_q) = ([_mm512_setzero_ps(); ROWS], [_mm512_setzero_ps(); ROWS]);
        for i in 0..k.len() {
            let (q, k_i) = (load(&q[i]), load(&k[i]));
            for r in 0..R {
                let s = load(&rows[r * k.len() + i]);
                of_k[r] = _mm512_fmadd_ps(s, k_i, of_k[r]);
                of_q[r] = _mm512_fmadd_ps(s, q, of_q[r]);
            }
        }
        let (of_k, of_q) = (sum_each(of_k), sum_each(of_q));
        let v = _mm_setr_ps(v[0], v[1], v[2], v[3]);
        // beta (v - e^g S k), divided by |k| for the product with k as it is.
        let d = _mm_mul_ps(_mm_fnmadd_ps(of_k, _mm_set1_ps(decay * k_factor), v), _mm_set1_ps(beta * k_factor));
        let o = _mm_fmadd_ps(d, _mm_set1_ps(kq), _mm_mul_ps(of_q, _mm_set1_ps(decay)));
        store_four(out, _mm_mul_ps(o, _mm_set1_ps(q_factor)));
        let mut ds = [0.0; ROWS];
        store_four(&mut ds, d);
        let decay = _mm512_set1_ps(decay);
        for i in 0..k.len() {
            let k_i = load(&k[i]);
            for r in 0..R {
                let s = &mut rows[r * k.len() + i];
                let kept = _mm512_mul_ps(load(s), decay);
                store(s, _mm512_fmadd_ps(k_i, _mm512_set1_ps(ds[r]), kept));
            }
        }
    }
}
