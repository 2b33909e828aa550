//! Products that norm and quantise their input themselves.

use bitnet_cpu_kernels::{
    format::{GROUP_SIZES, Layout, Scales, TernaryView, pack, ternary_bytes},
    quantize::QuantizedActs,
    ternary,
    testing::Rng,
};
use bitnet_gpu::backend::gpu::{
    Gpu, Tuning,
    debug::{self, Run},
    params::{self, Dynamic, Params},
    pipelines::{Choices, Input, Product, Program, Shader, Variant},
};
use half::f16;

use super::lane_choices;
use crate::common::gpu::{activations, bytes, floats, open_gpu, scalar};

fn all_choices(gpu: &Gpu) -> Vec<Choices> {
    let products = Product::ALL;
    lane_choices(gpu).into_iter().flat_map(|lanes| products.map(|product| Choices { product, ..lanes })).collect()
}

#[test]
fn folded_products_equal_the_scalar_integers() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(41);
    let sizes = GROUP_SIZES.map(Some);
    for size in [None].into_iter().chain(sizes) {
        let unit = size.unwrap_or(1);
        let mut cases = vec![(17, 3 * 256, 3), (1, 256, 1), (65, 5 * unit.max(64), 2), (130, 2560, 1), (640, 6912, 1)];
        if size.is_none() {
            cases.extend([(5, 100, 2), (33, 642, 3)]);
        }
        for (rows, cols, tokens) in cases {
            for extreme in [None, Some(127), Some(-127)] {
                // Random bytes: code 3 too, which counts as +2.
                let codes: Vec<u8> =
                    (0..ternary_bytes(Layout::I2sP128, rows, cols)).map(|_| rng.next_u64() as u8).collect();
                // A row whose largest value is 127 is quantised to itself.
                let mut acts = extreme.map_or_else(|| rng.i8s(tokens * cols), |value| vec![value; tokens * cols]);
                acts.iter_mut().for_each(|act| *act = (*act).max(-127));
                for group in acts.chunks_mut(size.unwrap_or(cols)) {
                    group[0] = 127;
                }
                let groups = size.map_or(1, |size| cols / size);
                let ones = vec![f16::ONE; rows * groups];
                let scales = size.map_or(Scales::PerTensor(1.0), |size| Scales::PerGroup { size, values: &ones });
                let weights = TernaryView::new(rows, cols, &codes, Layout::I2sP128, scales).unwrap();
                let mut quantized = QuantizedActs::with_group(tokens, cols, size);
                quantized.set_raw(cols, &acts, &vec![1.0; tokens * groups]);
                let mut expected = vec![0; tokens * rows];
                ternary::matmul_i32(&scalar(), &quantized, weights, &mut expected);
                let shader = if size.is_some() { Shader::TernaryMatvecGrouped } else { Shader::TernaryMatvec };
                let program = shader.reading(Input::Slot);
                for choices in all_choices(&gpu) {
                    let found = debug::ternary_product(&gpu, program, choices, &weights, &acts).unwrap();
                    let at = found.iter().zip(&expected).position(|(a, b)| a != b);
                    let name = Variant::new(program, choices, None).name();
                    assert_eq!(at, None, "{name}: {rows} x {cols} in groups of {size:?}, {tokens} tokens, {extreme:?}");
                }
            }
        }
    }
}

/// A product of random weights of `rows` x `cols` and its input.
struct Case {
    rows: usize,
    cols: usize,
    size: Option<usize>,
    tokens: usize,
    /// heads and head_dim, when the input is the result of attention
    parts: Option<(usize, usize)>,
    norm: bool,
    add: bool,
    gate: f64,
}

const SPLITS: usize = 3;
const OFFSET: usize = 4;

impl Case {
    fn groups(&self) -> usize {
        self.size.map_or(1, |size| self.cols / size)
    }

    fn words(&self) -> usize {
        self.cols.next_multiple_of(128) / 4
    }

    fn in_stride(&self) -> usize {
        if self.parts.is_some() { 0 } else { self.cols + 5 }
    }

    /// Rows of the result.
    fn out_rows(&self) -> usize {
        if self.gate == 0.0 { self.rows } else { self.rows / 2 }
    }

    fn product_params(&self) -> Params {
        let (rows, row_quads) = (self.out_rows() as u32, (self.words() / 16) as u32);
        match self.size {
            None => params::Ternary {
                rows,
                row_quads,
                out_stride: rows,
                part1: rows,
                part2: 2 * rows,
                scale0: 0.02,
                scale1: 0.03,
                ..Default::default()
            }
            .into(),
            Some(_) => params::TernaryGrouped {
                rows,
                row_quads,
                groups: self.groups() as u32,
                out_stride: rows,
                ..Default::default()
            }
            .into(),
        }
    }

    fn quantize_constants(&self) -> Vec<(&'static str, f64)> {
        let mut constants = vec![("NORM", f64::from(u8::from(self.norm)))];
        if let Some((heads, head_dim)) = self.parts {
            constants.extend([("HEADS", heads as f64), ("HEAD_DIM", head_dim as f64)]);
        }
        constants.extend(self.size.map(|size| ("GROUP", size as f64)));
        constants
    }

    fn dynamic(&self) -> Dynamic {
        Dynamic { tokens: self.tokens as u32, splits: SPLITS as u32, ..Dynamic::default() }
    }

    /// y by the two kernels one after the other, and by the folded one.
    fn both(&self, gpu: &Gpu, choices: Choices, rng: &mut Rng) -> [Vec<f32>; 2] {
        let (tokens, words, out_rows) = (self.tokens, self.words(), self.out_rows());
        let x = match self.parts {
            Some((heads, head_dim)) => activations(rng, tokens * SPLITS * heads * (head_dim + 2)),
            None => activations(rng, tokens * self.in_stride() + OFFSET),
        };
        let weight = rng.floats(self.cols);
        let codes = pack(Layout::I2sP128, self.rows, self.cols, &rng.codes(self.rows * self.cols));
        let scales: Vec<f16> = (0..self.rows * self.groups()).map(|_| f16::from_f32(rng.f32())).collect();
        let before = rng.floats(tokens * out_rows);

        let params = params::NormQuantize {
            cols: self.cols as u32,
            words: words as u32,
            in_stride: self.in_stride() as u32,
            in_offset: OFFSET as u32,
            groups: self.groups() as u32,
            eps: 1e-5,
            ..Default::default()
        };
        let input = if self.parts.is_some() { Input::Parts } else { Input::Slot };
        let quantize = Shader::NormQuantize.reading(input).grouped(self.size.is_some());
        let quantised = debug::run(
            gpu,
            &Run {
                variant: Variant::new(quantize, choices, None),
                constants: &self.quantize_constants(),
                params: params.into(),
                dynamic: self.dynamic(),
                buffers: &[
                    bytes(&x),
                    bytes(&weight),
                    &vec![0; 4 * tokens * words],
                    &vec![0; 8 * tokens * self.groups()],
                    &[0; 4],
                ],
                grid: [1, tokens, 1],
            },
        )
        .unwrap();

        let mut constants = vec![("ADD", f64::from(u8::from(self.add))), ("GATE", self.gate)];
        let run = |program: Program, constants: &[(&'static str, f64)], input: [&[u8]; 3]| {
            let mut buffers = [&input[..], &[bytes(&before), &[0; 4]]].concat();
            if self.size.is_some() {
                buffers.push(bytemuck::cast_slice(&scales));
            }
            let rows_of_a_workgroup = program.workgroup() as usize / 4;
            let run = Run {
                variant: Variant::new(program, choices, None),
                constants,
                params: self.product_params(),
                dynamic: self.dynamic(),
                buffers: &buffers,
                grid: [out_rows.div_ceil(rows_of_a_workgroup), tokens, 1],
            };
            floats(&debug::run(gpu, &run).unwrap()[3])
        };
        let shader = if self.size.is_some() { Shader::TernaryMatvecGrouped } else { Shader::TernaryMatvec };
        let (own, folded) = (Program::from(shader), shader.reading(input));
        let mut own_constants = constants.clone();
        own_constants.extend(self.size.map(|size| ("GROUP", size as f64)));
        let expected = run(own, &own_constants, [&codes, &quantised[2], &quantised[3]]);
        constants.extend(self.quantize_constants());
        constants.extend([("COLS", self.cols as f64), ("WORDS", words as f64), ("ACTS", self.groups() as f64)]);
        constants.extend([("IN_STRIDE", self.in_stride() as f64), ("IN_OFFSET", OFFSET as f64), ("EPS", 1e-5)]);
        [expected, run(folded, &constants, [bytes(&x), bytes(&weight), &codes])]
    }
}

/// Folded kernels give the bits of norm_quantize and a product of what it wrote: with a norm and without, added to a
/// residual, gated, from a slot and from the parts of attention, with a scale a token and with groups.
#[test]
fn folding_changes_no_bit() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(42);
    let case = Case { rows: 70, cols: 640, size: None, tokens: 3, parts: None, norm: true, add: false, gate: 0.0 };
    let cases = [
        Case { cols: 450, ..case },
        Case { cols: 6912, tokens: 1, add: true, ..case },
        Case { norm: false, add: true, ..case },
        Case { gate: 1.0, ..case },
        Case { parts: Some((5, 128)), add: true, ..case },
        Case { size: Some(64), ..case },
        Case { cols: 768, size: Some(128), gate: 2.0, norm: false, ..case },
        Case { cols: 768, size: Some(256), parts: Some((24, 32)), norm: false, add: true, ..case },
    ];
    for case in cases {
        for choices in all_choices(&gpu) {
            let [expected, found] = case.both(&gpu, choices, &mut rng);
            let what = format!("{} columns, groups of {:?}, {choices:?}", case.cols, case.size);
            assert!(expected.iter().any(|&y| y != 0.0), "{what}");
            assert_eq!(found, expected, "{what}");
        }
    }
}
