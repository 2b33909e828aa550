//! The reference.

use super::Style;

/// Rotates one head; `x` has twice as many elements as `cos` and `sin`.
pub fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32], style: Style) {
    let half = cos.len();
    for i in 0..half {
        let (ia, ib) = match style {
            Style::HalfSplit => (i, i + half),
            Style::Interleaved => (2 * i, 2 * i + 1),
        };
        let (a, b) = (x[ia], x[ib]);
        x[ia] = a * cos[i] - b * sin[i];
        x[ib] = a * sin[i] + b * cos[i];
    }
}
