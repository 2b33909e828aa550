//! The reference.

use super::{MIN_ABSMAX, Token};
use crate::norm;

/// Norm and quantisation of one token.
pub fn token(x: &[f32], weight: Option<&[f32]>, eps: f32, out: Token) {
    let factor = weight.map(|_| norm::scalar::inverse_rms(x, eps));
    let y = |i: usize| match (weight, factor) {
        (Some(weight), Some(factor)) => x[i] * factor * weight[i],
        _ => x[i],
    };
    for (g, values) in out.values.chunks_mut(out.group).enumerate() {
        let start = g * out.group;
        let mut range = Range::default();
        (0..values.len()).for_each(|i| range.add(y(start + i)));
        let mut sum = 0;
        for (i, q) in values.iter_mut().enumerate() {
            *q = round(y(start + i), range.inverse_step());
            sum += i32::from(*q);
        }
        (out.steps[g], out.sums[g]) = (range.step(), sum);
    }
}

/// Facts that the step of a group depends on.
pub struct Range {
    pub absmax: f32,
    pub finite: bool,
}

impl Default for Range {
    fn default() -> Self {
        Self { absmax: MIN_ABSMAX, finite: true }
    }
}

impl Range {
    pub fn add(&mut self, y: f32) {
        self.absmax = self.absmax.max(y.abs());
        self.finite &= y.is_finite();
    }

    pub fn inverse_step(&self) -> f32 {
        127.0 / self.absmax
    }

    pub fn step(&self) -> f32 {
        if self.finite { self.absmax / 127.0 } else { f32::NAN }
    }
}

/// Half to even; the clamp acts only where `y * inverse_step` was itself rounded up.
pub fn round(y: f32, inverse_step: f32) -> i8 {
    (y * inverse_step).round_ties_even().clamp(-128.0, 127.0) as i8
}
