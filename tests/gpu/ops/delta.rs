//! The kernels of gated delta nets.

use bitnet_cpu_kernels::{
    attention::Placed,
    delta::{self, Decay, HeadOrder, Shape, State, Taps},
    dense,
    format::{DenseType, DenseView},
    norm,
    quantize::{self, QuantizedActs},
    testing::Rng,
};
use bitnet_gpu::backend::gpu::{
    Gpu, Tuning,
    debug::{self, Run},
    params::{self, Dynamic},
    pipelines::{Choices, Shader, Variant},
};

use super::{CLOSE, assert_quantized_groups, lane_choices, rotate};
use crate::common::gpu::{activations, bytes, floats, model::dense_bytes, open_gpu, scalar, worst};

const SHAPES: [Shape; 6] = [
    Shape { key_heads: 1, value_heads: 1, dim: 16, kernel: 4 },
    Shape { key_heads: 2, value_heads: 6, dim: 32, kernel: 2 },
    Shape { key_heads: 4, value_heads: 12, dim: 64, kernel: 4 },
    Shape { key_heads: 2, value_heads: 2, dim: 128, kernel: 4 },
    Shape { key_heads: 1, value_heads: 3, dim: 256, kernel: 3 },
    Shape { key_heads: 4, value_heads: 8, dim: 48, kernel: 1 },
];

/// Positions of a sequence in the caches; slots are told apart by it.
const CONTEXT: usize = 300;

const SLOTS: usize = 3;

#[test]
fn what_a_delta_net_reads_equals_the_reference() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(81);
    let size = 64;
    for (cols, block, heads, ty) in [
        (256, 256, 12, DenseType::BF16),
        (1280, 256, 3, DenseType::F32),
        (5120, 1024, 2, DenseType::F16),
        (256, 1, 4, DenseType::Q2_0),
    ] {
        let tokens = 3;
        let x = activations(&mut rng, tokens * cols);
        let (signs, weight) = (rotate::signs(&mut rng, cols), rng.floats(cols));
        let mut normed = x.clone();
        norm::rms_norm_in_place(&scalar(), &mut normed, cols, &weight, 1e-6);
        let table = dense_bytes(&mut rng, ty, 2 * heads * cols);
        let row_bytes = table.len() / (2 * heads);
        let mut gates = vec![0.0; tokens * 2 * heads];
        let view = DenseView::new(2 * heads, cols, &table, ty).unwrap();
        dense::matmul(&scalar(), view, &normed, &mut gates);
        rotate::forward(&mut normed, block, &signs);
        let mut expected = QuantizedActs::with_group(tokens, cols, Some(size));
        quantize::norm_quantize(&scalar(), &normed, cols, None, 0.0, &mut expected);

        let product = rotate::normed_factors(&rotate::factors(&signs, block), &weight, block);
        let (words, groups) = (cols.next_multiple_of(128) / 4, cols / size);
        let params = params::DeltaInput {
            cols: cols as u32,
            words: words as u32,
            in_stride: cols as u32,
            groups: groups as u32,
            eps: 1e-6,
            heads: heads as u32,
            row_bytes: row_bytes as u32,
            ..Default::default()
        };
        let outputs = vec![9.0; gates.len()];
        for choices in lane_choices(&gpu) {
            let run = Run {
                variant: Variant::new(Shader::DeltaInput, choices, Some(ty)),
                constants: &[("NORM", 1.0), ("BLOCK", block as f64), ("GROUP", size as f64)],
                params: params.into(),
                dynamic: Dynamic { tokens: tokens as u32, ..Dynamic::default() },
                buffers: &[
                    bytes(&x),
                    bytes(&product),
                    &vec![0xff; tokens * words * 4],
                    &vec![0; tokens * groups * 8],
                    &[0; 4],
                    bytes(&weight),
                    &table,
                    bytes(&outputs),
                ],
                grid: [words.div_ceil(256) + heads, tokens, 1],
            };
            let contents = debug::run(&gpu, &run).unwrap();
            let what = format!("{cols} in blocks of {block}, {ty:?}, {choices:?}");
            assert_quantized_groups(&what, &contents, &expected, size);
            let found = floats(&contents[7]);
            assert!(worst(&found, &gates) < CLOSE, "{what}: {}", worst(&found, &gates));
            assert_eq!(contents[4], [0; 4], "{what}: damage");
        }
    }
}

/// The parameters of a layer, and the inputs of some tokens.
struct Layer {
    shape: Shape,
    /// (channels, kernel)
    taps: Vec<f32>,
    rate: Vec<f32>,
    bias: Vec<f32>,
}

/// Tokens of one sequence: m and z together, as one product gives them, alpha and beta.
struct Tokens {
    x: Vec<f32>,
    gates: Vec<f32>,
}

/// State that the kernels keep: the last inputs of the convolution, and S, of all slots.
#[derive(Clone)]
struct Kept {
    before: Vec<f32>,
    memory: Vec<f32>,
}

impl Layer {
    fn new(rng: &mut Rng, shape: Shape) -> Self {
        let heads = shape.value_heads;
        Self {
            shape,
            taps: rng.floats(shape.channels() * shape.kernel),
            rate: (0..heads).map(|_| -(4.0 * rng.f32() - 3.0).exp()).collect(),
            bias: rng.floats(heads),
        }
    }

    fn stride(&self) -> usize {
        self.shape.channels() + self.shape.width()
    }

    fn tokens(&self, rng: &mut Rng, count: usize) -> Tokens {
        let mut x = rng.floats(count * self.stride());
        x.iter_mut().for_each(|x| *x *= 3.0);
        let gates = rng.floats(count * 2 * self.shape.value_heads).into_iter().map(|x| 4.0 * x).collect();
        Tokens { x, gates }
    }

    fn kept(&self) -> Kept {
        // Zeros before the first token, whatever is there.
        Kept {
            before: vec![f32::NAN; SLOTS * self.shape.conv_len()],
            memory: vec![f32::NAN; SLOTS * self.shape.memory_len()],
        }
    }

    /// Taps, then rates and biases, as the kernel has them.
    fn weights(&self) -> Vec<f32> {
        let (channels, kernel) = (self.shape.channels(), self.shape.kernel);
        let taps = (0..kernel * channels).map(|i| self.taps[i % channels * kernel + i / channels]);
        let mut weights: Vec<f32> = taps.chain(self.rate.iter().copied()).chain(self.bias.iter().copied()).collect();
        weights.resize(weights.len().next_multiple_of(4), 0.0);
        weights
    }

    /// The reference: `state` goes through all tokens.
    fn expected(&self, tokens: &Tokens, state: &mut State) -> Vec<f32> {
        let (cpu, shape, heads) = (scalar(), &self.shape, self.shape.value_heads);
        let count = tokens.gates.len() / (2 * heads);
        let mut c: Vec<f32> = tokens.x.chunks(self.stride()).flat_map(|x| x[..shape.channels()].to_vec()).collect();
        let half = |at: usize| tokens.gates.chunks(heads).skip(at).step_by(2).flatten().copied().collect::<Vec<f32>>();
        let (mut a, mut b) = (half(0), half(1));
        let mut out = vec![0.0; count * shape.width()];
        let rows = [Placed { cache: 0, start: 0, tokens: count, is_prompt: false }];
        let states = std::slice::from_mut(state);
        delta::conv(&cpu, shape, &Taps::new(shape, &self.taps), states, &rows, &mut c);
        let decay = Decay { rate: &self.rate, bias: &self.bias };
        delta::mix(&cpu, shape, &c, &mut a, &mut b, decay, states, &rows, &mut out);
        out
    }

    /// A step of `rows`: (slot, start, tokens) each, their tokens one after the other in `tokens`. Gives the output, and
    /// keeps what the kernels keep.
    fn run(
        &self,
        gpu: &Gpu,
        choices: Choices,
        tokens: &Tokens,
        rows: &[(usize, usize, usize)],
        kept: &mut Kept,
    ) -> Vec<f32> {
        let Shape { key_heads, value_heads, dim, kernel } = self.shape;
        let count = rows.iter().map(|row| row.2).sum::<usize>();
        let mut words = vec![[0; 4]];
        for &(slot, start, tokens) in rows {
            let first = words.len() as u32 - 1;
            let base = (slot * CONTEXT) as u32;
            words.extend((start..start + tokens).map(|position| [0, position as u32, first, base]));
        }
        let batch: Vec<u8> = bytemuck::cast_slice(&words).to_vec();
        let dynamic = Dynamic { tokens: count as u32, ..Dynamic::default() };
        let invocations = if dim > 128 { 32 } else { 64 };
        let params = params::DeltaStep {
            key_heads: key_heads as u32,
            value_heads: value_heads as u32,
            stride: (self.stride() / 4) as u32,
            context: CONTEXT as u32,
            ..Default::default()
        };
        let (weights, outputs) = (self.weights(), vec![9.0; count * self.shape.width()]);
        let run = Run {
            variant: Variant::new(Shader::DeltaStep, choices, None),
            constants: &[
                ("WG", invocations as f64),
                ("DIM", dim as f64),
                ("KERNEL", kernel as f64),
                ("HELD", (invocations * dim / 16) as f64),
            ],
            params: params.into(),
            dynamic,
            buffers: &[
                bytes(&tokens.x),
                bytes(&tokens.gates),
                bytes(&weights),
                bytes(&kept.before),
                bytes(&kept.memory),
                bytes(&outputs),
                &batch,
            ],
            grid: [value_heads * dim / (invocations / 4), count, 1],
        };
        let contents = debug::run(gpu, &run).unwrap();
        kept.memory = floats(&contents[4]);
        assert_eq!(contents[6][..4], [0; 4], "damage");
        let out = floats(&contents[5]);
        let (before, ..) = self.norm(gpu, choices, &out, tokens, &batch, &kept.before, (1, HeadOrder::Tiled, &[]));
        kept.before = before;
        out
    }

    /// The gated norm, its quantisation in groups of 64, and what is kept of the inputs.
    #[allow(clippy::too_many_arguments, reason = "the bindings of the kernel")]
    fn norm(
        &self,
        gpu: &Gpu,
        choices: Choices,
        o: &[f32],
        tokens: &Tokens,
        batch: &[u8],
        before: &[f32],
        (block, order, factors): (usize, HeadOrder, &[f32]),
    ) -> (Vec<f32>, Vec<Vec<u8>>) {
        let Shape { key_heads, value_heads, dim, kernel } = self.shape;
        let cols = self.shape.width();
        let count = o.len() / cols;
        let (words, groups) = (cols.next_multiple_of(128) / 4, cols.div_ceil(64));
        let params = params::DeltaNorm {
            cols: cols as u32,
            words: words as u32,
            groups: groups as u32,
            eps: 1e-6,
            key_heads: key_heads as u32,
            value_heads: value_heads as u32,
            stride: self.stride() as u32,
            z_offset: self.shape.channels() as u32,
            context: CONTEXT as u32,
            ..Default::default()
        };
        let head_norm = head_norm(dim);
        let run = Run {
            variant: Variant::new(Shader::DeltaNorm, choices, None),
            constants: &[
                ("DIM", dim as f64),
                ("KERNEL", kernel as f64),
                ("BLOCK", block as f64),
                ("GROUP", 64.0),
                ("GROUPED", f64::from(u8::from(order == HeadOrder::Grouped))),
            ],
            params: params.into(),
            dynamic: Dynamic { tokens: count as u32, ..Dynamic::default() },
            buffers: &[
                bytes(o),
                bytes(if factors.is_empty() { &[0.0] } else { factors }),
                &vec![0xff; count * words * 4],
                &vec![0; count * groups * 8],
                batch,
                bytes(&head_norm),
                bytes(&tokens.x),
                bytes(before),
            ],
            grid: [words.div_ceil(256) + self.shape.channels().div_ceil(256), count, 1],
        };
        let contents = debug::run(gpu, &run).unwrap();
        (floats(&contents[7]), contents)
    }
}

fn head_norm(dim: usize) -> Vec<f32> {
    Rng::new(7).floats(dim)
}

#[test]
fn steps_of_a_delta_net_equal_the_reference() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(82);
    for shape in SHAPES {
        let layer = Layer::new(&mut rng, shape);
        for choices in lane_choices(&gpu) {
            let what = format!("{shape:?}, {choices:?}");
            let mut kept = layer.kept();
            let mut state = State::try_new(shape).unwrap().unwrap();
            let mut start = 0;
            // Fewer tokens than the convolution reaches, and more.
            for count in [1, 2, 1, 1, 7, 20] {
                let tokens = layer.tokens(&mut rng, count);
                let expected = layer.expected(&tokens, &mut state);
                let found = layer.run(&gpu, choices, &tokens, &[(1, start, count)], &mut kept);
                assert!(worst(&found, &expected) < 1e-4, "{what}: {}", worst(&found, &expected));
                let own = &kept.before[shape.conv_len()..2 * shape.conv_len()];
                assert_eq!(own, state.conv(), "{what}: inputs after {start} + {count}");
                let own = &kept.memory[shape.memory_len()..2 * shape.memory_len()];
                assert!(worst(own, state.memory()) < 1e-4, "{what}: S after {start} + {count}");
                start += count;
            }
            let others = |all: &[f32], len: usize| all[..len].iter().chain(&all[2 * len..]).all(|x| x.is_nan());
            assert!(others(&kept.before, shape.conv_len()), "{what}: inputs of other sequences");
            assert!(others(&kept.memory, shape.memory_len()), "{what}: S of other sequences");
        }
    }
}

/// Tokens of several sequences in one step, and several of each, get the bits of single steps.
#[test]
fn tokens_together_equal_single_steps() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(83);
    for shape in [SHAPES[1], SHAPES[2], SHAPES[4], SHAPES[5]] {
        let layer = Layer::new(&mut rng, shape);
        let (rows, all) = ([(2, 0, 3), (0, 2, 1), (1, 5, 4)], 8);
        let tokens = layer.tokens(&mut rng, all);
        for choices in lane_choices(&gpu) {
            let mut before = layer.kept();
            for (slot, start, _) in rows.into_iter().filter(|row| row.1 > 0) {
                let earlier = layer.tokens(&mut rng, start);
                layer.run(&gpu, choices, &earlier, &[(slot, 0, start)], &mut before);
            }
            let mut together = before.clone();
            let out = layer.run(&gpu, choices, &tokens, &rows, &mut together);
            let mut alone = before;
            let mut t = 0;
            for (slot, start, count) in rows {
                for position in start..start + count {
                    let part = |x: &[f32], width: usize| x[t * width..(t + 1) * width].to_vec();
                    let one = Tokens {
                        x: part(&tokens.x, layer.stride()),
                        gates: part(&tokens.gates, 2 * shape.value_heads),
                    };
                    let single = layer.run(&gpu, choices, &one, &[(slot, position, 1)], &mut alone);
                    assert_eq!(single, part(&out, shape.width()), "{shape:?}, {choices:?}, token {t}");
                    t += 1;
                }
            }
            assert_eq!(together.before, alone.before, "{shape:?}, {choices:?}: inputs");
            assert_eq!(together.memory, alone.memory, "{shape:?}, {choices:?}: S");
        }
    }
}

#[test]
fn gated_norms_equal_the_reference() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(84);
    let wide = Shape { key_heads: 16, value_heads: 48, dim: 128, kernel: 4 };
    let wider = Shape { key_heads: 16, value_heads: 32, dim: 128, kernel: 4 };
    for (shape, block) in
        [(SHAPES[2], 256), (SHAPES[2], 1), (wide, 1024), (wider, 4096), (SHAPES[3], 16), (SHAPES[5], 128)]
    {
        let layer = Layer::new(&mut rng, shape);
        let (cols, count) = (shape.width(), 2);
        let tokens = layer.tokens(&mut rng, count);
        let o = activations(&mut rng, count * cols);
        let signs = rotate::signs(&mut rng, cols);
        for order in [HeadOrder::Tiled, HeadOrder::Grouped] {
            let mut y = o.clone();
            let mut z: Vec<f32> =
                tokens.x.chunks(layer.stride()).flat_map(|x| x[shape.channels()..].to_vec()).collect();
            delta::gated_norm(&scalar(), &shape, &mut y, &mut z, &head_norm(shape.dim), 1e-6, order);
            rotate::forward(&mut y, block, &signs);
            let mut expected = QuantizedActs::with_group(count, cols, Some(64));
            quantize::norm_quantize(&scalar(), &y, cols, None, 0.0, &mut expected);
            let batch = super::batch(&[0; 2], 0, 0);
            let before = layer.kept().before;
            for choices in lane_choices(&gpu) {
                let factors = rotate::factors(&signs, block);
                let (_, contents) = layer.norm(&gpu, choices, &o, &tokens, &batch, &before, (block, order, &factors));
                let what = format!("{shape:?}, blocks of {block}, {order:?}, {choices:?}");
                assert_quantized_groups(&what, &contents, &expected, 64);
            }
        }
    }
}
