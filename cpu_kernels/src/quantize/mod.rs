//! int8 activations, one scale per token or per group of columns: the right operand of the ternary product.
//!
//! With a = max(max|y|, 1e-5): q = clamp(round_half_even(y * (127 / a)), -128, 127), step = a / 127, so that
//! y ~ q * step (BitNet b1.58, arXiv:2402.17764; `ActQuant` in transformers' `integrations/bitnet.py`). y is the RMS
//! norm of the input, or the input itself.
//!
//! Models with one weight scale per group of 64, 128 or 256 columns were trained with float activations: a maximum
//! over the same group is closer to those than one over the row (on random Qwen3-shaped models of 256 columns, logits
//! differ from float ones by 1.0, 1.3 and 1.4 %).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use std::sync::PoisonError;

use bytemuck::{Pod, Zeroable};

use crate::{
    Cpu,
    format::{GROUP_SIZES, padded_cols},
    isa::Base,
    norm,
    rotate::Rotation,
    threads::Disjoint,
    tokens_of,
};

/// Smallest absmax that a token is scaled by: a token of zeros gives zeros.
pub(crate) const MIN_ABSMAX: f32 = 1e-5;

/// Chunks that a thread gets of the rows of a prompt: enough that the last one does not keep the others waiting.
const ROW_CHUNKS: usize = 4;

/// A cache line of values, so that rows, which are multiples of two lines, begin on one.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([i8; 64]);

/// Quantised activations of a step, (T, cols); allocated once, overwritten by each [`norm_quantize`].
#[derive(Clone, Debug)]
pub struct QuantizedActs {
    /// (T, stride), zero from `cols` on.
    values: Vec<Line>,
    /// (T, groups); NaN for a group that held a NaN or an infinity.
    steps: Vec<f32>,
    /// (T, groups) sums of the values of each group.
    sums: Vec<i32>,
    tokens: usize,
    cols: usize,
    stride: usize,
    /// Columns of a group; `None` = the whole row.
    group: Option<usize>,
    /// Groups of a token, 1 if the group is the whole row.
    groups: usize,
}

impl QuantizedActs {
    /// Room for `max_tokens` of up to `max_cols` each, with one scale per token; holds none.
    pub fn new(max_tokens: usize, max_cols: usize) -> Self {
        Self::with_group(max_tokens, max_cols, None)
    }

    /// As [`Self::new`], with one scale for every `group` columns; `None` = one per token.
    ///
    /// # Panics
    /// If `group` is not one of [`GROUP_SIZES`].
    pub fn with_group(max_tokens: usize, max_cols: usize, group: Option<usize>) -> Self {
        assert!(group.is_none_or(|group| GROUP_SIZES.contains(&group)), "activations in groups of {group:?}");
        let max_groups = group.map_or(1, |group| max_cols.div_ceil(group));
        Self {
            values: vec![Line::zeroed(); max_tokens * padded_cols(max_cols) / size_of::<Line>()],
            steps: vec![0.0; max_tokens * max_groups],
            sums: vec![0; max_tokens * max_groups],
            tokens: 0,
            cols: max_cols,
            stride: padded_cols(max_cols),
            group,
            groups: max_groups,
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

    /// Columns that share a step; `None` = the whole row.
    pub fn group(&self) -> Option<usize> {
        self.group
    }

    /// The values of token `t`, `stride` of them. Unspecified where their step is NaN.
    pub fn values(&self, t: usize) -> &[i8] {
        &self.all_values()[t * self.stride..][..self.stride]
    }

    /// Factors of the values of each group of token `t`. NaN if the group held a NaN or an infinity, so that every
    /// product with it is NaN as well.
    pub fn steps(&self, t: usize) -> &[f32] {
        &self.steps[..self.tokens * self.groups][t * self.groups..][..self.groups]
    }

    /// Sums of the values of each group of token `t`.
    pub fn sums(&self, t: usize) -> &[i32] {
        &self.sums[..self.tokens * self.groups][t * self.groups..][..self.groups]
    }

    /// The step of token `t`, where it has one.
    ///
    /// # Panics
    /// If it has one for each group.
    pub fn step(&self, t: usize) -> f32 {
        assert!(self.group.is_none(), "one step of a token that has {}", self.groups);
        self.steps[..self.tokens][t]
    }

    /// The sum of the values of token `t`.
    ///
    /// # Panics
    /// If it has one for each group.
    pub fn sum(&self, t: usize) -> i32 {
        assert!(self.group.is_none(), "one sum of a token that has {}", self.groups);
        self.sums[..self.tokens][t]
    }

    /// (T, stride)
    pub(crate) fn all_values(&self) -> &[i8] {
        &bytemuck::cast_slice(&self.values)[..self.tokens * self.stride]
    }

    /// (T, groups)
    pub(crate) fn all_steps(&self) -> &[f32] {
        &self.steps[..self.tokens * self.groups]
    }

    /// (T, groups)
    pub(crate) fn all_sums(&self) -> &[i32] {
        &self.sums[..self.tokens * self.groups]
    }

    /// These values with steps of 1.
    pub(crate) fn with_unit_steps(&self) -> Self {
        Self { steps: vec![1.0; self.steps.len()], ..self.clone() }
    }

    /// Sets values (T, cols) and steps (T, groups) directly: for tests and self-checks of kernels.
    ///
    /// # Panics
    /// If the lengths do not fit each other or the room made by [`Self::new`].
    pub fn set_raw(&mut self, cols: usize, values: &[i8], steps: &[f32]) {
        let tokens = values.len().checked_div(cols).unwrap_or(0);
        let rows = self.resize(tokens, cols);
        let (groups, group) = (rows.groups, rows.group);
        assert_eq!(
            (values.len(), steps.len()),
            (tokens * cols, tokens * groups),
            "values and steps of {tokens} tokens of {cols} columns"
        );
        rows.steps.copy_from_slice(steps);
        for (t, token) in values.chunks_exact(cols.max(1)).enumerate() {
            rows.values[t * rows.stride..][..cols].copy_from_slice(token);
            for (sum, values) in rows.sums[t * groups..].iter_mut().zip(token.chunks(group)) {
                *sum = values.iter().map(|&q| i32::from(q)).sum();
            }
        }
    }

    /// Changes the shape and clears the padding.
    fn resize(&mut self, tokens: usize, cols: usize) -> Rows<'_> {
        let stride = padded_cols(cols);
        let group = self.group.unwrap_or(cols.max(1));
        assert!(self.group.is_none() || cols.is_multiple_of(group), "{cols} columns are not whole groups of {group}");
        let groups = if self.group.is_some() { cols / group } else { 1 };
        let room: &mut [i8] = bytemuck::cast_slice_mut(&mut self.values);
        assert!(
            tokens * groups <= self.steps.len() && tokens * stride <= room.len(),
            "{tokens} tokens of {cols} columns do not fit in the room for {} values in {} groups",
            room.len(),
            self.steps.len()
        );
        (self.tokens, self.cols, self.stride, self.groups) = (tokens, cols, stride, groups);
        let values = &mut room[..tokens * stride];
        if stride > cols {
            values.chunks_exact_mut(stride).for_each(|token| token[cols..].fill(0));
        }
        let (steps, sums) = (&mut self.steps[..tokens * groups], &mut self.sums[..tokens * groups]);
        Rows { values, steps, sums, stride, groups, group }
    }
}

/// The arrays of a [`QuantizedActs`] of one shape, to write.
struct Rows<'a> {
    values: &'a mut [i8],
    steps: &'a mut [f32],
    sums: &'a mut [i32],
    stride: usize,
    groups: usize,
    /// Columns of a group; of the row, if that is the group.
    group: usize,
}

/// One token of them.
struct Token<'a> {
    /// (cols)
    values: &'a mut [i8],
    /// (groups)
    steps: &'a mut [f32],
    /// (groups)
    sums: &'a mut [i32],
    /// Columns of a group.
    group: usize,
}

/// RMS norm (with `weight`; see [`crate::norm::rms_norm`]) and quantisation of `x` (T, cols) into `out`.
///
/// Without `weight` the input is quantised as it is, and `eps` is not used.
///
/// # Panics
/// If `x` is not whole rows, `weight` has not `cols` values, `out` has not the room, or its groups do not make up a
/// row.
pub fn norm_quantize(cpu: &Cpu, x: &[f32], cols: usize, weight: Option<&[f32]>, eps: f32, out: &mut QuantizedActs) {
    let tokens = tokens_of("norm_quantize", x, cols);
    if let Some(weight) = weight {
        assert_eq!(weight.len(), cols, "norm_quantize: norm weights of {cols} columns");
    }
    let (out, base) = (Tokens::new(out.resize(tokens, cols), cols), cpu.isa().base());
    cpu.pool().run(tokens, |t| {
        // SAFETY: chunk t alone touches token t.
        let out = unsafe { out.token(t) };
        token(base, &x[t * cols..][..cols], weight, eps, out);
    });
}

/// As [`norm_quantize`], with a [`crate::rotate::forward`] between norm and quantisation, bit for bit as these three
/// calls after each other give it. A row stays in the caches of a core on its way through them.
///
/// # Panics
/// As [`norm_quantize`], and if `rotation` is for rows of another width.
pub fn norm_rotate_quantize(
    cpu: &Cpu,
    x: &[f32],
    cols: usize,
    weight: Option<&[f32]>,
    eps: f32,
    rotation: &Rotation,
    out: &mut QuantizedActs,
) {
    let tokens = tokens_of("norm_rotate_quantize", x, cols);
    if let Some(weight) = weight {
        assert_eq!(weight.len(), cols, "norm_rotate_quantize: norm weights of {cols} columns");
    }
    assert_eq!(rotation.width(), cols, "norm_rotate_quantize: columns, and values of the rotation");
    let (out, base) = (Tokens::new(out.resize(tokens, cols), cols), cpu.isa().base());
    // A row of floats for each chunk.
    let chunks = tokens.min(ROW_CHUNKS * cpu.threads());
    let mut rows = cpu.scratch.lock().unwrap_or_else(PoisonError::into_inner);
    let len = rows.len().max(chunks * cols);
    rows.resize(len, 0.0);
    let rows = Disjoint::new(&mut rows);
    cpu.pool().run(chunks, |chunk| {
        // SAFETY: chunks have rows of their own.
        let row = unsafe { rows.part(chunk * cols..(chunk + 1) * cols) };
        for t in chunk * tokens / chunks..(chunk + 1) * tokens / chunks {
            row.copy_from_slice(&x[t * cols..][..cols]);
            if let Some(weight) = weight {
                norm::norm_row(base, row, weight, eps);
            }
            rotation.forward_row(base, row);
            // SAFETY: chunks are disjoint ranges of tokens.
            let out = unsafe { out.token(t) };
            token(base, row, None, eps, out);
        }
    });
}

/// Where the tokens of a [`QuantizedActs`] go, by several threads.
struct Tokens<'a> {
    /// (T, stride)
    values: Disjoint<'a, i8>,
    /// (T, groups)
    steps: Disjoint<'a, f32>,
    /// (T, groups)
    sums: Disjoint<'a, i32>,
    cols: usize,
    stride: usize,
    groups: usize,
    group: usize,
}

impl<'a> Tokens<'a> {
    fn new(rows: Rows<'a>, cols: usize) -> Self {
        let Rows { values, steps, sums, stride, groups, group } = rows;
        let (values, steps, sums) = (Disjoint::new(values), Disjoint::new(steps), Disjoint::new(sums));
        Self { values, steps, sums, cols, stride, groups, group }
    }

    /// Token `t`.
    ///
    /// # Safety
    /// - No two of one token are alive at the same time.
    unsafe fn token(&self, t: usize) -> Token<'_> {
        let start = t * self.stride;
        let of_groups = t * self.groups..(t + 1) * self.groups;
        // SAFETY: tokens are disjoint ranges, and the caller has each once.
        unsafe {
            Token {
                values: self.values.part(start..start + self.cols),
                steps: self.steps.part(of_groups.clone()),
                sums: self.sums.part(of_groups),
                group: self.group,
            }
        }
    }
}

/// One token with the chosen variant.
fn token(base: Base, x: &[f32], weight: Option<&[f32]>, eps: f32, out: Token) {
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
