//! The reference.

/// Norm of one row in place.
pub fn row(x: &mut [f32], weight: &[f32], eps: f32) {
    let factor = inverse_rms(x, eps);
    for (x, w) in x.iter_mut().zip(weight) {
        *x = *x * factor * w;
    }
}

/// 1 / sqrt(mean(x^2) + eps)
pub fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    factor(x.iter().map(|&x| f64::from(x) * f64::from(x)).sum(), x.len(), eps)
}

/// The last step, shared by all variants.
pub fn factor(sum_of_squares: f64, n: usize, eps: f32) -> f32 {
    (1.0 / (sum_of_squares / n as f64 + f64::from(eps)).sqrt()) as f32
}
