//! Rotations of activations: with the quantisation that they go before, of embeddings, and before the output head.

use super::{
    fuse::Quantize,
    lowering::{Lowering, all, flag},
    product::words,
    weights::LayerWeights,
};
use crate::{
    backend::gpu::{
        buffers::{arenas::Region, shape::qkv_width},
        kernels::{
            params,
            pipelines::{Program, Shader},
        },
        record::encode::{Dispatch, Extent},
    },
    error::{Error, Result},
    model::Norm,
};

/// Columns of a tile: what a workgroup transforms at once.
fn tile_columns(shader: Shader) -> usize {
    4 * Program::from(shader).workgroup() as usize
}

/// Tiles of a row of int8.
pub fn tiles(shader: Shader, cols: usize) -> usize {
    (4 * words(cols)).div_ceil(tile_columns(shader))
}

impl<'a> Lowering<'a> {
    /// Columns that are transformed together, as the constant of common/rotate.wgsl.
    pub fn block(&self, rotated: bool) -> f64 {
        let rotation = self.config.rotation.as_ref().filter(|_| rotated);
        rotation.map_or(1.0, |rotation| rotation.block as f64)
    }

    /// The factors of a rotation of so many columns, times the weights of a norm where there is one.
    pub fn rotated_weight(
        &self,
        norm: Option<Norm>,
        cols: usize,
        weights: &'a LayerWeights,
    ) -> Result<wgpu::BufferBinding<'a>> {
        let region = match norm {
            Some(role) => weights.rotated.iter().find(|(of, _)| *of == role).map(|(_, region)| region),
            None => self.weights.factors.iter().find(|(width, _)| *width == cols).map(|(_, region)| region),
        };
        let missing = || Error::missing(format!("the rotation of {cols} columns with norm {norm:?}"), "the layer");
        self.whole("a rotation", region.ok_or_else(missing)?)
    }

    /// The group of the quantised activations, which these kernels need.
    pub fn act_group(&self) -> Result<usize> {
        self.weights.act_group.ok_or_else(|| {
            let reason = "the GPU kernels quantise rotated and gated activations in groups";
            Error::unsupported("one scale for a whole row", reason)
        })
    }

    pub fn rotate_quantize(&mut self, quantize: Quantize, weights: &'a LayerWeights, place: u32) -> Result<Dispatch> {
        let (activations, config) = (self.activations, self.config);
        let (input, cols, in_stride, in_offset) = self.input(quantize.input);
        let group = self.act_group()?;
        let params = params::RotateQuantize {
            cols: cols as u32,
            words: words(cols) as u32,
            in_stride: in_stride as u32,
            in_offset: in_offset as u32,
            groups: (cols / group) as u32,
            eps: self.eps(quantize.norm),
            place,
            gate_stride: qkv_width(config) as u32,
            ..Default::default()
        };
        let weight = self.weight(quantize, weights)?;
        // Without gates anything that no dispatch of a block writes.
        let gates = if quantize.opened { all(&activations.qkv) } else { self.rotations()? };
        let buffers =
            [all(input), weight, all(&activations.xq), all(&activations.acts), all(&activations.batch), gates];
        let mut constants = self.quantize_constants(quantize);
        constants.push(("GROUP", group as f64));
        if quantize.opened {
            constants.push(("GATE_DIM", config.head_dim as f64));
        }
        let shader = Shader::RotateQuantize;
        let variant = self.builder.variant(shader.reading(quantize.input.of_kernel()));
        let grid = [Extent::Fixed(tiles(shader, cols)), Extent::PerTokens(1), Extent::Fixed(1)];
        self.builder.dispatch(variant, &constants, params, &buffers, grid)
    }

    /// Embeddings back into the basis of the residual stream, from the place of normed ones.
    pub fn rotate_embeddings(&mut self, place: u32) -> Result<Dispatch> {
        let factors = self.weights.factors.iter().find(|(width, _)| *width == self.config.dim);
        let (_, factors) = factors.ok_or_else(|| Error::missing("the rotation of embeddings", "the model"))?;
        let (stream, hidden) = (&self.activations.stream, &self.activations.hidden);
        self.rotate((stream, hidden), factors, &[("NORM", 0.0), ("INVERSE", flag(true))], place)
    }

    /// The final norm of the tokens whose logits are wanted, rotated; `norm` has the factors of the rotation.
    pub fn rotated_head_norm(&mut self, norm: &'a Region, place: u32) -> Result<Dispatch> {
        let (hidden, normed) = (&self.activations.hidden, &self.activations.normed);
        self.rotate((hidden, normed), norm, &[("NORM", flag(true)), ("INVERSE", 0.0)], place)
    }

    fn rotate(
        &mut self,
        (input, out): (&'a wgpu::Buffer, &'a wgpu::Buffer),
        weight: &'a Region,
        constants: &[(&'static str, f64)],
        place: u32,
    ) -> Result<Dispatch> {
        let cols = self.config.dim;
        let params = params::Rotate {
            cols: cols as u32,
            in_stride: cols as u32,
            eps: self.config.rms_eps,
            place,
            ..Default::default()
        };
        let buffers = [all(input), self.whole("a rotation", weight)?, all(out), all(&self.activations.batch)];
        let mut constants = constants.to_vec();
        constants.push(("BLOCK", self.block(true)));
        let shader = Shader::Rotate;
        let variant = self.builder.variant(shader);
        let grid = [Extent::Fixed(cols.div_ceil(tile_columns(shader))), Extent::PerTokens(1), Extent::Fixed(1)];
        self.builder.dispatch(variant, &constants, params, &buffers, grid)
    }
}
