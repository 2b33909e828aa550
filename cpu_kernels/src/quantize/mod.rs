//! int8 activations, one scale per token: the right operand of the ternary product.
//!
//! With a = max(max|y|, 1e-5): q = clamp(round_half_even(y * (127 / a)), -128, 127), step = a / 127, so that
//! y ~ q * step (BitNet b1.58, arXiv:2402.17764; `ActQuant` in transformers' `integrations/bitnet.py`). y is the RMS
//! norm of the input, or the input itself.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use bytemuck::{Pod, Zeroable};

use crate::{Cpu, format::padded_cols, isa::Base, threads::Disjoint, tokens_of};

/// Smallest absmax that a token is scaled by: a token of zeros gives zeros.
pub(crate) const MIN_ABSMAX: f32 = 1e-5;

/// A cache line of values, so that rows, which are multiples of two lines, begin on one.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([i8; 64]);

/// Quantised activations of a step, (T, cols); allocated once, overwritten by each [`norm_quantize`].
#[derive(Clone, Debug)]
pub struct QuantizedActs {
    /// (T, stride), zero from `cols` on.
    values: Vec<Line>,
    /// (T); NaN for a token that held a NaN or an infinity.
    steps: Vec<f32>,
    /// (T) sums of the values of each token.
    sums: Vec<i32>,
    tokens: usize,
    cols: usize,
    stride: usize,
}

impl QuantizedActs {
    /// Room for `max_tokens` of up to `max_cols` each; holds none.
    pub fn new(max_tokens: usize, max_cols: usize) -> Self {
        Self {
            values: vec![Line::zeroed(); max_tokens * padded_cols(max_cols) / size_of::<Line>()],
            steps: vec![0.0; max_tokens],
            sums: vec![0; max_tokens],
            tokens: 0,
            cols: max_cols,
            stride: padded_cols(max_cols),
        }
    }

    /// T.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Values of a token.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Values from one token to the next: `cols` rounded up to a multiple of 128. Those from `cols` on are zero.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The values of token `t`, `stride` of them. Unspecified if its step is NaN.
    pub fn values(&self, t: usize) -> &[i8] {
        &self.all_values()[t * self.stride..][..self.stride]
    }

    /// What a value of token `t` is multiplied by. NaN if the token held a NaN or an infinity, so that every product
    /// with it is NaN as well.
    pub fn step(&self, t: usize) -> f32 {
        self.steps[..self.tokens][t]
    }

    /// Sum of the values of token `t`.
    pub fn sum(&self, t: usize) -> i32 {
        self.sums[..self.tokens][t]
    }

    /// (T, stride)
    pub(crate) fn all_values(&self) -> &[i8] {
        &bytemuck::cast_slice(&self.values)[..self.tokens * self.stride]
    }

    /// Sets values (T, cols) and steps (T) directly: for tests and self-checks of kernels.
    ///
    /// # Panics
    /// If the lengths do not fit each other or the room made by [`Self::new`].
    pub fn set_raw(&mut self, cols: usize, values: &[i8], steps: &[f32]) {
        assert_eq!(values.len(), steps.len() * cols, "values of {} tokens of {cols}", steps.len());
        let rows = self.resize(steps.len(), cols);
        rows.steps.copy_from_slice(steps);
        for t in 0..steps.len() {
            let token = &values[t * cols..][..cols];
            rows.values[t * rows.stride..][..cols].copy_from_slice(token);
            rows.sums[t] = token.iter().map(|&q| i32::from(q)).sum();
        }
    }

    /// Changes the shape and clears the padding.
    fn resize(&mut self, tokens: usize, cols: usize) -> Rows<'_> {
        let stride = padded_cols(cols);
        let room: &mut [i8] = bytemuck::cast_slice_mut(&mut self.values);
        assert!(
            tokens <= self.steps.len() && tokens * stride <= room.len(),
            "{tokens} tokens of {cols} columns do not fit in the room for {} values of {} tokens",
            room.len(),
            self.steps.len()
        );
        (self.tokens, self.cols, self.stride) = (tokens, cols, stride);
        let values = &mut room[..tokens * stride];
        if stride > cols {
            values.chunks_exact_mut(stride).for_each(|token| token[cols..].fill(0));
        }
        Rows { values, steps: &mut self.steps[..tokens], sums: &mut self.sums[..tokens], stride }
    }
}

/// The arrays of a [`QuantizedActs`] of one shape, to write.
struct Rows<'a> {
    values: &'a mut [i8],
    steps: &'a mut [f32],
    sums: &'a mut [i32],
    stride: usize,
}

/// RMS norm (with `weight`; see [`crate::norm::rms_norm`]) and quantisation of `x` (T, cols) into `out`.
///
/// Without `weight` the input is quantised as it is, and `eps` is not used.
///
/// # Panics
/// If `x` is not whole rows, `weight` has not `cols` values, or `out` has not the room.
pub fn norm_quantize(cpu: &Cpu, x: &[f32], cols: usize, weight: Option<&[f32]>, eps: f32, out: &mut QuantizedActs) {
    let tokens = tokens_of("norm_quantize", x, cols);
    if let Some(weight) = weight {
        assert_eq!(weight.len(), cols, "norm_quantize: norm weights of {cols} columns");
    }
    let rows = out.resize(tokens, cols);
    let (stride, base) = (rows.stride, cpu.isa().base());
    let (values, steps, sums) = (Disjoint::new(rows.values), Disjoint::new(rows.steps), Disjoint::new(rows.sums));
    cpu.pool().run(tokens, |t| {
        // SAFETY: chunk t alone touches the elements of token t.
        let (values, step, sum) =
            unsafe { (values.part(t * stride..t * stride + cols), steps.part(t..t + 1), sums.part(t..t + 1)) };
        (step[0], sum[0]) = token(base, &x[t * cols..][..cols], weight, eps, values);
    });
}

/// One token with the chosen variant: step and sum.
fn token(base: Base, x: &[f32], weight: Option<&[f32]>, eps: f32, out: &mut [i8]) -> (f32, i32) {
    match base {
        Base::Scalar => scalar::token(x, weight, eps, out),
        #[cfg(target_arch = "x86_64")]
        Base::Avx2(avx2) => avx2::token(avx2, x, weight, eps, out),
        #[cfg(target_arch = "aarch64")]
        Base::Neon(neon) => neon::token(neon, x, weight, eps, out),
    }
}

#[cfg(test)]
mod tests;
