//! Small random models, and their forward pass as plain loops: the formulas of the papers, no kernel shared with
//! the program.

use bitnet_cpu_kernels::{
    format::{DenseType, Layout, ScaleKind, dense::decode_row, pack, unpack},
    rope::Yarn,
    testing::Rng,
};
use bitnet_gpu::{
    model::{
        Activation, Block, Config, DenseMatrix, Family, InputNorms, Linear, MatrixScales, Model, Multipliers, Norm,
        Rope, RopeStyle, TernaryCodes, TernaryMatrix, Weights,
    },
    plan::KvType,
};

/// Properties that vary between test models.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    pub family: Family,
    pub activation: Activation,
    pub style: RopeStyle,
    pub dim: usize,
    pub ffn_dim: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
    pub layers: usize,
    pub table: DenseType,
    /// `None`: the table is the head.
    pub head: Option<DenseType>,
    pub scales: ScaleKind,
    pub yarn: Option<Yarn>,
    pub input_norms: Option<InputNorms>,
    pub multipliers: Multipliers,
}

/// The smallest of each family, with odd shapes: grouped heads, a head size of no power of two, partial blocks.
pub const BITNET: Spec = Spec {
    family: Family::BitNet,
    activation: Activation::Relu2,
    style: RopeStyle::HalfSplit,
    dim: 256,
    ffn_dim: 320,
    heads: 8,
    kv_heads: 2,
    head_dim: 32,
    vocab: 301,
    layers: 3,
    table: DenseType::F16,
    head: None,
    scales: ScaleKind::PerTensor,
    yarn: None,
    input_norms: None,
    multipliers: Multipliers { embedding: 1.0, residual: 1.0, logits: 1.0 },
};
pub const LLAMA: Spec = Spec {
    family: Family::Llama,
    activation: Activation::Silu,
    style: RopeStyle::Interleaved,
    dim: 192,
    ffn_dim: 450,
    heads: 6,
    kv_heads: 6,
    head_dim: 36,
    table: DenseType::BF16,
    head: Some(DenseType::Q8_0),
    ..BITNET
};
pub const QWEN3: Spec = Spec {
    family: Family::Qwen3,
    activation: Activation::Silu,
    dim: 256,
    heads: 10,
    kv_heads: 2,
    head_dim: 100,
    table: DenseType::Q6K,
    head: Some(DenseType::F32),
    ..BITNET
};

/// The smallest of the BitNet embedding models' families.
pub const QWEN3_EMBEDDING: Spec =
    Spec { input_norms: Some(InputNorms { eps: 1e-5, embedder: true }), table: DenseType::F16, head: None, ..QWEN3 };
pub const GEMMA3_EMBEDDING: Spec = Spec {
    family: Family::Gemma3,
    activation: Activation::GeluTanh,
    heads: 4,
    kv_heads: 1,
    head_dim: 64,
    ..QWEN3_EMBEDDING
};

/// MiniCPM, whose factors are large enough to be seen.
pub const MINICPM: Spec = Spec { multipliers: Multipliers { embedding: 3.0, residual: 0.3, logits: 1.6 }, ..LLAMA };
pub const QWEN2: Spec = Spec { family: Family::Qwen2, activation: Activation::Silu, ..BITNET };

/// Llama with norms on the inputs of its projections and of its head, whose epsilon is large enough to be seen.
pub const LLAMA_INPUT_NORMS: Spec = Spec { input_norms: Some(InputNorms { eps: 0.05, embedder: false }), ..LLAMA };

/// The shape of Ternary Bonsai, with a scale for each group of columns. Rows of groups of 64 may end within a block.
pub fn grouped(size: usize) -> Spec {
    let (dim, ffn_dim, heads) = if size == 64 { (320, 448, 10) } else { (256, 768, 8) };
    Spec {
        dim,
        ffn_dim,
        heads,
        head_dim: 32,
        table: match size {
            64 => DenseType::Q2_0,
            128 => DenseType::Q2_0G128,
            _ => DenseType::TQ2_0,
        },
        head: (size == 256).then_some(DenseType::Q4_0),
        scales: ScaleKind::PerGroup(size),
        // As in the files of Ternary Bonsai; so short that pairs of every kind lie within a test's tokens.
        yarn: Some(Yarn { factor: 4.0, original_context: 32, beta_fast: 32.0, beta_slow: 1.0, attention_factor: 1.0 }),
        ..QWEN3
    }
}

/// A model with random weights, scaled so that activations keep their size.
pub fn random_model(spec: &Spec, seed: u64) -> Model {
    let mut rng = Rng::new(seed);
    let config = Config {
        arch: "test".to_owned(),
        family: spec.family,
        name: "random".to_owned(),
        layers: spec.layers,
        dim: spec.dim,
        ffn_dim: spec.ffn_dim,
        heads: spec.heads,
        kv_heads: spec.kv_heads,
        head_dim: spec.head_dim,
        vocab: spec.vocab,
        context: 256,
        rms_eps: 1e-5,
        rope: Rope {
            dims: spec.head_dim,
            base: 10000.0,
            position_scale: 1.0,
            yarn: spec.yarn,
            long: None,
            style: spec.style,
        },
        activation: spec.activation,
        delta: None,
        rotation: None,
        mtp_blocks: 0,
        input_norms: spec.input_norms,
        multipliers: spec.multipliers,
        biased: if spec.family == Family::Qwen2 { &Linear::BIASED[..3] } else { &[] },
    };
    let norm = |rng: &mut Rng, n: usize| (0..n).map(|_| 1.0 + 0.2 * rng.f32()).collect::<Vec<f32>>();
    let block = |rng: &mut Rng| {
        let linears = Linear::ATTENTION.map(|role| {
            let (rows, cols) = config.linear_shape(role);
            let codes = pack(Layout::I2sP128, rows, cols, &rng.codes(rows * cols)).into();
            let mut scale = || (1.5 / cols as f32).sqrt() * (1.0 + 0.5 * rng.f32());
            let scales = match spec.scales {
                ScaleKind::PerTensor => MatrixScales::PerTensor((1.5 / cols as f32).sqrt()),
                ScaleKind::PerRow | ScaleKind::PerRowF16 => MatrixScales::PerRow((0..rows).map(|_| scale()).collect()),
                ScaleKind::PerGroup(size) => MatrixScales::PerGroup {
                    size,
                    values: (0..rows * cols / size).map(|_| half::f16::from_f32(scale())).collect(),
                },
            };
            let codes = TernaryCodes::Packed { bytes: codes, layout: Layout::I2sP128 };
            (role, TernaryMatrix { rows, cols, codes, scales: scales.into() })
        });
        let has = config.norms(0);
        let norms = Norm::BLOCK.map(|role| has.contains(&role).then(|| norm(rng, config.norm_len(role))));
        let block = Block::new(linears, norms);
        let bias_len = config.heads * config.head_dim + 2 * config.kv_width();
        if spec.family == Family::Qwen2 { block.with_bias(rng.floats(bias_len)) } else { block }
    };
    let blocks = (0..spec.layers).map(|_| block(&mut rng)).collect();
    let mut dense = |ty| DenseMatrix {
        rows: spec.vocab,
        cols: spec.dim,
        data: dense_bytes(&mut rng, ty, spec.vocab * spec.dim).into(),
        ty,
    };
    let (token_embd, output) = (dense(spec.table), spec.head.map(&mut dense));
    let mut output_norm = norm(&mut rng, spec.dim);
    output_norm.iter_mut().for_each(|weight| *weight /= spec.multipliers.logits);
    let has_head_norm = config.input_norms.is_some_and(|norms| !norms.embedder);
    let head_norm = has_head_norm.then(|| norm(&mut rng, spec.dim));
    let (rope_factors, long_rope_factors, mtp) = (None, None, None);
    Model {
        config,
        weights: Weights { token_embd, blocks, output_norm, head_norm, output, rope_factors, long_rope_factors, mtp },
    }
}

pub fn random_ids(spec: &Spec, seed: u64, n: usize) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.below(spec.vocab) as u32).collect()
}

fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mean = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / x.len() as f64;
    let factor = (1.0 / (mean + f64::from(eps)).sqrt()) as f32;
    x.iter().zip(weight).map(|(&v, &w)| v * factor * w).collect()
}

/// A matrix with a byte for each weight.
struct Plain {
    cols: usize,
    codes: Vec<u8>,
    scales: MatrixScales,
}

impl Plain {
    fn of(matrix: &TernaryMatrix) -> Self {
        let packed = matrix.packed(Layout::I2sP128).unwrap();
        let codes = unpack(packed.layout, packed.rows, packed.cols, &packed.codes);
        Self { cols: packed.cols, codes, scales: packed.scales }
    }

    /// Quantises `x` to int8, each group by itself, and multiplies it with every row.
    fn product(&self, x: &[f32]) -> Vec<f32> {
        let size = self.scales.view().group().unwrap_or(self.cols);
        let groups = self.cols / size;
        let scale = |row: usize, group: usize| match &self.scales {
            MatrixScales::PerTensor(scale) => *scale,
            MatrixScales::PerRow(scales) => scales[row],
            MatrixScales::PerGroup { values, .. } => values[row * groups + group].to_f32(),
        };
        let tops: Vec<f32> = x.chunks(size).map(|x| x.iter().fold(1e-5f32, |top, v| top.max(v.abs()))).collect();
        let quantised = |c: usize| (x[c] * (127.0 / tops[c / size])).round_ties_even().clamp(-128.0, 127.0) as i32;
        let q: Vec<i32> = (0..self.cols).map(quantised).collect();
        let product = |(row, codes): (usize, &[u8])| {
            let parts = codes.chunks(size).zip(q.chunks(size)).enumerate();
            let part = |(group, (codes, q)): (usize, (&[u8], &[i32]))| {
                let sum: i32 = codes.iter().zip(q).map(|(&code, &q)| (i32::from(code) - 1) * q).sum();
                sum as f32 * (scale(row, group) * (tops[group] / 127.0))
            };
            parts.map(part).sum::<f32>()
        };
        self.codes.chunks(self.cols).enumerate().map(product).collect()
    }
}

fn rotate(head: &mut [f32], position: usize, rope: &Rope) {
    let half = rope.dims / 2;
    let factors = rope.yarn.map_or(vec![1.0; half], |yarn| yarn.factors(rope.dims, rope.base));
    let stretch = rope.yarn.map_or(1.0, |yarn| f64::from(yarn.magnitude()));
    for (i, factor) in factors.into_iter().enumerate() {
        let frequency = f64::from(rope.base).powf(-2.0 * i as f64 / rope.dims as f64) as f32 / factor;
        let (sin, cos) = f64::from(position as f32 * rope.position_scale * frequency).sin_cos();
        let (a, b) = match rope.style {
            RopeStyle::HalfSplit => (i, i + half),
            RopeStyle::Interleaved => (2 * i, 2 * i + 1),
        };
        let (x, y) = (stretch * f64::from(head[a]), stretch * f64::from(head[b]));
        head[a] = (x * cos - y * sin) as f32;
        head[b] = (x * sin + y * cos) as f32;
    }
}

fn attention(q: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>], config: &Config) -> Vec<f32> {
    let (width, shared) = (config.head_dim, config.heads / config.kv_heads);
    let mut out = Vec::new();
    for head in 0..config.heads {
        let kv = head / shared * width..(head / shared + 1) * width;
        let q = &q[head * width..(head + 1) * width];
        let score = |k: &Vec<f32>| {
            let dot: f64 = q.iter().zip(&k[kv.clone()]).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            dot / (width as f64).sqrt()
        };
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let top = scores.iter().copied().fold(f64::MIN, f64::max);
        let shares: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
        let total: f64 = shares.iter().sum();
        for e in kv {
            let sum: f64 = shares.iter().zip(values).map(|(p, v)| p * f64::from(v[e])).sum();
            out.push((sum / total) as f32);
        }
    }
    out
}

fn activate(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Relu2 => x.max(0.0).powi(2),
        Activation::Silu => (f64::from(x) / (1.0 + (-f64::from(x)).exp())) as f32,
        Activation::GeluTanh => {
            let x = f64::from(x);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            (x * (1.0 + inner.tanh()) / 2.0) as f32
        }
    }
}

fn add(to: &mut [f32], what: &[f32]) {
    to.iter_mut().zip(what).for_each(|(a, b)| *a += b);
}

/// A block after rounding to ggml's `block_q8_0`.
fn eight_bits(block: &[f32]) -> Vec<f32> {
    let largest = block.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let d = half::f16::from_f32(largest / 127.0).to_f32();
    block.iter().map(|x| d * (x / d).round_ties_even()).collect()
}

/// The logits after each token: (ids, vocab).
pub fn reference_logits(model: &Model, ids: &[u32], kv: KvType) -> Vec<f32> {
    let Model { config, weights } = model;
    let stored = |x: Vec<f32>| match kv {
        KvType::F32 => x,
        KvType::Q8_0 => x.chunks(config.head_dim).flat_map(|head| head.chunks(32)).flat_map(eight_bits).collect(),
        KvType::F16 => x.into_iter().map(|v| half::f16::from_f32(v).to_f32()).collect(),
    };
    let row = |matrix: &DenseMatrix, r: usize| {
        let mut out = vec![0.0; matrix.cols];
        decode_row(matrix.ty, matrix.view().row(r), &mut out);
        out
    };
    let head: Vec<Vec<f32>> = (0..config.vocab).map(|r| row(weights.head(), r)).collect();
    let of_block = |block: &Block| Linear::ATTENTION.map(|role| Plain::of(block.linear(role)));
    let matrices: Vec<_> = weights.blocks.iter().map(of_block).collect();
    let mut caches = vec![(Vec::new(), Vec::new()); config.layers];
    let mut logits = Vec::new();
    for (position, &id) in ids.iter().enumerate() {
        let mut h = row(&weights.token_embd, id as usize);
        let Multipliers { embedding, residual, .. } = config.multipliers;
        let gemma = if config.family == Family::Gemma3 { (config.dim as f32).sqrt() } else { 1.0 };
        h.iter_mut().for_each(|x| *x *= embedding * gemma);
        for ((block, matrices), (keys, values)) in weights.blocks.iter().zip(&matrices).zip(&mut caches) {
            let eps = |role| config.input_norms.filter(|_| Norm::INPUTS.contains(&role)).map(|norms| norms.eps);
            let sub = |x: Vec<f32>, role| match block.norm(role) {
                Some(weight) => rms_norm(&x, weight, eps(role).unwrap_or(config.rms_eps)),
                None => x,
            };
            let a = sub(h.clone(), Norm::Attn);
            // Without the norm of its own, the input as it is.
            let product = |role, norm, x: &[f32]| matrices[role as usize].product(&sub(x.to_vec(), norm));
            let mut q = product(Linear::Q, Norm::QIn, &a);
            let mut k = product(Linear::K, Norm::KIn, &a);
            let mut v = product(Linear::V, Norm::VIn, &a);
            if let Some(bias) = block.bias() {
                let (of_q, rest) = bias.split_at(q.len());
                let (of_k, of_v) = rest.split_at(k.len());
                [(&mut q, of_q), (&mut k, of_k), (&mut v, of_v)].into_iter().for_each(|(x, bias)| add(x, bias));
            }
            for (x, role) in [(&mut q, Norm::QHead), (&mut k, Norm::KHead)] {
                for head in x.chunks_mut(config.head_dim) {
                    let normed = sub(head.to_vec(), role);
                    head.copy_from_slice(&normed);
                    rotate(head, position, &config.rope);
                }
            }
            keys.push(stored(k));
            values.push(stored(v));
            let o = sub(attention(&q, keys, values, config), Norm::AttnSub);
            let times = |x: Vec<f32>| x.into_iter().map(|x| residual * x).collect::<Vec<_>>();
            add(&mut h, &times(sub(product(Linear::O, Norm::OIn, &o), Norm::PostAttn)));
            let f = sub(h.clone(), Norm::Ffn);
            let (gate, up) = (product(Linear::Gate, Norm::GateIn, &f), product(Linear::Up, Norm::UpIn, &f));
            let gated = gate.iter().zip(&up).map(|(&g, &u)| activate(config.activation, g) * u).collect();
            let down = product(Linear::Down, Norm::DownIn, &sub(gated, Norm::FfnSub));
            add(&mut h, &times(sub(down, Norm::PostFfn)));
        }
        let mut normed = rms_norm(&h, &weights.output_norm, config.rms_eps);
        if let (Some(weight), Some(norms)) = (&weights.head_norm, config.input_norms) {
            normed = rms_norm(&normed, weight, norms.eps);
        }
        logits.extend(head.iter().map(|row| row.iter().zip(&normed).map(|(w, x)| w * x).sum::<f32>()));
    }
    logits
}

/// Random values of a dense type: finite, of size about 1 / 8.
pub fn dense_bytes(rng: &mut Rng, ty: DenseType, values: usize) -> Vec<u8> {
    let f16 = |value: f32| half::f16::from_f32(value).to_le_bytes();
    let blocks = values / ty.block_len();
    match ty {
        DenseType::F32 => (0..values).flat_map(|_| (rng.f32() / 4.0).to_le_bytes()).collect(),
        DenseType::F16 => (0..values).flat_map(|_| f16(rng.f32() / 4.0)).collect(),
        DenseType::BF16 => (0..values).flat_map(|_| half::bf16::from_f32(rng.f32() / 4.0).to_le_bytes()).collect(),
        DenseType::Q8_0 => (0..blocks)
            .flat_map(|_| {
                let mut block = f16(rng.f32() / 256.0).to_vec();
                block.extend((0..32).map(|_| rng.next_u64() as u8));
                block
            })
            .collect(),
        DenseType::Q4K => (0..blocks)
            .flat_map(|_| {
                let mut block = [f16(rng.f32() / 4096.0), f16(rng.f32() / 512.0)].concat();
                block.extend((0..140).map(|_| rng.next_u64() as u8));
                block
            })
            .collect(),
        DenseType::Q4_0 | DenseType::Q2_0 | DenseType::Q2_0G128 => (0..blocks)
            .flat_map(|_| {
                let size = if ty == DenseType::Q4_0 { 32.0 } else { 4.0 };
                let mut block = f16(rng.f32() / size).to_vec();
                block.extend((2..ty.block_bytes()).map(|_| rng.next_u64() as u8));
                block
            })
            .collect(),
        DenseType::TQ1_0 | DenseType::TQ2_0 | DenseType::PTQ1_0 => (0..blocks)
            .flat_map(|_| {
                let mut block: Vec<u8> = (2..ty.block_bytes()).map(|_| rng.next_u64() as u8).collect();
                block.extend(f16(rng.f32() / 4.0));
                block
            })
            .collect(),
        DenseType::Q6K => (0..blocks)
            .flat_map(|_| {
                let mut block: Vec<u8> = (0..208).map(|_| rng.next_u64() as u8).collect();
                block.extend(f16(rng.f32() / 8192.0));
                block
            })
            .collect(),
    }
}
