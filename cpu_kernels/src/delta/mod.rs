//! Gated delta net (arXiv:2412.06464): attention whose memory of a sequence is one matrix a head, in place of keys and
//! values of every position. With D the width of a head, for each token:
//!
//! ```text
//! c = silu(causal convolution of m over tokens)                 [`conv`]: m (T, channels), the projected q, k and v
//! q, k, v = c, by heads                                         [`mix`]
//! q = q / |q| / sqrt(D), k = k / |k|, beta = sigmoid(b), g = rate * softplus(a + bias)
//! S = e^g S;  d = beta (v - S k);  S = S + d k^T;  o = S q      S (D values, D keys) of each value head
//! y = RMSNorm(o) * weight * silu(z)                             [`gated_norm`]
//! ```
//!
//! |x| is sqrt(sum of x^2 + 1e-6), as in transformers' `modeling_qwen3_5.py`; softplus(x) = ln(1 + e^x). Value head h uses
//! key head h % `key_heads`: heads stand in the order of GGUF files ([`HeadOrder::Tiled`]).
//!
//! A row of S depends on no other, so a token reads and writes S once: row by row, both products are taken before the row
//! changes, as S q = e^g (S q) + d (k q) of the S before. Prompts go the same way, some rows of S at a time, which stay in
//! the first-level cache for all tokens. The chunked form for many tokens (products of 64 x 64 and 64 x D matrices) takes
//! 4.5 D^2 multiply-adds a token where this takes 4 D^2, so it has nothing to gain on a processor. Hence every token gets
//! the same bits, however many there are in a step and whoever else is in it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod conv;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod rows;
mod scalar;
mod state;

use std::{error, fmt};

pub use conv::{Taps, conv};
pub use state::State;

#[cfg(target_arch = "aarch64")]
use crate::arm;
#[cfg(target_arch = "x86_64")]
use crate::x86;
use crate::{
    ALIKE_TOKENS, Cpu, Isa,
    attention::{Placed, are_different, groups},
    gate,
    isa::Base,
    norm,
    threads::Disjoint,
    tokens_of,
};

/// Widest head: a query and a key stand on the stack.
pub const MAX_DIM: usize = 256;

/// Most tokens that a convolution reaches, the current one included.
pub const MAX_KERNEL: usize = 8;

/// Added to the sum of squares of a query or a key.
const NORM_EPS: f32 = 1e-6;

/// Rows of S of a chunk where a step has few tokens: reading 32 KiB takes 2 us and more.
const FEW_ROWS: usize = 64;

/// As many for a prompt: 16 KiB stay in the first-level cache for some tokens.
const MANY_ROWS: usize = 32;

/// Tokens of a prompt that go through some rows of S before the next rows: their queries and keys, 16 KiB, stay there, too.
const BLOCK_TOKENS: usize = 16;

/// Heads of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Heads of queries, and of keys.
    pub key_heads: usize,
    /// Heads of values, and matrices S; a multiple of `key_heads`.
    pub value_heads: usize,
    /// D: values of every head.
    pub dim: usize,
    /// Tokens that the convolution reaches, the current one included.
    pub kernel: usize,
}

impl Shape {
    /// # Errors
    /// If a number is 0, `dim` or `kernel` is above [`MAX_DIM`] or [`MAX_KERNEL`], or value heads are not whole groups.
    pub fn check(&self) -> Result<(), ShapeError> {
        let Self { key_heads, value_heads, dim, kernel } = *self;
        let whole = key_heads > 0 && value_heads > 0 && value_heads.is_multiple_of(key_heads);
        // What counts values must not overflow.
        let small = key_heads.max(value_heads) <= 1 << 16;
        let fits = (1..=MAX_DIM).contains(&dim) && (1..=MAX_KERNEL).contains(&kernel);
        if whole && small && fits { Ok(()) } else { Err(ShapeError(*self)) }
    }

    /// Channels of the convolution: queries, keys and values of a token.
    pub fn channels(&self) -> usize {
        (2 * self.key_heads + self.value_heads) * self.dim
    }

    /// Values of a token's result, all value heads.
    pub fn width(&self) -> usize {
        self.value_heads * self.dim
    }

    /// Values of a state's convolution, (kernel - 1, channels).
    pub fn conv_len(&self) -> usize {
        (self.kernel - 1) * self.channels()
    }

    /// Values of a state's S, (value_heads, dim, dim).
    pub fn memory_len(&self) -> usize {
        self.value_heads * self.dim * self.dim
    }
}

/// Heads that the kernels cannot run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShapeError(pub Shape);

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { key_heads, value_heads, dim, kernel } = self.0;
        write!(
            f,
            "a gated delta net: expected value heads a multiple of the key heads, widths of 1 to {MAX_DIM} and a \
             convolution over 1 to {MAX_KERNEL} tokens, found {value_heads} over {key_heads} heads of {dim}, and {kernel}"
        )
    }
}

impl error::Error for ShapeError {}

/// The order of the value heads of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadOrder {
    /// Head h belongs to key head h % key_heads: that of everything else here, and of GGUF files.
    Tiled,
    /// Head h belongs to key head h / (value_heads / key_heads): that of training, and of output projections that were
    /// rotated in it.
    Grouped,
}

impl HeadOrder {
    /// Where head `h` of the tiled order stands.
    fn place(self, shape: &Shape, h: usize) -> usize {
        let group = shape.value_heads / shape.key_heads;
        match self {
            Self::Tiled => h,
            Self::Grouped => h % shape.key_heads * group + h / shape.key_heads,
        }
    }
}

/// The trained parameters of a layer's decay, by value head.
#[derive(Clone, Copy, Debug)]
pub struct Decay<'a> {
    /// `ssm_a`: -e^A_log, at most 0 each, (value_heads).
    pub rate: &'a [f32],
    /// `ssm_dt`, (value_heads).
    pub bias: &'a [f32],
}

/// One token of a head, and its gates.
struct Token<'a> {
    /// (dim), as the convolution left it
    q: &'a [f32],
    /// (dim), as the convolution left it
    k: &'a [f32],
    /// e^g
    decay: f32,
    beta: f32,
}

/// The delta rule: `c` (T, channels) from [`conv`], whose tokens stand where `rows` say, goes through S of their states;
/// `out` (T, value_heads * dim), tiled. `a` and `b` (T, value_heads), the projections `ssm_alpha` and `ssm_beta`, are
/// overwritten.
///
/// `rows` are sequences by their index in `states`, each once; their `start` is not used.
///
/// # Panics
/// If a length does not fit the shape and the rows, a state has another shape, or a sequence stands there twice.
#[allow(clippy::too_many_arguments, reason = "the operands of the formula")]
pub fn mix(
    cpu: &Cpu,
    shape: &Shape,
    c: &[f32],
    a: &mut [f32],
    b: &mut [f32],
    decay: Decay,
    states: &mut [State],
    rows: &[Placed],
    out: &mut [f32],
) {
    let value_heads = shape.value_heads;
    let (channels, width) = (shape.channels(), shape.width());
    let tokens = check_tokens("delta::mix", shape, rows, c, channels);
    assert_eq!(out.len(), tokens * width, "delta::mix: values of the output");
    assert_eq!((a.len(), b.len()), (tokens * value_heads, tokens * value_heads), "delta::mix: values of the gates");
    assert_eq!(
        (decay.rate.len(), decay.bias.len()),
        (value_heads, value_heads),
        "delta::mix: value heads of the decay"
    );
    gates(cpu, value_heads, decay, a, b);
    for (of_group, rows) in groups(rows) {
        let of = |width: usize| of_group.start * width..of_group.end * width;
        let inputs = Inputs { c: &c[of(channels)], decay: &a[of(value_heads)], beta: &b[of(value_heads)] };
        mix_group(cpu, shape, &inputs, states, rows, &mut out[of(width)]);
    }
}

/// Tokens of some rows, and their gates.
struct Inputs<'a> {
    /// (T, channels)
    c: &'a [f32],
    /// e^g, (T, value_heads)
    decay: &'a [f32],
    /// (T, value_heads)
    beta: &'a [f32],
}

/// As [`mix`], for rows that run side by side.
fn mix_group(cpu: &Cpu, shape: &Shape, inputs: &Inputs, states: &mut [State], rows: &[Placed], out: &mut [f32]) {
    let Shape { key_heads, value_heads, dim, .. } = *shape;
    let (channels, width) = (shape.channels(), shape.width());
    let memories = parts_of("delta::mix", shape, states, rows, |state| state.memory_mut());
    let few = out.len() / width <= ALIKE_TOKENS;
    // A head for each thread and more: then its queries and keys are fetched once.
    let whole = !few && value_heads >= 2 * cpu.threads();
    let (slice, piece) = if few { (FEW_ROWS, FEW_ROWS) } else { (MANY_ROWS, if whole { dim } else { MANY_ROWS }) };
    let pieces = dim.div_ceil(piece);
    let out = Disjoint::new(out);
    let isa = cpu.isa();
    cpu.pool().run(rows.len() * value_heads * pieces, |chunk| {
        let (row, head, piece_at) = (chunk / pieces / value_heads, chunk / pieces % value_heads, chunk % pieces);
        let js = piece_at * piece..dim.min((piece_at + 1) * piece);
        let first = rows[..row].iter().map(|row| row.tokens).sum::<usize>();
        let memory = memories[row].as_ref().unwrap_or_else(|| unreachable!("checked: each row has a state"));
        // SAFETY: chunks are disjoint ranges of the rows of disjoint matrices.
        let memory = unsafe { memory.part((head * dim + js.start) * dim..(head * dim + js.end) * dim) };
        let key_head = head % key_heads;
        let token = |t: usize| {
            let c = &inputs.c[t * channels..][..channels];
            let at = |head: usize| &c[head * dim..][..dim];
            let (decay, beta) = (inputs.decay[t * value_heads + head], inputs.beta[t * value_heads + head]);
            (Token { q: at(key_head), k: at(key_heads + key_head), decay, beta }, at(2 * key_heads + head))
        };
        let last = first + rows[row].tokens;
        for block in (first..last).step_by(BLOCK_TOKENS) {
            for (start, memory) in js.clone().step_by(slice).zip(memory.chunks_mut(slice * dim)) {
                let js = start..start + memory.len() / dim;
                for t in block..last.min(block + BLOCK_TOKENS) {
                    let (token, v) = token(t);
                    let start = t * width + head * dim;
                    // SAFETY: chunks are disjoint ranges of heads, and tokens follow each other.
                    let out = unsafe { out.part(start + js.start..start + js.end) };
                    step(isa, &token, &v[js.clone()], memory, out);
                }
            }
        }
    });
}

/// One token through some rows of S, (v.len(), dim).
fn step(isa: Isa, token: &Token, v: &[f32], memory: &mut [f32], out: &mut [f32]) {
    let whole = |lanes| token.k.len().is_multiple_of(lanes);
    #[cfg(target_arch = "x86_64")]
    if let Isa::Avx512Vnni(avx512) = isa
        && whole(avx512::LANES)
    {
        return avx512::step(avx512, token, v, memory, out);
    }
    match isa.base() {
        #[cfg(target_arch = "x86_64")]
        Base::Avx2(avx2) if whole(x86::LANES) => avx2::step(avx2, token, v, memory, out),
        #[cfg(target_arch = "aarch64")]
        Base::Neon(neon) if whole(arm::LANES) => neon::step(neon, token, v, memory, out),
        _ => scalar::step(token, v, memory, out),
    }
}

/// a <- e^g and b <- beta of every token and value head.
fn gates(cpu: &Cpu, value_heads: usize, decay: Decay, a: &mut [f32], b: &mut [f32]) {
    /// About 2 us of work.
    const TOKENS: usize = 2;
    let tokens = a.len() / value_heads;
    let (a, b) = (Disjoint::new(a), Disjoint::new(b));
    cpu.pool().run(tokens.div_ceil(TOKENS), |chunk| {
        let range = chunk * TOKENS * value_heads..tokens.min((chunk + 1) * TOKENS) * value_heads;
        // SAFETY: chunks are disjoint ranges of tokens.
        let (a, b) = unsafe { (a.part(range.clone()), b.part(range)) };
        for (a, b) in a.chunks_exact_mut(value_heads).zip(b.chunks_exact_mut(value_heads)) {
            for (h, (a, b)) in a.iter_mut().zip(b).enumerate() {
                *a = (decay.rate[h] * softplus(*a + decay.bias[h])).exp();
                *b = 1.0 / (1.0 + (-*b).exp());
            }
        }
    });
}

/// ln(1 + e^x), of which no part overflows.
fn softplus(x: f32) -> f32 {
    // Not f32::max, which turns NaN into 0.
    let positive = if x < 0.0 { 0.0 } else { x };
    positive + (-x.abs()).exp().ln_1p()
}

/// RMS norm of each value head of `o` (T, value_heads * dim, tiled) with `weight` (dim), times silu(`z`) (as `o`); the
/// result is in `o`, its heads in the order `to`. `z` is overwritten.
///
/// # Panics
/// If a length does not fit the shape.
pub fn gated_norm(cpu: &Cpu, shape: &Shape, o: &mut [f32], z: &mut [f32], weight: &[f32], eps: f32, to: HeadOrder) {
    let (width, dim) = (shape.width(), shape.dim);
    let tokens = tokens_of("delta::gated_norm", o, width);
    assert_eq!(z.len(), o.len(), "delta::gated_norm: values of the gate");
    assert_eq!(weight.len(), dim, "delta::gated_norm: norm weights of heads of {dim}");
    let base = cpu.isa().base();
    let (o, z) = (Disjoint::new(o), Disjoint::new(z));
    cpu.pool().run(tokens, |t| {
        let range = t * width..(t + 1) * width;
        // SAFETY: chunk t alone touches token t.
        let (o, z) = unsafe { (o.part(range.clone()), z.part(range)) };
        o.chunks_exact_mut(dim).for_each(|head| norm::norm_row(base, head, weight, eps));
        gate::apply_part(base, gate::Kind::Silu, z, o);
        for (h, head) in z.chunks_exact(dim).enumerate() {
            o[to.place(shape, h) * dim..][..dim].copy_from_slice(head);
        }
    });
}

/// Tokens of `x` (T, width).
///
/// # Panics
/// If the shape is none, `x` is not the tokens of `rows`, or a sequence stands there twice.
fn check_tokens(what: &str, shape: &Shape, rows: &[Placed], x: &[f32], width: usize) -> usize {
    if let Err(error) = shape.check() {
        panic!("{what}: {error}");
    }
    let tokens = tokens_of(what, x, width);
    assert_eq!(rows.iter().map(|row| row.tokens).sum::<usize>(), tokens, "{what}: tokens of the rows");
    assert!(are_different(rows), "{what}: two rows of one sequence in {rows:?}");
    tokens
}

/// A part of the state of each row, for several threads.
///
/// # Panics
/// If a row has no state, or one of another shape.
fn parts_of<'a>(
    what: &str,
    shape: &Shape,
    states: &'a mut [State],
    rows: &[Placed],
    part: impl Fn(&'a mut State) -> &'a mut [f32],
) -> [Option<Disjoint<'a, f32>>; ALIKE_TOKENS] {
    let mut parts = [const { None }; ALIKE_TOKENS];
    for (at, state) in states.iter_mut().enumerate() {
        if let Some(row) = rows.iter().position(|row| row.cache == at) {
            assert_eq!(state.shape(), shape, "{what}: shape of state {at}");
            parts[row] = Some(Disjoint::new(part(state)));
        }
    }
    for (row, placed) in rows.iter().enumerate() {
        assert!(parts[row].is_some(), "{what}: no state {}", placed.cache);
    }
    parts
}

#[cfg(test)]
mod tests;
