//! The dense tables: ids to hidden states, and the output head in full.

use super::lowering::{Lowering, MAX_WORKGROUPS, all, place_code};
use crate::{
    backend::gpu::{
        buffers::arenas::Region,
        kernels::{
            params,
            pipelines::{Program, Shader, Variant},
        },
        record::encode::{Dispatch, Extent},
    },
    error::Result,
    model::{DenseMatrix, Norm},
};

/// A norm before the head, and what it reads.
#[derive(Clone, Copy)]
pub struct HeadNorm<'a> {
    pub role: Norm,
    pub weight: &'a Region,
    /// (tokens, dim)
    pub from: &'a wgpu::Buffer,
}

impl<'a> Lowering<'a> {
    /// The rows of the embedding table, one dispatch a window; and their rotation, where there is one.
    pub fn embed(&mut self, table: &DenseMatrix, region: &'a Region) -> Result<Vec<Dispatch>> {
        let (config, activations) = (self.config, self.activations);
        let to = if config.rotation.is_some() { &activations.stream } else { &activations.hidden };
        let mut out = Vec::new();
        for window in self.windows(region, usize::MAX)? {
            let params = params::Embed {
                rows: window.rows.len() as u32,
                row0: window.rows.start as u32,
                cols: config.dim as u32,
                row_bytes: table.ty.row_bytes(config.dim) as u32,
                table0: window.before_bytes as u32,
                stride: config.dim as u32,
                place: place_code(0),
                scale: config.embedding_scale(),
                ..Default::default()
            };
            let shader = Shader::Embed;
            let variant = Variant::new(shader, self.builder.gpu.choices(), Some(table.ty));
            let buffers = [all(&activations.batch), window.binding, all(to)];
            let workgroups = config.dim.div_ceil(2 * Program::from(shader).workgroup() as usize);
            let grid = [Extent::Fixed(workgroups), Extent::PerTokens(1), Extent::Fixed(1)];
            out.push(self.builder.dispatch(variant, &[], params, &buffers, grid)?);
        }
        if config.rotation.is_some() {
            out.push(self.rotate_embeddings(place_code(0))?);
        }
        Ok(out)
    }

    /// The norm of the head's input.
    pub fn last_norm(&self) -> Option<HeadNorm<'a>> {
        let activations = self.activations;
        let (role, weight, from) = match (&self.weights.head_norm, &self.weights.output_norm) {
            (Some(own), _) => (Norm::HeadIn, own, &activations.stream),
            (None, Some(output)) => (Norm::Output, output, &activations.hidden),
            (None, None) => return None,
        };
        Some(HeadNorm { role, weight, from })
    }

    /// The output norm of all tokens behind the last layer, where the head has a norm of its own.
    pub fn norm_before_last(&mut self) -> Result<Option<Dispatch>> {
        let (weights, activations) = (self.weights, self.activations);
        let (Some(weight), Some(_)) = (&weights.output_norm, &weights.head_norm) else { return Ok(None) };
        let norm = HeadNorm { role: Norm::Output, weight, from: &activations.hidden };
        self.norm_to(norm, &activations.stream).map(Some)
    }

    /// That norm, for the tokens whose logits are wanted; rotated where the head is.
    pub fn head_norm(&mut self, norm: HeadNorm<'a>) -> Result<Dispatch> {
        if self.config.rotation.as_ref().is_some_and(|rotation| rotation.head) {
            return self.rotated_head_norm(norm.weight, place_code(self.config.layers + 1));
        }
        self.norm_to(norm, &self.activations.normed)
    }

    fn norm_to(&mut self, norm: HeadNorm<'a>, to: &'a wgpu::Buffer) -> Result<Dispatch> {
        let (config, activations) = (self.config, self.activations);
        let params = params::RmsNorm {
            cols: config.dim as u32,
            stride: config.dim as u32,
            eps: config.eps(norm.role),
            place: place_code(config.layers + 1),
            ..Default::default()
        };
        let weight = self.whole("the output norm", norm.weight)?;
        let buffers = [all(norm.from), weight, all(to), all(&activations.batch)];
        let grid = [Extent::Fixed(1), Extent::PerTokens(1), Extent::Fixed(1)];
        let variant = self.builder.variant(Shader::RmsNorm);
        self.builder.dispatch(variant, &[], params, &buffers, grid)
    }

    /// The head behind that norm, one dispatch a window; `tile` tokens share a reading of the weights.
    pub fn head(&mut self, table: &DenseMatrix, region: &'a Region, tile: u32) -> Result<Vec<Dispatch>> {
        let (config, activations) = (self.config, self.activations);
        let shader = Shader::Head;
        let rows_per_workgroup = Program::from(shader).workgroup() as usize / 16;
        let mut out = Vec::new();
        for window in self.windows(region, MAX_WORKGROUPS * rows_per_workgroup)? {
            let params = params::Head {
                rows: window.rows.len() as u32,
                row0: window.rows.start as u32,
                cols: config.dim as u32,
                row_bytes: table.ty.row_bytes(config.dim) as u32,
                table0: window.before_bytes as u32,
                vocab: config.vocab as u32,
                place: place_code(config.layers + 1),
                ..Default::default()
            };
            let variant = Variant::new(shader, self.builder.gpu.choices(), Some(table.ty));
            let rows = window.rows.len();
            let buffers = [all(&activations.normed), window.binding, all(&activations.logits), all(&activations.batch)];
            let grid = [Extent::Fixed(rows.div_ceil(rows_per_workgroup)), Extent::PerTokens(tile), Extent::Fixed(1)];
            out.push(self.builder.dispatch(variant, &[("TILE", f64::from(tile))], params, &buffers, grid)?);
        }
        Ok(out)
    }
}
