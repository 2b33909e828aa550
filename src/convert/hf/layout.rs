//! Config and checkpoint -> the tensors of the GGUF file in order, each with the checked matrix it is made of.

use std::collections::HashSet;

use safetensors::Dtype;

use super::{
    affine::Affine,
    checkpoint::Checkpoint,
    config::SourceConfig,
    dense, names,
    order::Order,
    pooling,
    safetensors::{Tensor, shape},
    ternary::{self, Ternary},
};
use crate::{
    error::{Error, Result},
    gguf::TensorType,
    model::{
        Config, DeltaNet, Family, Linear, Norm,
        names::{self as gguf_names, DeltaTensor},
    },
    numbers,
};

/// Source of a tensor of the output.
pub(super) enum Content<'a> {
    /// A table of real numbers; (rows, cols).
    Table(&'a Tensor),
    /// A ternary table, written as real numbers; (rows, cols).
    TernaryTable(Ternary<'a>),
    /// A table of MLX, written in the ternary type, or else in F16; (rows, cols).
    AffineTable(Projection<'a>, Option<TensorType>),
    /// A norm, written as F32.
    Norm {
        weight: &'a Tensor,
        /// Number added to each element.
        offset: f32,
    },
    /// Numbers computed from the configuration or put in another order, written as F32.
    Computed(Vec<f32>),
    /// A small matrix, written in its own type, with its rows in another order.
    Rows(&'a Tensor, Order),
    /// A projection, written in a ternary type.
    Projection(Projection<'a>),
}

/// A projection before its scale is known.
pub(super) struct Projection<'a> {
    pub weight: &'a Tensor,
    /// The `weight_scale` of a packed matrix.
    pub stated_scale: Option<f32>,
    /// The whole matrix, where MLX wrote it.
    pub affine: Option<Affine<'a>>,
    pub rows: usize,
    pub cols: usize,
    pub row_order: Order,
    pub col_order: Order,
}

impl<'a> Projection<'a> {
    /// The matrix of a table of MLX.
    pub fn affine(&self) -> &Affine<'a> {
        self.affine.as_ref().unwrap_or_else(|| unreachable!("tables of MLX are made with it"))
    }

    /// Finds the scale; looks through the whole matrix unless it is packed.
    pub fn open(&self, config: &SourceConfig, may_round: bool) -> Result<Ternary<'a>> {
        debug_assert!(self.affine.is_none(), "matrices of MLX are read in groups");
        match (self.stated_scale, config.scale_reading) {
            (Some(scale), _) if ternary::is_real(self.weight.dtype) => {
                Ternary::scaled(self.weight, self.rows, self.cols, scale)
            }
            (None, _) => Ternary::master(self.weight, self.rows, self.cols, may_round),
            (Some(scale), Some(reading)) => Ternary::packed(self.weight, self.rows, self.cols, scale, reading),
            (Some(_), None) => {
                let needed_for = format!("the meaning of weight_scale of tensor {}", self.weight.name);
                Err(Error::missing("key quantization_config in config.json", needed_for))
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
    let mut builder = Builder {
        checkpoint,
        is_mlx: config.is_mlx,
        norms_are_sums: config.is_mlx && delta_is_of_mlx(checkpoint),
        used: HashSet::new(),
        items: Vec::new(),
        warnings: Vec::new(),
    };
    let model = &config.model;
    builder.table(gguf_names::TOKEN_EMBD, names::TOKEN_EMBD, model)?;
    builder.head(config)?;
    let usual = if model.rope.long.is_some() { gguf_names::ROPE_SHORT } else { gguf_names::ROPE_FREQS };
    for (name, factors) in [(usual, &config.rope_factors), (gguf_names::ROPE_LONG, &config.long_rope_factors)] {
        if let Some(factors) = factors {
            builder.add(name, &[factors.len()], Content::Computed(factors.clone()));
        }
    }
    for layer in 0..model.layers {
        for role in model.norms(layer) {
            builder.norm(model, layer, role)?;
        }
        for &role in model.linears(layer) {
            builder.projection(model, layer, role)?;
        }
        for &role in model.biased {
            let bias = builder.need(&format!("{}.bias", names::linear(layer, role)))?;
            let size = [model.linear_shape(role).0];
            check(bias, &size)?;
            let mut values = dense::floats(bias)?;
            orders(model, role).0.apply(&mut values, &mut vec![0.0; size[0]]);
            builder.add(gguf_names::bias(layer, role), &size, Content::Computed(values));
        }
        if let Some(delta) = model.delta.as_ref().filter(|delta| delta.layers[layer]) {
            builder.delta(model, delta, layer)?;
        }
    }
    builder.norm(model, 0, Norm::Output)?;
    if model.family == Family::Qwen35 {
        builder.leave_out(names::VISION, "its vision part is left out: the model reads text only");
        builder.leave_out(names::MTP, "its blocks that predict further tokens ahead (mtp) are left out");
    }
    builder.refuse_unknown()?;
    Ok((builder.items, builder.warnings))
}

struct Builder<'a> {
    checkpoint: &'a Checkpoint,
    /// MLX quantized matrices.
    is_mlx: bool,
    /// Norms of Qwen3.5 have the number that they multiply by.
    norms_are_sums: bool,
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
        if let Some(table) = self.affine(tensor, from, (model.vocab, model.dim))? {
            let ty = table.affine().ternary_type();
            self.add(to, &[model.vocab, model.dim], Content::AffineTable(table, ty));
            return Ok(());
        }
        check(tensor, &[model.vocab, model.dim])?;
        self.add(to, &[model.vocab, model.dim], Content::Table(tensor));
        Ok(())
    }

    /// A matrix of MLX, where `tensor`, of that name, is one.
    fn affine(
        &mut self,
        tensor: &'a Tensor,
        name: &str,
        (rows, cols): (usize, usize),
    ) -> Result<Option<Projection<'a>>> {
        if !self.is_mlx || tensor.dtype != Dtype::U32 {
            return Ok(None);
        }
        let stem = name.trim_end_matches(".weight");
        let (scales, biases) = (self.need(&format!("{stem}.scales"))?, self.need(&format!("{stem}.biases"))?);
        let affine = Some(Affine::new(tensor, scales, biases, (rows, cols))?);
        let (row_order, col_order) = (Order::Same, Order::Same);
        Ok(Some(Projection { weight: tensor, stated_scale: None, affine, rows, cols, row_order, col_order }))
    }

    /// The output head. A tied one is not written: the reader takes the embedding table.
    fn head(&mut self, config: &SourceConfig) -> Result<()> {
        let present = self.find(names::OUTPUT).is_some();
        if pooling::is_embedder(&config.model) {
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
            (Some(false) | None, true) => self.own_head(config),
        }
    }

    /// A head that is not the embedding table: real numbers, or ternary as the projections are (transformers' `BitLinear`,
    /// where `modules_to_not_convert` leaves it out) with a norm on its input where those have one.
    fn own_head(&mut self, config: &SourceConfig) -> Result<()> {
        let model = &config.model;
        let norm = &names::norm(0, Norm::HeadIn, model.family)[0];
        let has_norm = model.input_norms.is_some() && self.checkpoint.get(norm).is_some();
        if has_norm {
            self.norm(model, 0, Norm::HeadIn)?;
        }
        let weight = self.need(names::OUTPUT)?;
        let (rows, cols) = (model.vocab, model.dim);
        if weight.dtype == Dtype::U32 {
            return self.table(gguf_names::OUTPUT, names::OUTPUT, model);
        }
        let stated_scale = self.ternary_scale(weight, (rows, cols), names::OUTPUT_SCALE)?;
        if stated_scale.is_none() && !has_norm {
            return self.table(gguf_names::OUTPUT, names::OUTPUT, model);
        }
        let projection = Projection {
            weight,
            stated_scale,
            affine: None,
            rows,
            cols,
            row_order: Order::Same,
            col_order: Order::Same,
        };
        let matrix = projection.open(config, config.masters_are_ternary)?;
        self.add(gguf_names::OUTPUT, &[rows, cols], Content::TernaryTable(matrix));
        Ok(())
    }

    /// The `weight_scale` of a ternary matrix, whose shape is checked; a packed one has four rows in one, and needs it.
    fn ternary_scale(&mut self, weight: &Tensor, (rows, cols): (usize, usize), name: &str) -> Result<Option<f32>> {
        if weight.dtype == Dtype::U8 {
            check_shape(weight, &[rows.div_ceil(4), cols], "packed")?;
            return scalar(self.need(name)?).map(Some);
        }
        check(weight, &[rows, cols])?;
        self.find(name).map(scalar).transpose()
    }

    fn norm(&mut self, model: &Config, layer: usize, role: Norm) -> Result<()> {
        let candidates = names::norm(layer, role, model.family);
        let present = candidates.iter().find(|name| self.checkpoint.get(name).is_some());
        let tensor = self.need(present.unwrap_or(&candidates[0]))?;
        let size = [model.norm_len(role)];
        check(tensor, &size)?;
        // Gemma's own norms, and those of Qwen3.5 but one, multiply by one more than their weights, and GGUF files have
        // the sum.
        let is_more = match model.family {
            Family::Gemma3 => !Norm::INPUTS.contains(&role),
            Family::Qwen35 => role != Norm::DeltaHead && !self.norms_are_sums,
            _ => false,
        };
        let offset = if is_more { 1.0 } else { 0.0 };
        self.add(gguf_names::norm(model.family, layer, role), &size, Content::Norm { weight: tensor, offset });
        Ok(())
    }

    fn projection(&mut self, model: &Config, layer: usize, role: Linear) -> Result<()> {
        let (rows, cols) = model.linear_shape(role);
        let from = names::linear(layer, role);
        let weight = self.need(&format!("{from}.weight"))?;
        let (row_order, col_order) = orders(model, role);
        if let Some(projection) = self.affine(weight, &from, (rows, cols))? {
            let projection = Projection { row_order, col_order, ..projection };
            self.add(gguf_names::linear(layer, role), &[rows, cols], Content::Projection(projection));
            return Ok(());
        }
        let stated_scale = self.ternary_scale(weight, (rows, cols), &format!("{from}.weight_scale"))?;
        let projection = Projection { weight, stated_scale, affine: None, rows, cols, row_order, col_order };
        self.add(gguf_names::linear(layer, role), &[rows, cols], Content::Projection(projection));
        Ok(())
    }

    /// The small tensors of a gated DeltaNet (`Qwen3NextModel` and `Qwen3_5TextModel` in llama.cpp's converter).
    fn delta(&mut self, model: &Config, delta: &DeltaNet, layer: usize) -> Result<()> {
        let heads =
            |start, width| Order::Tiled { start, width, key_heads: delta.key_heads, value_heads: delta.value_heads };
        let one_each = heads(0, 1);
        for tensor in DeltaTensor::ALL {
            let name = names::delta(layer, tensor);
            let weight = self.need(&name)?;
            let (sizes, content) = match tensor {
                DeltaTensor::Alpha | DeltaTensor::Beta => {
                    let shape = (delta.value_heads, model.dim);
                    let content = match self.affine(weight, &name, shape)? {
                        Some(matrix) => Content::Computed(matrix.affine().rows(one_each)?),
                        None => {
                            check(weight, &[shape.0, shape.1])?;
                            Content::Rows(weight, one_each)
                        }
                    };
                    (vec![shape.0, shape.1], content)
                }
                DeltaTensor::Conv => {
                    // MLX has the only channel of a convolution last.
                    let shape = match self.norms_are_sums {
                        true => [delta.channels(), delta.kernel, 1],
                        false => [delta.channels(), 1, delta.kernel],
                    };
                    check(weight, &shape)?;
                    let order = heads(2 * delta.key_width(), delta.head_dim);
                    let taps = dense::floats(weight)?;
                    let row = |channel| taps[order.source(channel) * delta.kernel..][..delta.kernel].iter();
                    let taps = (0..delta.channels()).flat_map(row).copied().collect();
                    (vec![delta.channels(), delta.kernel], Content::Computed(taps))
                }
                DeltaTensor::DtBias | DeltaTensor::Rate => {
                    check(weight, &[delta.value_heads])?;
                    let mut values = dense::floats(weight)?;
                    one_each.apply(&mut values, &mut vec![0.0; delta.value_heads]);
                    if tensor == DeltaTensor::Rate {
                        values.iter_mut().for_each(|log| *log = -log.exp());
                    }
                    (vec![delta.value_heads], Content::Computed(values))
                }
            };
            self.add(gguf_names::delta(layer, tensor), &sizes, content);
        }
        Ok(())
    }

    /// Passes over the tensors whose names begin so, with a word.
    fn leave_out(&mut self, prefixes: &[&str], word: &str) {
        let begins = |name: &&str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let names: Vec<_> = self.checkpoint.iter().map(|(name, _)| name).filter(begins).collect();
        if !names.is_empty() {
            self.warnings.push(format!("{word} ({})", numbers::count(names.len(), "tensor")));
            self.used.extend(names.into_iter().map(str::to_owned));
        }
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

/// Whether MLX has brought the tensors of Qwen3.5 into its own form, where norms have 1 added and convolutions have their only
/// channel last (`sanitize` of mlx-lm's `qwen3_5.py`, which tells by the convolution as well).
fn delta_is_of_mlx(checkpoint: &Checkpoint) -> bool {
    let conv = checkpoint.iter().find(|(name, _)| name.ends_with("linear_attn.conv1d.weight"));
    conv.is_some_and(|(_, tensor)| matches!(tensor.shape[..], [_, taps, 1] if taps > 1))
}

/// The orders of a projection's rows and columns.
fn orders(model: &Config, role: Linear) -> (Order, Order) {
    let tiled = |start| match &model.delta {
        Some(delta) => {
            Order::Tiled { start, width: delta.head_dim, key_heads: delta.key_heads, value_heads: delta.value_heads }
        }
        None => Order::Same,
    };
    match role {
        Linear::Q | Linear::K if model.family == Family::Llama => {
            (Order::Interleaved { head_dim: model.head_dim }, Order::Same)
        }
        Linear::DeltaQkv => (tiled(model.delta.as_ref().map_or(0, |delta| 2 * delta.key_width())), Order::Same),
        Linear::DeltaGate => (tiled(0), Order::Same),
        Linear::DeltaOut => (Order::Same, tiled(0)),
        _ => (Order::Same, Order::Same),
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
