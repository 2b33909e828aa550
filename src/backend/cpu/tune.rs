//! Times the kernels of ternary products on the shapes of a model, the ways to cut them up, and numbers of threads.

use std::time::{Duration, Instant};

use bitnet_cpu_kernels::{
    Cpu,
    format::{Layout, ternary_bytes},
    quantize::QuantizedActs,
    ternary::{self, Tiling},
};

use super::{
    Isa,
    kernel::{Kernel, own_layout},
};
use crate::{
    error::Result,
    model::{Model, PackedMatrix, TernaryMatrix, dialect::blame, names},
    numbers::median,
    steady::{self, Steady},
};

/// Bytes of matrices that are gone through before one comes again, where a model has as many: more than caches hold.
const COLD_BYTES: usize = 96 << 20;

/// How often all of them are gone through before times are compared with those of another such round.
const TIMES: usize = 3;

/// Tokens of the timed prompts.
pub const PROMPT_TOKENS: usize = 128;

/// Tokens of the prompts that tiles and threads are timed with: as many as the largest tile has.
pub const TILE_TOKENS: usize = 512;

/// Something else than the default has to take less than this share of its time: smaller differences are noise.
const WORTH: f64 = 0.97;

/// Times of a kernel on the matrices of a shape.
#[derive(Clone, Debug)]
pub struct Timing {
    /// (rows, cols)
    pub shape: (usize, usize),
    /// Matrices of that shape in the model.
    pub matrices: usize,
    /// The kernel of steps of few tokens.
    pub kernel: Kernel,
    /// One token, the weights in no cache if the model has enough of them: the shortest median of several rounds.
    pub decode: Duration,
    /// Bytes that it reads.
    pub decode_bytes: usize,
    /// [`PROMPT_TOKENS`] tokens, likewise.
    pub prompt: Duration,
}

/// Times of the ways to cut up the products of a shape, with the kernel that is the fastest for it.
#[derive(Clone, Debug)]
pub struct TilingTimes {
    /// (rows, cols)
    pub shape: (usize, usize),
    /// One token, by the bytes of a piece.
    pub decode: Vec<(usize, Duration)>,
    /// A prompt, by rows and tokens of a tile.
    pub prompt: Vec<((usize, usize), Duration)>,
    /// The fastest, or the default where they hardly differ.
    pub chosen: Tiling,
}

/// Times of all ternary products of a pass on a number of threads.
#[derive(Clone, Copy, Debug)]
pub struct ThreadsTimes {
    /// Threads, the calling one included.
    pub threads: usize,
    /// Time for one token.
    pub decode: Duration,
    /// Time for one prompt pass.
    pub prompt: Duration,
}

/// Everything that [`measure`] measured.
#[derive(Clone, Debug)]
pub struct TuningReport {
    /// One for every shape and kernel.
    pub timings: Vec<Timing>,
    /// One for every shape.
    pub tilings: Vec<TilingTimes>,
    /// From one thread to all.
    pub threads: Vec<ThreadsTimes>,
    /// Shapes whose times differed from round to round, as they do where something else uses the machine.
    pub disturbed: Vec<(usize, usize)>,
}

impl TuningReport {
    /// The fastest of each.
    pub fn choice(&self) -> CpuTuning {
        CpuTuning {
            kernels: fastest(&self.timings),
            split: WorkSplit {
                tilings: self.tilings.iter().map(|times| (times.shape, times.chosen)).collect(),
                decode_threads: fewest_fast(&self.threads, |times| times.decode),
                prompt_threads: fewest_fast(&self.threads, |times| times.prompt),
            },
        }
    }
}

/// Kernels to compute a model with, and how the work is shared out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuTuning {
    /// By (rows, cols).
    pub kernels: Vec<((usize, usize), Kernel)>,
    /// How the work is shared out.
    pub split: WorkSplit,
}

/// How the work is shared out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkSplit {
    /// By (rows, cols); others are cut up by default.
    pub tilings: Vec<((usize, usize), Tiling)>,
    /// Threads in steps of few tokens, of those that there are.
    pub decode_threads: usize,
    /// Threads in steps of more.
    pub prompt_threads: usize,
}

/// Times every kernel that can multiply the matrices of `model`, shape by shape, and with the fastest one the ways to
/// cut its work up, and up to `threads` threads; `told` says which shape is next.
pub fn measure(isa: Isa, threads: usize, model: &Model, mut told: impl FnMut(&str)) -> Result<TuningReport> {
    let mut cpu = Cpu::new(isa, threads);
    let all: Vec<(String, &TernaryMatrix)> = (0..model.config.layers)
        .flat_map(|layer| {
            model.weights.blocks[layer].linears().map(move |(role, matrix)| (names::linear(layer, role), matrix))
        })
        .collect();
    let mut shapes: Vec<(usize, usize)> = Vec::new();
    for (_, m) in &all {
        if !shapes.contains(&(m.rows, m.cols)) {
            shapes.push((m.rows, m.cols));
        }
    }
    let counts = thread_counts(threads);
    let none = |threads| ThreadsTimes { threads, decode: Duration::ZERO, prompt: Duration::ZERO };
    let mut report = TuningReport {
        timings: Vec::new(),
        tilings: Vec::new(),
        threads: counts.iter().map(|&threads| none(threads)).collect(),
        disturbed: Vec::new(),
    };
    for shape in shapes {
        told(&format!("{} x {}", shape.0, shape.1));
        let matrices: Vec<_> = all.iter().filter(|(_, m)| (m.rows, m.cols) == shape).collect();
        let few = COLD_BYTES.div_ceil(ternary_bytes(Layout::I2sP128, shape.0, shape.1).max(1));
        let mut forms = forms(cpu.isa(), &matrices[..few.min(matrices.len())])?;
        let timings = measure_kernels(&cpu, &forms, matrices.len())?;
        let (_, kernel) = fastest(&timings.value)[0];
        report.timings.extend(timings.value);
        forms.retain(|form| form.kernel == kernel);
        let times = measure_tilings(&mut cpu, &forms[0])?;
        cpu.set_tilings(vec![(shape, times.value.chosen)]);
        report.tilings.push(times.value);
        let mut agreed = timings.agreed && times.agreed;
        for times in &mut report.threads {
            let found = measure_threads(&cpu, &forms[0], times.threads)?;
            agreed &= found.agreed;
            let (decode, prompt) = found.value;
            times.decode += decode * matrices.len() as u32;
            times.prompt += prompt * matrices.len() as u32;
        }
        if !agreed {
            report.disturbed.push(shape);
        }
    }
    Ok(report)
}

/// 1, 2, 4 and so on, and all.
fn thread_counts(threads: usize) -> Vec<usize> {
    let doubled = std::iter::successors(Some(1), |count| Some(count * 2));
    doubled.take_while(|&count| count < threads).chain([threads]).collect()
}

/// The matrices in the form of every kernel that can multiply them.
fn forms(isa: Isa, matrices: &[&(String, &TernaryMatrix)]) -> Result<Vec<Form>> {
    let packed = |(name, m): &(String, &TernaryMatrix), layout| m.packed(layout).map_err(|e| blame(name, m.cols, e));
    let first = matrices[0];
    let grouped = first.1.scales.group().is_some();
    let own = packed(first, own_layout(isa, first.1))?;
    let mut forms = Vec::new();
    for kernel in Kernel::ALL {
        if !kernel.is_native(isa) || grouped && kernel != Kernel::I2S {
            continue;
        }
        let few = matrices.iter().map(|matrix| packed(matrix, kernel.layout(matrix.1))).collect::<Result<Vec<_>>>()?;
        let many = if few[0].layout == Layout::I2sP128 { few[0].clone() } else { own.clone() };
        forms.push(Form { kernel, few, many });
    }
    Ok(forms)
}

/// The kernels take turns, so that whatever else the machine does disturbs all alike.
fn measure_kernels(cpu: &Cpu, forms: &[Form], count: usize) -> Result<Steady<Vec<Timing>>> {
    let shape @ (rows, _) = forms[0].shape();
    let (one, prompt) = (acts(&forms[0].many, 1), acts(&forms[0].many, PROMPT_TOKENS));
    let mut out = vec![0.0; PROMPT_TOKENS * rows];
    let times = steady::shortest(|| {
        let mut times = vec![(Vec::new(), Vec::new()); forms.len()];
        for _ in 0..TIMES {
            for (form, (decode, prompts)) in forms.iter().zip(&mut times) {
                decode.extend(form.few.iter().map(|matrix| time(cpu, &one, matrix, &mut out[..rows])));
                prompts.push(time(cpu, &prompt, &form.many, &mut out));
            }
        }
        Ok(times.into_iter().flat_map(|(decode, prompts)| [median(decode), median(prompts)]).collect())
    })?;
    let timing = |(form, times): (&Form, &[Duration])| Timing {
        shape,
        matrices: count,
        kernel: form.kernel,
        decode_bytes: form.few[0].codes.len(),
        decode: times[0],
        prompt: times[1],
    };
    Ok(times.map(|times| forms.iter().zip(times.chunks(2)).map(timing).collect()))
}

/// In turns, too.
fn measure_tilings(cpu: &mut Cpu, form: &Form) -> Result<Steady<TilingTimes>> {
    let shape @ (rows, _) = form.shape();
    let (one, prompt) = (acts(&form.many, 1), acts(&form.many, TILE_TOKENS));
    let mut out = vec![0.0; TILE_TOKENS * rows];
    let default = Tiling::default();
    let pieces = Tiling::FEW_BYTES.len();
    let times = steady::shortest(|| {
        let mut times = vec![Vec::new(); pieces + Tiling::TILES.len()];
        for round in 0..TIMES {
            // Each matrix meets one piece after the other, so that none finds it in the caches more often than the others.
            for turn in 0..pieces {
                for (at, matrix) in form.few.iter().enumerate() {
                    let piece = (at + turn) % pieces;
                    let tiling = Tiling::new(Tiling::FEW_BYTES[piece], default.rows(), default.tokens());
                    cpu.set_tilings(vec![(shape, tiling.unwrap_or_default())]);
                    times[piece].push(time(cpu, &one, matrix, &mut out[..rows]));
                }
            }
            for turn in 0..Tiling::TILES.len() {
                let tile = (round + turn) % Tiling::TILES.len();
                let (rows, tokens) = Tiling::TILES[tile];
                let tiling = Tiling::new(default.few_bytes(), rows, tokens);
                cpu.set_tilings(vec![(shape, tiling.unwrap_or_default())]);
                times[pieces + tile].push(time(cpu, &prompt, &form.many, &mut out));
            }
        }
        Ok(times.into_iter().map(median).collect())
    })?;
    cpu.set_tilings(Vec::new());
    Ok(times.map(|times| {
        let (decode, prompt) = times.split_at(pieces);
        let decode: Vec<_> = Tiling::FEW_BYTES.into_iter().zip(decode.iter().copied()).collect();
        let prompt: Vec<_> = Tiling::TILES.into_iter().zip(prompt.iter().copied()).collect();
        let bytes = worth(&decode, default.few_bytes());
        let (rows, tokens) = worth(&prompt, (default.rows(), default.tokens()));
        TilingTimes { shape, decode, prompt, chosen: Tiling::new(bytes, rows, tokens).unwrap_or_default() }
    }))
}

/// Times of a token and of a prompt on so many threads.
fn measure_threads(cpu: &Cpu, form: &Form, threads: usize) -> Result<Steady<(Duration, Duration)>> {
    let (rows, _) = form.shape();
    let (one, prompt) = (acts(&form.many, 1), acts(&form.many, TILE_TOKENS));
    let mut out = vec![0.0; TILE_TOKENS * rows];
    cpu.pool().limit(threads);
    let times = steady::shortest(|| {
        let (mut decode, mut prompts) = (Vec::new(), Vec::new());
        for _ in 0..TIMES {
            decode.extend(form.few.iter().map(|matrix| time(cpu, &one, matrix, &mut out[..rows])));
            prompts.push(time(cpu, &prompt, &form.many, &mut out));
        }
        Ok(vec![median(decode), median(prompts)])
    })?;
    cpu.pool().limit(cpu.threads());
    Ok(times.map(|times| (times[0], times[1])))
}

/// The fastest one, if it is worth leaving the default for it.
fn worth<T: Copy + PartialEq>(times: &[(T, Duration)], default: T) -> T {
    let of_default = times.iter().find(|(at, _)| *at == default).map_or(Duration::MAX, |(_, time)| *time);
    let best = times.iter().min_by_key(|(_, time)| *time);
    best.filter(|(_, time)| *time < of_default.mul_f64(WORTH)).map_or(default, |(at, _)| *at)
}

/// The fewest threads with which it takes hardly longer than with the best number of them.
fn fewest_fast(times: &[ThreadsTimes], of: impl Fn(&ThreadsTimes) -> Duration) -> usize {
    let best = times.iter().map(&of).min().unwrap_or_default();
    times.iter().find(|times| of(times).mul_f64(WORTH) <= best).map_or(1, |times| times.threads)
}

/// Matrices of a shape in the form that a kernel reads.
struct Form {
    kernel: Kernel,
    few: Vec<PackedMatrix>,
    /// The first one as a prompt multiplies it.
    many: PackedMatrix,
}

impl Form {
    fn shape(&self) -> (usize, usize) {
        (self.many.rows, self.many.cols)
    }
}

/// Any values do; none is zero.
fn acts(matrix: &PackedMatrix, tokens: usize) -> QuantizedActs {
    let group = matrix.scales.view().group();
    let values: Vec<i8> = (0..tokens * matrix.cols).map(|i| (i * 37 % 127) as i8 + 1).collect();
    let mut acts = QuantizedActs::with_group(tokens, matrix.cols, group);
    acts.set_raw(matrix.cols, &values, &vec![0.01; tokens * group.map_or(1, |size| matrix.cols / size)]);
    acts
}

fn time(cpu: &Cpu, acts: &QuantizedActs, matrix: &PackedMatrix, out: &mut [f32]) -> Duration {
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

    #[test]
    fn the_default_stays_unless_another_is_clearly_faster() {
        let ms = Duration::from_millis;
        assert_eq!(worth(&[(16, ms(99)), (64, ms(100)), (256, ms(98))], 64), 64);
        assert_eq!(worth(&[(16, ms(99)), (64, ms(100)), (256, ms(90))], 64), 256);
    }

    #[test]
    fn as_few_threads_as_are_nearly_as_fast_are_chosen() {
        let ms = Duration::from_millis;
        let of = |times: [u64; 4]| -> Vec<_> {
            let counts = [1, 2, 4, 6].into_iter().zip(times);
            counts.map(|(threads, time)| ThreadsTimes { threads, decode: ms(time), prompt: ms(time) }).collect()
        };
        let fewest = |times| fewest_fast(&of(times), |times| times.decode);
        // Memory is read as fast by four; all are needed; more disturb each other.
        assert_eq!(fewest([300, 180, 101, 100]), 4);
        assert_eq!(fewest([300, 180, 110, 100]), 6);
        assert_eq!(fewest([300, 180, 190, 250]), 2);
        assert_eq!(thread_counts(6), [1, 2, 4, 6]);
        assert_eq!((thread_counts(1), thread_counts(2), thread_counts(4)), (vec![1], vec![1, 2], vec![1, 2, 4]));
    }
}
