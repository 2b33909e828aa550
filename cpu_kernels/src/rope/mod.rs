//! Rotary position embedding: each pair (a, b) of a head is turned by the angle of its position and frequency,
//! (a cos - b sin, a sin + b cos) (RoFormer, arXiv:2104.09864).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use std::f64::consts::TAU;

use crate::{Cpu, isa::Base, threads::Disjoint, tokens_of};

/// Which elements of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// x\[i\] with x\[i + dims/2\] ("neox").
    HalfSplit,
    /// x\[2i\] with x\[2i + 1\] ("norm").
    Interleaved,
}

/// YaRN (Peng et al. 2023, arXiv:2309.00071): positions beyond those of the training, by slowing the pairs that turn
/// seldom and leaving alone those that turn often. As `_compute_yarn_parameters` of transformers'
/// `modeling_rope_utils.py` and `ggml_rope_yarn` of ggml do it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// How many times the trained context.
    pub factor: f32,
    /// Positions the model was trained for first.
    pub original_context: usize,
    /// Pairs that turn more often than this in those positions stay as they are.
    pub beta_fast: f32,
    /// Pairs that turn less often than this are slowed by the whole factor.
    pub beta_slow: f32,
    /// Multiplies [`Self::magnitude`].
    pub attention_factor: f32,
}

impl Yarn {
    /// Divisors of the frequencies of `dims / 2` pairs, as the factors of [`RopeTable::new`].
    pub fn factors(&self, dims: usize, base: f32) -> Vec<f32> {
        // The pair that turns so often in the original context; pairs turn less often the higher their number.
        let pair = |turns: f32| {
            let wavelength = self.original_context as f64 / (f64::from(turns) * TAU);
            dims as f64 * wavelength.ln() / (2.0 * f64::from(base).ln())
        };
        let low = pair(self.beta_fast).floor().max(0.0);
        let high = pair(self.beta_slow).ceil().min(dims as f64 - 1.0);
        let factor = |i: usize| {
            let slowed = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            (1.0 / (1.0 - slowed + slowed / f64::from(self.factor))) as f32
        };
        (0..dims / 2).map(factor).collect()
    }

    /// Factor of cos and sin: longer contexts flatten attention, and this sharpens it again.
    pub fn magnitude(&self) -> f32 {
        self.attention_factor * (1.0 + 0.1 * self.factor.max(1.0).ln())
    }
}

/// cos and sin of the angles of some positions, one row for each.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// (dims / 2)
    frequencies: Vec<f32>,
    position_scale: f32,
    magnitude: f32,
    rows: usize,
    /// (rows, dims / 2)
    cos: Vec<f32>,
    /// (rows, dims / 2)
    sin: Vec<f32>,
}

impl RopeTable {
    /// For positions 0 .. `positions`. Angle of position p and pair i: (p * `position_scale`) * frequency, in f32 as
    /// models are trained with; frequency = `base`^(-2i / `dims`), divided by `factors[i]` where given.
    ///
    /// # Panics
    /// If `dims` is odd, or `factors` has not `dims / 2` values.
    pub fn new(dims: usize, base: f32, position_scale: f32, factors: Option<&[f32]>, positions: usize) -> Self {
        assert!(dims.is_multiple_of(2), "rope: {dims} dimensions are not pairs");
        let half = dims / 2;
        if let Some(factors) = factors {
            assert_eq!(factors.len(), half, "rope: frequency factors of {half} pairs");
        }
        let frequencies: Vec<f32> = (0..half)
            .map(|i| {
                let frequency = f64::from(base).powf(-2.0 * i as f64 / dims as f64) as f32;
                factors.map_or(frequency, |factors| frequency / factors[i])
            })
            .collect();
        let mut table = Self { frequencies, position_scale, magnitude: 1.0, rows: 0, cos: Vec::new(), sin: Vec::new() };
        table.fill(0..positions);
        table
    }

    /// This table with every cos and sin times `magnitude`: rotations that also stretch.
    #[must_use]
    pub fn stretched(mut self, magnitude: f32) -> Self {
        self.magnitude *= magnitude;
        self.cos.iter_mut().chain(&mut self.sin).for_each(|value| *value *= magnitude);
        self
    }

    /// Replaces the rows by those of `positions`: 2 us for each position and a head of 128. Allocates nothing where the
    /// table has held as many before.
    pub fn fill(&mut self, positions: impl IntoIterator<Item = usize>) {
        self.cos.clear();
        self.sin.clear();
        self.rows = 0;
        let half = self.frequencies.len();
        let mut last = None;
        for position in positions {
            if last == Some(position) {
                // Sequences that grow in step stand at the same position.
                let row_before = self.cos.len() - half..;
                self.cos.extend_from_within(row_before.clone());
                self.sin.extend_from_within(row_before);
            } else {
                for frequency in &self.frequencies {
                    let (sin, cos) = f64::from(position as f32 * self.position_scale * frequency).sin_cos();
                    self.cos.push(cos as f32 * self.magnitude);
                    self.sin.push(sin as f32 * self.magnitude);
                }
            }
            last = Some(position);
            self.rows += 1;
        }
    }

    /// Elements of a head that rotate.
    pub fn dims(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// Positions the table was filled with, repeated ones counted each time.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// cos of each pair in a row, (dims / 2).
    pub fn cos(&self, row: usize) -> &[f32] {
        let half = self.frequencies.len();
        &self.cos[row * half..][..half]
    }

    /// sin of each pair in a row, (dims / 2).
    pub fn sin(&self, row: usize) -> &[f32] {
        let half = self.frequencies.len();
        &self.sin[row * half..][..half]
    }

    /// All cosines and all sines, each (rows, dims / 2).
    pub fn data(&self) -> (&[f32], &[f32]) {
        (&self.cos, &self.sin)
    }
}

/// Rotates `x` (T, heads, head_dim) in place: token t by row t of the table. Elements of a head from the table's `dims`
/// on stay as they are.
///
/// # Panics
/// If `x` is not whole tokens, a head is narrower than the table, or the table has not one row for each token.
pub fn apply(cpu: &Cpu, x: &mut [f32], heads: usize, head_dim: usize, table: &RopeTable, style: Style) {
    let width = heads * head_dim;
    let tokens = tokens_of("rope", x, width);
    assert!(table.dims() <= head_dim, "rope: {} dimensions of heads of {head_dim}", table.dims());
    assert_eq!(table.rows(), tokens, "rope: rows of the table, and tokens");
    if table.dims() == 0 {
        return;
    }
    let base = cpu.isa().base();
    let x = Disjoint::new(x);
    cpu.pool().run(tokens, |t| {
        // SAFETY: chunk t alone touches token t.
        let token = unsafe { x.part(t * width..(t + 1) * width) };
        let (cos, sin) = (table.cos(t), table.sin(t));
        for head in token.chunks_exact_mut(head_dim) {
            rotate(base, &mut head[..2 * cos.len()], cos, sin, style);
        }
    });
}

/// Rotates one head; `x` has twice as many elements as `cos` and `sin`.
fn rotate(base: Base, x: &mut [f32], cos: &[f32], sin: &[f32], style: Style) {
    match base {
        Base::Scalar => scalar::rotate(x, cos, sin, style),
        #[cfg(target_arch = "x86_64")]
        Base::Avx2(avx2) => avx2::rotate(avx2, x, cos, sin, style),
        #[cfg(target_arch = "aarch64")]
        Base::Neon(neon) => neon::rotate(neon, x, cos, sin, style),
    }
}

#[cfg(test)]
mod tests;
