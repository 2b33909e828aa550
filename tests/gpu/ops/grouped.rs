//! The ternary products with stored scales, per group or per row, and the quantisation in groups.

use bitnet_cpu_kernels::{
    format::{GROUP_SIZES, Layout, Scales, TernaryView, pack, ternary_bytes},
    gate,
    quantize::{self, QuantizedActs},
    ternary,
    testing::Rng,
};
use bitnet_gpu::backend::gpu::{
    Gpu, Tuning,
    debug::{self, Run},
    params::{self, Dynamic},
    pipelines::{Choices, Input, Shader, Variant},
};
use half::f16;

use super::{CLOSE, FEW, assert_quantized_groups, lane_choices};
use crate::common::gpu::{activations, bytes, floats, open_gpu, scalar, worst};

const SHADERS: [Shader; 3] = [Shader::TernaryMatvecGrouped, Shader::TernaryFewGrouped, Shader::TernaryMatmulGrouped];

/// Every text of the kernels that take so many tokens.
fn all_choices(gpu: &Gpu, tokens: usize) -> Vec<(Shader, Choices)> {
    let mut all = Vec::new();
    for lanes in lane_choices(gpu) {
        for choices in lanes.products() {
            for shader in SHADERS {
                // The matrix product has one entry point only, and it alone has tiles.
                let is_text = Variant::new(shader, choices, None).choices == choices;
                let taken = shader != Shader::TernaryFewGrouped || FEW.contains(&tokens);
                if taken && is_text {
                    all.push((shader, choices));
                }
            }
        }
    }
    all
}

#[test]
fn every_grouped_variant_equals_the_scalar_integers() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(31);
    for size in GROUP_SIZES {
        // Rows of one group, of whole blocks, and of groups of 64 that end within one; tokens around a tile.
        let mut cases =
            vec![(17, size, 3), (1, 3 * size, 1), (65, 5 * size, 2), (64, 10 * size, 70), (33, 7 * size, 64)];
        cases.extend((4..=8).map(|tokens| (19, (2 * tokens - 7) * size, tokens)));
        cases.extend([(3, 23040, 1), (640, 6912, 2)].into_iter().filter(|(_, cols, _)| cols % size == 0));
        for (rows, cols, tokens) in cases {
            for extreme in [None, Some(127), Some(-128)] {
                // Random bytes: code 3 too, which counts as +2.
                let codes: Vec<u8> =
                    (0..ternary_bytes(Layout::I2sP128, rows, cols)).map(|_| rng.next_u64() as u8).collect();
                let acts = extreme.map_or_else(|| rng.i8s(tokens * cols), |value| vec![value; tokens * cols]);
                let ones = vec![f16::ONE; rows * cols / size];
                let scales = Scales::PerGroup { size, values: &ones };
                let weights = TernaryView::new(rows, cols, &codes, Layout::I2sP128, scales).unwrap();
                let mut quantized = QuantizedActs::with_group(tokens, cols, Some(size));
                quantized.set_raw(cols, &acts, &vec![1.0; tokens * cols / size]);
                let mut expected = vec![0; tokens * rows];
                ternary::matmul_i32(&scalar(), &quantized, weights, &mut expected);
                for (shader, choices) in all_choices(&gpu, tokens) {
                    let found = debug::ternary_product(&gpu, shader, choices, &weights, &acts).unwrap();
                    let at = found.iter().zip(&expected).position(|(a, b)| a != b);
                    let name = Variant::new(shader, choices, None).name();
                    assert_eq!(at, None, "{name}: {rows} x {cols} in groups of {size}, {tokens} tokens, {extreme:?}");
                }
            }
        }
    }
}

/// Inputs of a dispatch besides the codes.
struct Case<'a> {
    rows: usize,
    cols: usize,
    /// Bytes of the scales, (rows, groups).
    scales: &'a [u8],
    groups: usize,
    /// 0: the whole row.
    group: usize,
    acts: &'a QuantizedActs,
}

impl Case<'_> {
    /// Outputs (tokens, `out_stride`) over `before`.
    fn run(
        &self,
        gpu: &Gpu,
        shader: Shader,
        choices: Choices,
        codes: &[u8],
        constants: &[(&'static str, f64)],
    ) -> Vec<f32> {
        let tokens = self.acts.tokens();
        let out_rows = if constants.contains(&("GATE", 1.0)) { self.rows / 2 } else { self.rows };
        let x: Vec<i8> = (0..tokens).flat_map(|t| self.acts.values(t).to_vec()).collect();
        let steps_and_sums: Vec<[u32; 2]> = (0..tokens)
            .flat_map(|t| self.acts.steps(t).iter().zip(self.acts.sums(t)))
            .map(|(step, sum)| [step.to_bits(), sum.cast_unsigned()])
            .collect();
        let params = params::TernaryGrouped {
            rows: out_rows as u32,
            row_quads: (self.cols.next_multiple_of(128) / 64) as u32,
            groups: self.groups as u32,
            out_stride: out_rows as u32,
            ..Default::default()
        };
        let mut all = vec![("GROUP", self.group as f64)];
        all.extend(constants);
        let grid = match shader {
            Shader::TernaryMatvecGrouped => [out_rows.div_ceil(16), tokens, 1],
            Shader::TernaryFewGrouped => [out_rows.div_ceil(16), 1, 1],
            _ => [out_rows.div_ceil(64), tokens.div_ceil(64), 1],
        };
        let run = Run {
            variant: Variant::new(shader, choices, None),
            constants: &all,
            params: params.into(),
            dynamic: Dynamic { tokens: tokens as u32, ..Dynamic::default() },
            buffers: &[
                codes,
                bytemuck::cast_slice(&x),
                bytemuck::cast_slice(&steps_and_sums),
                &vec![0; 4 * tokens * out_rows],
                &[0; 4],
                self.scales,
            ],
            grid,
        };
        floats(&debug::run(gpu, &run).unwrap()[3])
    }
}

/// One group counts at a time, the others have the scale 0: its integers, exactly. Then random scales and steps.
#[test]
fn each_group_has_its_own_scale_and_step() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(32);
    for size in GROUP_SIZES {
        let (rows, groups, tokens) = (21, 5, 3);
        let cols = groups * size;
        let codes = pack(Layout::I2sP128, rows, cols, &rng.codes(rows * cols));
        let mut acts = QuantizedActs::with_group(tokens, cols, Some(size));
        let values = rng.i8s(tokens * cols);
        for only in (0..groups).map(Some).chain([None]) {
            let scales: Vec<f16> = (0..rows * groups)
                .map(|i| match only {
                    Some(only) => f16::from_f32(f32::from(u8::from(i % groups == only))),
                    None => f16::from_f32(rng.f32()),
                })
                .collect();
            let steps = if only.is_some() { vec![1.0; tokens * groups] } else { rng.floats(tokens * groups) };
            acts.set_raw(cols, &values, &steps);
            let view = Scales::PerGroup { size, values: &scales };
            let weights = TernaryView::new(rows, cols, &codes, Layout::I2sP128, view).unwrap();
            let mut expected = vec![0.0; tokens * rows];
            ternary::matmul(&scalar(), &acts, &mut [ternary::Part { weights, out: &mut expected, add: false }]);
            let case = Case { rows, cols, scales: bytemuck::cast_slice(&scales), groups, group: size, acts: &acts };
            for (shader, choices) in all_choices(&gpu, tokens) {
                let found = case.run(&gpu, shader, choices, &codes, &[("ADD", 0.0)]);
                let what = format!("{} in groups of {size}, {only:?}", Variant::new(shader, choices, None).name());
                if only.is_some() {
                    assert_eq!(found, expected, "{what}");
                } else {
                    assert!(worst(&found, &expected) < CLOSE, "{what}: {}", worst(&found, &expected));
                }
            }
        }
    }
}

#[test]
fn each_row_has_its_own_scale() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(33);
    let (rows, cols, tokens) = (70, 600, 5);
    let codes = pack(Layout::I2sP128, rows, cols, &rng.codes(rows * cols));
    let scales = rng.floats(rows);
    let mut acts = QuantizedActs::new(tokens, cols);
    acts.set_raw(cols, &rng.i8s(tokens * cols), &rng.floats(tokens));
    let weights = TernaryView::new(rows, cols, &codes, Layout::I2sP128, Scales::PerRow(&scales)).unwrap();
    let mut expected = vec![0.0; tokens * rows];
    ternary::matmul(&scalar(), &acts, &mut [ternary::Part { weights, out: &mut expected, add: false }]);
    let case = Case { rows, cols, scales: bytes(&scales), groups: 1, group: 0, acts: &acts };
    for (shader, choices) in all_choices(&gpu, tokens) {
        let found = case.run(&gpu, shader, choices, &codes, &[("ADD", 0.0)]);
        assert!(worst(&found, &expected) < CLOSE, "{shader:?} {choices:?}: {}", worst(&found, &expected));
    }
}

#[test]
fn gated_grouped_product_equals_the_gate_of_two_products() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(34);
    // 0: one scale a row.
    for group in [64, 128, 256, 0] {
        let (ffn, cols, tokens) = (37, 768, 3);
        let codes = pack(Layout::I2sP128, 2 * ffn, cols, &rng.codes(2 * ffn * cols));
        let groups = cols.checked_div(group).unwrap_or(1);
        let size = (group != 0).then_some(group);
        let mut acts = QuantizedActs::with_group(tokens, cols, size);
        let steps: Vec<f32> = (0..tokens * groups).map(|_| 0.001 * (1.5 + rng.f32())).collect();
        acts.set_raw(cols, &rng.i8s(tokens * cols), &steps);
        let grouped: Vec<f16> = (0..2 * ffn * groups).map(|_| f16::from_f32(0.02 * (1.5 + rng.f32()))).collect();
        let per_row: Vec<f32> = grouped[..2 * ffn].iter().map(|scale| scale.to_f32()).collect();
        let half = codes.len() / 2;
        let view = |n: usize| {
            let scales = match size {
                Some(size) => Scales::PerGroup { size, values: &grouped[n * ffn * groups..][..ffn * groups] },
                None => Scales::PerRow(&per_row[n * ffn..][..ffn]),
            };
            TernaryView::new(ffn, cols, &codes[n * half..][..half], Layout::I2sP128, scales).unwrap()
        };
        let (mut expected, mut up) = (vec![0.0; tokens * ffn], vec![0.0; tokens * ffn]);
        ternary::matmul(
            &scalar(),
            &acts,
            &mut [
                ternary::Part { weights: view(0), out: &mut expected, add: false },
                ternary::Part { weights: view(1), out: &mut up, add: false },
            ],
        );
        gate::apply(&scalar(), gate::Kind::Relu2, &mut expected, &up);
        let scales: &[u8] = if group == 0 { bytes(&per_row) } else { bytemuck::cast_slice(&grouped) };
        let case = Case { rows: 2 * ffn, cols, scales, groups, group, acts: &acts };
        for choices in lane_choices(&gpu) {
            let constants = [("ADD", 0.0), ("GATE", 1.0)];
            let alone = case.run(&gpu, Shader::TernaryMatvecGrouped, choices, &codes, &constants);
            let what = format!("groups of {group}, {choices:?}");
            assert!(worst(&alone, &expected) < CLOSE, "{what}: {}", worst(&alone, &expected));
            let together = case.run(&gpu, Shader::TernaryFewGrouped, choices, &codes, &constants);
            assert_eq!(together, alone, "{what}: several tokens together");
        }
    }
}

#[test]
fn norm_quantize_in_groups_equals_the_reference() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(35);
    for size in GROUP_SIZES {
        for groups in [1, 3, 4, 17, 54] {
            let (cols, tokens, offset) = (groups * size, 3, 4);
            let stride = cols + 5;
            for norm in [true, false] {
                let mut x = activations(&mut rng, tokens * stride + offset);
                x[stride + offset..stride + offset + cols].fill(0.0); // a token of zeros: the step's floor
                let weight = rng.floats(cols);
                let dense_x: Vec<f32> = (0..tokens).flat_map(|t| x[t * stride + offset..][..cols].to_vec()).collect();
                let mut expected = QuantizedActs::with_group(tokens, cols, Some(size));
                quantize::norm_quantize(&scalar(), &dense_x, cols, norm.then_some(&weight[..]), 1e-5, &mut expected);
                let words = cols.next_multiple_of(128) / 4;
                let params = params::NormQuantize {
                    cols: cols as u32,
                    words: words as u32,
                    in_stride: stride as u32,
                    in_offset: offset as u32,
                    groups: groups as u32,
                    eps: 1e-5,
                    ..Default::default()
                };
                for choices in lane_choices(&gpu) {
                    let run = Run {
                        variant: Variant::new(Shader::NormQuantize.reading(Input::Slot).grouped(true), choices, None),
                        constants: &[("NORM", f64::from(u8::from(norm))), ("GROUP", size as f64)],
                        params: params.into(),
                        dynamic: Dynamic { tokens: tokens as u32, ..Dynamic::default() },
                        buffers: &[
                            bytes(&x),
                            bytes(&weight),
                            &vec![0xff; tokens * words * 4],
                            &vec![0; tokens * groups * 8],
                            &[0; 4],
                        ],
                        grid: [1, tokens, 1],
                    };
                    let contents = debug::run(&gpu, &run).unwrap();
                    let what = format!("{groups} groups of {size}, norm {norm}, {:?}", choices.lanes);
                    assert_quantized_groups(&what, &contents, &expected, size);
                    assert_eq!(contents[4], [0; 4], "{what}: damage");
                }
            }
        }
    }
}
