//! Qwen3.5's text model in f64, one token after the other: transformers' `modeling_qwen3_5.py`, with the order of heads
//! and the rotations of GGUF files. No kernel is shared with the program.

use bitnet_cpu_kernels::{
    format::{Layout, dense::decode_row, unpack},
    testing,
};
use bitnet_gpu::model::{DenseMatrix, Linear, MatrixScales, Model, Norm, TernaryMatrix};

/// A formula that is close to the right one and wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// Value head h with key head h / (value heads / key heads).
    GroupedKeyHeads,
    /// Queries of the delta rule without 1 / sqrt(D).
    NoQueryScale,
    /// All dimensions of a head turn.
    RopeOverAll,
    /// Neighbours turn together.
    RopeOfPairs,
    /// All queries before all gates.
    QBeforeGates,
    NoOutputGate,
    /// RMSNorm(o * silu(z)).
    GateBeforeNorm,
    /// Query head h with key/value head h % kv_heads.
    TiledKvHeads,
    NoQNorm,
    NoSigns,
    NoPermutation,
    InversePermutation,
    /// The error against the state before its decay.
    Undecayed,
    TapsReversed,
    NoSiluAfterConv,
    /// 1 added to norms that have it.
    NormsPlusOne,
    /// -exp(rate) for the rate.
    RateAsLog,
    SignsAfterH,
    EmbeddingAsStored,
}

impl Mistake {
    pub const ALL: [Self; 19] = [
        Self::GroupedKeyHeads,
        Self::NoQueryScale,
        Self::RopeOverAll,
        Self::RopeOfPairs,
        Self::QBeforeGates,
        Self::NoOutputGate,
        Self::GateBeforeNorm,
        Self::TiledKvHeads,
        Self::NoQNorm,
        Self::NoSigns,
        Self::NoPermutation,
        Self::InversePermutation,
        Self::Undecayed,
        Self::TapsReversed,
        Self::NoSiluAfterConv,
        Self::NormsPlusOne,
        Self::RateAsLog,
        Self::SignsAfterH,
        Self::EmbeddingAsStored,
    ];
}

/// (rows, cols)
struct Matrix {
    cols: usize,
    values: Vec<f32>,
    /// Columns that share a step of int8 activations.
    group: usize,
}

impl Matrix {
    fn ternary(matrix: &TernaryMatrix) -> Self {
        let matrix = matrix.packed(Layout::I2sP128).unwrap();
        let (rows, cols) = (matrix.rows, matrix.cols);
        let group = matrix.scales.view().group().unwrap_or(cols);
        let scale = |at: usize| match &matrix.scales {
            MatrixScales::PerTensor(scale) => *scale,
            MatrixScales::PerRow(scales) => scales[at / cols],
            MatrixScales::PerGroup { values, .. } => values[at / group].to_f32(),
        };
        let codes = unpack(matrix.layout, rows, cols, &matrix.codes);
        let value = |(at, code): (usize, u8)| scale(at) * (f32::from(code) - 1.0);
        Self { cols, values: codes.into_iter().enumerate().map(value).collect(), group }
    }

    fn dense(matrix: &DenseMatrix) -> Self {
        let mut values = vec![0.0; matrix.rows * matrix.cols];
        for (row, out) in values.chunks_mut(matrix.cols).enumerate() {
            decode_row(matrix.ty, matrix.view().row(row), out);
        }
        Self { cols: matrix.cols, values, group: matrix.cols }
    }

    fn row(&self, row: usize) -> Vec<f64> {
        self.values[row * self.cols..][..self.cols].iter().map(|&x| x.into()).collect()
    }

    fn times(&self, x: &[f64]) -> Vec<f64> {
        self.values.chunks(self.cols).map(|row| testing::dot(row, x)).collect()
    }
}

/// State of a layer between tokens.
enum State {
    /// Keys and values of all positions.
    Attention(Vec<Vec<f64>>, Vec<Vec<f64>>),
    /// The last inputs of the convolution, oldest first, and S of each head: `[head][key][value]`.
    Delta(Vec<Vec<f64>>, Vec<Vec<Vec<f64>>>),
}

/// A model that runs token by token.
pub struct Reference<'a> {
    model: &'a Model,
    /// Quantises the input of ternary products to int8.
    pub int8: bool,
    pub mistake: Option<Mistake>,
    linears: Vec<Vec<(Linear, Matrix)>>,
    gates: Vec<Option<[Matrix; 2]>>,
    table: Matrix,
    head: Matrix,
    states: Vec<State>,
    position: usize,
    /// Keys and values of the block of multi-token prediction.
    mtp: [Vec<Vec<f64>>; 2],
}

impl<'a> Reference<'a> {
    pub fn new(model: &'a Model) -> Self {
        let weights = &model.weights;
        let linears = |layer: usize| {
            weights.blocks[layer].linears().map(|(role, matrix)| (role, Matrix::ternary(matrix))).collect()
        };
        let gates =
            |layer: usize| weights.blocks[layer].delta().map(|delta| [&delta.alpha, &delta.beta].map(Matrix::dense));
        let layers = 0..model.config.layers;
        let mut made = Self {
            model,
            int8: false,
            mistake: None,
            linears: layers.clone().map(linears).collect(),
            gates: layers.map(gates).collect(),
            table: Matrix::dense(&weights.token_embd),
            head: Matrix::dense(weights.head()),
            states: Vec::new(),
            position: 0,
            mtp: Default::default(),
        };
        made.clear();
        made
    }

    /// Back to an empty sequence.
    pub fn clear(&mut self) {
        let config = &self.model.config;
        self.position = 0;
        let state = |layer| match &config.delta {
            Some(delta) if config.is_recurrent(layer) => {
                let (width, heads) = (delta.head_dim, delta.value_heads);
                State::Delta(
                    vec![vec![0.0; delta.channels()]; delta.kernel - 1],
                    vec![vec![vec![0.0; width]; width]; heads],
                )
            }
            _ => State::Attention(Vec::new(), Vec::new()),
        };
        self.states = (0..config.layers).map(state).collect();
    }

    fn has(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// The logits after the last of `ids`, which follow those before; with the residual stream of that token: the
    /// embedding, after each layer but the last, and after the final norm.
    pub fn run(&mut self, ids: &[u32]) -> (Vec<f64>, Vec<Vec<f64>>) {
        let mut trace = Vec::new();
        for &id in ids {
            trace = self.token(id as usize);
        }
        let mut x = trace.last().unwrap().clone();
        if self.model.config.rotation.as_ref().is_some_and(|rotation| rotation.head) {
            x = self.forward(&x);
        }
        (self.head.times(&x), trace)
    }

    /// The block of multi-token prediction, llama.cpp's graph of `qwen35`: from a token and the output before it, of the
    /// layers or of the block, the logits of the token behind it and the block's output. What follows the position is
    /// forgotten.
    pub fn predict(&mut self, position: usize, id: u32, before: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (config, weights) = (&self.model.config, &self.model.weights);
        let block = weights.mtp.as_ref().unwrap();
        let normed = |x: &[f64], weight: &[f32]| rms_norm(x, &self.one_more(weight), self.eps());
        let of_block = |role: Norm, x: &[f64]| normed(x, block.norms.norm(role).unwrap());
        let times = |role: Linear, x: &[f64]| {
            let rotation = config.rotation.as_ref();
            let is_folded = rotation.is_some_and(|rotation| rotation.folds(config.layers, role));
            Matrix::dense(block.linear(role)).times(&if is_folded { self.forward(x) } else { x.to_vec() })
        };
        let mut embedding = match &block.token_embd {
            Some(table) => Matrix::dense(table).row(id as usize),
            None => self.table.row(id as usize),
        };
        if block.token_embd.is_none() && config.rotation.is_some() {
            embedding = self.backward(&embedding);
        }
        let both = [normed(&embedding, &block.embedding_norm), normed(before, &block.hidden_norm)].concat();
        let mut x = Matrix::dense(&block.join).times(&both);

        let inner = of_block(Norm::Attn, &x);
        let (width, shared) = (config.head_dim, config.heads / config.kv_heads);
        let placed = |heads: Vec<f64>, norm: Norm| -> Vec<f64> {
            let mut turned = Vec::new();
            for head in heads.chunks(width) {
                let mut head = of_block(norm, head);
                self.turn_at(position, &mut head);
                turned.extend(head);
            }
            turned
        };
        let (k, v) = (placed(times(Linear::K, &inner), Norm::KHead), times(Linear::V, &inner));
        let (mut queries, mut gates) = (Vec::new(), Vec::new());
        for head in times(Linear::Q, &inner).chunks(2 * width) {
            queries.extend_from_slice(&head[..width]);
            gates.extend_from_slice(&head[width..]);
        }
        let queries = placed(queries, Norm::QHead);
        let mut held = self.mtp.clone();
        for (rows, new) in held.iter_mut().zip([k, v]) {
            rows.truncate(position);
            rows.push(new);
        }
        let [keys, values] = &held;
        assert_eq!(keys.len(), position + 1, "every position before it");
        let mut mixed = vec![0.0; config.heads * width];
        for head in 0..config.heads {
            let kv = head / shared * width;
            let q = &queries[head * width..][..width];
            let score = |k: &Vec<f64>| (dot(q, &k[kv..kv + width]) / (width as f64).sqrt()).exp();
            let total: f64 = keys.iter().map(score).sum();
            for (k, v) in keys.iter().zip(values) {
                for i in 0..width {
                    let gate = sigmoid(gates[head * width + i]);
                    mixed[head * width + i] += score(k) / total * v[kv + i] * gate;
                }
            }
        }
        add(&mut x, &times(Linear::O, &mixed));
        let inner = of_block(Norm::Ffn, &x);
        let (gate, up) = (times(Linear::Gate, &inner), times(Linear::Up, &inner));
        let gated: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| silu(*g) * u).collect();
        add(&mut x, &times(Linear::Down, &gated));

        let output = normed(&x, block.head_norm.as_ref().unwrap_or(&weights.output_norm));
        let logits = match &block.output {
            Some(head) => Matrix::dense(head).times(&output),
            None if config.rotation.as_ref().is_some_and(|rotation| rotation.head) => {
                self.head.times(&self.forward(&output))
            }
            None => self.head.times(&output),
        };
        self.mtp = held;
        (logits, output)
    }

    fn token(&mut self, id: usize) -> Vec<Vec<f64>> {
        let config = &self.model.config;
        let mut x = self.table.row(id);
        if config.rotation.is_some() && !self.has(Mistake::EmbeddingAsStored) {
            x = self.backward(&x);
        }
        let mut trace = vec![x.clone()];
        for layer in 0..config.layers {
            let normed = self.norm(layer, Norm::Attn, &x);
            let mixed =
                if config.is_recurrent(layer) { self.delta(layer, &normed) } else { self.attention(layer, &normed) };
            add(&mut x, &mixed);
            let normed = self.norm(layer, Norm::Ffn, &x);
            let (gate, up) = (self.product(layer, Linear::Gate, &normed), self.product(layer, Linear::Up, &normed));
            let gated: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| silu(*g) * u).collect();
            add(&mut x, &self.product(layer, Linear::Down, &gated));
            trace.push(x.clone());
        }
        self.position += 1;
        let last = trace.last_mut().unwrap();
        *last = rms_norm(last, &self.one_more(&self.model.weights.output_norm), self.eps());
        trace
    }

    fn eps(&self) -> f64 {
        f64::from(self.model.config.rms_eps)
    }

    fn one_more(&self, weight: &[f32]) -> Vec<f64> {
        let more = if self.has(Mistake::NormsPlusOne) { 1.0 } else { 0.0 };
        weight.iter().map(|&w| f64::from(w) + more).collect()
    }

    fn norm(&self, layer: usize, role: Norm, x: &[f64]) -> Vec<f64> {
        rms_norm(x, &self.one_more(self.model.weights.blocks[layer].norm(role).unwrap()), self.eps())
    }

    fn product(&self, layer: usize, role: Linear, x: &[f64]) -> Vec<f64> {
        let (_, matrix) = self.linears[layer].iter().find(|(of, _)| *of == role).unwrap();
        let mut x = x.to_vec();
        if let Some(rotation) = &self.model.config.rotation
            && rotation.folds(layer, role)
        {
            if role == Linear::DeltaOut && rotation.v_grouped {
                x = self.permuted(&x);
            }
            x = self.forward(&x);
        }
        if self.int8 {
            x.chunks_mut(matrix.group).for_each(round_to_int8);
        }
        matrix.times(&x)
    }

    /// Value heads of a key head next to each other: new head k * rep + r <- old head r * key_heads + k.
    fn permuted(&self, x: &[f64]) -> Vec<f64> {
        let delta = self.model.config.delta.as_ref().unwrap();
        let (width, heads, keys) = (delta.head_dim, delta.value_heads, delta.key_heads);
        let shared = heads / keys;
        let mut out = vec![0.0; x.len()];
        for head in 0..heads {
            let from = match self.mistake {
                Some(Mistake::NoPermutation) => head,
                Some(Mistake::InversePermutation) => head % keys * shared + head / keys,
                _ => head % shared * keys + head / shared,
            };
            out[head * width..][..width].copy_from_slice(&x[from * width..][..width]);
        }
        out
    }

    fn signs(&self, width: usize) -> Vec<f64> {
        let signs = self.model.config.rotation.as_ref().unwrap().signs_of(width);
        match signs {
            Some(signs) if !self.has(Mistake::NoSigns) => signs.iter().map(|&s| f64::from(s)).collect(),
            _ => vec![1.0; width],
        }
    }

    /// H (s x)
    fn forward(&self, x: &[f64]) -> Vec<f64> {
        let signs = self.signs(x.len());
        if self.has(Mistake::SignsAfterH) {
            return self.backward(x);
        }
        self.hadamard(x.iter().zip(&signs).map(|(x, s)| x * s).collect())
    }

    /// s (H x)
    fn backward(&self, x: &[f64]) -> Vec<f64> {
        let signs = self.signs(x.len());
        self.hadamard(x.to_vec()).iter().zip(&signs).map(|(x, s)| x * s).collect()
    }

    fn hadamard(&self, mut x: Vec<f64>) -> Vec<f64> {
        let block = self.model.config.rotation.as_ref().unwrap().block;
        for part in x.chunks_mut(block) {
            // [[A, A], [A, -A]] of half the size.
            let mut half = 1;
            while half < block {
                for pair in part.chunks_mut(2 * half) {
                    let (a, b) = pair.split_at_mut(half);
                    for (a, b) in a.iter_mut().zip(b) {
                        (*a, *b) = (*a + *b, *a - *b);
                    }
                }
                half *= 2;
            }
            part.iter_mut().for_each(|x| *x /= (block as f64).sqrt());
        }
        x
    }

    fn attention(&mut self, layer: usize, x: &[f64]) -> Vec<f64> {
        let config = &self.model.config;
        let (heads, kv_heads, width) = (config.heads, config.kv_heads, config.head_dim);
        let both = self.product(layer, Linear::Q, x);
        let of_head = |head: usize| match self.mistake {
            Some(Mistake::QBeforeGates) => (&both[head * width..], &both[(heads + head) * width..]),
            _ => (&both[2 * head * width..], &both[(2 * head + 1) * width..]),
        };
        let mut k = self.product(layer, Linear::K, x);
        let v = self.product(layer, Linear::V, x);
        for head in k.chunks_mut(width) {
            let normed = self.norm(layer, Norm::KHead, head);
            head.copy_from_slice(&normed);
            self.turn(head);
        }
        let position = self.position;
        let State::Attention(keys, values) = &mut self.states[layer] else { panic!("an attention layer") };
        assert_eq!(keys.len(), position);
        keys.push(k);
        values.push(v);
        let State::Attention(keys, values) = &self.states[layer] else { panic!("an attention layer") };
        let mut out = Vec::new();
        for head in 0..heads {
            let (q, gate) = of_head(head);
            let mut q = q[..width].to_vec();
            if !self.has(Mistake::NoQNorm) {
                q = self.norm(layer, Norm::QHead, &q);
            }
            self.turn(&mut q);
            let kv = if self.has(Mistake::TiledKvHeads) { head % kv_heads } else { head / (heads / kv_heads) };
            let of_kv = kv * width..(kv + 1) * width;
            let scores: Vec<f64> = keys.iter().map(|k| dot(&q, &k[of_kv.clone()]) / (width as f64).sqrt()).collect();
            let top = scores.iter().copied().fold(f64::MIN, f64::max);
            let shares: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
            let total: f64 = shares.iter().sum();
            for i in 0..width {
                let mixed: f64 = shares.iter().zip(values).map(|(share, v)| share * v[of_kv.start + i]).sum();
                let gate = if self.has(Mistake::NoOutputGate) { 1.0 } else { sigmoid(gate[i]) };
                out.push(mixed / total * gate);
            }
        }
        self.product(layer, Linear::O, &out)
    }

    fn turn(&self, head: &mut [f64]) {
        self.turn_at(self.position, head);
    }

    fn turn_at(&self, position: usize, head: &mut [f64]) {
        let rope = &self.model.config.rope;
        let dims = if self.has(Mistake::RopeOverAll) { head.len() } else { rope.dims };
        for i in 0..dims / 2 {
            let angle = position as f64 * f64::from(rope.base).powf(-2.0 * i as f64 / dims as f64);
            let (a, b) = if self.has(Mistake::RopeOfPairs) { (2 * i, 2 * i + 1) } else { (i, i + dims / 2) };
            let (x, y) = (head[a], head[b]);
            head[a] = x * angle.cos() - y * angle.sin();
            head[b] = x * angle.sin() + y * angle.cos();
        }
    }

    fn delta(&mut self, layer: usize, x: &[f64]) -> Vec<f64> {
        let shape = self.model.config.delta.as_ref().unwrap();
        let weights = self.model.weights.blocks[layer].delta().unwrap();
        let (m, z) = (self.product(layer, Linear::DeltaQkv, x), self.product(layer, Linear::DeltaGate, x));
        let [a, b] = self.gates[layer].as_ref().unwrap().each_ref().map(|gate| gate.times(x));
        let c = self.convolved(layer, m);
        let (keys, heads, width) = (shape.key_heads, shape.value_heads, shape.head_dim);
        let (q, rest) = c.split_at(keys * width);
        let (k, v) = rest.split_at(keys * width);
        let mut out = Vec::new();
        for head in 0..heads {
            let key_head = if self.has(Mistake::GroupedKeyHeads) { head / (heads / keys) } else { head % keys };
            let of_key = key_head * width..(key_head + 1) * width;
            let (mut q, k) = (unit(&q[of_key.clone()]), unit(&k[of_key]));
            if !self.has(Mistake::NoQueryScale) {
                q.iter_mut().for_each(|q| *q /= (width as f64).sqrt());
            }
            let beta = sigmoid(b[head]);
            let rate = f64::from(weights.rate[head]);
            let rate = if self.has(Mistake::RateAsLog) { -rate.exp() } else { rate };
            let decay = (rate * (1.0 + (a[head] + f64::from(weights.dt_bias[head])).exp()).ln()).exp();
            let undecayed = self.has(Mistake::Undecayed);
            let State::Delta(_, memories) = &mut self.states[layer] else { panic!("a recurrent layer") };
            let memory = &mut memories[head];
            let mut mixed = vec![0.0; width];
            for j in 0..width {
                let found: f64 = (0..width).map(|i| memory[i][j] * k[i]).sum();
                let found = if undecayed { found } else { decay * found };
                let change = beta * (v[head * width + j] - found);
                for i in 0..width {
                    memory[i][j] = decay * memory[i][j] + k[i] * change;
                    mixed[j] += memory[i][j] * q[i];
                }
            }
            let gate = z[head * width..][..width].iter().map(|&z| silu(z));
            let weight: Vec<f64> =
                self.model.weights.blocks[layer].norm(Norm::DeltaHead).unwrap().iter().map(|&w| w.into()).collect();
            if self.has(Mistake::GateBeforeNorm) {
                let gated: Vec<f64> = mixed.iter().zip(gate).map(|(o, z)| o * z).collect();
                out.extend(rms_norm(&gated, &weight, self.eps()));
            } else {
                out.extend(rms_norm(&mixed, &weight, self.eps()).iter().zip(gate).map(|(o, z)| o * z));
            }
        }
        self.product(layer, Linear::DeltaOut, &out)
    }

    fn convolved(&mut self, layer: usize, m: Vec<f64>) -> Vec<f64> {
        let weights = self.model.weights.blocks[layer].delta().unwrap();
        let (reversed, linear) = (self.has(Mistake::TapsReversed), self.has(Mistake::NoSiluAfterConv));
        let State::Delta(window, _) = &mut self.states[layer] else { panic!("a recurrent layer") };
        window.push(m);
        let kernel = window.len();
        let channel = |channel: usize| {
            let taps = &weights.conv[channel * kernel..][..kernel];
            let tap = |j: usize| f64::from(taps[if reversed { kernel - 1 - j } else { j }]);
            let sum: f64 = window.iter().enumerate().map(|(j, m)| tap(j) * m[channel]).sum();
            if linear { sum } else { silu(sum) }
        };
        let out = (0..window[0].len()).map(channel).collect();
        window.remove(0);
        out
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], what: &[f64]) {
    to.iter_mut().zip(what).for_each(|(to, what)| *to += what);
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

fn unit(x: &[f64]) -> Vec<f64> {
    let length = (dot(x, x) + 1e-6).sqrt();
    x.iter().map(|x| x / length).collect()
}

fn rms_norm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let root = (dot(x, x) / x.len() as f64 + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| x / root * w).collect()
}

/// 127 steps to the largest value.
fn round_to_int8(group: &mut [f64]) {
    let top = group.iter().fold(1e-5, |top: f64, x| top.max(x.abs()));
    group.iter_mut().for_each(|x| *x = (*x * 127.0 / top).round_ties_even() * top / 127.0);
}
