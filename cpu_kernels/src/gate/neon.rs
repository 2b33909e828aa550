//! 4 values at a time.

use std::arch::aarch64::*;

use super::{GELU_CUBE, GELU_SLOPE, Kind, scalar};
use crate::{
    arm::{LANES, exp::exp, load, store},
    isa::Neon,
};

/// `gate` = f(`gate`) * `up`.
pub fn apply(_: Neon, kind: Kind, gate: &mut [f32], up: &[f32]) {
    // SAFETY: the capability token proves the feature.
    unsafe { apply_neon(kind, gate, up) }
}

#[target_feature(enable = "neon")]
fn apply_neon(kind: Kind, gate: &mut [f32], up: &[f32]) {
    let (gates, gate_tail) = gate.as_chunks_mut::<LANES>();
    let (ups, up_tail) = up.as_chunks::<LANES>();
    for (gate, up) in gates.iter_mut().zip(ups) {
        let g = load(gate);
        let f = match kind {
            Kind::Relu2 => {
                // This maximum keeps NaN.
                let positive = vmaxq_f32(g, vdupq_n_f32(0.0));
                vmulq_f32(positive, positive)
            }
            Kind::Silu => share(g, g),
            Kind::Sigmoid => share(vdupq_n_f32(1.0), g),
            Kind::GeluTanh => {
                let cube = vfmaq_f32(vdupq_n_f32(1.0), vmulq_f32(g, g), vdupq_n_f32(GELU_CUBE));
                share(g, vmulq_f32(vmulq_n_f32(g, GELU_SLOPE), cube))
            }
        };
        store(gate, vmulq_f32(f, load(up)));
    }
    scalar::apply(kind, gate_tail, up_tail);
}

/// g / (1 + e^-x), with the larger power of e divided out where it would overflow: g e^x / (1 + e^x) for x < 0.
#[inline]
#[target_feature(enable = "neon")]
fn share(g: float32x4_t, x: float32x4_t) -> float32x4_t {
    let one = vdupq_n_f32(1.0);
    let e = exp(vnegq_f32(vabsq_f32(x)));
    let numerator = vbslq_f32(vcltzq_f32(x), e, one);
    vmulq_f32(g, vdivq_f32(numerator, vaddq_f32(one, e)))
}
