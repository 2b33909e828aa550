//! Models of any shape with random weights, for measurements: they compute as fast as real ones and say nothing.
//!
//! Tensors are made while they are written, a few matrices at a time, so no more than those are in memory. The same
//! shape, types and seed give the same file, and the same shape and seed the same ternary weights in every type.

mod random;
mod shapes;
mod words;

use std::{io, io::Write, num::NonZero, ops::ControlFlow, path::Path, thread};

use bitnet_cpu_kernels::format::{Codec, MatrixScales, ScaleKind, TRAILER_BYTES};
use half::f16;
use random::{Numbers, Random, codes, fill};
pub use shapes::Shape;

use crate::{
    convert::{
        Progress, ProgressFn, Report, TernaryType, metadata,
        outline::{bytes, spec, tiles},
        target::Target,
    },
    error::{Error, Result},
    gguf::{Array, TensorSpec, TensorType, Value, Writer},
    machine::workers,
    model::{
        Config, DeltaNet, Linear, Norm,
        names::{self, DeltaTensor, MtpTensor},
    },
};

/// Type of the embedding table and the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadType {
    /// Two bytes a weight.
    #[default]
    F16,
    /// 34 bytes for 32 weights.
    Q8_0,
    /// 210 bytes for 256 weights.
    Q6K,
    /// Ternary: 18 bytes for 64 weights.
    Q2_0,
    /// As the matrices.
    AsMatrices,
}

/// Options besides the shape.
#[derive(Clone, Copy, Default)]
pub struct DummyOptions<'a> {
    /// Chooses the weights.
    pub seed: u64,
    /// Type of the ternary matrices. It does not change their weights.
    pub ty: TernaryType,
    /// Type of the embedding table and the head.
    pub head: HeadType,
    /// Overwrite an existing output.
    pub force: bool,
    /// Called after every part of a tensor; `Break` ends the work and leaves no file behind.
    pub progress: Option<&'a ProgressFn<'a>>,
}

/// Makes a model of that shape.
pub fn make(shape: &Shape, out: &Path, options: &DummyOptions) -> Result<Report> {
    let tensors = tensors(shape, options)?;
    let total = tensors.iter().map(|tensor| bytes(&tensor.spec)).sum();
    let target = Target::create(out, &[], options.force)?;
    target.check_space(total)?;
    let specs: Vec<TensorSpec> = tensors.iter().map(|tensor| tensor.spec.clone()).collect();
    let mut metadata = metadata::describe(&shape.model);
    metadata.set("general.file_type", Value::U32(options.ty.file_type()));
    for (key, tiles) in tiles(tensors.iter().filter_map(Tensor::codec)) {
        if !tiles.is_empty() {
            metadata.set(key, Value::Array(Array::U32(tiles)));
        }
    }
    for (key, value) in words::vocabulary(shape.model.vocab)? {
        metadata.set(key, value);
    }
    let mut report = Report::new(out.to_path_buf(), &metadata, &specs);
    {
        let writer = Writer::create(&metadata, specs, target.buffered()).map_err(|e| target.blame(e))?;
        let writer = writer.named(target.path());
        let mut run = Run { writer, options, path: target.path(), total, done: 0 };
        let mut rest = &tensors[..];
        while let Some(first) = rest.first() {
            let (now, later) = rest.split_at(made_at_once(rest).max(1));
            match first.content {
                Content::Numbers(numbers) => run.numbers(first, numbers)?,
                Content::Ternary { .. } => run.matrices(now)?,
            }
            rest = later;
        }
        run.writer.finish()?;
    }
    report.bytes_out = target.finish()?;
    Ok(report)
}

struct Tensor {
    spec: TensorSpec,
    content: Content,
    /// Chooses the stream of random numbers: its place in the file, which no type changes.
    number: u64,
}

/// Content of a tensor; the numbers keep activations near 1, as in a trained model.
enum Content {
    /// Codes of equal share, times a scale.
    Ternary {
        codec: Codec,
        scale: f32,
        /// Groups of columns have scales around that.
        grouped: bool,
    },
    Numbers(Numbers),
}

impl Tensor {
    fn codec(&self) -> Option<&Codec> {
        match &self.content {
            Content::Ternary { codec, .. } => Some(codec),
            Content::Numbers(_) => None,
        }
    }

    /// The bytes of a ternary matrix.
    fn matrix(&self, seed: u64) -> Vec<u8> {
        let &Content::Ternary { codec, scale, grouped } = &self.content else {
            unreachable!("{} is ternary", self.spec.name)
        };
        let mut random = Random::stream(seed, self.number);
        let mut packed = codes(codec.rows(), codec.cols(), &mut random);
        if codec.is_in_place() {
            packed.extend_from_slice(&scale.to_le_bytes());
            packed.extend_from_slice(&[0; TRAILER_BYTES - size_of::<f32>()]);
            return packed;
        }
        let scales = if grouped {
            let values = (0..codec.rows() * codec.cols() / GROUP).map(|_| f16::from_f32(scale * random.near_one()));
            MatrixScales::PerGroup { size: GROUP, values: values.collect() }
        } else {
            MatrixScales::PerTensor(scale)
        };
        let scales = scales.fitted(codec.scale_kind(), codec.rows(), codec.cols(), false);
        let scales = scales.expect("one f16 scale fits all types, and those of 128 columns fit groups of 64 and 128");
        codec.encode(&packed, &scales).expect("codes are made below 3")
    }
}

fn tensors(shape: &Shape, options: &DummyOptions) -> Result<Vec<Tensor>> {
    let model = &shape.model;
    // Uniform numbers up to sqrt(3 / dim) have the variance 1 / dim, which makes logits of variance 1.
    let limit = (3.0 / model.dim as f32).sqrt();
    let (ty, table) = match options.head {
        HeadType::F16 => (TensorType::F16, Numbers::Half { limit }),
        HeadType::Q8_0 => (TensorType::Q8_0, Numbers::Bytes { limit }),
        HeadType::Q6K => (TensorType::Q6_K, Numbers::Sextets { limit }),
        // Two thirds of the weights are not 0: the same variance.
        HeadType::Q2_0 | HeadType::AsMatrices => (TensorType::Q2_0, Numbers::Ternary { limit: limit / 2.0_f32.sqrt() }),
    };
    let matrix = |name: &str, rows: usize, cols: usize| -> Result<Content> {
        let codec = options.ty.codec(name, rows, cols)?;
        // Two thirds of the weights are not 0, so this scale keeps the variance of what comes in. As an f16 it is the same
        // in every type.
        let scale = f16::from_f32((1.5 / cols as f32).sqrt()).to_f32();
        let fits = matches!(codec.scale_kind(), ScaleKind::PerGroup(size) if GROUP.is_multiple_of(size));
        Ok(Content::Ternary { codec, scale, grouped: fits && shape.grouped })
    };
    let head = |name: &str| match options.head {
        HeadType::AsMatrices => Ok((options.ty.tensor_type(), matrix(name, model.vocab, model.dim)?)),
        _ => Ok((ty, Content::Numbers(table))),
    };
    let mut tensors = Vec::new();
    let mut add = |name: String, sizes: &[usize], ty: TensorType, content| {
        let spec = spec(name, sizes, ty);
        if spec.ty.size_bytes(&spec.dims).is_none() {
            let reason = format!("its shape {sizes:?} is not whole blocks of {}", ty.name());
            return Err(Error::unsupported(format!("tensor {}", spec.name), reason));
        }
        let number = tensors.len() as u64;
        tensors.push(Tensor { spec, content, number });
        Ok(())
    };
    let numbers = Content::Numbers;
    let tables = [names::TOKEN_EMBD, names::OUTPUT];
    for name in &tables[..if shape.tied { 1 } else { 2 }] {
        let (ty, content) = head(name)?;
        add((*name).into(), &[model.vocab, model.dim], ty, content)?;
    }
    for layer in 0..model.layers {
        for role in model.norms(layer) {
            let sizes = [model.norm_len(role)];
            add(names::norm(model.family, layer, role), &sizes, TensorType::F32, numbers(Numbers::Ones))?;
        }
        for &role in model.linears(layer) {
            let (rows, cols) = model.linear_shape(role);
            let name = names::linear(layer, role);
            let content = matrix(&name, rows, cols)?;
            add(name, &[rows, cols], options.ty.tensor_type(), content)?;
        }
        for &role in model.biased {
            let content = numbers(Numbers::Floats { least: -0.5, most: 0.5 });
            add(names::bias(layer, role), &[model.linear_shape(role).0], TensorType::F32, content)?;
        }
        if let Some(delta) = model.delta.as_ref().filter(|_| model.is_recurrent(layer)) {
            for tensor in DeltaTensor::ALL {
                let (sizes, ty, content) = delta_tensor(delta, model.dim, tensor);
                add(names::delta(layer, tensor), &sizes, ty, numbers(content))?;
            }
        }
    }
    let sizes = [model.norm_len(Norm::Output)];
    add(names::OUTPUT_NORM.into(), &sizes, TensorType::F32, numbers(Numbers::Ones))?;
    for (name, sizes) in mtp_tensors(model) {
        let (ty, content) = match sizes[..] {
            [_, cols] => (TensorType::Q8_0, Numbers::Bytes { limit: (3.0 / cols as f32).sqrt() }),
            _ => (TensorType::F32, Numbers::Ones),
        };
        add(name, &sizes, ty, numbers(content))?;
    }
    Ok(tensors)
}

/// Sizes, type and numbers of a small tensor of a gated DeltaNet: updates and decays of all strengths.
fn delta_tensor(delta: &DeltaNet, dim: usize, tensor: DeltaTensor) -> (Vec<usize>, TensorType, Numbers) {
    let heads = delta.value_heads;
    let floats = |least, most| Numbers::Floats { least, most };
    match tensor {
        DeltaTensor::Alpha | DeltaTensor::Beta => {
            (vec![heads, dim], TensorType::BF16, Numbers::Brain { limit: (3.0 / dim as f32).sqrt() })
        }
        DeltaTensor::Conv => (vec![delta.channels(), delta.kernel], TensorType::F32, floats(-0.8, 0.8)),
        DeltaTensor::DtBias => (vec![heads], TensorType::F32, floats(-4.0, 0.0)),
        DeltaTensor::Rate => (vec![heads], TensorType::F32, floats(-8.0, -0.1)),
    }
}

/// Names and sizes of the tensors of blocks of multi-token prediction, as published files have them.
fn mtp_tensors(model: &Config) -> Vec<(String, Vec<usize>)> {
    let mut tensors = Vec::new();
    for layer in model.layers..model.layers + model.mtp_blocks {
        let norms = model.family.block_norms().iter();
        tensors.extend(norms.map(|&role| (names::norm(model.family, layer, role), vec![model.norm_len(role)])));
        for role in Linear::ATTENTION {
            let (rows, cols) = model.linear_shape(role);
            tensors.push((names::linear(layer, role), vec![rows, cols]));
        }
        let name = |tensor| names::mtp(layer, tensor);
        tensors.push((name(MtpTensor::Join), vec![model.dim, 2 * model.dim]));
        let norms = [MtpTensor::EmbeddingNorm, MtpTensor::HiddenNorm, MtpTensor::HeadNorm];
        tensors.extend(norms.map(|tensor| (name(tensor), vec![model.dim])));
    }
    tensors
}

/// Columns that share a scale in the models of PrismML.
const GROUP: usize = 128;

/// Bytes made at a time; a multiple of the bytes of every block that [`fill`] knows.
const CHUNK_BYTES: u64 = 34 * 210 * 18 * 4;

/// Weights of the matrices made at once, unless one alone has more: half a byte of memory each.
const WEIGHTS_AT_ONCE: usize = 800 << 20;

/// How many of the next tensors are ternary matrices that are made at once: one for each core.
fn made_at_once(tensors: &[Tensor]) -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let mut weights = 0;
    let fits = |tensor: &&Tensor| {
        tensor.codec().is_some_and(|codec| {
            weights += codec.rows() * codec.cols();
            weights <= WEIGHTS_AT_ONCE
        })
    };
    tensors.iter().take(cores).take_while(fits).count()
}

struct Run<'a, W: Write> {
    writer: Writer<W>,
    options: &'a DummyOptions<'a>,
    path: &'a Path,
    total: u64,
    done: u64,
}

impl<W: Write> Run<'_, W> {
    fn numbers(&mut self, tensor: &Tensor, numbers: Numbers) -> Result<()> {
        let mut random = Random::stream(self.options.seed, tensor.number);
        let mut left = bytes(&tensor.spec);
        let mut chunk = Vec::new();
        while left > 0 {
            chunk.clear();
            chunk.resize(left.min(CHUNK_BYTES) as usize, 0);
            fill(&mut chunk, numbers, &mut random);
            left -= chunk.len() as u64;
            self.put(&tensor.spec.name, &chunk)?;
        }
        Ok(())
    }

    fn matrices(&mut self, tensors: &[Tensor]) -> Result<()> {
        let seed = self.options.seed;
        let made = workers::map(tensors.len(), tensors.iter().collect(), |tensor: &Tensor| tensor.matrix(seed));
        for (tensor, matrix) in tensors.iter().zip(made) {
            for chunk in matrix.chunks(CHUNK_BYTES as usize) {
                self.put(&tensor.spec.name, chunk)?;
            }
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
