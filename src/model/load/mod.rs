//! GGUF tensors -> [`Weights`]: shapes, types and values are checked here, once, for every backend.

mod delta;
mod dense;
mod mtp;
mod rotation;
mod ternary;
mod unpacked;

use std::{collections::HashSet, path::Path};

#[cfg(feature = "convert")]
pub(crate) use dense::dense_type;
#[cfg(feature = "convert")]
pub(crate) use unpacked::to_f16 as table_as_f16;

use super::{
    Config, DeltaNet, Family, InputNorms, Linear, Model, Norm, Weights,
    dialect::{Dialects, OpenOptions},
    names::{self, DeltaTensor},
};
use crate::{
    error::{Error, Result},
    gguf::{File, Metadata, TensorInfo},
};

impl Model {
    /// Maps and validates a GGUF file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        Self::from_gguf(&file).map_err(|e| e.in_file(path.display().to_string()))
    }

    /// Validates an opened file. Weights stay in its memory map, or copy: backends pack them as they need them.
    ///
    /// # Errors
    /// Names the key or tensor, what the architecture asks for, and what the file holds.
    #[doc(hidden)]
    pub fn from_gguf(file: &File) -> Result<Self> {
        Self::from_gguf_with(file, &OpenOptions::default())
    }

    /// As [`Self::from_gguf`], with what the file does not say.
    ///
    /// # Errors
    /// As [`Self::from_gguf`].
    #[doc(hidden)]
    pub fn from_gguf_with(file: &File, options: &OpenOptions) -> Result<Self> {
        refuse_projector(file.metadata())?;
        let embedding = file.tensor(names::TOKEN_EMBD).ok_or_else(|| {
            if file.tensors().is_empty() {
                Error::missing("every tensor", "running; this is a vocabulary-only file")
            } else {
                Error::missing(format!("tensor {}", names::TOKEN_EMBD), "every architecture")
            }
        })?;
        let vocab = usize::try_from(embedding.dims.get(1).copied().unwrap_or(1))
            .map_err(|_| Error::malformed(tensor(embedding), "rows that fit this machine", embedding.dims[1]))?;
        let mut config = Config::from_metadata(file.metadata(), vocab)?;
        // No key says it of BitNet's embedding models.
        if config.family == Family::Qwen3
            && config.input_norms.is_none()
            && file.tensor(&names::norm(config.family, 0, Norm::QIn)).is_some()
        {
            config.input_norms = Some(InputNorms { eps: config.rms_eps, embedder: true });
        }
        // Nor of Llama's.
        let has_bias = |role| file.tensor(&names::bias(0, role)).is_some();
        if config.family == Family::Llama && Linear::BIASED[..3].iter().copied().all(has_bias) {
            config.biased = &Linear::BIASED[..3 + usize::from(has_bias(Linear::O))];
        }
        config.rotation = rotation::rotation(file.metadata(), &config)?;
        let dialects = Dialects::of(file.metadata(), options)?;
        let loader = Loader { file, config: &config, dialects };
        loader.check_rotated_tables()?;
        let weights = loader.weights()?;
        loader.refuse_unknown_tensors()?;
        Ok(Self { config, weights })
    }
}

impl Config {
    /// (rows, cols) of a projection.
    #[doc(hidden)]
    pub fn linear_shape(&self, role: Linear) -> (usize, usize) {
        let q_width = self.heads * self.head_dim;
        match role {
            Linear::Q if self.has_output_gate() => (2 * q_width, self.dim),
            Linear::Q => (q_width, self.dim),
            Linear::K | Linear::V => (self.kv_width(), self.dim),
            Linear::O => (self.dim, q_width),
            Linear::Gate | Linear::Up => (self.ffn_dim, self.dim),
            Linear::Down => (self.dim, self.ffn_dim),
            Linear::DeltaQkv => (self.delta.as_ref().map_or(0, DeltaNet::channels), self.dim),
            Linear::DeltaGate => (self.delta.as_ref().map_or(0, DeltaNet::value_width), self.dim),
            Linear::DeltaOut => (self.dim, self.delta.as_ref().map_or(0, DeltaNet::value_width)),
        }
    }

    /// The projections of a layer, in storage order.
    #[doc(hidden)]
    pub fn linears(&self, layer: usize) -> &'static [Linear] {
        if self.is_recurrent(layer) { &Linear::DELTA } else { &Linear::ATTENTION }
    }

    /// The norms of a layer.
    #[doc(hidden)]
    pub fn norms(&self, layer: usize) -> Vec<Norm> {
        if self.is_recurrent(layer) {
            return vec![Norm::Attn, Norm::DeltaHead, Norm::Ffn];
        }
        let of_inputs: &[Norm] = if self.input_norms.is_some() { &Norm::INPUTS } else { &[] };
        [self.family.block_norms(), of_inputs].concat()
    }

    /// Length of a norm's weight.
    #[doc(hidden)]
    pub fn norm_len(&self, role: Norm) -> usize {
        match role {
            Norm::Attn | Norm::Ffn | Norm::Output | Norm::HeadIn | Norm::PostAttn | Norm::PostFfn => self.dim,
            Norm::QIn | Norm::KIn | Norm::VIn | Norm::GateIn | Norm::UpIn => self.dim,
            Norm::QHead | Norm::KHead => self.head_dim,
            Norm::AttnSub | Norm::OIn => self.heads * self.head_dim,
            Norm::FfnSub | Norm::DownIn => self.ffn_dim,
            Norm::DeltaHead => self.delta.as_ref().map_or(0, |delta| delta.head_dim),
        }
    }
}

impl Family {
    /// The norms of a block of attention of this family, without those of inputs.
    pub fn block_norms(self) -> &'static [Norm] {
        match self {
            Self::BitNet => &[Norm::Attn, Norm::AttnSub, Norm::Ffn, Norm::FfnSub],
            Self::Llama | Self::Qwen2 => &[Norm::Attn, Norm::Ffn],
            Self::Qwen3 | Self::Qwen35 => &[Norm::Attn, Norm::QHead, Norm::KHead, Norm::Ffn],
            Self::Gemma3 => &[Norm::Attn, Norm::QHead, Norm::KHead, Norm::Ffn, Norm::PostAttn, Norm::PostFfn],
        }
    }
}

struct Loader<'a> {
    file: &'a File,
    config: &'a Config,
    dialects: Dialects,
}

impl Loader<'_> {
    fn weights(&self) -> Result<Weights> {
        let token_embd = self.table(names::TOKEN_EMBD)?;
        let output = match self.file.tensor(names::OUTPUT) {
            Some(_) => Some(self.table(names::OUTPUT)?),
            None => None,
        };
        let mut output_norm = self.floats(names::OUTPUT_NORM, self.config.norm_len(Norm::Output))?;
        let has_head_norm = self.config.input_norms.is_some() && self.file.tensor(names::HEAD_NORM).is_some();
        let head_norm = match has_head_norm {
            true => Some(self.floats(names::HEAD_NORM, self.config.norm_len(Norm::HeadIn))?),
            false => None,
        };
        if self.config.multipliers.logits != 1.0 {
            // Before the head's own norm, which takes most of it out again: MiniCPM's class divides what it gives the head.
            output_norm.iter_mut().for_each(|weight| *weight /= self.config.multipliers.logits);
        }
        let usual = if self.config.rope.long.is_some() { names::ROPE_SHORT } else { names::ROPE_FREQS };
        let (rope_factors, long_rope_factors) = (self.rope_factors(usual)?, self.rope_factors(names::ROPE_LONG)?);
        if self.config.rope.long.is_some() && rope_factors.is_some() != long_rope_factors.is_some() {
            let absent = if rope_factors.is_some() { names::ROPE_LONG } else { names::ROPE_SHORT };
            return Err(Error::missing(format!("tensor {absent}"), "LongRoPE, of whose factors it has the others"));
        }
        let blocks = self.blocks()?;
        let mtp = self.mtp()?;
        Ok(Weights { token_embd, blocks, output_norm, head_norm, output, rope_factors, long_rope_factors, mtp })
    }

    /// That a rotated embedding table has the head that its keys promise.
    fn check_rotated_tables(&self) -> Result<()> {
        let Some(rotation) = &self.config.rotation else { return Ok(()) };
        let found = self.file.tensor(names::OUTPUT).is_some();
        match (rotation.tied, found) {
            (true, true) => {
                let thing = format!("tensor {} beside a tied output", names::OUTPUT);
                Err(Error::malformed(thing, "no such tensor", "it"))
            }
            (false, false) => Err(Error::missing(
                format!("tensor {}", names::OUTPUT),
                "a rotated embedding table that is not said to be the head",
            )),
            _ => Ok(()),
        }
    }

    /// The tensor of that name with exactly those sizes, fastest first.
    fn shaped(&self, name: &str, dims: &[usize]) -> Result<&TensorInfo> {
        let info = self
            .file
            .tensor(name)
            .ok_or_else(|| Error::missing(format!("tensor {name}"), format!("architecture {}", self.config.arch)))?;
        // A vector may carry trailing dimensions of 1.
        let significant = info.dims.iter().rposition(|&d| d != 1).map_or(1, |last| last + 1).max(dims.len());
        let found = &info.dims[..significant.min(info.dims.len())];
        if found.len() != dims.len() || found.iter().zip(dims).any(|(&have, &want)| have != want as u64) {
            return Err(Error::malformed(tensor(info), format!("sizes {dims:?}"), format!("{:?}", info.dims)));
        }
        Ok(info)
    }

    /// A tensor nobody reads (a bias, an extra norm, an expert) means a graph other than the one that would run.
    fn refuse_unknown_tensors(&self) -> Result<()> {
        let mut known: HashSet<String> =
            [names::TOKEN_EMBD, names::OUTPUT_NORM, names::OUTPUT, names::ROPE_FREQS].map(String::from).into();
        let config = self.config;
        if config.rope.long.is_some() {
            known.remove(names::ROPE_FREQS);
            known.extend([names::ROPE_SHORT, names::ROPE_LONG].map(String::from));
        }
        known.extend(config.input_norms.map(|_| names::HEAD_NORM.to_owned()));
        for layer in 0..config.layers {
            known.extend(config.linears(layer).iter().map(|&role| names::linear(layer, role)));
            known.extend(config.linears(layer).iter().map(|&role| names::linear_scale(layer, role)));
            known.extend(config.norms(layer).iter().map(|&role| names::norm(config.family, layer, role)));
            known.extend(config.biased.iter().map(|&role| names::bias(layer, role)));
            if config.is_recurrent(layer) {
                known.extend(DeltaTensor::ALL.map(|tensor| names::delta(layer, tensor)));
            }
        }
        let mtp = config.layers..config.layers + config.mtp_blocks;
        let is_skipped = |name: &str| names::layer(name).is_some_and(|block| mtp.contains(&block));
        match self.file.tensors().iter().find(|info| !known.contains(&info.name) && !is_skipped(&info.name)) {
            Some(info) => Err(Error::unsupported(
                tensor(info),
                format!("architecture {} has no use for it here", self.config.arch),
            )),
            None => Ok(()),
        }
    }
}

/// A file that holds the vision part of a model beside it.
fn refuse_projector(metadata: &Metadata) -> Result<()> {
    if metadata.str("general.architecture")? == Some("clip") || metadata.str("general.type")? == Some("mmproj") {
        return Err(Error::unsupported(
            "a vision projector (mmproj)",
            "it only turns images into input of another model; the model's own file runs without it",
        ));
    }
    Ok(())
}

fn tensor(info: &TensorInfo) -> String {
    format!("tensor {}", info.name)
}
