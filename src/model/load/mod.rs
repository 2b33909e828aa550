//! GGUF tensors -> [`Weights`]: shapes, types and values are checked here, once, for every backend.

mod dense;
mod ternary;

use std::{collections::HashSet, path::Path};

#[cfg(feature = "convert")]
pub(crate) use dense::dense_type;

use super::{
    Config, Family, Linear, Model, Norm, Weights,
    dialect::{Dialects, OpenOptions},
    names,
};
use crate::{
    error::{Error, Result},
    gguf::{File, TensorInfo},
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
    pub fn from_gguf(file: &File) -> Result<Self> {
        Self::from_gguf_with(file, &OpenOptions::default())
    }

    /// As [`Self::from_gguf`], with what the file does not say.
    ///
    /// # Errors
    /// As [`Self::from_gguf`].
    pub fn from_gguf_with(file: &File, options: &OpenOptions) -> Result<Self> {
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
        // No key says it.
        if config.family == Family::Qwen3 && file.tensor(&names::norm(0, Norm::QIn)).is_some() {
            config.family = Family::Qwen3InputNorms;
        }
        let dialects = Dialects::of(file.metadata(), options)?;
        let loader = Loader { file, config: &config, dialects };
        let weights = loader.weights()?;
        loader.refuse_unknown_tensors()?;
        Ok(Self { config, weights })
    }
}

impl Config {
    /// (rows, cols) of a projection.
    pub fn linear_shape(&self, role: Linear) -> (usize, usize) {
        let q_width = self.heads * self.head_dim;
        match role {
            Linear::Q => (q_width, self.dim),
            Linear::K | Linear::V => (self.kv_width(), self.dim),
            Linear::O => (self.dim, q_width),
            Linear::Gate | Linear::Up => (self.ffn_dim, self.dim),
            Linear::Down => (self.dim, self.ffn_dim),
        }
    }

    /// Length of a norm's weight.
    pub fn norm_len(&self, role: Norm) -> usize {
        match role {
            Norm::Attn | Norm::Ffn | Norm::Output | Norm::PostAttn | Norm::PostFfn => self.dim,
            Norm::QIn | Norm::KIn | Norm::VIn | Norm::GateIn | Norm::UpIn => self.dim,
            Norm::QHead | Norm::KHead => self.head_dim,
            Norm::AttnSub | Norm::OIn => self.heads * self.head_dim,
            Norm::FfnSub | Norm::DownIn => self.ffn_dim,
        }
    }
}

impl Family {
    /// The norms of a block of this family.
    pub fn block_norms(self) -> &'static [Norm] {
        match self {
            Self::BitNet => &[Norm::Attn, Norm::AttnSub, Norm::Ffn, Norm::FfnSub],
            Self::Llama => &[Norm::Attn, Norm::Ffn],
            Self::Qwen3 => &[Norm::Attn, Norm::QHead, Norm::KHead, Norm::Ffn],
            Self::Qwen3InputNorms => &Self::GEMMA3_NORMS[..11],
            Self::Gemma3InputNorms => &Self::GEMMA3_NORMS,
        }
    }

    const GEMMA3_NORMS: [Norm; 13] = [
        Norm::Attn,
        Norm::QIn,
        Norm::KIn,
        Norm::VIn,
        Norm::QHead,
        Norm::KHead,
        Norm::OIn,
        Norm::Ffn,
        Norm::GateIn,
        Norm::UpIn,
        Norm::DownIn,
        // Not in Qwen 3.
        Norm::PostAttn,
        Norm::PostFfn,
    ];

    /// True where each projection has a norm on its input: models made for embeddings.
    pub fn has_input_norms(self) -> bool {
        matches!(self, Self::Qwen3InputNorms | Self::Gemma3InputNorms)
    }
}

struct Loader<'a> {
    file: &'a File,
    config: &'a Config,
    dialects: Dialects,
}

impl Loader<'_> {
    fn weights(&self) -> Result<Weights> {
        let token_embd = self.dense(names::TOKEN_EMBD)?;
        let output = match self.file.tensor(names::OUTPUT) {
            Some(_) => Some(self.dense(names::OUTPUT)?),
            None => None,
        };
        let output_norm = self.floats(&names::norm(0, Norm::Output), self.config.norm_len(Norm::Output))?;
        let rope_factors = match self.file.tensor(names::ROPE_FREQS) {
            Some(_) => Some(self.rope_factors()?),
            None => None,
        };
        let blocks = self.blocks()?;
        Ok(Weights { token_embd, blocks, output_norm, output, rope_factors })
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
        for layer in 0..self.config.layers {
            known.extend(Linear::ALL.map(|role| names::linear(layer, role)));
            known.extend(Linear::ALL.map(|role| names::linear_scale(layer, role)));
            known.extend(self.config.family.block_norms().iter().map(|&role| names::norm(layer, role)));
        }
        match self.file.tensors().iter().find(|info| !known.contains(&info.name)) {
            Some(info) => Err(Error::unsupported(
                tensor(info),
                format!("architecture {} has no use for it here", self.config.arch),
            )),
            None => Ok(()),
        }
    }
}

fn tensor(info: &TensorInfo) -> String {
    format!("tensor {}", info.name)
}
