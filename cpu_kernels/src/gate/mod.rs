//! The function between the two halves of the feed-forward block: g = f(g) * u.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use crate::{Cpu, isa::Base, threads::Disjoint};

/// f.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// max(g, 0)^2
    Relu2,
    /// g / (1 + e^-g)
    Silu,
    /// g / (1 + e^-2u) with u = sqrt(2 / pi) (g + 0.044715 g^3), which is g (1 + tanh u) / 2
    GeluTanh,
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
        match base {
            Base::Scalar => scalar::apply(kind, part, &up[range]),
            #[cfg(target_arch = "x86_64")]
            Base::Avx2(avx2) => avx2::apply(avx2, kind, part, &up[range]),
            #[cfg(target_arch = "aarch64")]
            Base::Neon(neon) => neon::apply(neon, kind, part, &up[range]),
        }
    });
}

#[cfg(test)]
mod tests;
