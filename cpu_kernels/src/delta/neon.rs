//! 4 keys at a time, and four rows of S, whose sums come out side by side.

use std::arch::aarch64::*;

use super::{
    Token,
    rows::{self, Head, ROWS},
};
use crate::{
    arm::{LANES, load, store},
    isa::Neon,
};

/// One token through some rows of S, (v.len(), dim), where dim is whole vectors.
pub fn step(_: Neon, token: &Token, v: &[f32], memory: &mut [f32], out: &mut [f32]) {
    // SAFETY: the capability token proves the feature.
    unsafe { step_neon(token, v, memory, out) }
}

#[target_feature(enable = "neon")]
fn step_neon(token: &Token, v: &[f32], memory: &mut [f32], out: &mut [f32]) {
    let [mut qq, mut kk, mut kq] = [vdupq_n_f32(0.0); 3];
    for (q, k) in token.q.as_chunks().0.iter().zip(token.k.as_chunks().0) {
        let (q, k) = (load(q), load(k));
        qq = vfmaq_f32(qq, q, q);
        kk = vfmaq_f32(kk, k, k);
        kq = vfmaq_f32(kq, k, q);
    }
    let head = Head::<LANES>::new(token, [qq, kk, kq].map(|x| vaddvq_f32(x)));
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
    #[target_feature(enable = "neon")]
    fn rows<const R: usize>(&self, v: &[f32; ROWS], rows: &mut [f32], out: &mut [f32; ROWS]) {
        let Self { q, k, q_factor, k_factor, kq, decay, beta } = *self;
        let rows = rows.as_chunks_mut().0;
        let (mut of_k, mut of_q) = ([vdupq_n_f32(0.0); ROWS], [vdupq_n_f32(0.0); ROWS]);
        for i in 0..k.len() {
            let (q, k_i) = (load(&q[i]), load(&k[i]));
            for r in 0..R {
                let s = load(&rows[r * k.len() + i]);
                of_k[r] = vfmaq_f32(of_k[r], s, k_i);
                of_q[r] = vfmaq_f32(of_q[r], s, q);
            }
        }
        let (of_k, of_q) = (sum_each(of_k), sum_each(of_q));
        // beta (v - e^g S k), divided by |k| for the product with k as it is.
        let d = vmulq_n_f32(vfmsq_n_f32(load(v), of_k, decay * k_factor), beta * k_factor);
        let o = vfmaq_n_f32(vmulq_n_f32(of_q, decay), d, kq);
        store(out, vmulq_n_f32(o, q_factor));
        let mut ds = [0.0; ROWS];
        store(&mut ds, d);
        for i in 0..k.len() {
            let k_i = load(&k[i]);
            for r in 0..R {
                let s = &mut rows[r * k.len() + i];
                let kept = vmulq_n_f32(load(s), decay);
                store(s, vfmaq_n_f32(kept, k_i, ds[r]));
            }
        }
    }
}

/// The sum of the lanes of each.
#[inline]
#[target_feature(enable = "neon")]
fn sum_each([a, b, c, d]: [float32x4_t; 4]) -> float32x4_t {
    vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d))
}
