//! Gates: g = f(g) * u, element by element. In the feed-forward block f is its activation, behind attention a sigmoid.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use crate::{Cpu, isa::Base, threads::Disjoint, tokens_of};

/// f.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// max(g, 0)^2
    Relu2,
    /// g / (1 + e^-g)
    Silu,
    /// g / (1 + e^-2u) with u = sqrt(2 / pi) (g + 0.044715 g^3), which is g (1 + tanh u) / 2
    GeluTanh,
    /// 1 / (1 + e^-g), for gates on the output of attention
    Sigmoid,
}

/// 2 sqrt(2 / pi), of [`Kind::GeluTanh`].
const GELU_SLOPE: f32 = 1.595_769_2;
/// Its share of the cube.
const GELU_CUBE: f32 = 0.044_715;

/// Values of a chunk: about 2 us of work.
const CHUNK: usize = 4096;

/// `gate` = f(`gate`) * `up`, element by element. NaN stays NaN.
///
/// # Panics
/// If the lengths differ.
pub fn apply(cpu: &Cpu, kind: Kind, gate: &mut [f32], up: &[f32]) {
    let n = gate.len();
    assert_eq!(n, up.len(), "gate: values of `up`");
    let base = cpu.isa().base();
    let gate = Disjoint::new(gate);
    cpu.pool().run(n.div_ceil(CHUNK), |chunk| {
        let range = chunk * CHUNK..n.min((chunk + 1) * CHUNK);
        // SAFETY: chunks are disjoint ranges.
        let part = unsafe { gate.part(range.clone()) };
        apply_part(base, kind, part, &up[range]);
    });
}

/// [`apply`] on the calling thread.
pub(crate) fn apply_part(base: Base, kind: Kind, gate: &mut [f32], up: &[f32]) {
    match base {
        Base::Scalar => scalar::apply(kind, gate, up),
        #[cfg(target_arch = "x86_64")]
        Base::Avx2(avx2) => avx2::apply(avx2, kind, gate, up),
        #[cfg(target_arch = "aarch64")]
        Base::Neon(neon) => neon::apply(neon, kind, gate, up),
    }
}

/// Parts each token's heads of `x` (T, heads, 2, head_dim) into queries and gates: `q` and `gate`, (T, heads, head_dim)
/// each, from a projection that gives both for each head.
///
/// # Panics
/// If `x` is not whole pairs of heads, or `q` or `gate` has not half of its values.
pub fn split(cpu: &Cpu, x: &[f32], head_dim: usize, q: &mut [f32], gate: &mut [f32]) {
    let heads = tokens_of("gate::split", x, 2 * head_dim);
    assert_eq!((q.len(), gate.len()), (heads * head_dim, heads * head_dim), "gate::split: values of queries and gates");
    let per_chunk = CHUNK.div_ceil(head_dim);
    let (q, gate) = (Disjoint::new(q), Disjoint::new(gate));
    cpu.pool().run(heads.div_ceil(per_chunk), |chunk| {
        for head in chunk * per_chunk..heads.min((chunk + 1) * per_chunk) {
            let (of_q, of_gate) = x[2 * head * head_dim..][..2 * head_dim].split_at(head_dim);
            let range = head * head_dim..(head + 1) * head_dim;
            // SAFETY: chunks are disjoint ranges of heads.
            let (q, gate) = unsafe { (q.part(range.clone()), gate.part(range)) };
            q.copy_from_slice(of_q);
            gate.copy_from_slice(of_gate);
        }
    });
}

#[cfg(test)]
mod tests;
