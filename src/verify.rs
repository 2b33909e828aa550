//! Whether two backends compute the same model: in, a model as each of them has it, and prompts; out, a [`Report`].
//!
//! Three looks, each at more than the one before: the ternary product of every weight matrix, which is made of whole
//! numbers and has to be equal; each layer alone, given the same hidden states; and answers from beginning to end.

use std::{ops::Range, sync::Arc};

use bitnet_cpu_kernels::{
    Cpu,
    format::{Layout, Scales, TernaryView},
    isa::Isa,
    quantize::QuantizedActs,
    ternary,
};

use crate::{
    backend::{
        Activations, Backend, Batch, Want,
        cpu::{CpuBackend, Kernels},
        gpu::{Gpu, GpuBackend, debug::ternary_product, pipelines::Shader},
    },
    error::{Error, Result},
    model::{Model, PackedMatrix, names},
    plan::{BackendKind, Plan, Segment, Sizes},
    session::Session,
};

/// Most relative L2 difference of a layer's output and of logits. Floats are added in another order on each backend;
/// where that moves an activation over a rounding border, its 8-bit value differs by one step. Sound GPUs stay below
/// 0.02 so; a wrong formula gives 0.3 and more.
pub const BOUND: f64 = 0.05;

/// Tokens of the product with each matrix: one takes the kernel of decoding, several take that of prompts.
const PRODUCT_TOKENS: usize = 5;

/// One model, as either backend is to load it. The two are the same, except where a test wants a difference found.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The model that the CPU loads.
    pub cpu: &'a Arc<Model>,
    /// The model that the GPU loads.
    pub gpu: &'a Arc<Model>,
    /// Kernels that the CPU multiplies ternary matrices with.
    pub kernels: &'a Kernels,
}

/// Result of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Products compared: numbers of each matrix, each kernel.
    pub products: usize,
    /// Everything beyond the bounds, with its place.
    pub faults: Vec<String>,
    /// The largest relative L2 difference of each layer's output, over all prompts; the last is that of the logits.
    pub layers: Vec<f64>,
    /// The largest relative L2 difference of logits after everything ran on one backend or the other.
    pub logits: f64,
    /// Tokens after which the most probable next one was compared.
    pub tokens: usize,
    /// Number of these for which both backends gave the same one.
    pub equal_tokens: usize,
}

/// Compares `subject` on the CPU with `threads` threads and on `gpu`, on `prompts` and `answer_tokens` after each.
/// `progress` is told what comes next.
pub fn run(
    subject: Subject<'_>,
    gpu: &Arc<Gpu>,
    threads: usize,
    prompts: &[Vec<u32>],
    answer_tokens: usize,
    mut progress: impl FnMut(&str),
) -> Result<Report> {
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    if prompts.iter().any(Vec::is_empty) || longest == 0 {
        return Err(Error::argument("prompts", "at least one token each", "none"));
    }
    let mut report = Report::default();
    progress("products of each matrix");
    products(subject, gpu, threads, &mut report)?;
    let sizes = Sizes::new(longest + answer_tokens, longest);
    progress("layers, one at a time");
    layers(subject, gpu, threads, prompts, sizes, &mut report)?;
    progress("answers");
    answers(subject, gpu, threads, prompts, answer_tokens, sizes, &mut report)?;
    Ok(report)
}

fn products(subject: Subject<'_>, gpu: &Gpu, threads: usize, report: &mut Report) -> Result<()> {
    let cpu = Cpu::new(Isa::detect(), threads);
    // Every activation differs from zero, so that every weight counts.
    let noise = |i: usize| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0].cast_signed().clamp(-127, 127);
    let act = |i| if noise(i) == 0 { 1 } else { noise(i) };
    for (layer, block) in subject.cpu.weights.blocks.iter().enumerate() {
        for (role, matrix) in block.linears() {
            // Sums over whole rows are whole numbers under every kind of scale.
            let codes_of = |matrix| TernaryView { scales: Scales::PerTensor(1.0), ..PackedMatrix::view(matrix) };
            let on_cpu = subject.cpu.packed(layer, role, matrix.layout())?;
            let on_gpu = subject.gpu.packed(layer, role, Layout::I2sP128)?;
            let (weights, on_gpu) = (codes_of(&on_cpu), codes_of(&on_gpu));
            for (shader, tokens) in [(Shader::TernaryMatvec, 1), (Shader::TernaryMatmul, PRODUCT_TOKENS)] {
                let acts: Vec<i8> = (0..tokens * weights.cols).map(act).collect();
                let mut quantized = QuantizedActs::new(tokens, weights.cols);
                quantized.set_raw(weights.cols, &acts, &vec![1.0; tokens]);
                let mut expected = vec![0; tokens * weights.rows];
                ternary::matmul_i32(&cpu, &quantized, weights, &mut expected);
                let found = ternary_product(gpu, shader, gpu.choices(), &on_gpu, &acts)?;
                report.products += expected.len();
                if let Some(at) = expected.iter().zip(&found).position(|(a, b)| a != b) {
                    let wrong = expected.iter().zip(&found).filter(|(a, b)| a != b).count();
                    report.faults.push(format!(
                        "layer {layer}, {}, {}: row {} is {} on the CPU and {} on the GPU ({wrong} of {} numbers differ)",
                        names::linear(layer, role),
                        shader.name(),
                        at % weights.rows,
                        expected[at],
                        found[at],
                        expected.len()
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Each layer on both, with the CPU's hidden states as the input of both.
fn layers(
    subject: Subject<'_>,
    gpu: &Arc<Gpu>,
    threads: usize,
    prompts: &[Vec<u32>],
    sizes: Sizes,
    report: &mut Report,
) -> Result<()> {
    let count = subject.cpu.config.layers;
    let mut inputs: Vec<Activations> =
        prompts.iter().map(|ids| Activations { ids: ids.clone(), ..Activations::default() }).collect();
    for layer in 0..count {
        let head = layer + 1 == count;
        let segment = segment(layer..layer + 1, layer == 0, head);
        // New backends for each layer: only one is in memory.
        let (mut cpu, mut other) = (
            CpuBackend::with_kernels(Isa::detect(), threads, subject.kernels.clone()),
            GpuBackend::on(Arc::clone(gpu)),
        );
        let on_cpu = cpu.load(subject.cpu, &segment, &sizes, &mut |_| {})?;
        let on_gpu = other.load(subject.gpu, &segment, &sizes, &mut |_| {})?;
        let mut worst: f64 = 0.0;
        for (ids, state) in prompts.iter().zip(&mut inputs) {
            let mut same = Activations { ids: ids.clone(), hidden: state.hidden.clone(), ..Activations::default() };
            let batch = Batch::one(0..ids.len(), Want::All);
            cpu.run(on_cpu, &batch, state)?;
            other.run(on_gpu, &batch, &mut same)?;
            let pair = if head { (&state.logits, &same.logits) } else { (&state.hidden, &same.hidden) };
            worst = worst.max(relative_l2(pair.0, pair.1));
        }
        // NaN, too, is beyond the bound.
        if worst.is_nan() || worst > BOUND {
            let what = if head { format!("layer {layer} and the head") } else { format!("layer {layer}") };
            report.faults.push(format!("{what}: the outputs differ by {worst:.1e}, more than {BOUND}"));
        }
        report.layers.push(worst);
    }
    Ok(())
}

/// The CPU's greedy answer to each prompt; the GPU is asked at each step what it would have said.
fn answers(
    subject: Subject<'_>,
    gpu: &Arc<Gpu>,
    threads: usize,
    prompts: &[Vec<u32>],
    answer_tokens: usize,
    sizes: Sizes,
    report: &mut Report,
) -> Result<()> {
    let session = |kind, model: &Arc<Model>, backend: Box<dyn Backend>| {
        let whole = Segment { backend: kind, ..segment(0..model.config.layers, true, true) };
        Session::load(model, &Plan { segments: vec![whole], prefill: None, sizes }, vec![(kind, backend)], &mut |_| {})
    };
    let mut cpu = session(
        BackendKind::Cpu,
        subject.cpu,
        Box::new(CpuBackend::with_kernels(Isa::detect(), threads, subject.kernels.clone())),
    )?;
    let mut other = session(BackendKind::Gpu, subject.gpu, Box::new(GpuBackend::on(Arc::clone(gpu))))?;
    for (at, prompt) in prompts.iter().enumerate() {
        cpu.truncate(0)?;
        other.truncate(0)?;
        let mut ids = prompt.clone();
        for step in 0..=answer_tokens {
            let expected = cpu.prefill(&ids)?;
            let found = other.prefill(&ids)?;
            let (difference, first, second) = (relative_l2(expected, found), greatest(expected), greatest(found));
            report.logits = report.logits.max(difference);
            report.tokens += 1;
            report.equal_tokens += usize::from(first == second);
            let place = format!("prompt {}, after {step} tokens of the answer", at + 1);
            if difference.is_nan() || difference > BOUND {
                report.faults.push(format!("{place}: the logits differ by {difference:.1e}, more than {BOUND}"));
            }
            // Two tokens that are as good as equally probable may change places.
            let rms = (expected.iter().map(|x| f64::from(x * x)).sum::<f64>() / expected.len() as f64).sqrt();
            let lead = f64::from(expected[first] - expected[second]);
            if lead > BOUND * rms {
                report.faults.push(format!(
                    "{place}: the CPU says token {first} and the GPU {second}, which is behind by {lead:.2}"
                ));
            }
            ids = vec![first as u32];
        }
    }
    Ok(())
}

fn segment(layers: Range<usize>, embed: bool, head: bool) -> Segment {
    Segment { layers, backend: BackendKind::Cpu, embed, head, reason: "verification".into() }
}

fn greatest(logits: &[f32]) -> usize {
    (0..logits.len()).reduce(|best, i| if logits[i] > logits[best] { i } else { best }).unwrap_or(0)
}

/// |a - b| / |a|
fn relative_l2(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "outputs of one shape");
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = squares(&mut a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    difference / squares(&mut a.iter().map(|&a| f64::from(a))).max(f64::MIN_POSITIVE)
}
