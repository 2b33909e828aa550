//! Code shared by every suite over the kernels, here and in the crates above: seeded numbers, the list of edge shapes,
//! tolerances, and a [`Cpu`] for each variant.

use crate::{Cpu, Isa};

/// Seeded numbers: SplitMix64 (Steele, Lea, Flood 2014), so that a failure can be repeated.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Equal seeds give equal numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 0 .. n - 1.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % n as u64) as usize
    }

    /// In [-1, 1), a multiple of 2^-23.
    pub fn f32(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// `n` numbers in [-1, 1).
    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.f32()).collect()
    }

    /// `n` whole numbers in -limit ..= limit as f32: sums of their products are exact in any order.
    pub fn whole(&mut self, n: usize, limit: usize) -> Vec<f32> {
        (0..n).map(|_| self.below(2 * limit + 1) as f32 - limit as f32).collect()
    }

    /// `n` bytes over the full range of i8.
    pub fn i8s(&mut self, n: usize) -> Vec<i8> {
        (0..n).map(|_| self.next_u64() as i8).collect()
    }

    /// `n` ternary codes 0, 1, 2.
    pub fn codes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.below(3) as u8).collect()
    }
}

/// Columns of the matrices of real models (BitNet 2B-4T, Falcon3, Llama 3, 1bitLLM).
pub const MODEL_COLS: [usize; 9] = [256, 640, 768, 2560, 3072, 6912, 8640, 14336, 23040];

/// Lengths around the edges of a kernel that works in blocks: 0, 1, block - 1, block, block + 1, several blocks.
pub fn edge_lengths(block: usize) -> Vec<usize> {
    let mut lengths = vec![0, 1, block - 1, block, block + 1, 3 * block, 5 * block + block / 2 + 1];
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

/// Token counts that reach each loop of a kernel: decode, every small batch, prefill tiles and their remainders.
pub const TOKEN_COUNTS: [usize; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 64, 131];

/// One [`Cpu`] for each variant that runs here, with 1 and with 3 threads. Says which variants do not run.
pub fn cpus() -> Vec<Cpu> {
    let available = Isa::available();
    for name in Isa::NAMES {
        if !available.iter().any(|isa| isa.name() == *name) {
            eprintln!("not run: {name} (this processor does not have it)");
        }
    }
    available.into_iter().flat_map(|isa| [Cpu::new(isa, 1), Cpu::new(isa, 3)]).collect()
}

/// How far a f32 dot product may be from the true one: rounding errors of n additions in random directions, eight
/// times over. A wrong or missing element of average size is `norms / n`, far above that for n up to 100000.
pub fn dot_tolerance(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().max(1) as f64;
    (8.0 * f64::from(f32::EPSILON) * n.sqrt() * norm(a) * norm(b)) as f32
}

/// Euclidean norm.
pub fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

/// # Panics
/// If the lengths differ, or any element is further than `tolerance` from the expected one (NaN always is); names
/// the worst element.
#[track_caller]
pub fn assert_close(what: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    let error = |i: usize| {
        let error = (actual[i] - expected[i]).abs();
        if error.is_nan() { f32::INFINITY } else { error }
    };
    let Some(worst) = (0..actual.len()).max_by(|&a, &b| error(a).total_cmp(&error(b))) else { return };
    assert!(
        error(worst) <= tolerance,
        "{what}: element {worst} of {} is {}, expected {}, off by {} (tolerance {tolerance})",
        actual.len(),
        actual[worst],
        expected[worst],
        error(worst),
    );
}

/// The dot product in f64, for references that run whole models.
///
/// # Panics
/// If the lengths differ.
pub fn dot(weights: &[f32], x: &[f64]) -> f64 {
    assert_eq!(weights.len(), x.len());
    let mut sums = [0.0; 8];
    let (weights, last_weights) = weights.as_chunks::<8>();
    let (x, last_x) = x.as_chunks::<8>();
    for (weights, x) in weights.iter().zip(x) {
        for i in 0..8 {
            sums[i] += f64::from(weights[i]) * x[i];
        }
    }
    let rest: f64 = last_weights.iter().zip(last_x).map(|(&w, x)| f64::from(w) * x).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edge_lengths_have_each_edge_once() {
        assert_eq!(edge_lengths(8), [0, 1, 7, 8, 9, 24, 45]);
        assert_eq!(edge_lengths(1), [0, 1, 2, 3, 6]);
    }

    #[test]
    #[should_panic(expected = "element 1 of 2 is NaN, expected 2")]
    fn nan_is_never_close() {
        assert_close("x", &[1.0, f32::NAN], &[1.0, 2.0], f32::MAX);
    }

    #[test]
    #[should_panic(expected = "off by 0.5")]
    fn too_far_is_not_close() {
        assert_close("x", &[1.0, 2.5], &[1.0, 2.0], 0.25);
    }
}
