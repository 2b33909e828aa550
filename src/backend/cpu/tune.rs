//! Times the kernels of ternary products on the shapes of a model.

use std::time::{Duration, Instant};

use bitnet_cpu_kernels::{
    Cpu,
    format::{Layout, ternary_bytes},
    quantize::QuantizedActs,
    ternary,
};

use super::{
    Isa,
    kernel::{Kernel, repack},
};
use crate::{
    backend::calibrate::median,
    error::Result,
    model::{Linear, MatrixScales, Model, TernaryMatrix, names},
};

/// Bytes of matrices that are gone through before one comes again, where a model has as many: more than caches hold.
const COLD_BYTES: usize = 96 << 20;

/// How often all of them are gone through.
const ROUNDS: usize = 5;

/// Tokens of the timed prompts.
pub const PROMPT_TOKENS: usize = 128;

/// What a kernel takes for a matrix of a shape.
#[derive(Clone, Debug)]
pub struct Timing {
    /// (rows, cols)
    pub shape: (usize, usize),
    /// Matrices of that shape in the model.
    pub matrices: usize,
    /// The kernel of steps of few tokens.
    pub kernel: Kernel,
    /// One token, the weights in no cache if the model has enough of them: the median.
    pub decode: Duration,
    /// Bytes that it reads.
    pub decode_bytes: usize,
    /// [`PROMPT_TOKENS`] tokens: the median.
    pub prompt: Duration,
}

/// Times every kernel that can multiply the matrices of `model`, shape by shape; `told` says which shape is next.
pub fn measure(isa: Isa, threads: usize, model: &Model, mut told: impl FnMut(&str)) -> Result<Vec<Timing>> {
    let cpu = Cpu::new(isa, threads);
    let all: Vec<(String, &TernaryMatrix)> = (0..model.config.layers)
        .flat_map(|layer| {
            Linear::ALL.map(|role| (names::linear(layer, role), model.weights.blocks[layer].linear(role)))
        })
        .collect();
    let mut shapes: Vec<(usize, usize)> = Vec::new();
    for (_, m) in &all {
        if !shapes.contains(&(m.rows, m.cols)) {
            shapes.push((m.rows, m.cols));
        }
    }
    let mut timings = Vec::new();
    for shape in shapes {
        told(&format!("{} x {}", shape.0, shape.1));
        let matrices: Vec<_> = all.iter().filter(|(_, m)| (m.rows, m.cols) == shape).collect();
        let few = COLD_BYTES.div_ceil(ternary_bytes(Layout::I2sP128, shape.0, shape.1).max(1));
        timings.extend(measure_shape(&cpu, &matrices[..few.min(matrices.len())], matrices.len())?);
    }
    Ok(timings)
}

/// The kernels take turns, so that whatever else the machine does disturbs all alike.
fn measure_shape(cpu: &Cpu, matrices: &[&(String, &TernaryMatrix)], count: usize) -> Result<Vec<Timing>> {
    let first = matrices[0].1;
    let grouped = matches!(first.scales, MatrixScales::PerGroup { .. });
    let mut forms = Vec::new();
    for kernel in Kernel::ALL {
        if !kernel.is_native(cpu.isa()) || grouped && kernel != Kernel::I2S {
            continue;
        }
        let packed = matrices.iter().map(|(name, m)| repack(m, kernel.layout(m), name)).collect::<Result<Vec<_>>>()?;
        forms.push(Form { kernel, packed, decode: Vec::new(), prompt: Vec::new() });
    }
    let (one, prompt) = (acts(first, 1), acts(first, PROMPT_TOKENS));
    let mut out = vec![0.0; PROMPT_TOKENS * first.rows];
    for _ in 0..ROUNDS {
        for form in &mut forms {
            for matrix in &form.packed {
                form.decode.push(time(cpu, &one, matrix, &mut out[..first.rows]));
            }
            // A prompt meets the rows of the loaded matrix, unless they were repacked to whole codes.
            let matrix = if form.packed[0].layout == Layout::I2sP128 { &form.packed[0] } else { first };
            form.prompt.push(time(cpu, &prompt, matrix, &mut out));
        }
    }
    let timing = |form: Form| Timing {
        shape: (first.rows, first.cols),
        matrices: count,
        kernel: form.kernel,
        decode_bytes: form.packed[0].codes.len(),
        decode: median(form.decode),
        prompt: median(form.prompt),
    };
    Ok(forms.into_iter().map(timing).collect())
}

/// Matrices in the form that a kernel reads, and what it took for them.
struct Form {
    kernel: Kernel,
    packed: Vec<TernaryMatrix>,
    decode: Vec<Duration>,
    prompt: Vec<Duration>,
}

/// Any values do; none is zero.
fn acts(matrix: &TernaryMatrix, tokens: usize) -> QuantizedActs {
    let group = matrix.scales.view().group();
    let values: Vec<i8> = (0..tokens * matrix.cols).map(|i| (i * 37 % 127) as i8 + 1).collect();
    let mut acts = QuantizedActs::with_group(tokens, matrix.cols, group);
    acts.set_raw(matrix.cols, &values, &vec![0.01; tokens * group.map_or(1, |size| matrix.cols / size)]);
    acts
}

fn time(cpu: &Cpu, acts: &QuantizedActs, matrix: &TernaryMatrix, out: &mut [f32]) -> Duration {
    let start = Instant::now();
    ternary::matmul(cpu, acts, &mut [ternary::Part { weights: matrix.view(), out, add: false }]);
    start.elapsed()
}

/// The fastest kernel of each shape for one token.
pub fn fastest(timings: &[Timing]) -> Vec<((usize, usize), Kernel)> {
    let mut best: Vec<&Timing> = Vec::new();
    for timing in timings {
        match best.iter_mut().find(|best| best.shape == timing.shape) {
            Some(best) if timing.decode < best.decode => *best = timing,
            Some(_) => {}
            None => best.push(timing),
        }
    }
    best.into_iter().map(|timing| (timing.shape, timing.kernel)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_of_each_shape_is_found() {
        let timing = |rows, kernel, us| Timing {
            shape: (rows, 256),
            matrices: 1,
            kernel,
            decode: Duration::from_micros(us),
            decode_bytes: 1,
            prompt: Duration::from_micros(100 - us),
        };
        let timings = [
            timing(32, Kernel::I2S, 5),
            timing(32, Kernel::TL1, 4),
            timing(32, Kernel::TL2, 6),
            timing(64, Kernel::I2S, 7),
            timing(64, Kernel::TL2, 7),
        ];
        assert_eq!(fastest(&timings), [((32, 256), Kernel::TL1), ((64, 256), Kernel::I2S)]);
    }
}
