//! 8 values at a time.

use std::arch::x86_64::*;

use super::{Kind, scalar};
use crate::{
    isa::Avx2,
    x86::{LANES, exp::exp, load, store},
};

/// `gate` = f(`gate`) * `up`.
pub fn apply(_: Avx2, kind: Kind, gate: &mut [f32], up: &[f32]) {
    // SAFETY: the capability token proves the features.
    unsafe { apply_avx2(kind, gate, up) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn apply_avx2(kind: Kind, gate: &mut [f32], up: &[f32]) {
    let (gates, gate_tail) = gate.as_chunks_mut::<LANES>();
    let (ups, up_tail) = up.as_chunks::<LANES>();
    for (gate, up) in gates.iter_mut().zip(ups) {
        let g = load(gate);
        let f = match kind {
            Kind::Relu2 => {
                // max returns its second operand if either is NaN.
                let positive = _mm256_max_ps(_mm256_setzero_ps(), g);
                _mm256_mul_ps(positive, positive)
            }
            Kind::Silu => silu(g),
        };
        store(gate, _mm256_mul_ps(f, load(up)));
    }
    scalar::apply(kind, gate_tail, up_tail);
}

/// g / (1 + e^-g), with the larger power of e divided out where it would overflow: g e^g / (1 + e^g) for g < 0.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn silu(g: __m256) -> __m256 {
    let one = _mm256_set1_ps(1.0);
    let e = exp(_mm256_or_ps(g, _mm256_set1_ps(-0.0))); // of -|g|
    // The blend looks at the sign of g.
    let numerator = _mm256_blendv_ps(one, e, g);
    _mm256_mul_ps(g, _mm256_div_ps(numerator, _mm256_add_ps(one, e)))
}
