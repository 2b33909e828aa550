//! Runs the tests.

use std::{
    any::Any,
    time::{Duration, Instant},
};

use bitnet_cpu_kernels::{
    Cpu, Isa,
    quantize::{self, QuantizedActs},
    screen::Screen,
    ternary,
};

use super::{
    super::interrupt,
    Kind, Test,
    ceilings::{Ceilings, Probe},
};
use crate::{
    backend::{
        Want,
        cpu::{CpuBackend, Kernels, own_layout},
        energy,
        gpu::{Counters, GpuBackend},
    },
    bytes::Bytes,
    cache_dir::StableHash,
    error::{Error, Result},
    generate::{Answer, AnswerOptions, Chooser, NoText, SampleOptions, Sampler},
    graph::CHECKPOINTS,
    model::{Model, TernaryMatrix},
    session::Session,
};

/// Measurements of a test, repetition by repetition.
#[derive(Debug)]
pub struct Samples {
    /// Time of the whole test in each repetition.
    pub times: Vec<Duration>,
    /// Time of each step of a [`Kind::Generate`], over all repetitions.
    pub steps: Vec<Duration>,
    /// Bytes of weights and cache that a decode step read at half the test's length.
    pub bytes_per_token: u64,
    /// Rows of the head that a step multiplied exactly, on average; 0 where the backend does not tell.
    pub head_rows: f64,
    /// Ternary multiply-adds of a token.
    pub multiply_adds_per_token: u64,
    /// Multiply-adds a second of the ternary products of a prompt by themselves; `None` for other tests and for GPUs.
    pub ternary_rate: Option<f64>,
    /// Energy of the processor's package for a token; `None` where the machine does not tell.
    pub millijoules_per_token: Option<f64>,
    /// Hash of the last logits of the last repetition: two runs that compute the same have the same hash.
    pub logits_hash: u64,
    /// Work of the GPU in all of `times`; `None` where it has no part.
    pub gpu: Option<Counters>,
    /// Measured before each repetition; `None` for the GPU, whose ceilings are not known.
    pub ceilings: Option<Ceilings>,
}

/// The GPU of `session`; `None` where no GPU has a part.
pub fn gpu(session: &mut Session) -> Option<&mut GpuBackend> {
    session.backends_mut().find_map(|backend| (backend as &mut dyn Any).downcast_mut())
}

/// The packed matrices that the CPU reads in a step of one token.
pub fn cpu_weights(session: &mut Session) -> Vec<Bytes> {
    let cpus = session.backends_mut().filter_map(|backend| (backend as &mut dyn Any).downcast_ref::<CpuBackend>());
    cpus.flat_map(|cpu| cpu.weights().cloned()).collect()
}

/// Work of the GPU so far; `None` where no GPU has a part.
fn counters(session: &mut Session) -> Option<Counters> {
    gpu(session).map(|gpu| gpu.counters())
}

/// Runs `test` once to warm up and then `repetitions` times, `probe` before each of them. Ctrl-C ends it early.
pub fn run(
    session: &mut Session,
    model: &Model,
    kernels: &Kernels,
    test: Test,
    repetitions: usize,
    mut probe: Option<Probe>,
) -> Result<Samples> {
    let mut samples = Samples {
        times: Vec::with_capacity(repetitions),
        steps: Vec::with_capacity(repetitions * test.tokens),
        bytes_per_token: 0,
        head_rows: 0.0,
        multiply_adds_per_token: model.weights.blocks.iter().map(|block| block.ternary_weights() as u64).sum(),
        ternary_rate: None,
        millijoules_per_token: None,
        logits_hash: 0,
        gpu: None,
        ceilings: None,
    };
    session.cancel_when(Some(interrupt::catch()));
    session.truncate(0)?;
    if test.depth > 0 {
        let ids: Vec<u32> = (0..test.depth).map(|i| test_id(model, i)).collect();
        session.prefill_while(&ids, Want::Last, || !interrupt::raised())?;
    }
    once(session, model, test, &mut Vec::new())?;
    let mut head_rows = 0;
    let before = counters(session);
    let energy_before = energy::Package::read();
    for _ in 0..repetitions {
        if interrupt::raised() {
            break;
        }
        if let Some(probe) = &mut probe {
            probe.measure();
        }
        let start = Instant::now();
        let steps = samples.steps.len();
        match once(session, model, test, &mut samples.steps) {
            // The repetitions before it count.
            Err(Error::Cancelled) if !samples.times.is_empty() => {
                samples.steps.truncate(steps);
                break;
            }
            rows => head_rows += rows?,
        }
        samples.times.push(start.elapsed());
    }
    samples.gpu = counters(session).zip(before).map(|(after, before)| after.since(&before));
    samples.ceilings = probe.and_then(Probe::medians);
    let tokens = (samples.times.len() * test.tokens).max(1) as f64;
    samples.millijoules_per_token = energy_before.and_then(|before| before.millijoules_since()).map(|mj| mj / tokens);
    samples.head_rows = head_rows as f64 / (samples.times.len() * heads(test)).max(1) as f64;
    samples.bytes_per_token = bytes_per_token(session, model, kernels, test, samples.head_rows);
    samples.logits_hash = hash(session.all_logits()?);
    Ok(samples)
}

/// Steps of a test that run the head.
fn heads(test: Test) -> usize {
    match test.kind {
        Kind::Prompt => 1,
        Kind::Generate => test.tokens,
    }
}

/// All of `test`, behind the tokens of its depth; returns the rows of the head that were multiplied exactly.
pub fn once(session: &mut Session, model: &Model, test: Test, steps: &mut Vec<Duration>) -> Result<usize> {
    let id = |i| test_id(model, test.depth + i);
    // As greedy sampling asks.
    let wanted = if session.limits().most_top > 0 { Want::Top(1) } else { Want::Last };
    session.truncate(test.depth)?;
    let mut head_rows = 0;
    match test.kind {
        Kind::Prompt => {
            let ids: Vec<u32> = (0..test.tokens).map(id).collect();
            session.prefill_while(&ids, wanted, || true)?;
            head_rows += session.head_rows();
        }
        Kind::Generate => {
            for i in 0..test.tokens {
                let start = Instant::now();
                session.step_for(id(i), wanted)?;
                steps.push(start.elapsed());
                head_rows += session.head_rows();
            }
        }
    }
    Ok(head_rows)
}

/// Tokens of prompt and answer that show whether backends agree.
pub const COMPARED_TOKENS: usize = 40;
const COMPARED_PROMPT: usize = 8;

/// The most probable tokens after a prompt.
pub fn greedy(session: &mut Session, model: &Model) -> Result<Vec<u32>> {
    let prompt: Vec<u32> = (0..COMPARED_PROMPT).map(|i| test_id(model, i)).collect();
    let options = SampleOptions { temperature: 0.0, ..SampleOptions::default() };
    let mut chooser = Chooser::from(Sampler::new(options, session.context_tokens())?);
    let options = AnswerOptions { max_tokens: Some(COMPARED_TOKENS - COMPARED_PROMPT), ..AnswerOptions::default() };
    session.truncate(0)?;
    Answer::new(session, &mut chooser, Box::new(NoText), &prompt, options, interrupt::catch())?
        .filter_map(|event| event.map(|event| event.id).transpose())
        .collect()
}

/// Any ids do; these are spread over the vocabulary.
pub fn test_id(model: &Model, i: usize) -> u32 {
    (i * 7919 + 1) as u32 % model.config.vocab as u32
}

fn bytes_per_token(session: &Session, model: &Model, kernels: &Kernels, test: Test, head_rows: f64) -> u64 {
    let ternary: usize = model.weights.blocks.iter().map(|block| kernels.token_bytes(Isa::detect(), block)).sum();
    let sizes = session.sizes();
    let recurrent = sizes.recurrent_bytes(&model.config, 0..model.config.layers);
    let full_cache = sizes.model_state_bytes(&model.config) - recurrent;
    let cache = full_cache * (2 * test.depth + test.tokens) as u64 / 2 / session.context_tokens() as u64;
    let head = model.weights.head();
    let head_bytes = if head_rows > 0.0 && head_rows < head.rows as f64 {
        Screen::bytes(Isa::detect(), head.rows, head.cols, head.ty)
            + (head_rows * head.ty.row_bytes(head.cols) as f64) as usize
    } else {
        head.data.len()
    };
    // Of recurrent states the live one is read.
    (ternary + head_bytes) as u64 + cache + recurrent / (1 + CHECKPOINTS as u64)
}

/// Over the bits.
fn hash(logits: &[f32]) -> u64 {
    logits.iter().fold(StableHash::new(), |hash, logit| hash.with(&logit.to_bits().to_le_bytes())).value()
}

/// Multiply-adds a second of the ternary products of a batch of `tokens` by themselves: all matrices of the model, one
/// after the other, without what stands between them.
pub fn ternary_rate(model: &Model, tokens: usize, threads: usize) -> Result<f64> {
    let cpu = Cpu::new(Isa::detect(), threads);
    let matrices = || model.weights.blocks.iter().flat_map(|block| block.linears().map(|(_, matrix)| matrix));
    let most = |of: fn(&TernaryMatrix) -> usize| matrices().map(of).max().unwrap_or(0);
    let (rows, cols) = (most(|matrix| matrix.rows), most(|matrix| matrix.cols));
    let noise: Vec<f32> = (0..tokens * cols).map(|i| ((i * 37) % 251) as f32 / 125.0 - 1.0).collect();
    let mut acts = QuantizedActs::with_group(tokens, cols, model.weights.act_group());
    let mut out = vec![0.0; tokens * rows];
    let mut pass = || -> Result<f64> {
        let mut spent = Duration::ZERO;
        for (layer, block) in model.weights.blocks.iter().enumerate() {
            for (role, matrix) in block.linears() {
                // One at a time: the session has them all in memory already.
                let packed = model.packed(layer, role, own_layout(cpu.isa(), matrix))?;
                if packed.codes.as_ptr() != matrix.source().as_ptr() {
                    matrix.source().release();
                }
                let matrix = packed;
                quantize::norm_quantize(&cpu, &noise[..tokens * matrix.cols], matrix.cols, None, 0.0, &mut acts);
                let out = &mut out[..tokens * matrix.rows];
                let start = Instant::now();
                ternary::matmul(&cpu, &acts, &mut [ternary::Part { weights: matrix.view(), out, add: false }]);
                spent += start.elapsed();
            }
        }
        Ok(spent.as_secs_f64())
    };
    let seconds = pass()?.min(pass()?);
    let weights: usize = model.weights.blocks.iter().map(|block| block.ternary_weights()).sum();
    Ok((weights * tokens) as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::hash;

    #[test]
    fn the_hash_is_of_the_bits() {
        assert_eq!(hash(&[]), 0xcbf2_9ce4_8422_2325);
        // The four bytes 61 62 63 64 ("abcd"), by a few lines of Python.
        assert_eq!(hash(&[f32::from_bits(0x6463_6261)]), 0x8d2e_19ef_107f_1e4f);
    }
}
