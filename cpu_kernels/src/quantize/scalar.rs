//! The reference.

use super::MIN_ABSMAX;
use crate::norm;

/// Norm and quantisation of one token; returns step and sum.
pub fn token(x: &[f32], weight: Option<&[f32]>, eps: f32, out: &mut [i8]) -> (f32, i32) {
    let factor = weight.map(|_| norm::scalar::inverse_rms(x, eps));
    let y = |i: usize| match (weight, factor) {
        (Some(weight), Some(factor)) => x[i] * factor * weight[i],
        _ => x[i],
    };
    let mut absmax = MIN_ABSMAX;
    let mut finite = true;
    for i in 0..x.len() {
        absmax = absmax.max(y(i).abs());
        finite &= y(i).is_finite();
    }
    let inverse_step = 127.0 / absmax;
    let mut sum = 0;
    for (i, q) in out.iter_mut().enumerate() {
        *q = (y(i) * inverse_step).round_ties_even().clamp(-128.0, 127.0) as i8;
        sum += i32::from(*q);
    }
    (if finite { absmax / 127.0 } else { f32::NAN }, sum)
}
