//! Models of any shape with random weights, for measurements: they compute as fast as real ones and say nothing.
//!
//! Tensors are made while they are written, so the largest needs no more memory than the smallest. The same shape,
//! head type and seed give the same file.

mod shapes;
mod words;

use std::{io, io::Write, ops::ControlFlow, path::Path};

use half::f16;
pub use shapes::Shape;

use crate::{
    convert::{
        Progress, ProgressFn, Report, metadata,
        outline::{bytes, spec},
        target::Target,
    },
    error::{Error, Result},
    gguf::{I2S_TRAILER_BYTES, TensorSpec, TensorType, Writer},
    model::{Linear, Norm, names},
};

/// Type of the embedding table and the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadType {
    /// Two bytes a weight.
    #[default]
    F16,
    /// 34 bytes for 32 weights.
    Q8_0,
}

/// What to make besides the shape.
#[derive(Clone, Copy, Default)]
pub struct DummyOptions<'a> {
    /// Chooses the weights.
    pub seed: u64,
    /// Type of the embedding table and the head.
    pub head: HeadType,
    /// Overwrite an existing output.
    pub force: bool,
    /// Called after every part of a tensor; `Break` ends the work and leaves no file behind.
    pub progress: Option<&'a ProgressFn<'a>>,
}

/// Makes a model of that shape.
pub fn make(shape: &Shape, out: &Path, options: &DummyOptions) -> Result<Report> {
    let tensors = tensors(shape, options.head)?;
    let total = tensors.iter().map(|(spec, _)| bytes(spec)).sum();
    let target = Target::create(out, &[], options.force)?;
    target.check_space(total)?;
    let specs: Vec<TensorSpec> = tensors.iter().map(|(spec, _)| spec.clone()).collect();
    let mut metadata = metadata::describe(&shape.model);
    for (key, value) in words::vocabulary(shape.model.vocab) {
        metadata.set(key, value);
    }
    let mut report = Report::new(out.to_path_buf(), &metadata, &specs);
    {
        let writer = Writer::create(&metadata, specs, target.buffered()).map_err(|e| target.blame(e))?;
        let writer = writer.named(target.path());
        let mut run = Run { writer, options, path: target.path(), total, done: 0 };
        for (index, (spec, content)) in tensors.iter().enumerate() {
            // Distinct streams: the generator's outputs are a permutation of its counters.
            let random = Random(mix(options.seed).wrapping_add(mix(index as u64)));
            run.write(spec, *content, random)?;
        }
        run.writer.finish()?;
    }
    report.bytes_out = target.finish()?;
    Ok(report)
}

/// What a tensor is filled with; the numbers keep activations near 1, as in a trained model.
#[derive(Clone, Copy)]
enum Content {
    /// Codes of equal share, times a scale.
    Ternary { scale: f32 },
    /// F16 between -limit and +limit.
    Half { limit: f32 },
    /// Q8_0 between -limit and +limit.
    Blocks { limit: f32 },
    /// F32 ones.
    Ones,
}

fn tensors(shape: &Shape, head: HeadType) -> Result<Vec<(TensorSpec, Content)>> {
    let model = &shape.model;
    // Uniform numbers up to sqrt(3 / dim) have the variance 1 / dim, which makes logits of variance 1.
    let limit = (3.0 / model.dim as f32).sqrt();
    let (ty, table) = match head {
        HeadType::F16 => (TensorType::F16, Content::Half { limit }),
        HeadType::Q8_0 => (TensorType::Q8_0, Content::Blocks { limit }),
    };
    let mut tensors = Vec::new();
    let mut add = |name: String, sizes: &[usize], ty, content| {
        let spec = spec(name, sizes, ty);
        let fits = spec.ty.size_bytes(&spec.dims).is_some();
        if !fits || (ty == TensorType::I2_S && sizes.iter().product::<usize>() % 128 != 0) {
            let reason = format!("its shape {sizes:?} is not whole blocks of {}", ty.name());
            return Err(Error::unsupported(format!("tensor {}", spec.name), reason));
        }
        tensors.push((spec, content));
        Ok(())
    };
    add(names::TOKEN_EMBD.into(), &[model.vocab, model.dim], ty, table)?;
    if !shape.tied {
        add(names::OUTPUT.into(), &[model.vocab, model.dim], ty, table)?;
    }
    for layer in 0..model.layers {
        for &role in model.family.block_norms() {
            add(names::norm(layer, role), &[model.norm_len(role)], TensorType::F32, Content::Ones)?;
        }
        for role in Linear::ALL {
            let (rows, cols) = model.linear_shape(role);
            // Two thirds of the weights are not 0, so this scale keeps the variance of what comes in.
            let content = Content::Ternary { scale: (1.5 / cols as f32).sqrt() };
            add(names::linear(layer, role), &[rows, cols], TensorType::I2_S, content)?;
        }
    }
    add(names::norm(0, Norm::Output), &[model.norm_len(Norm::Output)], TensorType::F32, Content::Ones)?;
    Ok(tensors)
}

/// Bytes made at a time; a multiple of every block.
const CHUNK_BYTES: u64 = 34 << 14;

struct Run<'a, W: Write> {
    writer: Writer<W>,
    options: &'a DummyOptions<'a>,
    path: &'a Path,
    total: u64,
    done: u64,
}

impl<W: Write> Run<'_, W> {
    fn write(&mut self, spec: &TensorSpec, content: Content, mut random: Random) -> Result<()> {
        let trailer = if let Content::Ternary { .. } = content { I2S_TRAILER_BYTES } else { 0 };
        let mut left = bytes(spec) - trailer as u64;
        let mut chunk = Vec::new();
        while left > 0 {
            chunk.clear();
            chunk.resize(left.min(CHUNK_BYTES) as usize, 0);
            fill(&mut chunk, content, &mut random);
            left -= chunk.len() as u64;
            self.put(&spec.name, &chunk)?;
        }
        if let Content::Ternary { scale } = content {
            let mut trailer = [0; I2S_TRAILER_BYTES];
            trailer[..4].copy_from_slice(&scale.to_le_bytes());
            self.put(&spec.name, &trailer)?;
        }
        Ok(())
    }

    fn put(&mut self, name: &str, chunk: &[u8]) -> Result<()> {
        self.writer.write_tensor(name, chunk)?;
        self.done += chunk.len() as u64;
        let progress = Progress { tensor: name, done_bytes: self.done, total_bytes: self.total };
        match self.options.progress.map(|report| report(&progress)) {
            Some(ControlFlow::Break(())) => Err(Error::io("write", self.path, io::ErrorKind::Interrupted.into())),
            Some(ControlFlow::Continue(())) | None => Ok(()),
        }
    }
}

fn fill(chunk: &mut [u8], content: Content, random: &mut Random) {
    match content {
        Content::Ternary { .. } => {
            // Sixteen random bits choose one of the 81 bytes of four codes below 3.
            for part in chunk.chunks_mut(4) {
                let bits = random.next();
                for (at, byte) in part.iter_mut().enumerate() {
                    let choice = (((bits >> (16 * at)) & 0xffff) * 81) >> 16;
                    *byte = FOUR_CODES[choice as usize];
                }
            }
        }
        Content::Half { limit } => {
            for value in chunk.as_chunks_mut::<2>().0 {
                *value = f16::from_f32(limit * random.signed()).to_le_bytes();
            }
        }
        Content::Blocks { limit } => {
            let scale = f16::from_f32(limit / 127.0).to_le_bytes();
            for block in chunk.as_chunks_mut::<34>().0 {
                let (head, quants) = block.split_at_mut(2);
                head.copy_from_slice(&scale);
                for quant in quants {
                    *quant = ((127.0 * random.signed()).round_ties_even() as i8).to_le_bytes()[0];
                }
            }
        }
        Content::Ones => chunk.as_chunks_mut::<4>().0.fill(1.0_f32.to_le_bytes()),
    }
}

/// The bytes that hold four codes 0, 1 or 2.
const FOUR_CODES: [u8; 81] = {
    let mut bytes = [0; 81];
    let mut i = 0;
    while i < 81 {
        bytes[i] = ((i % 3) | ((i / 3 % 3) << 2) | ((i / 9 % 3) << 4) | ((i / 27) << 6)) as u8;
        i += 1;
    }
    bytes
};

/// SplitMix64 (Steele, Lea, Flood 2014): a counter and a mixing function.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Between -1 and 1.
    fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_gives_the_published_sequence() {
        // SplitMix64 from seed 1234567, as listed by Rosetta Code and used to seed the xoshiro generators.
        let mut random = Random(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([random.next(), random.next(), random.next()], expected);
    }

    #[test]
    fn codes_are_ternary_and_equally_common() {
        let mut chunk = vec![0; 1 << 16];
        fill(&mut chunk, Content::Ternary { scale: 1.0 }, &mut Random(1));
        let mut counts = [0_u32; 4];
        for byte in chunk {
            (0..4).for_each(|at| counts[usize::from(byte >> (2 * at) & 3)] += 1);
        }
        // 262144 codes: 87381 of each, with a standard deviation of 241.
        assert_eq!(counts[3], 0);
        assert!(counts[..3].iter().all(|&count| count.abs_diff(87_381) < 1_200), "{counts:?}");
    }
}
