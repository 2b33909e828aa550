//! Ops that are kernels of their own, from their parameters to their grids.

use super::{
    lowering::{Lowering, activation_constant, all, flag},
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
    graph::op::{Op, Slot},
    model::{Activation, Norm},
};

impl<'a> Lowering<'a> {
    /// The dispatch of a plain step, see [`super::fuse::Step::Plain`].
    pub fn plain(&mut self, op: &Op, weights: &'a LayerWeights, place: u32) -> Result<Dispatch> {
        match op {
            &Op::Norm { input, norm, out, add } => self.slot_norm((input, out), norm, add, weights, place),
            Op::Gate(activation) => self.gate(*activation),
            Op::Bias => self.bias(weights),
            Op::OutputBias => self.output_bias(weights),
            // Those that fuse, where they stand so that they cannot.
            Op::NormQuantize { .. }
            | Op::RotateQuantize { .. }
            | Op::Linear { .. }
            | Op::HeadNorm { .. }
            | Op::Rope
            | Op::Attention
            | Op::SplitGate
            | Op::Dense { .. }
            | Op::Rotate { .. }
            | Op::Append
            | Op::OutputGate
            | Op::DeltaGates
            | Op::DeltaConv
            | Op::DeltaRule
            | Op::DeltaNorm { .. } => {
                Err(Error::unsupported(format!("{op:?} inside a block"), "the GPU has no kernel for it"))
            }
        }
    }

    /// Norm of a slot as wide as the residual stream, into another one of that width.
    fn slot_norm(
        &mut self,
        (input, out): (Slot, Slot),
        norm: Norm,
        add: bool,
        weights: &'a LayerWeights,
        place: u32,
    ) -> Result<Dispatch> {
        let (config, activations) = (self.config, self.activations);
        let params = params::RmsNorm {
            cols: config.dim as u32,
            stride: config.dim as u32,
            eps: config.eps(norm),
            place,
            ..Default::default()
        };
        let (from, to) = (activations.place(config, input).buffer, activations.place(config, out).buffer);
        let buffers = [all(from), self.norm(Some(norm), weights)?, all(to), all(&activations.batch)];
        let grid = [Extent::Fixed(1), Extent::PerTokens(1), Extent::Fixed(1)];
        let variant = self.builder.variant(Shader::RmsNorm);
        self.builder.dispatch(variant, &[("ADD", flag(add))], params, &buffers, grid)
    }

    /// Queries, keys and values lie one after the other, as their biases do.
    fn bias(&mut self, weights: &'a LayerWeights) -> Result<Dispatch> {
        let region = weights.bias.as_ref().map(|(inputs, _)| inputs);
        let region = region.ok_or_else(|| Error::missing("the biases of q, k and v", "the layer"))?;
        self.added_bias(Slot::Q, qkv_width(self.config), region)
    }

    fn output_bias(&mut self, weights: &'a LayerWeights) -> Result<Dispatch> {
        let region = weights.bias.as_ref().and_then(|(_, output)| output.as_ref());
        let region = region.ok_or_else(|| Error::missing("the bias of attention's output", "the layer"))?;
        self.added_bias(Slot::Hidden, self.config.dim, region)
    }

    /// Adds numbers to so many columns from those of a slot on.
    fn added_bias(&mut self, slot: Slot, cols: usize, region: &'a Region) -> Result<Dispatch> {
        let place = self.activations.place(self.config, slot);
        let params = params::AddBias { cols: cols as u32, stride: place.stride as u32, ..Default::default() };
        let shader = Shader::AddBias;
        let workgroups = cols.div_ceil(Program::from(shader).workgroup() as usize);
        let buffers = [all(place.buffer), self.whole("the biases", region)?];
        let grid = [Extent::Fixed(workgroups), Extent::PerTokens(1), Extent::Fixed(1)];
        let variant = self.builder.variant(shader);
        self.builder.dispatch(variant, &[], params, &buffers, grid)
    }

    fn gate(&mut self, activation: Activation) -> Result<Dispatch> {
        let (config, activations) = (self.config, self.activations);
        let (gate, up) = (activations.place(config, Slot::Gate), activations.place(config, Slot::Up));
        let params = params::GateUp {
            cols: config.ffn_dim as u32,
            stride: gate.stride as u32,
            gate_offset: gate.offset as u32,
            up_offset: up.offset as u32,
            ..Default::default()
        };
        let shader = Shader::GateUp;
        let workgroups = config.ffn_dim.div_ceil(Program::from(shader).workgroup() as usize);
        let constants = [("GATE", activation_constant(activation))];
        let grid = [Extent::Fixed(workgroups), Extent::PerTokens(1), Extent::Fixed(1)];
        let variant = self.builder.variant(shader);
        self.builder.dispatch(variant, &constants, params, &[all(gate.buffer)], grid)
    }
}
