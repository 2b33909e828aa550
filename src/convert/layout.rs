//! Config and checkpoint -> the tensors of the GGUF file in order, each with the checked matrix it is made of.

use std::collections::HashSet;

use safetensors::Dtype;

use super::{
    checkpoint::Checkpoint,
    config::SourceConfig,
    dense,
    names::{norm_names, norms, projection_names, spec},
    safetensors::{Tensor, shape},
    ternary::{self, Ternary},
};
use crate::{
    error::{Error, Result},
    gguf::{TensorSpec, TensorType},
    model::{Config, Family, Linear, Norm},
};

/// What a tensor of the output is made of.
pub(super) enum Content<'a> {
    /// A table of real numbers, written as F16; (rows, cols).
    Table(&'a Tensor),
    /// A norm, written as F32.
    Norm(&'a Tensor),
    /// Numbers computed from the configuration, written as F32.
    Computed(Vec<f32>),
    /// A projection, written as I2_S.
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

    /// The row of the checkpoint that becomes row `row` of the file (formats.md 5.3): checkpoints rotate element i
    /// with i + head_dim / 2, llama files rotate 2i with 2i + 1.
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

/// A tensor of the output.
pub(super) struct Item<'a> {
    pub spec: TensorSpec,
    pub content: Content<'a>,
}

/// Finds every tensor the model needs, with the shape it needs, and nothing else.
pub(super) fn layout<'a>(config: &SourceConfig, checkpoint: &'a Checkpoint) -> Result<(Vec<Item<'a>>, Vec<String>)> {
    let mut builder = Builder { checkpoint, used: HashSet::new(), items: Vec::new(), warnings: Vec::new() };
    let model = &config.model;
    builder.table("token_embd.weight", "embed_tokens.weight", model)?;
    builder.head(config)?;
    if let Some(factors) = &config.rope_factors {
        let spec = spec("rope_freqs.weight".into(), &[factors.len()], TensorType::F32);
        builder.items.push(Item { spec, content: Content::Computed(factors.clone()) });
    }
    for layer in 0..model.layers {
        for role in norms(model.family) {
            builder.norm(model, role, Some(layer))?;
        }
        for role in Linear::ALL {
            builder.projection(model, role, layer)?;
        }
    }
    builder.norm(model, Norm::Output, None)?;
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
        let spec = spec(to.into(), &[model.vocab, model.dim], TensorType::F16);
        self.items.push(Item { spec, content: Content::Table(tensor) });
        Ok(())
    }

    /// The output head. A tied one is not written: the reader takes the embedding table.
    fn head(&mut self, config: &SourceConfig) -> Result<()> {
        const HEAD: &str = "lm_head.weight";
        let present = self.find(HEAD).is_some();
        match (config.tied, present) {
            (Some(true), true) => {
                let note = "lm_head.weight is left out: config.json ties the head to the embedding table";
                self.warnings.push(note.to_owned());
                Ok(())
            }
            (Some(true) | None, false) => Ok(()),
            (Some(false), false) => Err(Error::missing(format!("tensor {HEAD}"), "tie_word_embeddings = false")),
            (Some(false) | None, true) => self.table("output.weight", HEAD, &config.model),
        }
    }

    fn norm(&mut self, model: &Config, role: Norm, layer: Option<usize>) -> Result<()> {
        let (to, from, size) = norm_names(model, role);
        let place = |name: &str, blocks: &str| match layer {
            Some(layer) => format!("{blocks}.{layer}.{name}.weight"),
            None => format!("{name}.weight"),
        };
        let candidates: Vec<String> = from.iter().map(|name| place(name, "layers")).collect();
        let present = candidates.iter().find(|name| self.checkpoint.get(name).is_some());
        let tensor = self.need(present.unwrap_or(&candidates[0]))?;
        check(tensor, &[size])?;
        let spec = spec(place(to, "blk"), &[size], TensorType::F32);
        self.items.push(Item { spec, content: Content::Norm(tensor) });
        Ok(())
    }

    fn projection(&mut self, model: &Config, role: Linear, layer: usize) -> Result<()> {
        let (to, from, rows, cols) = projection_names(model, role);
        let from = format!("layers.{layer}.{from}");
        let weight = self.need(&format!("{from}.weight"))?;
        let stated_scale = if weight.dtype == Dtype::U8 {
            check_shape(weight, &[rows.div_ceil(4), cols], "packed")?;
            Some(scalar(self.need(&format!("{from}.weight_scale"))?)?)
        } else {
            check(weight, &[rows, cols])?;
            None
        };
        if rows * cols % 128 != 0 {
            let reason = format!("{rows} x {cols} weights are not a multiple of 128, the block of I2_S");
            return Err(Error::unsupported(format!("tensor {}", weight.name), reason));
        }
        let turned = model.family == Family::Llama && matches!(role, Linear::Q | Linear::K);
        let interleave = turned.then_some(model.head_dim);
        let spec = spec(format!("blk.{layer}.{to}.weight"), &[rows, cols], TensorType::I2_S);
        let projection = Projection { weight, stated_scale, rows, cols, interleave };
        self.items.push(Item { spec, content: Content::Projection(projection) });
        Ok(())
    }

    /// A tensor with no place in the output would change the model if it were dropped.
    fn refuse_unknown(&self) -> Result<()> {
        let unknown = |name: &str| !self.used.contains(name) && !is_buffer(name);
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

/// What old transformers versions saved with the weights and no longer read.
fn is_buffer(name: &str) -> bool {
    [".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias"].iter().any(|end| name.ends_with(end))
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
