//! From op lists to dispatches. Everything a step needs is made here, once, at load.
//!
//! Which ops become one dispatch is decided by [`fuse`]; matrices whose outputs lie together are multiplied by one.

mod attention;

use std::ops::Range;

use bitnet_cpu_kernels::format::I2S_BLOCK;
use half::f16;

use super::{
    buffers::{Arenas, Region, Window},
    encode::{Builder, Dispatch, Extent},
    fuse::{self, Input, Phase, Quantize, Rules, SlotNorm, Step},
    params::{self, Params},
    pipelines::{Shader, Variant},
    slots::{Slots, too_large},
    weights::{Group, GroupScales, LayerWeights, Weights},
};
use crate::{
    error::{Error, Result},
    graph::op::{Op, Slot},
    model::{Activation, Config, DenseMatrix, Norm},
    plan::Sizes,
};

/// Codes of places for the word that finite.wgsl writes: the earliest place has the largest one.
pub(super) fn place_code(place: usize) -> u32 {
    u32::MAX - place as u32
}

/// What is wrong where, from that word; `None` when nothing is.
pub(super) fn damaged_place(word: u32, layers: usize) -> Option<String> {
    match (word != 0).then(|| (u32::MAX - word) as usize)? {
        0 => Some("the embedding".to_owned()),
        place if place <= layers => Some(format!("layer {}", place - 1)),
        _ => Some("the output head".to_owned()),
    }
}

/// Most workgroups in one dimension.
pub(super) const MAX_WORKGROUPS: usize = 65535;
/// Rows of a product in one dispatch: every kernel takes at least 16 rows a workgroup.
const MAX_ROWS: usize = 16 * MAX_WORKGROUPS;

/// u32 of a row of int8: whole blocks of codes.
fn words(cols: usize) -> usize {
    cols.next_multiple_of(I2S_BLOCK) / 4
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

fn activation_constant(activation: Activation) -> f64 {
    match activation {
        Activation::Relu2 => 1.0,
        Activation::Silu => 2.0,
        Activation::GeluTanh => 3.0,
    }
}

/// The key and value cache of a layer.
pub(super) struct LayerCache {
    pub k: wgpu::Buffer,
    pub v: wgpu::Buffer,
}

/// Columns and bytes of the unit that the ternary kernels read codes in.
const QUAD_COLS: usize = 64;
const QUAD_BYTES: usize = QUAD_COLS / 4;

/// Rows of a group of matrices that one dispatch can bind.
struct RowWindow<'a> {
    rows: Range<usize>,
    codes: wgpu::BufferBinding<'a>,
    /// Quads of the binding before the first row.
    codes0: usize,
    /// Where scales are stored: their binding, and the scales in it before the first row.
    scales: Option<(wgpu::BufferBinding<'a>, usize)>,
}

/// Turns ops into dispatches.
pub(super) struct Lowering<'a> {
    pub builder: Builder<'a>,
    pub config: &'a Config,
    pub sizes: &'a Sizes,
    pub slots: &'a Slots,
    pub arenas: &'a Arenas,
    pub weights: &'a Weights,
    /// Most tokens of a step of [`Phase::Few`].
    pub small_batch: usize,
    /// So many layers leave the norm and quantisation before their largest product to a kernel of its own.
    pub apart_layers: usize,
}

/// The most that [`Lowering::apart_layers`] may be of `layers` when a token has so many dispatches beside them: it stays
/// within seven a layer, of which six are there in any case, and six more.
pub(super) fn most_apart(layers: usize, beside: usize) -> usize {
    (layers + 6).saturating_sub(beside).min(layers)
}

pub(super) fn all(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}

impl<'a> Lowering<'a> {
    pub fn windows(&self, region: &Region, max_rows: usize) -> Result<Vec<Window<'a>>> {
        let gpu = self.builder.gpu;
        let windows = self.arenas.windows(region, gpu.max_binding_bytes(), max_rows, gpu.offset_alignment());
        for window in &windows {
            let bytes = window.binding.size.map_or(0, wgpu::BufferSize::get);
            if bytes > gpu.max_binding_bytes() {
                return Err(too_large("a row of weights", bytes, gpu.max_binding_bytes()));
            }
        }
        Ok(windows)
    }

    /// A region that kernels need in one binding: a norm, the table of rotations.
    pub fn whole(&self, what: &str, region: &Region) -> Result<wgpu::BufferBinding<'a>> {
        match &self.windows(region, usize::MAX)?[..] {
            [one] => Ok(one.binding.clone()),
            _ => Err(Error::unsupported(what, "it does not fit in one binding of this GPU")),
        }
    }

    /// The dispatches of one block.
    pub fn layer(
        &mut self,
        ops: &[Op],
        layer: usize,
        weights: &'a LayerWeights,
        cache: &'a LayerCache,
        phase: Phase,
    ) -> Result<Vec<Dispatch>> {
        let place = place_code(layer + 1);
        let windows =
            weights.groups.iter().map(|group| self.row_windows(group, MAX_ROWS)).collect::<Result<Vec<_>>>()?;
        let size = |group: &Group| group.rows.iter().sum::<usize>() * group.cols;
        let largest = (0..weights.groups.len()).rev().max_by_key(|&group| size(&weights.groups[group]));
        let apart = largest.filter(|_| layer < self.apart_layers);
        let rules = Rules {
            phase,
            folds: &|at| {
                let group = weights.groups.get(at).filter(|_| phase == Phase::Decode && Some(at) != apart);
                group.is_some_and(|group| self.folds(group))
            },
            whole: &|group| windows.get(group).is_some_and(|windows| windows.len() == 1),
        };
        let steps = fuse::steps(ops, &rules)?;
        let mut windows = windows.into_iter();
        let mut out = Vec::new();
        for step in steps {
            match step {
                Step::Norm(norm) => out.push(self.slot_norm(norm, weights, place)?),
                Step::Quantize(quantize) => out.push(self.norm_quantize(quantize, weights, place)?),
                Step::Product { group, fold, gate } => {
                    let missing = || Error::missing("a ternary matrix", "the op list");
                    let group = weights.groups.get(group).ok_or_else(missing)?;
                    for window in windows.next().ok_or_else(missing)? {
                        out.push(self.product(group, window, weights, (phase, fold, gate), place)?);
                    }
                }
                Step::RopeAppend(heads) => out.push(self.rope_append(heads, weights, cache, place)?),
                Step::AttentionDecode(heads) => out.push(self.attention_decode(heads, weights, cache, place)?),
                Step::AttentionPrefill => out.push(self.attention_prefill(cache)?),
                Step::Merge => out.push(self.merge()?),
                Step::Gate(activation) => out.push(self.gate(activation)?),
            }
        }
        Ok(out)
    }

    /// Norm of a slot as wide as the residual stream, into another one of that width.
    fn slot_norm(&mut self, step: SlotNorm, weights: &'a LayerWeights, place: u32) -> Result<Dispatch> {
        let (config, slots) = (self.config, self.slots);
        let params = params::RmsNorm {
            cols: config.dim as u32,
            stride: config.dim as u32,
            eps: config.rms_eps,
            place,
            ..Default::default()
        };
        let (from, to) = (slots.place(config, step.input).buffer, slots.place(config, step.out).buffer);
        let buffers = [all(from), self.norm(Some(step.norm), weights)?, all(to), all(&slots.damage)];
        let grid = [Extent::Fixed(1), Extent::PerTokens(1), Extent::Fixed(1)];
        let variant = self.builder.variant(Shader::RmsNorm);
        self.builder.dispatch(variant, &[("ADD", flag(step.add))], params, &buffers, grid)
    }

    /// Whether the product of a group can norm and quantise its input itself: the row of int8 has to fit in the memory
    /// of a workgroup, and kernels quantise in the groups of the weights.
    fn folds(&self, group: &Group) -> bool {
        let acts = match &group.scales {
            GroupScales::PerMatrix(_) => 1,
            GroupScales::Stored { per_row, group: Some(_), .. } => *per_row,
            GroupScales::Stored { group: None, .. } => return false,
        };
        let lanes = Shader::FoldedMatvec.kernel().workgroup as usize * (size_of::<f32>() + size_of::<i32>());
        let bytes = words(group.cols) * size_of::<u32>() + acts * size_of::<[u32; 2]>() + lanes;
        let gpu = self.builder.gpu;
        gpu.folds() && bytes <= gpu.max_workgroup_bytes()
    }

    fn norm(&self, norm: Option<Norm>, weights: &'a LayerWeights) -> Result<wgpu::BufferBinding<'a>> {
        match norm {
            Some(role) => {
                let region = weights.norm(role).ok_or_else(|| Error::missing(format!("norm {role:?}"), "the layer"))?;
                self.whole("a norm", region)
            }
            // Not read: any buffer that no dispatch of a block writes.
            None => Ok(all(&self.slots.ids)),
        }
    }

    /// Where the input of a quantisation lies: buffer, columns, f32 between tokens and before the first.
    fn input(&self, input: Input) -> (&'a wgpu::Buffer, usize, usize, usize) {
        let slots = self.slots;
        match input {
            Input::Slot(slot) => {
                let place = slots.place(self.config, slot);
                (place.buffer, slot.width(self.config), place.stride, place.offset)
            }
            Input::Parts => (&slots.parts, Slot::Attn.width(self.config), 0, 0),
        }
    }

    /// Constants of the kernels that quantise.
    fn quantize_constants(&self, quantize: Quantize) -> Vec<(&'static str, f64)> {
        let mut constants = vec![("NORM", flag(quantize.norm.is_some()))];
        if quantize.input == Input::Parts {
            constants.extend([("HEADS", self.config.heads as f64), ("HEAD_DIM", self.config.head_dim as f64)]);
        }
        constants
    }

    fn norm_quantize(&mut self, quantize: Quantize, weights: &'a LayerWeights, place: u32) -> Result<Dispatch> {
        let slots = self.slots;
        let (from, cols, in_stride, in_offset) = self.input(quantize.input);
        let act_group = self.weights.act_group;
        let params = params::NormQuantize {
            cols: cols as u32,
            words: words(cols) as u32,
            in_stride: in_stride as u32,
            in_offset: in_offset as u32,
            groups: act_group.map_or(1, |size| cols / size) as u32,
            eps: self.config.rms_eps,
            place,
            ..Default::default()
        };
        let weight = self.norm(quantize.norm, weights)?;
        let buffers = [all(from), weight, all(&slots.xq), all(&slots.acts), all(&slots.damage)];
        let mut constants = self.quantize_constants(quantize);
        constants.extend(act_group.map(|size| ("GROUP", size as f64)));
        let shader = match (quantize.input, act_group) {
            (Input::Slot(_), None) => Shader::NormQuantize,
            (Input::Parts, None) => Shader::NormQuantizeParts,
            (Input::Slot(_), Some(_)) => Shader::NormQuantizeGrouped,
            (Input::Parts, Some(_)) => Shader::NormQuantizePartsGrouped,
        };
        let variant = self.builder.variant(shader);
        let grid = [Extent::Fixed(1), Extent::PerTokens(1), Extent::Fixed(1)];
        self.builder.dispatch(variant, &constants, params, &buffers, grid)
    }

    /// The rows of a group of matrices in as many parts as bindings of the codes and of the scales allow.
    fn row_windows(&self, group: &Group, max_rows: usize) -> Result<Vec<RowWindow<'a>>> {
        let codes = self.windows(&group.region, max_rows)?;
        let row_quads = 4 * words(group.cols) / QUAD_COLS;
        let codes0 = |window: &Window, row: usize| {
            window.before_bytes as usize / QUAD_BYTES + (row - window.rows.start) * row_quads
        };
        let GroupScales::Stored { region, per_row, group: size } = &group.scales else {
            let whole = |window: Window<'a>| RowWindow {
                codes0: codes0(&window, window.rows.start),
                rows: window.rows,
                codes: window.binding,
                scales: None,
            };
            return Ok(codes.into_iter().map(whole).collect());
        };
        let scales = self.windows(region, usize::MAX)?;
        let scale_bytes = if size.is_some() { size_of::<f16>() } else { size_of::<f32>() };
        let mut out = Vec::new();
        for codes in &codes {
            for scales in &scales {
                let rows = codes.rows.start.max(scales.rows.start)..codes.rows.end.min(scales.rows.end);
                if !rows.is_empty() {
                    let before = scales.before_bytes as usize / scale_bytes;
                    let scales0 = before + (rows.start - scales.rows.start) * per_row;
                    out.push(RowWindow {
                        codes: codes.binding.clone(),
                        codes0: codes0(codes, rows.start),
                        scales: Some((scales.binding.clone(), scales0)),
                        rows,
                    });
                }
            }
        }
        Ok(out)
    }

    /// The product of a window of a group of matrices.
    fn product(
        &mut self,
        group: &'a Group,
        window: RowWindow<'a>,
        weights: &'a LayerWeights,
        (phase, fold, gate): (Phase, Option<Quantize>, Option<Activation>),
        place: u32,
    ) -> Result<Dispatch> {
        let slots = self.slots;
        let stored = matches!(group.scales, GroupScales::Stored { .. });
        let shader = match (phase, fold.map(|fold| fold.input), stored) {
            (Phase::Prefill, _, false) => Shader::TernaryMatmul,
            (Phase::Prefill, _, true) => Shader::TernaryMatmulGrouped,
            (Phase::Few, _, false) => Shader::TernaryFew,
            (Phase::Few, _, true) => Shader::TernaryFewGrouped,
            (Phase::Decode, None, false) => Shader::TernaryMatvec,
            (Phase::Decode, None, true) => Shader::TernaryMatvecGrouped,
            (Phase::Decode, Some(Input::Slot(_)), false) => Shader::FoldedMatvec,
            (Phase::Decode, Some(Input::Slot(_)), true) => Shader::FoldedMatvecGrouped,
            (Phase::Decode, Some(Input::Parts), false) => Shader::FoldedMatvecParts,
            (Phase::Decode, Some(Input::Parts), true) => Shader::FoldedMatvecPartsGrouped,
        };
        let geometry = self.builder.gpu.geometry();
        let is_plain = phase == Phase::Decode && fold.is_none();
        let workgroup = if is_plain { geometry.workgroup } else { shader.kernel().workgroup };
        let (mut rows_per_group, tokens_per_group) = match phase {
            Phase::Decode => (workgroup as usize / 4, Some(1)),
            Phase::Few => (workgroup as usize / 4, None),
            Phase::Prefill => (64, Some(64)),
        };
        let rows = if gate.is_some() { group.rows[0] } else { window.rows.len() };
        let to = slots.place(self.config, group.parts[0].out);
        let mut constants = vec![("ADD", flag(group.parts[0].add))];
        if phase != Phase::Prefill {
            constants.push(("GATE", gate.map_or(0.0, activation_constant)));
        }
        if is_plain {
            constants.push(("WG", f64::from(workgroup)));
        }
        let mut buffers = match fold {
            None => vec![window.codes, all(&slots.xq), all(&slots.acts)],
            Some(fold) => {
                let (from, cols, in_stride, in_offset) = self.input(fold.input);
                let rounds = geometry.rounds(rows.div_ceil(rows_per_group));
                rows_per_group *= rounds;
                constants.extend(self.quantize_constants(fold));
                constants.extend([
                    ("COLS", cols as f64),
                    ("WORDS", words(cols) as f64),
                    ("ACTS", self.weights.act_group.map_or(1, |size| cols / size) as f64),
                    ("IN_STRIDE", in_stride as f64),
                    ("IN_OFFSET", in_offset as f64),
                    ("EPS", f64::from(self.config.rms_eps)),
                    ("ROUNDS", rounds as f64),
                ]);
                vec![all(from), self.norm(fold.norm, weights)?, window.codes]
            }
        };
        buffers.extend([all(to.buffer), all(&slots.damage)]);
        let row_quads = (4 * words(group.cols) / QUAD_COLS) as u32;
        let (row0, codes0) = (window.rows.start as u32, window.codes0 as u32);
        let (out_stride, out_offset) = (to.stride as u32, to.offset as u32);
        let params = match &group.scales {
            GroupScales::PerMatrix(scales) => {
                let part_end = |n: usize| group.rows.iter().take(n).sum::<usize>() as u32;
                let scale = |n: usize| scales.get(n).copied().unwrap_or(0.0);
                Params::from(params::Ternary {
                    rows: rows as u32,
                    row0,
                    row_quads,
                    codes0,
                    out_stride,
                    out_offset,
                    part1: part_end(1),
                    part2: part_end(2),
                    scale0: scale(0),
                    scale1: scale(1),
                    scale2: scale(2),
                    place,
                    ..Default::default()
                })
            }
            GroupScales::Stored { per_row, group: size, .. } => {
                let (binding, scales0) = window.scales.unwrap_or_else(|| unreachable!("stored scales are bound"));
                buffers.push(binding);
                constants.push(("GROUP", size.unwrap_or(0) as f64));
                Params::from(params::TernaryGrouped {
                    rows: rows as u32,
                    row0,
                    row_quads,
                    codes0,
                    scales0: scales0 as u32,
                    groups: *per_row as u32,
                    out_stride,
                    out_offset,
                    place,
                    ..Default::default()
                })
            }
        };
        let groups = rows.div_ceil(rows_per_group);
        let tokens = match tokens_per_group {
            Some(count) => Extent::PerTokens(count),
            None => Extent::Fixed(1),
        };
        let grid = [Extent::Fixed(groups), tokens, Extent::Fixed(1)];
        let variant = self.builder.variant(shader);
        self.builder.dispatch(variant, &constants, params, &buffers, grid)
    }

    fn gate(&mut self, activation: Activation) -> Result<Dispatch> {
        let (config, slots) = (self.config, self.slots);
        let (gate, up) = (slots.place(config, Slot::Gate), slots.place(config, Slot::Up));
        let params = params::GateUp {
            cols: config.ffn_dim as u32,
            stride: gate.stride as u32,
            gate_offset: gate.offset as u32,
            up_offset: up.offset as u32,
            ..Default::default()
        };
        let shader = Shader::GateUp;
        let groups = config.ffn_dim.div_ceil(shader.kernel().workgroup as usize);
        let constants = [("GATE", activation_constant(activation))];
        let grid = [Extent::Fixed(groups), Extent::PerTokens(1), Extent::Fixed(1)];
        let variant = self.builder.variant(shader);
        self.builder.dispatch(variant, &constants, params, &[all(gate.buffer)], grid)
    }

    /// The rows of the embedding table, one dispatch a window.
    pub fn embed(&mut self, table: &DenseMatrix, region: &'a Region) -> Result<Vec<Dispatch>> {
        let (config, slots) = (self.config, self.slots);
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
            let buffers = [all(&slots.ids), window.binding, all(&slots.hidden), all(&slots.damage)];
            let groups = config.dim.div_ceil(2 * shader.kernel().workgroup as usize);
            let grid = [Extent::Fixed(groups), Extent::PerTokens(1), Extent::Fixed(1)];
            out.push(self.builder.dispatch(variant, &[], params, &buffers, grid)?);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_apart_stay_within_the_dispatches_of_a_token() {
        for (layers, beside, apart) in [(30, 0, 30), (30, 6, 30), (30, 19, 17), (30, 36, 0), (30, 50, 0), (1, 6, 1)] {
            assert_eq!(most_apart(layers, beside), apart, "{layers} layers, {beside} dispatches beside them");
            assert!(apart == 0 || 6 * layers + apart + beside <= 7 * layers + 6);
        }
    }

    #[test]
    fn the_earliest_damage_is_named() {
        let layers = 3;
        let places = |of: &[usize]| damaged_place(of.iter().map(|&p| place_code(p)).max().unwrap_or(0), layers);
        assert_eq!(places(&[]), None);
        assert_eq!(places(&[4, 2]).unwrap(), "layer 1");
        assert_eq!(places(&[4]).unwrap(), "the output head");
        assert_eq!(places(&[3, 0]).unwrap(), "the embedding");
    }
}
