//! The weights of a segment on the device: checked, placed, uploaded as they lie in the file.

use bitnet_cpu_kernels::format::{DenseView, Layout as Codes, MatrixScales, ternary_bytes};
use half::f16;

use super::fuse::joined;
use crate::{
    backend::gpu::{
        buffers::{
            arenas::{Arenas, Layout, Region, Uploader},
            head_copy::{copy_row_bytes, upload_copy},
        },
        device::Gpu,
        kernels::pipelines,
    },
    error::{Error, Remedy, Result},
    graph::op::{Op, Part, Slot},
    model::{Block, Config, DenseMatrix, Linear, Model, Norm, PackedMatrix, TernaryMatrix, TernaryScales},
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
}

impl LayerWeights {
    pub fn norm(&self, role: Norm) -> Option<&Region> {
        self.norms.iter().find(|(have, _)| *have == role).map(|(_, region)| region)
    }
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
    /// (positions, half) cosines, then sines.
    pub rope: Region,
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
    fits("the width of all heads", Slot::Q.width(config), 1..=65535)
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

fn check_dense(what: &str, matrix: &DenseMatrix, config: &Config) -> Result<()> {
    if (matrix.rows, matrix.cols) != (config.vocab, config.dim) {
        return Err(Error::malformed(
            what,
            format!("{} x {}", config.vocab, config.dim),
            format!("{} x {}", matrix.rows, matrix.cols),
        ));
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
    pub fn place(layout: &mut Layout, model: &Model, ops: &[Op], segment: &Segment, sizes: &Sizes) -> Result<Self> {
        let (config, weights) = (&model.config, &model.weights);
        check_config(config)?;
        let norm_region = |layout: &mut Layout, what: &str, role: Norm, values: &[f32]| {
            if values.len() != config.norm_len(role) {
                return Err(Error::malformed(what, config.norm_len(role), values.len()));
            }
            layout.place(what, 1, 4 * values.len() as u64)
        };
        let act_group = weights.act_group();
        let mut layers = Vec::new();
        for layer in segment.layers.clone() {
            let block =
                weights.blocks.get(layer).ok_or_else(|| Error::missing(format!("layer {layer}"), "the model"))?;
            let mut placed = LayerWeights { joined: Vec::new(), norms: Vec::new() };
            for role in Norm::BLOCK {
                if let Some(values) = block.norm(role) {
                    let what = format!("norm {role:?} of layer {layer}");
                    placed.norms.push((role, norm_region(layout, &what, role, values)?));
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
            layers.push(placed);
        }

        let layer_bytes = layout.bytes();
        let mut dense = |what: &str, matrix: &DenseMatrix| {
            check_dense(what, matrix, config)?;
            layout.place(what, matrix.rows, matrix.ty.row_bytes(matrix.cols) as u64)
        };
        let embed = if segment.embed { Some(dense("the embedding table", &weights.token_embd)?) } else { None };
        let head = match (&embed, &weights.output) {
            _ if !segment.head => None,
            (Some(shared), None) => Some(shared.clone()),
            _ => Some(dense("the output head", weights.head())?),
        };
        let screen = if segment.head && sizes.head_screen {
            let row_bytes = copy_row_bytes(config.dim) as u64;
            Some(layout.place("the copy of the output head", config.vocab, row_bytes)?)
        } else {
            None
        };
        let table_bytes = layout.bytes() - layer_bytes;
        let output_norm = if segment.head {
            Some(norm_region(layout, "the output norm", Norm::Output, &weights.output_norm)?)
        } else {
            None
        };

        let rope = &config.rope;
        let factors = weights.rope_factors.as_deref();
        if let Some(factors) = factors.filter(|f| f.len() != rope.dims / 2) {
            return Err(Error::malformed("rope_freqs.weight", rope.dims / 2, factors.len()));
        }
        // Never empty, so that it can be bound for models without rotation.
        let rope_bytes = (4 * sizes.context_tokens as u64 * rope.dims as u64).max(4);
        let rope = layout.place("the table of rotations", 1, rope_bytes);
        let rope = rope.map_err(|error| error.with_remedy(Remedy::LowerContext))?;
        let context_tokens = sizes.context_tokens;
        Ok(Self { layers, embed, head, screen, output_norm, rope, act_group, context_tokens, layer_bytes, table_bytes })
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
        let weights = &model.weights;
        let mut uploader = Uploader::new(gpu, arenas, progress)?;
        for (layer, placed) in segment.layers.clone().zip(&self.layers) {
            let block = &weights.blocks[layer];
            for (role, region) in &placed.norms {
                uploader.write(region, &[bytemuck::cast_slice(block.norm(*role).unwrap_or_default())])?;
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
            uploader.write(region, &[bytemuck::cast_slice(&weights.output_norm)])?;
        }
        let table = model.rope_table(self.context_tokens);
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
