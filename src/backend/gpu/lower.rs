//! From op lists to dispatches. Everything a step needs is made here, once, at load.
//!
//! Fused on the way: q, k, v in one product; HeadNorm and Rope into the cache write; Gate into the product that
//! makes it (matrix-vector only); the merge of attention's splits into the quantisation that reads it.

use std::ops::Range;

use bitnet_cpu_kernels::format::I2S_BLOCK;
use half::f16;

use super::{
    buffers::{Arenas, Region, Window},
    encode::{Builder, Dispatch, Extent},
    params::{self, Params},
    pipelines::{Shader, Variant},
    slots::{Slots, qkv_width, too_large},
    weights::{Group, GroupScales, LayerWeights, Weights},
};
use crate::{
    error::{Error, Result},
    model::{Activation, Config, DenseMatrix, Norm, RopeStyle},
    plan::{
        KvType, Sizes,
        op::{Op, Slot},
    },
};

/// Which kernels a list is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Few tokens: matrix-vector products, attention split over the keys.
    Decode,
    /// Many tokens: tiles.
    Prefill,
}

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
const MAX_WORKGROUPS: usize = 65535;

fn activation_constant(activation: Activation) -> f64 {
    match activation {
        Activation::Relu2 => 1.0,
        Activation::Silu => 2.0,
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
}

fn all(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}

/// What a list has asked for that the next ops complete.
#[derive(Default)]
struct Pending {
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    rope: bool,
    /// Attention's parts are not merged yet.
    parts: bool,
    /// The product has applied the gate already.
    gated: bool,
}

impl<'a> Lowering<'a> {
    fn windows(&self, region: &Region, max_rows: usize) -> Result<Vec<Window<'a>>> {
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
    fn whole(&self, what: &str, region: &Region) -> Result<wgpu::BufferBinding<'a>> {
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
        let mut out = Vec::new();
        let mut pending = Pending::default();
        let mut groups = weights.groups.iter();
        for (index, op) in ops.iter().enumerate() {
            match op {
                Op::NormQuantize { input, norm } => {
                    let merge = *input == Slot::Attn && std::mem::take(&mut pending.parts);
                    out.push(self.norm_quantize(*input, *norm, weights, merge, place)?);
                }
                Op::Linear { parts } => {
                    let gate = match ops.get(index + 1) {
                        Some(Op::Gate(activation)) if phase == Phase::Decode => Some(*activation),
                        _ => None,
                    };
                    for _ in super::weights::groups(parts) {
                        let group = groups.next().ok_or_else(|| Error::missing("a ternary matrix", "the op list"))?;
                        pending.gated |= self.linear(&mut out, group, gate, phase, place)?;
                    }
                }
                Op::HeadNorm { slot: Slot::Q, norm } => pending.q_norm = Some(*norm),
                Op::HeadNorm { slot: Slot::K, norm } => pending.k_norm = Some(*norm),
                Op::Rope => pending.rope = true,
                Op::Attention => {
                    out.push(self.rope_append(&pending, weights, cache, place)?);
                    out.push(self.attention(cache, phase)?);
                    pending = Pending { parts: phase == Phase::Decode, ..Pending::default() };
                }
                Op::Gate(activation) => {
                    if !std::mem::take(&mut pending.gated) {
                        out.push(self.gate(*activation)?);
                    }
                }
                Op::HeadNorm { .. } | Op::Embed | Op::Head => {
                    return Err(Error::unsupported(format!("{op:?} inside a block"), "the GPU has no kernel for it"));
                }
            }
        }
        // The fusions above hold work back until an op that must follow.
        if pending.parts || pending.rope || pending.q_norm.is_some() || pending.k_norm.is_some() {
            return Err(Error::unsupported(
                "this order of operations",
                "the GPU runs head norms and rotations before attention, and a quantisation after it",
            ));
        }
        Ok(out)
    }

    fn norm_quantize(
        &mut self,
        input: Slot,
        norm: Option<Norm>,
        weights: &'a LayerWeights,
        merge: bool,
        place: u32,
    ) -> Result<Dispatch> {
        let slots = self.slots;
        let from = slots.place(self.config, input);
        let cols = input.width(self.config);
        let weight = match norm {
            Some(role) => {
                let region = weights
                    .norm(role)
                    .ok_or_else(|| Error::missing(format!("norm {role:?}"), format!("the input {input:?}")))?;
                self.whole("a norm", region)?
            }
            // Not read: any buffer that this dispatch does not write.
            None => all(&slots.ids),
        };
        let params = params::NormQuantize {
            cols: cols as u32,
            words: (cols.next_multiple_of(128) / 4) as u32,
            in_stride: from.stride as u32,
            in_offset: from.offset as u32,
            heads: self.config.heads as u32,
            head_dim: self.config.head_dim as u32,
            eps: self.config.rms_eps,
            place,
            ..Default::default()
        };
        let mut buffers = vec![all(from.buffer), weight, all(&slots.xq), all(&slots.acts), all(&slots.damage)];
        if merge {
            buffers.push(all(&slots.parts));
        }
        let mut constants = vec![("NORM", f64::from(u8::from(norm.is_some())))];
        constants.extend(self.weights.act_group.map(|size| ("GROUP", size as f64)));
        let shader = match (merge, self.weights.act_group) {
            (false, None) => Shader::NormQuantize,
            (true, None) => Shader::MergeNormQuantize,
            (false, Some(_)) => Shader::NormQuantizeGrouped,
            (true, Some(_)) => Shader::MergeNormQuantizeGrouped,
        };
        let variant = self.builder.variant(shader);
        let grid = [Extent::Fixed(1), Extent::PerTokens(1), Extent::Fixed(1)];
        self.builder.dispatch(variant, &constants, params, &buffers, grid)
    }

    /// The rows of a group of matrices in as many parts as bindings of the codes and of the scales allow.
    fn row_windows(&self, group: &Group, max_rows: usize) -> Result<Vec<RowWindow<'a>>> {
        let codes = self.windows(&group.region, max_rows)?;
        let row_quads = group.cols.next_multiple_of(I2S_BLOCK) / QUAD_COLS;
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

    /// The product of a group of matrices, in as many windows as bindings allow. True when `gate` was applied.
    fn linear(
        &mut self,
        out: &mut Vec<Dispatch>,
        group: &'a Group,
        gate: Option<Activation>,
        phase: Phase,
        place: u32,
    ) -> Result<bool> {
        let slots = self.slots;
        let shader = match (phase, &group.scales) {
            (Phase::Decode, GroupScales::PerMatrix(_)) => Shader::TernaryMatvec,
            (Phase::Prefill, GroupScales::PerMatrix(_)) => Shader::TernaryMatmul,
            (Phase::Decode, GroupScales::Stored { .. }) => Shader::TernaryMatvecGrouped,
            (Phase::Prefill, GroupScales::Stored { .. }) => Shader::TernaryMatmulGrouped,
        };
        let rows_per_group = match phase {
            Phase::Decode => shader.kernel().workgroup as usize / 4,
            Phase::Prefill => 64,
        };
        let windows = self.row_windows(group, MAX_WORKGROUPS * rows_per_group)?;
        let outputs: Vec<Slot> = group.parts.iter().map(|part| part.out).collect();
        let gate = gate.filter(|_| outputs == [Slot::Gate, Slot::Up] && windows.len() == 1);
        let to = slots.place(self.config, outputs[0]);
        let add = group.parts[0].add;
        let row_quads = (group.cols.next_multiple_of(I2S_BLOCK) / QUAD_COLS) as u32;
        for window in windows {
            let rows = if gate.is_some() { group.rows[0] } else { window.rows.len() };
            let (row0, codes0) = (window.rows.start as u32, window.codes0 as u32);
            let (out_stride, out_offset) = (to.stride as u32, to.offset as u32);
            let mut constants = vec![("ADD", f64::from(u8::from(add)))];
            let mut buffers = vec![window.codes, all(&slots.xq), all(&slots.acts), all(to.buffer), all(&slots.damage)];
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
            let mut grid = [Extent::Fixed(rows.div_ceil(rows_per_group)), Extent::PerTokens(64), Extent::Fixed(1)];
            if phase == Phase::Decode {
                constants.push(("GATE", gate.map_or(0.0, activation_constant)));
                grid[1] = Extent::PerTokens(1);
            }
            let variant = self.builder.variant(shader);
            out.push(self.builder.dispatch(variant, &constants, params, &buffers, grid)?);
        }
        Ok(gate.is_some())
    }

    fn cache_constants(&self) -> [(&'static str, f64); 2] {
        let is_f32 = |ty| f64::from(u8::from(ty == KvType::F32));
        [("K_F32", is_f32(self.sizes.k_type)), ("V_F32", is_f32(self.sizes.v_type))]
    }

    fn rope_append(
        &mut self,
        pending: &Pending,
        weights: &'a LayerWeights,
        cache: &'a LayerCache,
        place: u32,
    ) -> Result<Dispatch> {
        let (config, slots) = (self.config, self.slots);
        let norm = |role: Option<Norm>| match role {
            Some(role) => {
                let region = weights.norm(role).ok_or_else(|| Error::missing(format!("norm {role:?}"), "the heads"))?;
                self.whole("a norm", region)
            }
            None => Ok(all(&slots.ids)),
        };
        let half = if pending.rope { config.rope.dims / 2 } else { 0 };
        let params = params::RopeAppend {
            heads: config.heads as u32,
            kv_heads: config.kv_heads as u32,
            head_dim: config.head_dim as u32,
            stride: qkv_width(config) as u32,
            q_offset: slots.place(config, Slot::Q).offset as u32,
            k_offset: slots.place(config, Slot::K).offset as u32,
            v_offset: slots.place(config, Slot::V).offset as u32,
            half: half as u32,
            sines: (self.sizes.context_tokens * (config.rope.dims / 2)) as u32,
            eps: config.rms_eps,
            place,
            ..Default::default()
        };
        let rope = self.whole("the table of rotations (lower the context with -c)", &self.weights.rope)?;
        let buffers = [
            all(&slots.qkv),
            all(&cache.k),
            all(&cache.v),
            rope,
            norm(pending.q_norm)?,
            norm(pending.k_norm)?,
            all(&slots.damage),
        ];
        let flag = |on: bool| f64::from(u8::from(on));
        let mut constants = vec![
            ("Q_NORM", flag(pending.q_norm.is_some())),
            ("K_NORM", flag(pending.k_norm.is_some())),
            ("INTERLEAVED", flag(config.rope.style == RopeStyle::Interleaved)),
        ];
        constants.extend(self.cache_constants());
        let heads = config.heads + 2 * config.kv_heads;
        let grid = [Extent::Fixed(heads), Extent::PerTokens(1), Extent::Fixed(1)];
        let variant = self.builder.variant(Shader::RopeAppend);
        self.builder.dispatch(variant, &constants, params, &buffers, grid)
    }

    fn attention(&mut self, cache: &'a LayerCache, phase: Phase) -> Result<Dispatch> {
        let (config, slots) = (self.config, self.slots);
        let params = params::Attention {
            heads: config.heads as u32,
            kv_heads: config.kv_heads as u32,
            head_dim: config.head_dim as u32,
            stride: qkv_width(config) as u32,
            q_offset: slots.place(config, Slot::Q).offset as u32,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            ..Default::default()
        };
        let (shader, to, grid) = match phase {
            Phase::Decode => {
                let bundles = config.kv_heads * (config.heads / config.kv_heads).div_ceil(4);
                (Shader::AttentionDecode, &slots.parts, [Extent::Fixed(bundles), Extent::Splits, Extent::PerTokens(1)])
            }
            Phase::Prefill => (
                Shader::AttentionPrefill,
                &slots.attn,
                [Extent::Fixed(config.heads), Extent::PerTokens(16), Extent::Fixed(1)],
            ),
        };
        let buffers = [all(&slots.qkv), all(&cache.k), all(&cache.v), all(to)];
        let constants = self.cache_constants();
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

    /// The final norm of the wanted tokens and the head, one dispatch a window; `tile` tokens share a reading of
    /// the weights.
    pub fn head(
        &mut self,
        table: &DenseMatrix,
        region: &'a Region,
        norm: &'a Region,
        tile: u32,
    ) -> Result<Vec<Dispatch>> {
        let (config, slots) = (self.config, self.slots);
        let place = place_code(config.layers + 1);
        let params = params::RmsNorm {
            cols: config.dim as u32,
            stride: config.dim as u32,
            eps: config.rms_eps,
            place,
            ..Default::default()
        };
        let buffers =
            [all(&slots.hidden), self.whole("the output norm", norm)?, all(&slots.normed), all(&slots.damage)];
        let grid = [Extent::Fixed(1), Extent::PerTokens(1), Extent::Fixed(1)];
        let variant = self.builder.variant(Shader::RmsNorm);
        let mut out = vec![self.builder.dispatch(variant, &[], params, &buffers, grid)?];

        let shader = Shader::Head;
        let rows_per_group = shader.kernel().workgroup as usize / 16;
        for window in self.windows(region, MAX_WORKGROUPS * rows_per_group)? {
            let params = params::Head {
                rows: window.rows.len() as u32,
                row0: window.rows.start as u32,
                cols: config.dim as u32,
                row_bytes: table.ty.row_bytes(config.dim) as u32,
                table0: window.before_bytes as u32,
                vocab: config.vocab as u32,
                place,
                ..Default::default()
            };
            let variant = Variant::new(shader, self.builder.gpu.choices(), Some(table.ty));
            let rows = window.rows.len();
            let buffers = [all(&slots.normed), window.binding, all(&slots.logits), all(&slots.damage)];
            let grid = [Extent::Fixed(rows.div_ceil(rows_per_group)), Extent::PerTokens(tile), Extent::Fixed(1)];
            out.push(self.builder.dispatch(variant, &[("TILE", f64::from(tile))], params, &buffers, grid)?);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
