//! 8 values at a time.

use std::arch::x86_64::*;

use super::{GELU_CUBE, GELU_SLOPE, Kind, scalar};
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
            Kind::Silu => share(g, g),
            Kind::Sigmoid => share(_mm256_set1_ps(1.0), g),
            Kind::GeluTanh => {
                let cube = _mm256_fmadd_ps(_mm256_mul_ps(g, g), _mm256_set1_ps(GELU_CUBE), _mm256_set1_ps(1.0));
                share(g, _mm256_mul_ps(_mm256_mul_ps(g, _mm256_set1_ps(GELU_SLOPE)), cube))
            }
        };
        store(gate, _mm256_mul_ps(f, load(up)));
    }
    scalar::apply(kind, gate_tail, up_tail);
}

/// g / (1 + e^-x), with the larger power of e divided out where it would overflow: g e^x / (1 + e^x) for x < 0.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn share(g: __m256, x: __m256) -> __m256 {
    let one = _mm256_set1_ps(1.0);
    let e = exp(_mm256_or_ps(x, _mm256_set1_ps(-0.0))); // of -|x|
    // The blend looks at the sign of x.
    let numerator = _mm256_blendv_ps(one, e, x);
    _mm256_mul_ps(g, _mm256_div_ps(numerator, _mm256_add_ps(one, e)))
}
