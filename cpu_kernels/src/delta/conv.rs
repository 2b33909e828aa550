//! The causal convolution over tokens, each channel for itself: c\[t\] = silu(sum over j of taps\[j\] * m\[t - kernel +
//! 1 + j\]), whose last tap meets the token itself.

use super::{MAX_KERNEL, Shape, State, check_tokens, parts_of};
use crate::{
    Cpu,
    attention::{Placed, groups},
    gate,
    isa::Base,
    threads::Disjoint,
};

/// Channels of a chunk: about half a microsecond of work for one token.
const CHUNK: usize = 512;

/// Second factor of the gate kernel's silu(x) * up: leaves silu alone.
static ONES: [f32; CHUNK] = [1.0; CHUNK];

/// The weights of the convolution of a layer.
#[derive(Clone, Debug)]
pub struct Taps {
    channels: usize,
    kernel: usize,
    /// (kernel, channels)
    values: Vec<f32>,
}

impl Taps {
    /// From `ssm_conv1d.weight` as files have it: (channels, kernel), the tap of the current token last.
    ///
    /// # Panics
    /// If the shape has other channels or taps than `weight`.
    pub fn new(shape: &Shape, weight: &[f32]) -> Self {
        let (channels, kernel) = (shape.channels(), shape.kernel);
        assert_eq!(weight.len(), channels * kernel, "delta::Taps: {kernel} taps of {channels} channels");
        let values = (0..kernel * channels).map(|i| weight[i % channels * kernel + i / channels]).collect();
        Self { channels, kernel, values }
    }
}

/// The convolution of `m` (T, channels) in place, with the tokens that went before in the states of `rows`, which then
/// hold the last ones of these. For `rows` and `states` see [`super::mix`].
///
/// # Panics
/// If a length does not fit the shape and the rows, a state has another shape, or a sequence stands there twice.
pub fn conv(cpu: &Cpu, shape: &Shape, taps: &Taps, states: &mut [State], rows: &[Placed], m: &mut [f32]) {
    let (channels, kernel) = (shape.channels(), shape.kernel);
    check_tokens("delta::conv", shape, rows, m, channels);
    assert_eq!((taps.channels, taps.kernel), (channels, kernel), "delta::conv: channels and taps");
    for (of_group, rows) in groups(rows) {
        let tokens = &mut m[of_group.start * channels..of_group.end * channels];
        conv_group(cpu, shape, taps, states, rows, tokens);
    }
}

/// As [`conv`], for rows that run side by side.
fn conv_group(cpu: &Cpu, shape: &Shape, taps: &Taps, states: &mut [State], rows: &[Placed], m: &mut [f32]) {
    let (channels, kernel) = (shape.channels(), shape.kernel);
    let windows = parts_of("delta::conv", shape, states, rows, |state| state.conv_mut());
    let chunks = channels.div_ceil(CHUNK);
    let base = cpu.isa().base();
    let m = Disjoint::new(m);
    cpu.pool().run(rows.len() * chunks, |chunk| {
        let row = chunk / chunks;
        let range = chunk % chunks * CHUNK..channels.min((chunk % chunks + 1) * CHUNK);
        let of = |line: usize| line * channels + range.start..line * channels + range.end;
        let window = windows[row].as_ref().unwrap_or_else(|| unreachable!("checked: each row has a state"));
        let (first, tokens) = (rows[..row].iter().map(|row| row.tokens).sum::<usize>(), rows[row].tokens);
        // SAFETY: chunks are disjoint ranges of channels of disjoint tokens and states.
        let token = |t: usize| unsafe { m.part(of(first + t)) };
        // SAFETY: as above.
        let before = |i: usize| unsafe { window.part(of(i)) };

        let reach = kernel - 1;
        let keep = reach.min(tokens);
        let mut kept = [[0.0; CHUNK]; MAX_KERNEL - 1];
        for (i, kept) in kept[..keep].iter_mut().enumerate() {
            kept[..range.len()].copy_from_slice(token(tokens - keep + i));
        }
        // From the last token on, so that the inputs of the others are still there.
        for t in (0..tokens).rev() {
            let mut inputs: [&[f32]; MAX_KERNEL - 1] = [&[]; MAX_KERNEL - 1];
            for (i, input) in inputs[..reach].iter_mut().enumerate() {
                *input = if t + i >= reach { token(t + i - reach) } else { before(t + i) };
            }
            let tap = |i: usize| &taps.values[of(i)];
            convolve(base, token(t), &inputs[..reach], tap);
        }
        for i in 0..reach - keep {
            before(i).copy_from_slice(before(i + keep));
        }
        for (i, kept) in kept[..keep].iter().enumerate() {
            before(reach - keep + i).copy_from_slice(&kept[..range.len()]);
        }
    });
}

/// silu of the sum of taps times inputs, of which `x` is the last one before, and the result.
fn convolve<'a>(base: Base, x: &mut [f32], inputs: &[&[f32]], tap: impl Fn(usize) -> &'a [f32]) {
    x.iter_mut().zip(tap(inputs.len())).for_each(|(x, tap)| *x *= tap);
    for (i, input) in inputs.iter().enumerate() {
        x.iter_mut().zip(*input).zip(tap(i)).for_each(|((x, input), tap)| *x += input * tap);
    }
    gate::apply_part(base, gate::Kind::Silu, x, &ONES[..x.len()]);
}
