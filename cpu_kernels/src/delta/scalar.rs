//! The reference.

use super::{MAX_DIM, NORM_EPS, Token};

/// One token through some rows of S, (v.len(), dim).
pub fn step(token: &Token, v: &[f32], memory: &mut [f32], out: &mut [f32]) {
    let dim = token.k.len();
    let (mut q, mut k) = ([0.0; MAX_DIM], [0.0; MAX_DIM]);
    let (q, k) = (&mut q[..dim], &mut k[..dim]);
    normalize(token.q, 1.0 / (dim as f32).sqrt(), q);
    normalize(token.k, 1.0, k);
    for (j, row) in memory.chunks_exact_mut(dim).enumerate() {
        row.iter_mut().for_each(|s| *s *= token.decay);
        let d = token.beta * (v[j] - dot(row, k));
        row.iter_mut().zip(&*k).for_each(|(s, k)| *s += d * k);
        out[j] = dot(row, q);
    }
}

/// x / |x| * scale
fn normalize(x: &[f32], scale: f32, out: &mut [f32]) {
    let factor = scale / (dot(x, x) + NORM_EPS).sqrt();
    out.iter_mut().zip(x).for_each(|(out, x)| *out = x * factor);
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
