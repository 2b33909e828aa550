//! The weights of a segment on the device: checked, placed, uploaded as they lie in the file.

use bitnet_cpu_kernels::{
    dense,
    format::{DenseType, DenseView, Layout as Codes, MatrixScales, ternary_bytes},
};
use half::f16;

use super::fuse::joined;
use crate::{
    backend::gpu::{
        buffers::{
            arenas::{Arenas, Layout, Region, Uploader},
            head_copy::{copy_row_bytes, upload_copy},
            shape::qkv_width,
        },
        device::Gpu,
        kernels::pipelines,
    },
    error::{Error, Remedy, Result},
    graph::{
        Graph,
        op::{Op, Part, Slot},
    },
    model::{
        Block, Config, DeltaNet, DeltaWeights, DenseMatrix, Linear, Model, Norm, PackedMatrix, Rotation, TernaryMatrix,
        TernaryScales,
    },
    plan::{Segment, Sizes},
};

/// Matrices whose rows lie one after the other and are multiplied by one dispatch.
pub struct Joined {
    pub parts: Vec<Part>,
    /// Output features of each part.
    pub rows: Vec<usize>,
    pub scales: JoinedScales,
    pub cols: usize,
    pub region: Region,
}

/// Where the scales of a [`Joined`] are.
pub enum JoinedScales {
    /// One for each matrix, in the parameters of the dispatch.
    PerMatrix(Vec<f32>),
    /// On the device, (rows, per_row).
    Stored {
        region: Region,
        per_row: usize,
        /// Columns that share an f16 scale; `None` = the whole row has an f32 one.
        group: Option<usize>,
    },
}

impl JoinedScales {
    /// The scales of these matrices; a place is given to those that do not fit in parameters.
    fn place(layout: &mut Layout, what: &str, matrices: &[&TernaryMatrix], act_group: Option<usize>) -> Result<Self> {
        if let Some(other) = matrices.iter().find(|m| m.scales.group() != act_group) {
            let named =
                |group: Option<usize>| group.map_or("whole rows".to_owned(), |size| format!("groups of {size}"));
            let found = named(other.scales.group());
            return Err(Error::malformed(format!("scales of {what}"), named(act_group), found));
        }
        let per_matrix = |m: &&TernaryMatrix| match m.scales {
            TernaryScales::Given(MatrixScales::PerTensor(scale)) => Some(scale),
            _ => None,
        };
        if let Some(scales) = matrices.iter().map(per_matrix).collect() {
            return Ok(Self::PerMatrix(scales));
        }
        let per_row = act_group.map_or(1, |size| matrices[0].cols / size);
        let row_bytes = per_row * if act_group.is_some() { size_of::<f16>() } else { size_of::<f32>() };
        let rows = matrices.iter().map(|m| m.rows).sum();
        let region = layout.place(&format!("the scales of {what}"), rows, row_bytes as u64)?;
        Ok(Self::Stored { region, per_row, group: act_group })
    }
}

/// The scales of a matrix as they are stored on the device.
fn stored_scales(matrix: &PackedMatrix) -> Vec<u8> {
    match &matrix.scales {
        MatrixScales::PerTensor(scale) => scale.to_le_bytes().repeat(matrix.rows),
        MatrixScales::PerRow(values) => bytemuck::cast_slice(&values[..]).to_vec(),
        MatrixScales::PerGroup { values, .. } => bytemuck::cast_slice(&values[..]).to_vec(),
    }
}

/// The weights of one block.
pub struct LayerWeights {
    /// In the order of the op list.
    pub joined: Vec<Joined>,
    pub norms: Vec<(Norm, Region)>,
    /// Weights of norms times the factors of the rotation behind them.
    pub rotated: Vec<(Norm, Region)>,
    pub delta: Option<DeltaRegions>,
    /// Biases of q, k and v, one after the other, and that of the output in a region of its own.
    pub bias: Option<(Region, Option<Region>)>,
}

/// The small tensors of a gated DeltaNet.
pub struct DeltaRegions {
    /// Alpha, then beta: (2 * value heads, dim).
    pub gates: Region,
    pub gates_type: DenseType,
    /// Taps (kernel, channels), rates and biases (value heads) each, as delta_step.wgsl reads them.
    pub weights: Region,
}

impl DeltaRegions {
    fn place(layout: &mut Layout, layer: usize, config: &Config, delta: &DeltaWeights) -> Result<Self> {
        let shape =
            config.delta.as_ref().ok_or_else(|| Error::missing("the heads of a DeltaNet", "the configuration"))?;
        let heads = shape.value_heads;
        for (what, matrix) in [("alpha", &delta.alpha), ("beta", &delta.beta)] {
            check_dense(&format!("{what} of layer {layer}"), matrix, (heads, config.dim))?;
        }
        // Of two types, both as f32.
        let gates_type = if delta.alpha.ty == delta.beta.ty { delta.alpha.ty } else { DenseType::F32 };
        let row_bytes = gates_type.row_bytes(config.dim) as u64;
        let gates = layout.place(&format!("the gates of layer {layer}"), 2 * heads, row_bytes)?;
        let taps = shape.kernel * shape.channels();
        let found = (delta.conv.len(), delta.rate.len(), delta.dt_bias.len());
        if found != (taps, heads, heads) {
            let thing = format!("the convolution and decay of layer {layer}");
            return Err(Error::malformed(thing, format!("{:?}", (taps, heads, heads)), format!("{found:?}")));
        }
        let values = (taps + 2 * heads).next_multiple_of(4);
        let weights = layout.place(&format!("the convolution of layer {layer}"), 1, 4 * values as u64)?;
        Ok(Self { gates, gates_type, weights })
    }

    fn upload(&self, uploader: &mut Uploader<'_>, shape: &DeltaNet, delta: &DeltaWeights) -> Result<()> {
        let as_stored = |matrix: &DenseMatrix| -> Vec<u8> {
            if matrix.ty == self.gates_type {
                return matrix.data.to_vec();
            }
            let mut values = vec![0.0f32; matrix.rows * matrix.cols];
            for (row, values) in values.chunks_exact_mut(matrix.cols).enumerate() {
                dense::gather(matrix.view(), row, values);
            }
            bytemuck::pod_collect_to_vec(&values)
        };
        uploader.write(&self.gates, &[&as_stored(&delta.alpha), &as_stored(&delta.beta)])?;
        let (channels, kernel) = (shape.channels(), shape.kernel);
        let taps = (0..kernel * channels).map(|i| delta.conv[i % channels * kernel + i / channels]);
        let mut values: Vec<f32> =
            taps.chain(delta.rate.iter().copied()).chain(delta.dt_bias.iter().copied()).collect();
        values.resize(values.len().next_multiple_of(4), 0.0);
        uploader.write(&self.weights, &[bytemuck::cast_slice(&values)])
    }
}

/// Factors of a row of so many columns before its transform: signs over the root of a block.
fn factors(rotation: &Rotation, cols: usize) -> Vec<f32> {
    let scale = (1.0 / (rotation.block as f64).sqrt()) as f32;
    match rotation.signs_of(cols) {
        Some(signs) => signs.iter().map(|sign| sign * scale).collect(),
        None => vec![scale; cols],
    }
}

/// The weights of a norm times the factors of the rotation behind it.
fn rotated_norm(rotation: &Rotation, norm: &[f32]) -> Vec<f32> {
    norm.iter().zip(factors(rotation, norm.len())).map(|(weight, factor)| weight * factor).collect()
}

/// The norms of a block behind which a rotation follows: those of rotated quantisations, and that of the residual stream
/// where a DeltaNet reads it.
fn rotated_norms(ops: &[Op]) -> Vec<Norm> {
    let shared = ops.iter().find_map(|op| match op {
        Op::Norm { norm, out: Slot::Normed, add: false, .. } => Some(*norm),
        _ => None,
    });
    let mut norms = Vec::new();
    for op in ops {
        let Op::RotateQuantize { input, norm } = op else { continue };
        let norm = norm.or(shared.filter(|_| *input == Slot::Normed));
        norms.extend(norm.filter(|norm| !norms.contains(norm)));
    }
    norms
}

impl LayerWeights {
    fn place(
        layout: &mut Layout,
        layer: usize,
        block: &Block,
        ops: &[Op],
        config: &Config,
        act_group: Option<usize>,
    ) -> Result<Self> {
        let delta = block.delta().map(|delta| DeltaRegions::place(layout, layer, config, delta)).transpose()?;
        let output = if config.biased.contains(&Linear::O) { config.dim } else { 0 };
        let bias = match block.bias() {
            Some(values) if values.len() != qkv_width(config) + output => {
                let what = format!("the biases of layer {layer}");
                return Err(Error::malformed(what, qkv_width(config) + output, values.len()));
            }
            Some(_) => {
                let mut place = |width: usize| layout.place("the biases", 1, 4 * width as u64);
                let inputs = place(qkv_width(config))?;
                Some((inputs, (output > 0).then(|| place(output)).transpose()?))
            }
            None => None,
        };
        let mut placed = Self { joined: Vec::new(), norms: Vec::new(), rotated: Vec::new(), delta, bias };
        for role in rotated_norms(ops) {
            let what = format!("norm {role:?} of layer {layer}, rotated");
            let values = block.norm(role).ok_or_else(|| Error::missing(&what, "the layer"))?;
            placed.rotated.push((role, place_norm(layout, config, &what, role, values)?));
        }
        for role in Norm::BLOCK {
            if let Some(values) = block.norm(role) {
                let what = format!("norm {role:?} of layer {layer}");
                placed.norms.push((role, place_norm(layout, config, &what, role, values)?));
            }
        }
        for op in ops {
            let Op::Linear { parts } = op else { continue };
            for parts in joined(parts) {
                for part in parts {
                    check_linear(layer, part.weight, block, config)?;
                }
                placed.joined.push(place_joined(layout, layer, block, parts, act_group)?);
            }
        }
        Ok(placed)
    }

    pub fn norm(&self, role: Norm) -> Option<&Region> {
        self.norms.iter().find(|(have, _)| *have == role).map(|(_, region)| region)
    }
}

/// A place for the weights of a norm.
fn place_norm(layout: &mut Layout, config: &Config, what: &str, role: Norm, values: &[f32]) -> Result<Region> {
    if values.len() != config.norm_len(role) {
        return Err(Error::malformed(what, config.norm_len(role), values.len()));
    }
    layout.place(what, 1, 4 * values.len() as u64)
}

/// All weights of a segment, with their places.
pub struct Weights {
    pub layers: Vec<LayerWeights>,
    /// (vocab, dim): the table of ids.
    pub embed: Option<Region>,
    /// (vocab, dim); the same place as `embed` when one table serves as both.
    pub head: Option<Region>,
    /// (vocab, copy_row_bytes): the head in fewer bits, where the sizes ask for it.
    pub screen: Option<Region>,
    /// (dim)
    pub output_norm: Option<Region>,
    /// (dim): [`Norm::HeadIn`], where there is one.
    pub head_norm: Option<Region>,
    /// (positions, half) cosines, then sines.
    pub rope: Region,
    /// Factors of the model's rotation, by the columns of the rows that it rotates.
    pub factors: Vec<(usize, Region)>,
    /// Columns that share a scale of the activations; `None` = one scale per token.
    pub act_group: Option<usize>,
    context_tokens: usize,
    /// Bytes of `layers`.
    pub layer_bytes: u64,
    /// Bytes of `embed`, `head` and `screen`.
    pub table_bytes: u64,
}

/// Checks the configuration against what the kernels can index: they run without bounds checks.
pub fn check_config(config: &Config) -> Result<()> {
    let fits = |thing: &str, value: usize, range: std::ops::RangeInclusive<usize>| {
        if range.contains(&value) {
            return Ok(());
        }
        let reason = format!("it is {value}, and the GPU kernels take {} to {}", range.start(), range.end());
        Err(Error::unsupported(thing, reason))
    };
    fits("the head size", config.head_dim, 2..=256)?;
    if !config.head_dim.is_multiple_of(2) {
        return Err(Error::unsupported("the head size", format!("it is {}, which is odd", config.head_dim)));
    }
    fits("the number of key/value heads", config.kv_heads, 1..=config.heads)?;
    if !config.heads.is_multiple_of(config.kv_heads) {
        let reason = format!("{} heads do not share {} key/value heads evenly", config.heads, config.kv_heads);
        return Err(Error::unsupported("the number of heads", reason));
    }
    fits("the number of heads", config.heads + 2 * config.kv_heads, 1..=65535)?;
    fits("the rotated part of a head", config.rope.dims, 0..=config.head_dim)?;
    if !config.rope.dims.is_multiple_of(2) {
        return Err(Error::unsupported(
            "the rotated part of a head",
            format!("it is {}, which is odd", config.rope.dims),
        ));
    }
    // 65535 columns keep the sums of the ternary products below 2^24, where f32 is exact.
    fits("the width of the model", config.dim, 1..=65535)?;
    fits("the width of the feed-forward block", config.ffn_dim, 1..=65535)?;
    fits("the width of all heads", Slot::Q.width(config), 1..=65535)?;
    let unit = |thing: &str, value: usize, unit: usize| {
        if value.is_multiple_of(unit) {
            return Ok(());
        }
        Err(Error::unsupported(thing, format!("it is {value}, and the GPU kernels take multiples of {unit}")))
    };
    if config.rotation.is_some() {
        unit("the width of a rotated model", config.dim, 4)?;
    }
    if config.has_output_gate() || config.rotation.is_some() {
        unit("the head size of gated or rotated attention", config.head_dim, 4)?;
    }
    if let Some(delta) = &config.delta {
        fits("the head size of a DeltaNet", delta.head_dim, 16..=256)?;
        unit("the head size of a DeltaNet", delta.head_dim, 16)?;
        fits("the width of a DeltaNet's values", delta.value_width(), 1..=65535)?;
        fits("the channels of a DeltaNet", delta.channels(), 1..=1 << 22)?;
    }
    Ok(())
}

fn check_linear(layer: usize, role: Linear, block: &Block, config: &Config) -> Result<()> {
    let matrix = block.linear(role);
    let thing = || format!("{role:?} of layer {layer}");
    let (rows, cols) = config.linear_shape(role);
    if (matrix.rows, matrix.cols) != (rows, cols) {
        return Err(Error::malformed(
            thing(),
            format!("{rows} x {cols}"),
            format!("{} x {}", matrix.rows, matrix.cols),
        ));
    }
    matrix.check().map_err(|e| Error::malformed(thing(), "whole rows", e.to_string()))
}

fn check_dense(what: &str, matrix: &DenseMatrix, (rows, cols): (usize, usize)) -> Result<()> {
    if (matrix.rows, matrix.cols) != (rows, cols) {
        let found = format!("{} x {}", matrix.rows, matrix.cols);
        return Err(Error::malformed(what, format!("{rows} x {cols}"), found));
    }
    DenseView::new(matrix.rows, matrix.cols, &matrix.data, matrix.ty)
        .map_err(|e| Error::malformed(what, "whole rows", e.to_string()))?;
    if !pipelines::reads(matrix.ty) {
        return Err(Error::unsupported(what, format!("the GPU kernels do not read {:?}", matrix.ty)));
    }
    if !matrix.cols.is_multiple_of(2) {
        return Err(Error::unsupported(what, format!("{} columns: the GPU kernels read pairs", matrix.cols)));
    }
    Ok(())
}

impl Weights {
    /// Checks every tensor of the segment against the configuration and gives it a place.
    pub fn place(layout: &mut Layout, model: &Model, graph: &Graph, segment: &Segment, sizes: &Sizes) -> Result<Self> {
        let (config, weights) = (&model.config, &model.weights);
        check_config(config)?;
        let act_group = weights.act_group();
        let rotation = config.rotation.as_ref();
        let mut layers = Vec::new();
        for layer in segment.layers.clone() {
            let block =
                weights.blocks.get(layer).ok_or_else(|| Error::missing(format!("layer {layer}"), "the model"))?;
            layers.push(LayerWeights::place(layout, layer, block, &graph.layer(layer).ops, config, act_group)?);
        }

        let layer_bytes = layout.bytes();
        let mut dense = |what: &str, matrix: &DenseMatrix| {
            check_dense(what, matrix, (config.vocab, config.dim))?;
            layout.place(what, matrix.rows, matrix.ty.row_bytes(matrix.cols) as u64)
        };
        let embed = if segment.embed { Some(dense("the embedding table", &weights.token_embd)?) } else { None };
        let head = match (&embed, &weights.output) {
            _ if !segment.head => None,
            (Some(shared), None) => Some(shared.clone()),
            _ => Some(dense("the output head", weights.head())?),
        };
        // What the copy finds is bounded without a rotation; a ternary head is small anyway.
        let screen = if segment.head && sizes.head_screen && rotation.is_none_or(|rotation| !rotation.head) {
            let row_bytes = copy_row_bytes(config.dim) as u64;
            Some(layout.place("the copy of the output head", config.vocab, row_bytes)?)
        } else {
            None
        };
        let table_bytes = layout.bytes() - layer_bytes;
        let output_norm = if segment.head {
            Some(place_norm(layout, config, "the output norm", Norm::Output, &weights.output_norm)?)
        } else {
            None
        };

        let head_norm = match weights.head_norm.as_ref().filter(|_| segment.head) {
            Some(norm) => Some(place_norm(layout, config, "the norm of the head's input", Norm::HeadIn, norm)?),
            None => None,
        };

        let mut factors = Vec::new();
        if let Some(rotation) = rotation {
            let folded = rotation.folded.iter().flatten().map(|&role| config.linear_shape(role).1);
            for cols in folded.chain([config.dim]) {
                if factors.iter().all(|(known, _)| *known != cols) {
                    let region = layout.place(&format!("the rotation of {cols} columns"), 1, 4 * cols as u64)?;
                    factors.push((cols, region));
                }
            }
        }
        let rope = &config.rope;
        let rope_factors = weights.rope_factors.as_deref();
        if let Some(found) = rope_factors.filter(|f| f.len() != rope.dims / 2) {
            return Err(Error::malformed("rope_freqs.weight", rope.dims / 2, found.len()));
        }
        // Never empty, so that it can be bound for models without rotation.
        let rope_bytes = (4 * sizes.context_tokens as u64 * rope.dims as u64).max(4);
        let rope = layout.place("the table of rotations", 1, rope_bytes);
        let rope = rope.map_err(|error| error.with_remedy(Remedy::LowerContext))?;
        let context_tokens = sizes.context_tokens;
        Ok(Self {
            layers,
            embed,
            head,
            screen,
            output_norm,
            head_norm,
            rope,
            factors,
            act_group,
            context_tokens,
            layer_bytes,
            table_bytes,
        })
    }

    /// Copies everything to the device.
    pub fn upload(
        &self,
        gpu: &Gpu,
        arenas: &Arenas,
        model: &Model,
        segment: &Segment,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let (config, weights) = (&model.config, &model.weights);
        let rotation = config.rotation.as_ref();
        let mut uploader = Uploader::new(gpu, arenas, progress)?;
        for (layer, placed) in segment.layers.clone().zip(&self.layers) {
            let block = &weights.blocks[layer];
            for (role, region) in &placed.norms {
                uploader.write(region, &[bytemuck::cast_slice(block.norm(*role).unwrap_or_default())])?;
            }
            for (role, region) in &placed.rotated {
                let values = rotation.zip(block.norm(*role)).map(|(rotation, norm)| rotated_norm(rotation, norm));
                uploader.write(region, &[bytemuck::cast_slice(&values.unwrap_or_default())])?;
            }
            if let (Some(regions), Some(shape), Some(delta)) = (&placed.delta, &config.delta, block.delta()) {
                regions.upload(&mut uploader, shape, delta)?;
            }
            if let (Some((inputs, output)), Some(bias)) = (&placed.bias, block.bias()) {
                let (of_inputs, of_output) = bias.split_at(qkv_width(config));
                uploader.write(inputs, &[bytemuck::cast_slice(of_inputs)])?;
                if let Some(output) = output {
                    uploader.write(output, &[bytemuck::cast_slice(of_output)])?;
                }
            }
            for joined in &placed.joined {
                // One dispatch at a time: what is decoded is in memory until it is on the device.
                let parts = joined.parts.iter().map(|part| model.packed(layer, part.weight, Codes::I2sP128));
                let plain: Vec<PackedMatrix> = parts.collect::<Result<_>>()?;
                let codes: Vec<&[u8]> = plain.iter().map(|matrix| &*matrix.codes).collect();
                uploader.write(&joined.region, &codes)?;
                joined.parts.iter().for_each(|part| block.linear(part.weight).source().release());
                if let JoinedScales::Stored { region, .. } = &joined.scales {
                    let scales: Vec<u8> = plain.iter().flat_map(stored_scales).collect();
                    uploader.write(region, &[&scales])?;
                }
            }
        }
        if let Some(region) = &self.screen {
            upload_copy(&mut uploader, region, weights.head())?;
        }
        if let Some(region) = &self.embed {
            uploader.write(region, &[&weights.token_embd.data])?;
            weights.token_embd.data.release();
        }
        if let Some(region) = self.head.as_ref().filter(|head| Some(*head) != self.embed.as_ref()) {
            uploader.write(region, &[&weights.head().data])?;
            weights.head().data.release();
        }
        if let Some(region) = &self.output_norm {
            let rotated = rotation.filter(|rotation| rotation.head).map(|of| rotated_norm(of, &weights.output_norm));
            uploader.write(region, &[bytemuck::cast_slice(rotated.as_ref().unwrap_or(&weights.output_norm))])?;
        }
        if let (Some(region), Some(norm)) = (&self.head_norm, &weights.head_norm) {
            uploader.write(region, &[bytemuck::cast_slice(norm)])?;
        }
        for (cols, region) in &self.factors {
            let values = rotation.map(|rotation| factors(rotation, *cols)).unwrap_or_default();
            uploader.write(region, &[bytemuck::cast_slice(&values)])?;
        }
        let table = model.rope_table(self.context_tokens, self.context_tokens);
        let (cos, sin) = table.data();
        if !cos.is_empty() {
            uploader.write(&self.rope, &[bytemuck::cast_slice(cos), bytemuck::cast_slice(sin)])?;
        }
        uploader.finish()
    }
}

fn place_joined(
    layout: &mut Layout,
    layer: usize,
    block: &Block,
    parts: &[Part],
    act_group: Option<usize>,
) -> Result<Joined> {
    let matrices: Vec<_> = parts.iter().map(|part| block.linear(part.weight)).collect();
    let cols = matrices[0].cols;
    if let Some(other) = matrices.iter().find(|m| m.cols != cols) {
        return Err(Error::malformed(format!("layer {layer}"), format!("{cols} columns"), other.cols));
    }
    let rows: Vec<usize> = matrices.iter().map(|m| m.rows).collect();
    let row_bytes = ternary_bytes(Codes::I2sP128, 1, cols) as u64;
    let what = format!("{:?} of layer {layer}", parts[0].weight);
    let region = layout.place(&what, rows.iter().sum(), row_bytes)?;
    let scales = JoinedScales::place(layout, &what, &matrices, act_group)?;
    Ok(Joined { parts: parts.to_vec(), rows, scales, cols, region })
}
