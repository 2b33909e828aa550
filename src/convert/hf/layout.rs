//! Config and checkpoint -> the tensors of the GGUF file in order, each with the checked matrix it is made of.

use std::collections::HashSet;

use safetensors::Dtype;

use super::{
    checkpoint::Checkpoint,
    config::SourceConfig,
    dense, names,
    safetensors::{Tensor, shape},
    ternary::{self, Ternary},
};
use crate::{
    error::{Error, Result},
    model::{Config, Family, Linear, Norm, names as gguf_names},
};

/// Source of a tensor of the output.
pub(super) enum Content<'a> {
    /// A table of real numbers; (rows, cols).
    Table(&'a Tensor),
    /// A norm, written as F32.
    Norm {
        weight: &'a Tensor,
        /// Number added to each element.
        offset: f32,
    },
    /// Numbers computed from the configuration, written as F32.
    Computed(Vec<f32>),
    /// A projection, written in a ternary type.
    Projection(Projection<'a>),
}

/// A projection before its scale is known.
pub(super) struct Projection<'a> {
    pub weight: &'a Tensor,
    /// The `weight_scale` of a packed matrix.
    pub stated_scale: Option<f32>,
    pub rows: usize,
    pub cols: usize,
    /// The head size, where rows have to be reordered for interleaved RoPE.
    pub interleave: Option<usize>,
}

impl<'a> Projection<'a> {
    /// Finds the scale; looks through the whole matrix unless it is packed.
    pub fn open(&self, config: &SourceConfig, may_round: bool) -> Result<Ternary<'a>> {
        match (self.stated_scale, config.scale_reading) {
            (None, _) => Ternary::master(self.weight, self.rows, self.cols, may_round),
            (Some(scale), Some(reading)) => Ternary::packed(self.weight, self.rows, self.cols, scale, reading),
            (Some(_), None) => {
                let needed_for = format!("the meaning of weight_scale of tensor {}", self.weight.name);
                Err(Error::missing("key quantization_config in config.json", needed_for))
            }
        }
    }

    /// The row of the checkpoint that becomes row `row` of the file (`permute` in llama.cpp's converter): checkpoints
    /// rotate element i with i + head_dim / 2, llama files rotate 2i with 2i + 1.
    pub fn source_row(&self, row: usize) -> usize {
        match self.interleave {
            None => row,
            Some(head_dim) => {
                let (head, place) = (row / head_dim, row % head_dim);
                head * head_dim + place % 2 * (head_dim / 2) + place / 2
            }
        }
    }
}

/// A tensor of the output: its GGUF name and its sizes, slowest first.
pub(super) struct Item<'a> {
    pub name: String,
    pub sizes: Vec<usize>,
    pub content: Content<'a>,
}

/// Finds every tensor the model needs, with the shape it needs, and nothing else.
pub(super) fn layout<'a>(config: &SourceConfig, checkpoint: &'a Checkpoint) -> Result<(Vec<Item<'a>>, Vec<String>)> {
    let mut builder = Builder { checkpoint, used: HashSet::new(), items: Vec::new(), warnings: Vec::new() };
    let model = &config.model;
    builder.table(gguf_names::TOKEN_EMBD, names::TOKEN_EMBD, model)?;
    builder.head(config)?;
    if let Some(factors) = &config.rope_factors {
        builder.add(gguf_names::ROPE_FREQS, &[factors.len()], Content::Computed(factors.clone()));
    }
    for layer in 0..model.layers {
        for &role in model.norms(layer) {
            builder.norm(model, layer, role)?;
        }
        for &role in model.linears(layer) {
            builder.projection(model, layer, role)?;
        }
    }
    builder.norm(model, 0, Norm::Output)?;
    builder.refuse_unknown()?;
    Ok((builder.items, builder.warnings))
}

struct Builder<'a> {
    checkpoint: &'a Checkpoint,
    used: HashSet<String>,
    items: Vec<Item<'a>>,
    warnings: Vec<String>,
}

impl<'a> Builder<'a> {
    fn add(&mut self, name: impl Into<String>, sizes: &[usize], content: Content<'a>) {
        self.items.push(Item { name: name.into(), sizes: sizes.to_vec(), content });
    }

    fn find(&mut self, name: &str) -> Option<&'a Tensor> {
        let found = self.checkpoint.get(name);
        if found.is_some() {
            self.used.insert(name.to_owned());
        }
        found
    }

    fn need(&mut self, name: &str) -> Result<&'a Tensor> {
        self.find(name).ok_or_else(|| Error::missing(format!("tensor model.{name}"), "the architecture in config.json"))
    }

    fn table(&mut self, to: &str, from: &str, model: &Config) -> Result<()> {
        let tensor = self.need(from)?;
        check(tensor, &[model.vocab, model.dim])?;
        self.add(to, &[model.vocab, model.dim], Content::Table(tensor));
        Ok(())
    }

    /// The output head. A tied one is not written: the reader takes the embedding table.
    fn head(&mut self, config: &SourceConfig) -> Result<()> {
        let present = self.find(names::OUTPUT).is_some();
        if config.model.family.has_input_norms() {
            // Made for embeddings: nothing reads it.
            return Ok(());
        }
        match (config.tied, present) {
            (Some(true), true) => {
                let head = names::OUTPUT;
                self.warnings.push(format!("{head} is left out: config.json ties the head to the embedding table"));
                Ok(())
            }
            (Some(true) | None, false) => Ok(()),
            (Some(false), false) => {
                Err(Error::missing(format!("tensor {}", names::OUTPUT), "tie_word_embeddings = false"))
            }
            (Some(false) | None, true) => self.table(gguf_names::OUTPUT, names::OUTPUT, &config.model),
        }
    }

    fn norm(&mut self, model: &Config, layer: usize, role: Norm) -> Result<()> {
        let candidates = names::norm(layer, role, model.family);
        let present = candidates.iter().find(|name| self.checkpoint.get(name).is_some());
        let tensor = self.need(present.unwrap_or(&candidates[0]))?;
        let size = [model.norm_len(role)];
        check(tensor, &size)?;
        // Gemma's own norms multiply by one more than their weights, and GGUF files have the sum.
        let of_input =
            matches!(role, Norm::QIn | Norm::KIn | Norm::VIn | Norm::OIn | Norm::GateIn | Norm::UpIn | Norm::DownIn);
        let offset = if model.family == Family::Gemma3InputNorms && !of_input { 1.0 } else { 0.0 };
        self.add(gguf_names::norm(model.family, layer, role), &size, Content::Norm { weight: tensor, offset });
        Ok(())
    }

    fn projection(&mut self, model: &Config, layer: usize, role: Linear) -> Result<()> {
        let (rows, cols) = model.linear_shape(role);
        let from = names::linear(layer, role);
        let weight = self.need(&format!("{from}.weight"))?;
        let stated_scale = if weight.dtype == Dtype::U8 {
            check_shape(weight, &[rows.div_ceil(4), cols], "packed")?;
            Some(scalar(self.need(&format!("{from}.weight_scale"))?)?)
        } else {
            check(weight, &[rows, cols])?;
            None
        };
        let turned = model.family == Family::Llama && matches!(role, Linear::Q | Linear::K);
        let interleave = turned.then_some(model.head_dim);
        let projection = Projection { weight, stated_scale, rows, cols, interleave };
        self.add(gguf_names::linear(layer, role), &[rows, cols], Content::Projection(projection));
        Ok(())
    }

    /// A tensor with no place in the output would change the model if it were dropped.
    fn refuse_unknown(&self) -> Result<()> {
        let unknown = |name: &str| !self.used.contains(name) && !names::is_buffer(name);
        let mut left = self.checkpoint.iter().filter(|(name, _)| unknown(name)).map(|(_, tensor)| tensor);
        let Some(first) = left.next() else { return Ok(()) };
        let more = match left.count() {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let reason = format!("the architecture in config.json has no place for it{more}");
        Err(Error::unsupported(format!("tensor {} {}", first.name, shape(&first.shape)), reason))
    }
}

fn check(tensor: &Tensor, expected: &[usize]) -> Result<()> {
    check_real(tensor)?;
    check_shape(tensor, expected, "its")
}

fn check_real(tensor: &Tensor) -> Result<()> {
    if ternary::is_real(tensor.dtype) {
        return Ok(());
    }
    Err(Error::malformed(format!("dtype of tensor {}", tensor.name), "BF16, F16 or F32", tensor.dtype))
}

fn check_shape(tensor: &Tensor, expected: &[usize], kind: &str) -> Result<()> {
    if tensor.shape == expected {
        return Ok(());
    }
    let expected = format!("{kind} shape to be {expected:?} by config.json");
    Err(Error::malformed(format!("tensor {}", tensor.name), expected, shape(&tensor.shape)))
}

/// A tensor of one element, whatever its number of dimensions.
fn scalar(tensor: &Tensor) -> Result<f32> {
    check_real(tensor)?;
    if tensor.elements() != 1 {
        return Err(Error::malformed(format!("tensor {}", tensor.name), "one element", shape(&tensor.shape)));
    }
    let mut value = [0.0];
    dense::read(tensor, 0, &mut value);
    Ok(value[0])
}
