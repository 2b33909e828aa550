//! Products with ternary matrices, and the quantisation of what they read.

use std::ops::Range;

use bitnet_cpu_kernels::format::I2S_BLOCK;
use half::f16;

use super::{
    fuse::{KernelPhase, Quantize, QuantizeInput},
    lowering::{Lowering, MAX_WORKGROUPS, activation_constant, all, flag},
    weights::{Joined, JoinedScales, LayerWeights},
};
use crate::{
    backend::gpu::{
        buffers::{activations::SlotPlace, arenas::Window},
        kernels::{
            params::{self, Params},
            pipelines::{self, Program, Shader},
        },
        record::encode::{Dispatch, Extent},
    },
    error::Result,
    graph::op::Slot,
    model::Activation,
};

/// Rows of a product in one dispatch: every kernel takes at least 16 rows a workgroup.
pub const MAX_ROWS: usize = 16 * MAX_WORKGROUPS;

/// u32 of a row of int8: whole blocks of codes.
pub fn words(cols: usize) -> usize {
    cols.next_multiple_of(I2S_BLOCK) / 4
}

/// Columns and bytes of the unit that the ternary kernels read codes in.
const QUAD_COLS: usize = 64;
const QUAD_BYTES: usize = QUAD_COLS / 4;

/// Rows of joined matrices that one dispatch can bind.
pub struct RowWindow<'a> {
    pub rows: Range<usize>,
    codes: wgpu::BufferBinding<'a>,
    /// Quads of the binding before the first row.
    codes0: usize,
    /// Where scales are stored: their binding, and the scales in it before the first row.
    scales: Option<(wgpu::BufferBinding<'a>, usize)>,
}

impl QuantizeInput {
    /// Its name in the table of kernels.
    pub fn of_kernel(self) -> pipelines::Input {
        match self {
            Self::Slot(_) => pipelines::Input::Slot,
            Self::Parts => pipelines::Input::Parts,
            Self::Splits => pipelines::Input::Splits,
        }
    }
}

impl<'a> Lowering<'a> {
    /// Whether the product of joined matrices can norm and quantise its input itself: the row of int8 has to fit in the memory
    /// of a workgroup, and kernels quantise in the groups of the weights.
    pub fn folds(&self, joined: &Joined) -> bool {
        let acts = match &joined.scales {
            JoinedScales::PerMatrix(_) => 1,
            JoinedScales::Stored { per_row, group: Some(_), .. } => *per_row,
            JoinedScales::Stored { group: None, .. } => return false,
        };
        let lanes = Shader::TernaryMatvec.reading(pipelines::Input::Slot).workgroup() as usize
            * (size_of::<f32>() + size_of::<i32>());
        // Words that a rotation exchanges.
        let exchange = if self.config.rotation.is_some() { lanes / 2 * 4 } else { 0 };
        let bytes = words(joined.cols) * size_of::<u32>() + acts * size_of::<[u32; 2]>() + lanes + exchange;
        let gpu = self.builder.gpu;
        gpu.folds() && bytes <= gpu.max_workgroup_bytes()
    }

    /// Where the input of a quantisation lies: buffer, columns, f32 between tokens and before the first.
    pub fn input(&self, input: QuantizeInput) -> (&'a wgpu::Buffer, usize, usize, usize) {
        let activations = self.activations;
        match input {
            QuantizeInput::Slot(slot) => {
                let place = activations.place(self.config, slot);
                (place.buffer, slot.width(self.config), place.stride, place.offset)
            }
            QuantizeInput::Parts | QuantizeInput::Splits => (&activations.parts, Slot::Attn.width(self.config), 0, 0),
        }
    }

    /// Constants of the kernels that quantise.
    pub fn quantize_constants(&self, quantize: Quantize) -> Vec<(&'static str, f64)> {
        let mut constants = vec![("NORM", flag(quantize.norm.is_some()))];
        if quantize.rotated {
            constants.push(("BLOCK", self.block(true)));
        }
        if matches!(quantize.input, QuantizeInput::Parts | QuantizeInput::Splits) {
            constants.extend([("HEADS", self.config.heads as f64), ("HEAD_DIM", self.config.head_dim as f64)]);
        }
        constants
    }

    /// A quantisation, and what goes before it.
    pub fn quantize(&mut self, quantize: Quantize, weights: &'a LayerWeights, place: u32) -> Result<Dispatch> {
        if quantize.rotated || quantize.opened {
            return self.rotate_quantize(quantize, weights, place);
        }
        let activations = self.activations;
        let (from, cols, in_stride, in_offset) = self.input(quantize.input);
        let act_group = self.weights.act_group;
        let params = params::NormQuantize {
            cols: cols as u32,
            words: words(cols) as u32,
            in_stride: in_stride as u32,
            in_offset: in_offset as u32,
            groups: act_group.map_or(1, |size| cols / size) as u32,
            eps: self.eps(quantize.norm),
            place,
            ..Default::default()
        };
        let weight = self.norm(quantize.norm, weights)?;
        let buffers = [all(from), weight, all(&activations.xq), all(&activations.acts), all(&activations.batch)];
        let mut constants = self.quantize_constants(quantize);
        constants.extend(act_group.map(|size| ("GROUP", size as f64)));
        let program = Shader::NormQuantize.reading(quantize.input.of_kernel()).grouped(act_group.is_some());
        let variant = self.builder.variant(program);
        let grid = [Extent::Fixed(1), Extent::PerTokens(1), Extent::Fixed(1)];
        self.builder.dispatch(variant, &constants, params, &buffers, grid)
    }

    /// The rows of joined matrices in as many parts as bindings of the codes and of the scales allow.
    pub fn row_windows(&self, joined: &Joined, max_rows: usize) -> Result<Vec<RowWindow<'a>>> {
        let codes = self.windows(&joined.region, max_rows)?;
        let row_quads = 4 * words(joined.cols) / QUAD_COLS;
        let codes0 = |window: &Window, row: usize| {
            window.before_bytes as usize / QUAD_BYTES + (row - window.rows.start) * row_quads
        };
        let JoinedScales::Stored { region, per_row, group: size } = &joined.scales else {
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

    /// Weights of the norm of a quantisation, times the factors of its rotation.
    pub fn weight(&self, quantize: Quantize, weights: &'a LayerWeights) -> Result<wgpu::BufferBinding<'a>> {
        if quantize.rotated {
            let (_, cols, ..) = self.input(quantize.input);
            return self.rotated_weight(quantize.norm, cols, weights);
        }
        self.norm(quantize.norm, weights)
    }

    /// Constants of a product that norms and quantises its input itself, in so many rounds of rows.
    fn fold_constants(&self, fold: Quantize, rounds: usize) -> Vec<(&'static str, f64)> {
        let (_, cols, in_stride, in_offset) = self.input(fold.input);
        let mut constants = self.quantize_constants(fold);
        constants.extend([
            ("COLS", cols as f64),
            ("WORDS", words(cols) as f64),
            ("ACTS", self.weights.act_group.map_or(1, |size| cols / size) as f64),
            ("IN_STRIDE", in_stride as f64),
            ("IN_OFFSET", in_offset as f64),
            ("EPS", f64::from(self.eps(fold.norm))),
            ("ROUNDS", rounds as f64),
        ]);
        constants
    }

    /// The product of a window of joined matrices.
    pub fn product(
        &mut self,
        joined: &'a Joined,
        window: RowWindow<'a>,
        weights: &'a LayerWeights,
        (phase, fold, gate): (KernelPhase, Option<Quantize>, Option<Activation>),
        place: u32,
    ) -> Result<Dispatch> {
        let activations = self.activations;
        let stored = matches!(joined.scales, JoinedScales::Stored { .. });
        let shader = match (phase, stored) {
            (KernelPhase::Prefill, false) => Shader::TernaryMatmul,
            (KernelPhase::Prefill, true) => Shader::TernaryMatmulGrouped,
            (KernelPhase::Few, false) => Shader::TernaryFew,
            (KernelPhase::Few, true) => Shader::TernaryFewGrouped,
            (KernelPhase::Decode, false) => Shader::TernaryMatvec,
            (KernelPhase::Decode, true) => Shader::TernaryMatvecGrouped,
        };
        let folded = |fold: Quantize| shader.reading(fold.input.of_kernel()).rotated(fold.rotated);
        let program = fold.map_or(Program::from(shader), folded);
        let geometry = self.builder.gpu.geometry();
        let is_plain = phase == KernelPhase::Decode && fold.is_none();
        let workgroup = if is_plain { geometry.workgroup } else { program.workgroup() };
        let (mut rows_per_workgroup, tokens_per_workgroup) = match phase {
            KernelPhase::Decode => (workgroup as usize / 4, Some(1)),
            KernelPhase::Few => (workgroup as usize / 4, None),
            KernelPhase::Prefill => (64, Some(64)),
        };
        let rows = if gate.is_some() { joined.rows[0] } else { window.rows.len() };
        let to = activations.place(self.config, joined.parts[0].out);
        let mut constants = vec![("ADD", flag(joined.parts[0].add))];
        if phase != KernelPhase::Prefill {
            constants.push(("GATE", gate.map_or(0.0, activation_constant)));
        }
        if is_plain {
            constants.push(("WG", f64::from(workgroup)));
        }
        let mut buffers = match fold {
            None => vec![window.codes.clone(), all(&activations.xq), all(&activations.acts)],
            Some(fold) => {
                let rounds = geometry.rounds(rows.div_ceil(rows_per_workgroup));
                rows_per_workgroup *= rounds;
                constants.extend(self.fold_constants(fold, rounds));
                vec![all(self.input(fold.input).0), self.weight(fold, weights)?, window.codes.clone()]
            }
        };
        buffers.extend([all(to.buffer), all(&activations.batch)]);
        if let (JoinedScales::Stored { group: size, .. }, Some((binding, _))) = (&joined.scales, &window.scales) {
            buffers.push(binding.clone());
            constants.push(("GROUP", size.unwrap_or(0) as f64));
        }
        let params = product_params(joined, &window, rows, &to, place);
        let workgroups = rows.div_ceil(rows_per_workgroup);
        let tokens = match tokens_per_workgroup {
            Some(count) => Extent::PerTokens(count),
            None => Extent::Fixed(1),
        };
        let grid = [Extent::Fixed(workgroups), tokens, Extent::Fixed(1)];
        let variant = self.builder.variant(program);
        self.builder.dispatch(variant, &constants, params, &buffers, grid)
    }
}

/// Parameters of the product of a window: `rows` of it, into `to`.
fn product_params(joined: &Joined, window: &RowWindow<'_>, rows: usize, to: &SlotPlace<'_>, place: u32) -> Params {
    let row_quads = (4 * words(joined.cols) / QUAD_COLS) as u32;
    let (rows, row0, codes0) = (rows as u32, window.rows.start as u32, window.codes0 as u32);
    let (out_stride, out_offset) = (to.stride as u32, to.offset as u32);
    match &joined.scales {
        JoinedScales::PerMatrix(scales) => {
            let part_end = |n: usize| joined.rows.iter().take(n).sum::<usize>() as u32;
            let scale = |n: usize| scales.get(n).copied().unwrap_or(0.0);
            Params::from(params::Ternary {
                rows,
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
        JoinedScales::Stored { per_row, .. } => {
            let scales0 = window.scales.as_ref().map_or(0, |(_, before)| *before) as u32;
            Params::from(params::TernaryGrouped {
                rows,
                row0,
                row_quads,
                codes0,
                scales0,
                groups: *per_row as u32,
                out_stride,
                out_offset,
                place,
                ..Default::default()
            })
        }
    }
}
