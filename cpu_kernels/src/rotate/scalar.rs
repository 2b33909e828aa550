//! The reference.

/// x <- the transform of factors o x.
pub fn forward(x: &mut [f32], factors: &[f32]) {
    x.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
    transform(x, 1);
}

/// x <- factors o the transform of x.
pub fn inverse(x: &mut [f32], factors: &[f32]) {
    transform(x, 1);
    x.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
}

/// The stages of the unscaled transform whose pairs are `first` (a power of two) and more apart: (a, b) <- (a + b, a - b).
pub fn transform(x: &mut [f32], first: usize) {
    let mut apart = first;
    while apart < x.len() {
        for pairs in x.chunks_exact_mut(2 * apart) {
            let (low, high) = pairs.split_at_mut(apart);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        apart *= 2;
    }
}
