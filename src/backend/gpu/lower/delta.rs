//! Gated DeltaNets: what they read, their convolution and rule, and their gated norm.

use super::{
    fuse::KernelPhase,
    lowering::{Lowering, all, flag},
    product::words,
    rotate::tiles,
    weights::{DeltaRegions, LayerWeights},
};
use crate::{
    backend::gpu::{
        buffers::{memory::Recurrent, shape::delta_width},
        kernels::{
            params,
            pipelines::{Shader, Variant},
        },
        record::encode::{Dispatch, Extent},
    },
    error::{Error, Result},
    graph::op::Slot,
    model::{DeltaNet, Norm},
};

/// Invocations of a workgroup of the rule: what it holds of S, a fourth as many rows, takes 8 KiB at most.
fn rule_workgroup(head_dim: usize) -> usize {
    if head_dim > 128 { 32 } else { 64 }
}

/// Workgroups and constants of the rule of so many value heads.
pub fn rule_constants(value_heads: usize, delta: &DeltaNet) -> (usize, [(&'static str, f64); 4]) {
    let dim = delta.head_dim;
    let workgroup = rule_workgroup(dim);
    let constants = [
        ("WG", workgroup as f64),
        ("DIM", dim as f64),
        ("KERNEL", delta.kernel as f64),
        ("HELD", (workgroup * dim / 16) as f64),
    ];
    (value_heads * dim / (workgroup / 4), constants)
}

impl<'a> Lowering<'a> {
    fn delta(&self) -> Result<&'a DeltaNet> {
        self.config.delta.as_ref().ok_or_else(|| Error::missing("the heads of a DeltaNet", "the configuration"))
    }

    /// The norm and quantisation of the residual stream, and the gates of each value head.
    pub fn delta_input(
        &mut self,
        norm: Norm,
        rotated: bool,
        weights: &'a LayerWeights,
        place: u32,
    ) -> Result<Dispatch> {
        let (config, activations, delta) = (self.config, self.activations, self.delta()?);
        let regions = regions(weights)?;
        let (cols, group, heads) = (config.dim, self.act_group()?, delta.value_heads);
        let params = params::DeltaInput {
            cols: cols as u32,
            words: words(cols) as u32,
            in_stride: cols as u32,
            groups: (cols / group) as u32,
            eps: config.rms_eps,
            place,
            heads: heads as u32,
            row_bytes: regions.gates_type.row_bytes(cols) as u32,
            ..Default::default()
        };
        let plain = self.norm(Some(norm), weights)?;
        let weight = if rotated { self.rotated_weight(Some(norm), cols, weights)? } else { plain.clone() };
        let buffers = [
            all(&activations.hidden),
            weight,
            all(&activations.xq),
            all(&activations.acts),
            all(&activations.batch),
            plain,
            self.whole("the gates of a DeltaNet", &regions.gates)?,
            all(&activations.gates),
        ];
        let constants = [("NORM", 1.0), ("BLOCK", self.block(rotated)), ("GROUP", group as f64)];
        let shader = Shader::DeltaInput;
        let variant = Variant::new(shader, self.builder.gpu.choices(), Some(regions.gates_type));
        let grid = [Extent::Fixed(tiles(shader, cols) + heads), Extent::PerTokens(1), Extent::Fixed(1)];
        self.builder.dispatch(variant, &constants, params, &buffers, grid)
    }

    /// The convolution and the delta rule.
    pub fn delta_step(
        &mut self,
        weights: &'a LayerWeights,
        recurrent: &'a Recurrent,
        phase: KernelPhase,
        place: u32,
    ) -> Result<Dispatch> {
        let (activations, delta) = (self.activations, self.delta()?);
        let params = params::DeltaStep {
            key_heads: delta.key_heads as u32,
            value_heads: delta.value_heads as u32,
            stride: (delta_width(self.config) / 4) as u32,
            context: self.sizes.context_tokens as u32,
            place,
            ..Default::default()
        };
        let buffers = [
            all(&activations.delta),
            all(&activations.gates),
            self.whole("the convolution of a DeltaNet", &regions(weights)?.weights)?,
            all(&recurrent.conv),
            all(&recurrent.memory),
            all(&activations.delta_out),
            all(&activations.batch),
        ];
        let (workgroups, constants) = rule_constants(delta.value_heads, delta);
        // Of several sequences each begins at a token of its own; many tokens are of one.
        let sequences = if phase == KernelPhase::Prefill { Extent::Fixed(1) } else { Extent::PerTokens(1) };
        let grid = [Extent::Fixed(workgroups), sequences, Extent::Fixed(1)];
        let variant = self.builder.variant(Shader::DeltaStep);
        self.builder.dispatch(variant, &constants, params, &buffers, grid)
    }

    /// The gated norm, quantised; and what the next step's convolution needs of this one.
    pub fn delta_norm(
        &mut self,
        (grouped, rotated): (bool, bool),
        weights: &'a LayerWeights,
        recurrent: &'a Recurrent,
        place: u32,
    ) -> Result<Dispatch> {
        let (config, activations, delta) = (self.config, self.activations, self.delta()?);
        let (cols, group) = (delta.value_width(), self.act_group()?);
        let params = params::DeltaNorm {
            cols: cols as u32,
            words: words(cols) as u32,
            groups: (cols / group) as u32,
            eps: config.rms_eps,
            place,
            key_heads: delta.key_heads as u32,
            value_heads: delta.value_heads as u32,
            stride: delta_width(config) as u32,
            z_offset: Slot::DeltaQkv.width(config) as u32,
            context: self.sizes.context_tokens as u32,
            ..Default::default()
        };
        // Without a rotation anything that no dispatch of a block writes.
        let weight = if rotated { self.rotated_weight(None, cols, weights)? } else { self.rotations()? };
        let buffers = [
            all(&activations.delta_out),
            weight,
            all(&activations.xq),
            all(&activations.acts),
            all(&activations.batch),
            self.norm(Some(Norm::DeltaHead), weights)?,
            all(&activations.delta),
            all(&recurrent.conv),
        ];
        let constants = [
            ("DIM", delta.head_dim as f64),
            ("KERNEL", delta.kernel as f64),
            ("BLOCK", self.block(rotated)),
            ("GROUP", group as f64),
            ("GROUPED", flag(grouped)),
        ];
        let shader = Shader::DeltaNorm;
        let variant = self.builder.variant(shader);
        let kept = delta.channels().div_ceil(variant.program.workgroup() as usize);
        let grid = [Extent::Fixed(tiles(shader, cols) + kept), Extent::PerTokens(1), Extent::Fixed(1)];
        self.builder.dispatch(variant, &constants, params, &buffers, grid)
    }
}

fn regions(weights: &LayerWeights) -> Result<&DeltaRegions> {
    weights.delta.as_ref().ok_or_else(|| Error::missing("the tensors of a DeltaNet", "the layer"))
}
