//! A small gated DeltaNet: what a GPU has to get right, within rounding, before a model with such layers is loaded.

use bitnet_cpu_kernels::{
    Cpu, Isa,
    attention::Placed,
    delta::{self, Decay, Shape, State, Taps},
};

use super::debug::{Run, run};
use crate::{
    backend::gpu::{
        device::Gpu,
        kernels::{
            params::{self, Dynamic},
            pipelines::{Shader, Variant},
        },
        lower::delta::rule_constants,
    },
    error::{Error, Result},
    model::DeltaNet,
};

/// Tokens of the step: more than the convolution reaches.
const TOKENS: usize = 9;
/// Largest difference of a value from the reference, in units of the largest value: float order gives below 1e-5, a wrong
/// number 0.1 and more.
const CLOSE: f32 = 1e-3;

/// From -1 to 1, equal on every machine.
fn noise(i: usize) -> f32 {
    f32::from((i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]) / 127.5 - 1.0
}

/// Compares some tokens of heads as those of `delta` with the scalar reference.
pub fn self_test_delta(gpu: &Gpu, delta: &DeltaNet) -> Result<()> {
    let shape = Shape { key_heads: 1, value_heads: 2, dim: delta.head_dim, kernel: delta.kernel };
    let (channels, heads) = (shape.channels(), shape.value_heads);
    let values = |seed: usize, count: usize| -> Vec<f32> { (0..count).map(|i| noise(seed + i)).collect() };
    let (m, taps) = (values(0, TOKENS * channels), values(1 << 20, channels * shape.kernel));
    let gates = values(1 << 21, TOKENS * 2 * heads);
    let (rate, bias) = (vec![-0.1; heads], vec![0.5; heads]);
    let expected = reference(&shape, &m, &taps, &gates, Decay { rate: &rate, bias: &bias })?;

    let by_tap = (0..shape.kernel * channels).map(|i| taps[i % channels * shape.kernel + i / channels]);
    let mut weights: Vec<f32> = by_tap.chain(rate).chain(bias).collect();
    weights.resize(weights.len().next_multiple_of(4), 0.0);
    let mut batch = vec![[0u32; 4]];
    batch.extend((0..TOKENS as u32).map(|position| [0, position, 0, 0]));
    let params = params::DeltaStep {
        key_heads: shape.key_heads as u32,
        value_heads: heads as u32,
        stride: (channels / 4) as u32,
        context: TOKENS as u32,
        ..Default::default()
    };
    let (workgroups, constants) = rule_constants(heads, delta);
    let (before, memory) = (vec![0.0f32; shape.conv_len()], vec![0.0f32; shape.memory_len()]);
    let out = vec![0.0f32; expected.len()];
    let floats = [&m, &gates, &weights, &before, &memory, &out].map(|values| bytemuck::cast_slice(values));
    let mut buffers: Vec<&[u8]> = floats.to_vec();
    buffers.push(bytemuck::cast_slice(&batch));
    let step = Run {
        variant: Variant::new(Shader::DeltaStep, gpu.choices(), None),
        constants: &constants,
        params: params.into(),
        dynamic: Dynamic { tokens: TOKENS as u32, ..Dynamic::default() },
        buffers: &buffers,
        grid: [workgroups, 1, 1],
    };
    let found: Vec<f32> = bytemuck::pod_collect_to_vec(&run(gpu, &step)?[5]);
    match fault(&found, &expected) {
        None => Ok(()),
        Some(fault) => {
            let reason = format!("{} failed the self-test of {}: {fault}", gpu.caps(), Shader::DeltaStep.name());
            Err(Error::NoAdapter { reason })
        }
    }
}

fn reference(shape: &Shape, m: &[f32], taps: &[f32], gates: &[f32], decay: Decay<'_>) -> Result<Vec<f32>> {
    let state = State::try_new(*shape).map_err(|e| Error::unsupported("a recurrent layer", e.to_string()))?;
    let mut states: Vec<State> = state.into_iter().collect();
    let (cpu, rows) = (Cpu::new(Isa::Scalar, 1), [Placed { cache: 0, start: 0, tokens: TOKENS, is_prompt: true }]);
    let half = |at: usize| gates.chunks(shape.value_heads).skip(at).step_by(2).flatten().copied().collect::<Vec<f32>>();
    let (mut c, mut a, mut b) = (m.to_vec(), half(0), half(1));
    let mut out = vec![0.0; TOKENS * shape.width()];
    delta::conv(&cpu, shape, &Taps::new(shape, taps), &mut states, &rows, &mut c);
    delta::mix(&cpu, shape, &c, &mut a, &mut b, decay, &mut states, &rows, &mut out);
    Ok(out)
}

/// The first value that is too far off, in words.
fn fault(found: &[f32], expected: &[f32]) -> Option<String> {
    let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    // Written so that NaN is too far off as well.
    let is_close = |(a, b): (&f32, &f32)| (a - b).abs() <= CLOSE * largest;
    let at = found.iter().zip(expected).position(|pair| !is_close(pair))?;
    Some(format!("expected {}, found {} at value {at}", expected[at], found[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_value_is_found() {
        assert_eq!(fault(&[0.5, 2.001], &[0.5, 2.0]), None);
        assert_eq!(fault(&[0.5, 1.9], &[0.5, 2.0]).unwrap(), "expected 2, found 1.9 at value 1");
        assert!(fault(&[f32::NAN, 2.0], &[0.5, 2.0]).is_some());
    }
}
