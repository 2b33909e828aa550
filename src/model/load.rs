//! GGUF tensors -> [`Weights`]: shapes, types and values are checked here, once, for every backend.

use std::{collections::HashSet, path::Path};

use bitnet_cpu_kernels::format::{self, DenseType, I2S_BLOCK, Layout};

use super::{Block, Config, DenseMatrix, Family, Linear, Model, Norm, TernaryMatrix, Weights, names};
use crate::{
    bytes::Bytes,
    error::{Error, Result},
    gguf::{File, I2S_TRAILER_BYTES, TensorInfo, TensorType},
};

/// Codes are scanned for the invalid value 3 at load up to this many bytes of ternary weights (0.1 s at
/// 20 GB/s). Scanning more would make a model that is larger than memory unusable; `inspect --check` does it.
const CODE_SCAN_LIMIT_BYTES: usize = 2 << 30;

impl Model {
    /// Maps and validates a GGUF file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        Self::from_gguf(&file).map_err(|e| e.in_file(path.display().to_string()))
    }

    /// Validates an opened file. Weights stay in its memory map where the kernels read them in place.
    ///
    /// # Errors
    /// Names the key or tensor, what the architecture asks for, and what the file holds.
    pub fn from_gguf(file: &File) -> Result<Self> {
        let embedding = file.tensor(names::TOKEN_EMBD).ok_or_else(|| {
            if file.tensors().is_empty() {
                Error::missing("every tensor", "running; this is a vocabulary-only file")
            } else {
                Error::missing(format!("tensor {}", names::TOKEN_EMBD), "every architecture")
            }
        })?;
        let vocab = usize::try_from(embedding.dims.get(1).copied().unwrap_or(1))
            .map_err(|_| Error::malformed(tensor(embedding), "rows that fit this machine", embedding.dims[1]))?;
        let config = Config::from_metadata(file.metadata(), vocab)?;
        let loader = Loader { file, config: &config };
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
            Norm::Attn | Norm::Ffn | Norm::Output => self.dim,
            Norm::QHead | Norm::KHead => self.head_dim,
            Norm::AttnSub => self.heads * self.head_dim,
            Norm::FfnSub => self.ffn_dim,
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
        }
    }
}

struct Loader<'a> {
    file: &'a File,
    config: &'a Config,
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
        let blocks = (0..self.config.layers).map(|layer| self.block(layer)).collect::<Result<Vec<_>>>()?;
        let total: usize = blocks.iter().map(Block::ternary_bytes).sum();
        if total <= CODE_SCAN_LIMIT_BYTES {
            scan_codes(&blocks)?;
        } else {
            log::info!("{total} bytes of ternary weights: invalid codes are not looked for at load");
        }
        Ok(Weights { token_embd, blocks, output_norm, output, rope_factors })
    }

    fn block(&self, layer: usize) -> Result<Block> {
        let linears: Vec<_> = Linear::ALL.into_iter().map(|role| self.ternary(layer, role)).collect::<Result<_>>()?;
        let linears = linears.try_into().unwrap_or_else(|_| unreachable!("one matrix for each role"));
        let mut norms = [const { None }; Norm::BLOCK.len()];
        for &role in self.config.family.block_norms() {
            norms[role as usize] = Some(self.floats(&names::norm(layer, role), self.config.norm_len(role))?);
        }
        Ok(Block { linears, norms })
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

    fn ternary(&self, layer: usize, role: Linear) -> Result<TernaryMatrix> {
        let (rows, cols) = self.config.linear_shape(role);
        let info = self.shaped(&names::linear(layer, role), &[cols, rows])?;
        if info.ty != TensorType::I2_S {
            return Err(Error::unsupported(
                format!("{} of type {}", tensor(info), info.ty.name()),
                "ternary projections are read as I2_S",
            ));
        }
        let data = self.file.data(info);
        let code_bytes = rows * cols / 4;
        if !(rows * cols).is_multiple_of(I2S_BLOCK) || data.len() < code_bytes + I2S_TRAILER_BYTES {
            return Err(Error::malformed(
                tensor(info),
                format!("a multiple of {I2S_BLOCK} weights, {I2S_TRAILER_BYTES} bytes after the codes"),
                format!("{rows} x {cols} weights in {} bytes", data.len()),
            ));
        }
        let (flat, trailer) = data.split_at(code_bytes);
        let scale = f32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]);
        if !scale.is_normal() || scale < 0.0 {
            return Err(Error::malformed(format!("scale of {}", tensor(info)), "a finite number above 0", scale));
        }
        let codes = if cols.is_multiple_of(I2S_BLOCK) {
            data.slice(0..code_bytes).unwrap_or_else(|| unreachable!("split_at succeeded"))
        } else {
            Bytes::from(format::i2s_rows_from_flat(rows, cols, flat))
        };
        Ok(TernaryMatrix { rows, cols, codes, layout: Layout::I2sP128, scale })
    }

    fn dense(&self, name: &str) -> Result<DenseMatrix> {
        let (rows, cols) = (self.config.vocab, self.config.dim);
        let info = self.shaped(name, &[cols, rows])?;
        let ty = match info.ty {
            TensorType::F32 => DenseType::F32,
            TensorType::F16 => DenseType::F16,
            TensorType::BF16 => DenseType::BF16,
            TensorType::Q8_0 => DenseType::Q8_0,
            TensorType::Q6_K => DenseType::Q6K,
            other => {
                return Err(Error::unsupported(
                    format!("{} of type {}", tensor(info), other.name()),
                    "embeddings and heads are read as F32, F16, BF16, Q8_0 or Q6_K",
                ));
            }
        };
        let data = self.file.data(info);
        let expected = rows * ty.row_bytes(cols);
        if data.len() != expected {
            return Err(Error::malformed(tensor(info), format!("{expected} bytes"), data.len()));
        }
        Ok(DenseMatrix { rows, cols, data, ty })
    }

    fn floats(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let info = self.shaped(name, &[len])?;
        let data = self.file.data(info);
        let values: Vec<f32> = match info.ty {
            TensorType::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            TensorType::F16 => data.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            TensorType::BF16 => {
                data.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
            }
            other => return Err(Error::malformed(tensor(info), "F32, F16 or BF16", other.name())),
        };
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => Err(Error::malformed(format!("{} element {at}", tensor(info)), "a finite number", values[at])),
            None => Ok(values),
        }
    }

    fn rope_factors(&self) -> Result<Vec<f32>> {
        let factors = self.floats(names::ROPE_FREQS, self.config.rope.dims / 2)?;
        match factors.iter().find(|f| **f <= 0.0) {
            Some(bad) => Err(Error::malformed(format!("tensor {}", names::ROPE_FREQS), "factors above 0", bad)),
            None => Ok(factors),
        }
    }

    /// A tensor nobody reads (a bias, an extra norm, an expert) means a graph other than the one that would run.
    fn refuse_unknown_tensors(&self) -> Result<()> {
        let mut known: HashSet<String> =
            [names::TOKEN_EMBD, names::OUTPUT_NORM, names::OUTPUT, names::ROPE_FREQS].map(String::from).into();
        for layer in 0..self.config.layers {
            known.extend(Linear::ALL.map(|role| names::linear(layer, role)));
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

/// Code 3 is never written; kernels would compute with +2.
fn scan_codes(blocks: &[Block]) -> Result<()> {
    for (layer, block) in blocks.iter().enumerate() {
        for role in Linear::ALL {
            let matrix = block.linear(role);
            if let Some(at) = first_code_3(&matrix.codes) {
                return Err(Error::malformed(
                    format!("tensor {} byte {at}", names::linear(layer, role)),
                    "codes 0, 1 and 2",
                    "code 3",
                ));
            }
        }
    }
    Ok(())
}

/// The first byte with a 2-bit field of 3, in any packing of four codes a byte.
fn first_code_3(codes: &[u8]) -> Option<usize> {
    let has_3 = |chunk: &[u8]| chunk.iter().fold(0, |found, byte| found | (byte & (byte >> 1) & 0x55)) != 0;
    // Whole pages first: the loop over a page has no branch and runs at memory speed.
    let page = codes.chunks(4096).position(has_3)? * 4096;
    codes[page..].iter().position(|byte| has_3(std::slice::from_ref(byte))).map(|at| page + at)
}

#[cfg(test)]
mod tests {
    use super::first_code_3;

    #[test]
    fn code_3_is_found_in_each_field() {
        for shift in [0, 2, 4, 6] {
            let mut codes = vec![0b10_01_00_10u8; 9000];
            assert_eq!(first_code_3(&codes), None);
            codes[8193] |= 3 << shift;
            assert_eq!(first_code_3(&codes), Some(8193), "shift {shift}");
        }
    }
}
