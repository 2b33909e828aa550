//! 4 keys at a time, and four rows of S, whose sums come out side by side.

use std::arch::aarch64::*;

use super::{NORM_EPS, Token};
use crate::{
    arm::{LANES, load, store},
    isa::Neon,
};

/// Rows of S that meet a key and a query in registers.
const ROWS: usize = 4;

/// One token through some rows of S, (v.len(), dim), where dim is whole vectors.
pub fn step(_: Neon, token: &Token, v: &[f32], memory: &mut [f32], out: &mut [f32]) {
    // SAFETY: the capability token proves the feature.
    unsafe { step_neon(token, v, memory, out) }
}

#[target_feature(enable = "neon")]
fn step_neon(token: &Token, v: &[f32], memory: &mut [f32], out: &mut [f32]) {
    let (q, k) = (token.q.as_chunks().0, token.k.as_chunks().0);
    let [mut qq, mut kk, mut kq] = [vdupq_n_f32(0.0); 3];
    for (q, k) in q.iter().zip(k) {
        let (q, k) = (load(q), load(k));
        qq = vfmaq_f32(qq, q, q);
        kk = vfmaq_f32(kk, k, k);
        kq = vfmaq_f32(kq, k, q);
    }
    let head = Head {
        q,
        k,
        q_factor: 1.0 / ((vaddvq_f32(qq) + NORM_EPS).sqrt() * (token.q.len() as f32).sqrt()),
        k_factor: 1.0 / (vaddvq_f32(kk) + NORM_EPS).sqrt(),
        kq: vaddvq_f32(kq),
        decay: token.decay,
        beta: token.beta,
    };
    let (vs, v_tail) = v.as_chunks::<ROWS>();
    let (outs, out_tail) = out.as_chunks_mut::<ROWS>();
    let (memories, memory_tail) = memory.split_at_mut(vs.len() * ROWS * token.k.len());
    let rows = memories.chunks_exact_mut(ROWS * token.k.len());
    for ((v, out), rows) in vs.iter().zip(outs).zip(rows) {
        head.rows::<ROWS>(v, rows, out);
    }
    for ((v, out), row) in v_tail.iter().zip(out_tail).zip(memory_tail.chunks_exact_mut(token.k.len())) {
        let mut four = [0.0; ROWS];
        head.rows::<1>(&[*v, 0.0, 0.0, 0.0], row, &mut four);
        *out = four[0];
    }
}

/// A token of a head; the lengths of query and key are divided out of the sums that they are in.
struct Head<'a> {
    q: &'a [[f32; LANES]],
    k: &'a [[f32; LANES]],
    q_factor: f32,
    k_factor: f32,
    /// The product of both, as they are.
    kq: f32,
    decay: f32,
    beta: f32,
}

impl Head<'_> {
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
