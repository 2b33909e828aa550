//! The parts of a step that all SIMD variants have in common: the factors of a token, and the rows of S in fours.

use super::{NORM_EPS, Token};

/// Rows of S that meet a key and a query in registers.
pub const ROWS: usize = 4;

/// A token of a head in vectors; the lengths of query and key are divided out of the sums that they are in.
pub struct Head<'a, const LANES: usize> {
    pub q: &'a [[f32; LANES]],
    pub k: &'a [[f32; LANES]],
    pub q_factor: f32,
    pub k_factor: f32,
    /// The product of both, as they are.
    pub kq: f32,
    pub decay: f32,
    pub beta: f32,
}

impl<'a, const LANES: usize> Head<'a, LANES> {
    /// `qq`, `kk` and `kq`: the products of query and key with themselves and each other.
    #[inline]
    pub fn new(token: &Token<'a>, [qq, kk, kq]: [f32; 3]) -> Self {
        Self {
            q: token.q.as_chunks().0,
            k: token.k.as_chunks().0,
            q_factor: 1.0 / ((qq + NORM_EPS).sqrt() * (token.q.len() as f32).sqrt()),
            k_factor: 1.0 / (kk + NORM_EPS).sqrt(),
            kq,
            decay: token.decay,
            beta: token.beta,
        }
    }
}

/// Calls `four` with the values, the rows of S and the results of each four rows, and `one` with those of each row that is
/// left, in the first place of four.
#[inline(always)]
pub fn each(
    dim: usize,
    v: &[f32],
    memory: &mut [f32],
    out: &mut [f32],
    four: impl Fn(&[f32; ROWS], &mut [f32], &mut [f32; ROWS]),
    one: impl Fn(&[f32; ROWS], &mut [f32], &mut [f32; ROWS]),
) {
    let (vs, v_tail) = v.as_chunks();
    let (outs, out_tail) = out.as_chunks_mut();
    let (memories, memory_tail) = memory.split_at_mut(vs.len() * ROWS * dim);
    for ((v, out), rows) in vs.iter().zip(outs).zip(memories.chunks_exact_mut(ROWS * dim)) {
        four(v, rows, out);
    }
    for ((v, out), row) in v_tail.iter().zip(out_tail).zip(memory_tail.chunks_exact_mut(dim)) {
        let mut results = [0.0; ROWS];
        one(&[*v, 0.0, 0.0, 0.0], row, &mut results);
        *out = results[0];
    }
}
