//! The reference.

use super::{GELU_CUBE, GELU_SLOPE, Kind};

/// `gate` = f(`gate`) * `up`.
pub fn apply(kind: Kind, gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = value(kind, *g) * u;
    }
}

/// f(g)
pub fn value(kind: Kind, g: f32) -> f32 {
    match kind {
        // Not f32::max, which turns NaN into 0.
        Kind::Relu2 => {
            if g < 0.0 {
                0.0
            } else {
                g * g
            }
        }
        Kind::Silu => g / (1.0 + (-g).exp()),
        Kind::Sigmoid => 1.0 / (1.0 + (-g).exp()),
        Kind::GeluTanh => g / (1.0 + (-GELU_SLOPE * g * (1.0 + GELU_CUBE * g * g)).exp()),
    }
}
