//! A small layer and its input: what a GPU has to get right, within rounding, before it is used.
//!
//! BitNet's, as it has every norm; its sizes are the smallest that use all of the kernels: shared key/value heads,
//! more keys than one split of the attention takes, a prompt longer than one tile.

use std::ops::Range;

use bitnet_cpu_kernels::format::{DenseType, Layout, MatrixScales, pack};
use half::f16;

use crate::model::{
    Activation, Block, Config, DenseMatrix, Family, Linear, Model, Multipliers, Norm, Rope, RopeStyle, TernaryCodes,
    TernaryMatrix, Weights,
};

/// Width of the hidden states.
pub(super) const DIM: usize = 128;
/// Tokens of the prompt: one split of the keys has 128.
pub(super) const TOKENS: usize = 130;

/// Numbers that are equal on every machine: the high byte of a multiplicative hash.
fn noise(i: usize) -> u8 {
    (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]
}

/// From -1 to 1.
fn noise_f32(i: usize) -> f32 {
    f32::from(noise(i)) / 127.5 - 1.0
}

/// Rows of the head: as many as a screen of four candidates needs.
pub(super) const VOCAB: usize = 2048;

/// As [`model`], with a head of half floats.
pub(super) fn model_with_head() -> Model {
    let mut model = model();
    model.config.vocab = VOCAB;
    let values = (0..VOCAB * DIM).flat_map(|i| f16::from_f32(noise_f32(i + 2_000_000)).to_le_bytes());
    let data = values.collect::<Vec<u8>>().into();
    model.weights.output = Some(DenseMatrix { rows: VOCAB, cols: DIM, data, ty: DenseType::F16 });
    model
}

/// A model of one layer; its table is not used.
pub(super) fn model() -> Model {
    let config = Config {
        arch: "bitnet-b1.58".to_owned(),
        family: Family::BitNet,
        name: "known layer".to_owned(),
        layers: 1,
        dim: DIM,
        ffn_dim: 256,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        vocab: 1,
        context: 2 * TOKENS,
        rms_eps: 1e-5,
        rope: Rope {
            dims: 32,
            base: 10000.0,
            position_scale: 1.0,
            yarn: None,
            long: None,
            style: RopeStyle::HalfSplit,
        },
        activation: Activation::Relu2,
        delta: None,
        rotation: None,
        mtp_blocks: 0,
        input_norms: None,
        multipliers: Multipliers::default(),
        biased: &[],
    };
    let mut at = 0;
    let mut next = |count: usize| {
        at += count;
        at - count..at
    };
    let linears = Linear::ATTENTION.map(|role| {
        let (rows, cols) = config.linear_shape(role);
        let codes: Vec<u8> = next(rows * cols).map(|i| noise(i) % 3).collect();
        let matrix = TernaryMatrix {
            rows,
            cols,
            codes: TernaryCodes::Packed {
                bytes: pack(Layout::I2sP128, rows, cols, &codes).into(),
                layout: Layout::I2sP128,
            },
            // Keeps the size of the activations.
            scales: MatrixScales::PerTensor((1.5 / cols as f32).sqrt()).into(),
        };
        (role, matrix)
    });
    let norms = Norm::BLOCK.map(|role| {
        let has = config.family.block_norms().contains(&role);
        has.then(|| next(config.norm_len(role)).map(|i| 1.0 + 0.2 * noise_f32(i)).collect())
    });
    let weights = Weights {
        token_embd: DenseMatrix { rows: 1, cols: DIM, data: vec![0; 4 * DIM].into(), ty: DenseType::F32 },
        blocks: vec![Block::new(linears, norms)],
        output_norm: vec![1.0; DIM],
        head_norm: None,
        output: None,
        rope_factors: None,
        long_rope_factors: None,
        mtp: None,
    };
    Model { config, weights }
}

/// Hidden states: (positions, DIM).
pub(super) fn input(positions: Range<usize>) -> Vec<f32> {
    (positions.start * DIM..positions.end * DIM).map(|i| noise_f32(i + 1_000_000)).collect()
}
