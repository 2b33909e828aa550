//! Hybrid models of random weights, and the forward pass of such models as plain loops.

pub mod mtp;
pub mod reference;

use bitnet_cpu_kernels::{
    format::{DenseType, Layout, pack},
    testing::Rng,
};
use bitnet_gpu::model::{
    Activation, Block, Config, DeltaNet, DeltaWeights, DenseMatrix, Family, Linear, MatrixScales, Model, Multipliers,
    Norm, Rope, RopeStyle, Rotation, TernaryCodes, TernaryMatrix, Weights,
};

use super::gpu::model::dense_bytes;

/// Properties that vary between test models.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// One for each layer: true for a gated DeltaNet.
    pub layers: &'static [bool],
    pub dim: usize,
    pub ffn_dim: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub rope_dims: usize,
    pub key_heads: usize,
    pub value_heads: usize,
    pub delta_dim: usize,
    pub kernel: usize,
    /// Columns that share a scale.
    pub group: usize,
    /// The block of a rotation with signs, of all projections and tables.
    pub rotation: Option<usize>,
    /// The table is the head.
    pub tied: bool,
    pub vocab: usize,
}

/// As small as groups of 64 allow; three value heads to a key head.
pub const SMALL: Spec = Spec {
    layers: &[true, true, false, true],
    dim: 128,
    ffn_dim: 192,
    heads: 6,
    kv_heads: 2,
    head_dim: 32,
    rope_dims: 8,
    key_heads: 2,
    value_heads: 6,
    delta_dim: 32,
    kernel: 4,
    group: 64,
    rotation: None,
    tied: false,
    vocab: 301,
};

/// Rotated, with as many key heads as value heads, and a table that is the head.
pub const ROTATED: Spec = Spec {
    layers: &[false, true, true],
    key_heads: 4,
    value_heads: 4,
    delta_dim: 48,
    kernel: 3,
    heads: 4,
    head_dim: 48,
    rope_dims: 48,
    rotation: Some(64),
    tied: true,
    ..SMALL
};

/// A model with random weights, scaled so that activations keep their size.
pub fn random_model(spec: &Spec, seed: u64) -> Model {
    let mut rng = Rng::new(seed);
    let delta = DeltaNet {
        layers: spec.layers.to_vec(),
        kernel: spec.kernel,
        key_heads: spec.key_heads,
        value_heads: spec.value_heads,
        head_dim: spec.delta_dim,
    };
    let mut config = Config {
        arch: "qwen35".to_owned(),
        family: Family::Qwen35,
        name: "random".to_owned(),
        layers: spec.layers.len(),
        dim: spec.dim,
        ffn_dim: spec.ffn_dim,
        heads: spec.heads,
        kv_heads: spec.kv_heads,
        head_dim: spec.head_dim,
        vocab: spec.vocab,
        context: 256,
        rms_eps: 1e-6,
        rope: Rope {
            dims: spec.rope_dims,
            base: 10000.0,
            position_scale: 1.0,
            yarn: None,
            long: None,
            style: RopeStyle::HalfSplit,
        },
        activation: Activation::Silu,
        delta: Some(delta),
        rotation: None,
        mtp_blocks: 0,
        input_norms: None,
        multipliers: Multipliers::default(),
        biased: &[],
    };
    config.rotation = spec.rotation.map(|block| rotation(&config, block, spec.tied, &mut rng));
    let blocks = (0..config.layers).map(|layer| random_block(&config, layer, spec.group, &mut rng)).collect();
    let mut dense =
        |rows, ty| DenseMatrix { rows, cols: spec.dim, data: dense_bytes(&mut rng, ty, rows * spec.dim).into(), ty };
    let token_embd = dense(spec.vocab, DenseType::F16);
    let output = (!spec.tied).then(|| dense(spec.vocab, DenseType::Q8_0));
    let output_norm = norm(&mut rng, spec.dim);
    let (head_norm, rope_factors, long_rope_factors, mtp) = (None, None, None, None);
    Model {
        config,
        weights: Weights { token_embd, blocks, output_norm, head_norm, output, rope_factors, long_rope_factors, mtp },
    }
}

pub(super) fn norm(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| 1.0 + 0.2 * rng.f32()).collect()
}

fn rotation(config: &Config, block: usize, tied: bool, rng: &mut Rng) -> Rotation {
    let folded: Vec<Vec<Linear>> = (0..config.layers).map(|layer| config.linears(layer).to_vec()).collect();
    let mut widths: Vec<usize> = folded.iter().flatten().map(|&role| config.linear_shape(role).1).collect();
    widths.sort_unstable();
    widths.dedup();
    let mut signs = |width| (width, (0..width).map(|_| if rng.below(2) == 0 { 1.0 } else { -1.0 }).collect());
    let signs = Some(widths.into_iter().map(&mut signs).collect());
    Rotation { block, signs, folded, head: true, tied, v_grouped: true }
}

fn random_block(config: &Config, layer: usize, group: usize, rng: &mut Rng) -> Block {
    let mut linears = Vec::new();
    for &role in config.linears(layer) {
        let (rows, cols) = config.linear_shape(role);
        let bytes = pack(Layout::I2sP128, rows, cols, &rng.codes(rows * cols)).into();
        let mut scale = || half::f16::from_f32((1.5 / cols as f32).sqrt() * (1.0 + 0.5 * rng.f32()));
        let values = (0..rows * cols / group).map(|_| scale()).collect();
        let scales = MatrixScales::PerGroup { size: group, values }.into();
        let codes = TernaryCodes::Packed { bytes, layout: Layout::I2sP128 };
        linears.push((role, TernaryMatrix { rows, cols, codes, scales }));
    }
    let norms = Norm::BLOCK.map(|role| config.norms(layer).contains(&role).then(|| norm(rng, config.norm_len(role))));
    let block = Block::new(linears, norms);
    let Some(delta) = config.delta.as_ref().filter(|_| config.is_recurrent(layer)) else { return block };
    let mut gate = |ty| DenseMatrix {
        rows: delta.value_heads,
        cols: config.dim,
        data: dense_bytes(rng, ty, delta.value_heads * config.dim).into(),
        ty,
    };
    let (alpha, beta) = (gate(DenseType::BF16), gate(DenseType::F32));
    block.with_delta(DeltaWeights {
        alpha,
        beta,
        conv: (0..delta.channels() * delta.kernel).map(|_| 0.7 * rng.f32()).collect(),
        dt_bias: (0..delta.value_heads).map(|_| rng.f32()).collect(),
        rate: (0..delta.value_heads).map(|_| -(0.8 * rng.f32()).exp()).collect(),
    })
}

pub fn random_ids(spec: &Spec, seed: u64, n: usize) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.below(spec.vocab) as u32).collect()
}
