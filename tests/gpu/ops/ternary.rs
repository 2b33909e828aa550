//! The ternary products: exact integers, windows, scales, residuals, gates.

use bitnet_cpu_kernels::{
    format::{Layout, Scales, TernaryView, pack, ternary_bytes},
    gate,
    quantize::QuantizedActs,
    ternary,
    testing::Rng,
};
use bitnet_gpu::backend::gpu::{
    Tuning,
    debug::{self, Run},
    params::{self, Dynamic},
    pipelines::{Choices, Input, ParamSource, Product, Program, Shader, Variant},
};

use super::{CLOSE, FEW, lane_choices};
use crate::common::gpu::{bytes, floats, open_gpu, scalar, worst};

#[derive(Clone, Copy, Debug)]
enum Pattern {
    Random,
    AllMax,
    AllMin,
}

fn ternary_case(rng: &mut Rng, rows: usize, cols: usize, tokens: usize, pattern: Pattern) -> (Vec<u8>, Vec<i8>) {
    let codes = match pattern {
        // Random bytes of the file: code 3 too, which counts as +2.
        Pattern::Random if rows.is_multiple_of(2) => {
            (0..ternary_bytes(Layout::I2sP128, rows, cols)).map(|_| rng.next_u64() as u8).collect()
        }
        Pattern::Random => pack(Layout::I2sP128, rows, cols, &rng.codes(rows * cols)),
        // The largest sums there are.
        Pattern::AllMax | Pattern::AllMin => {
            let row_code = |i: usize| if (i / cols).is_multiple_of(3) { 2 } else { i as u8 % 3 };
            pack(Layout::I2sP128, rows, cols, &(0..rows * cols).map(row_code).collect::<Vec<_>>())
        }
    };
    let acts = match pattern {
        Pattern::Random => rng.i8s(tokens * cols),
        Pattern::AllMax => vec![127; tokens * cols],
        Pattern::AllMin => vec![-128; tokens * cols],
    };
    (codes, acts)
}

#[test]
fn every_ternary_variant_equals_the_scalar_integers() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    const ROWS: [usize; 6] = [1, 3, 17, 64, 65, 640];
    const COLS: [usize; 7] = [128, 256, 384, 640, 768, 2560, 6912];
    const TOKENS: [usize; 10] = [1, 2, 3, 5, 4, 6, 7, 8, 64, 70];
    const PATTERNS: [Pattern; 3] = [Pattern::Random, Pattern::AllMax, Pattern::AllMin];
    // Every shape with one token count and one pattern, then every token count with every pattern.
    let mut cases: Vec<_> = (0..ROWS.len() * COLS.len())
        .map(|i| (ROWS[i / COLS.len()], COLS[i % COLS.len()], TOKENS[i % 4], PATTERNS[i % 3]))
        .collect();
    cases.extend(TOKENS.iter().flat_map(|&tokens| PATTERNS.map(|pattern| (65, 384, tokens, pattern))));
    // A last block that is partly padding, and the widest model there is.
    cases.extend([(5, 100, 2, Pattern::Random), (33, 640 + 2, 3, Pattern::Random), (4, 23040, 1, Pattern::AllMin)]);

    let mut rng = Rng::new(1);
    for (rows, cols, tokens, pattern) in cases {
        let (codes, acts) = ternary_case(&mut rng, rows, cols, tokens, pattern);
        let weights = TernaryView::new(rows, cols, &codes, Layout::I2sP128, Scales::PerTensor(1.0)).unwrap();
        let mut quantized = QuantizedActs::new(tokens, cols);
        quantized.set_raw(cols, &acts, &vec![1.0; tokens]);
        let mut expected = vec![0; tokens * rows];
        ternary::matmul_i32(&scalar(), &quantized, weights, &mut expected);
        for lanes in lane_choices(&gpu) {
            for choices in lanes.products() {
                for shader in [Shader::TernaryMatvec, Shader::TernaryFew, Shader::TernaryMatmul] {
                    if Variant::new(shader, choices, None).choices != choices {
                        continue; // the matrix product has one entry point only, and it alone has tiles
                    }
                    if shader == Shader::TernaryFew && !FEW.contains(&tokens) {
                        continue;
                    }
                    let found = debug::ternary_product(&gpu, shader, choices, &weights, &acts).unwrap();
                    let name = Variant::new(shader, choices, None).name();
                    let at = found.iter().zip(&expected).position(|(a, b)| a != b);
                    assert_eq!(at, None, "{name}: {rows} x {cols}, {tokens} tokens, {pattern:?}");
                }
            }
        }
    }
}

/// However a product is cut into workgroups: every size that may be chosen, and rounds of folded ones.
#[test]
fn every_cut_gives_the_scalar_integers() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(4);
    for (rows, cols, tokens) in [(1, 128, 1), (65, 384, 2), (640, 2560, 1), (129, 6912, 1), (1000, 256, 3)] {
        for pattern in [Pattern::Random, Pattern::AllMax] {
            let (codes, mut acts) = ternary_case(&mut rng, rows, cols, tokens, pattern);
            // What is folded quantises these to themselves.
            acts.iter_mut().for_each(|act| *act = (*act).max(-127));
            acts.chunks_mut(cols).for_each(|token| token[0] = 127);
            let weights = TernaryView::new(rows, cols, &codes, Layout::I2sP128, Scales::PerTensor(1.0)).unwrap();
            let mut quantized = QuantizedActs::new(tokens, cols);
            quantized.set_raw(cols, &acts, &vec![1.0; tokens]);
            let mut expected = vec![0; tokens * rows];
            ternary::matmul_i32(&scalar(), &quantized, weights, &mut expected);
            let cuts = [64, 128, 256].map(|workgroup| (Program::from(Shader::TernaryMatvec), (workgroup, 1)));
            let folded = [1, 2, 4, 8, 40].map(|rounds| (Shader::TernaryMatvec.reading(Input::Slot), (256, rounds)));
            for (program, cut) in cuts.into_iter().chain(folded) {
                for lanes in lane_choices(&gpu) {
                    for product in Product::ALL {
                        let choices = Choices { product, ..lanes };
                        let found = debug::ternary_product_cut(&gpu, program, choices, cut, &weights, &acts).unwrap();
                        let at = found.iter().zip(&expected).position(|(a, b)| a != b);
                        assert_eq!(at, None, "{} {cut:?} {choices}: {rows} x {cols}, {tokens} tokens", program.name());
                    }
                }
            }
        }
    }
}

/// A window in the middle of three concatenated matrices, with scales, steps and a residual.
#[test]
fn ternary_windows_scales_and_residual() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(2);
    let (parts, cols, tokens) = ([10, 7, 20], 256, 6);
    let rows: usize = parts.iter().sum();
    let scales = [0.5, 2.0, 0.125];
    let codes = pack(Layout::I2sP128, rows, cols, &rng.codes(rows * cols));
    let acts = rng.i8s(tokens * cols);
    let steps: Vec<f32> = (0..tokens).map(|t| 0.01 * (t + 1) as f32).collect();
    let before = rng.floats(tokens * 50);
    let mut quantized = QuantizedActs::new(tokens, cols);
    quantized.set_raw(cols, &acts, &steps);
    let view = TernaryView::new(rows, cols, &codes, Layout::I2sP128, Scales::PerTensor(1.0)).unwrap();
    let mut sums = vec![0; tokens * rows];
    ternary::matmul_i32(&scalar(), &quantized, view, &mut sums);

    // Rows 5..33: parts of all three matrices. 32 rows of padding bytes stand in front.
    let (row0, count, ahead) = (5, 28, 32);
    let mut bound = vec![0xffu8; ahead * 16];
    bound.extend_from_slice(&codes[row0 * 64..(row0 + count) * 64]);
    let steps_and_sums: Vec<[u32; 2]> =
        (0..tokens).map(|t| [steps[t].to_bits(), quantized.sum(t).cast_unsigned()]).collect();
    let params = params::Ternary {
        rows: count as u32,
        row0: row0 as u32,
        row_quads: 4,
        codes0: ahead as u32,
        out_stride: 50,
        out_offset: 3,
        part1: 10,
        part2: 17,
        scale0: scales[0],
        scale1: scales[1],
        scale2: scales[2],
        ..Default::default()
    };
    for add in [false, true] {
        let mut expected = before.clone();
        for t in 0..tokens {
            for row in row0..row0 + count {
                let scale = scales[usize::from(row >= 10) + usize::from(row >= 17)];
                let product = sums[t * rows + row] as f32 * (scale * steps[t]);
                let y = &mut expected[t * 50 + 3 + row];
                *y = if add { *y + product } else { product };
            }
        }
        for (shader, grid) in [
            (Shader::TernaryMatvec, [2, tokens, 1]),
            (Shader::TernaryFew, [2, 1, 1]),
            (Shader::TernaryMatmul, [1, 1, 1]),
        ] {
            let mut constants = vec![("ADD", f64::from(u8::from(add)))];
            if shader != Shader::TernaryMatmul {
                constants.push(("GATE", 0.0));
            }
            let run = Run {
                variant: Variant::new(shader, gpu.choices(), None),
                constants: &constants,
                params: params.into(),
                dynamic: Dynamic { tokens: tokens as u32, ..Dynamic::default() },
                buffers: &[
                    &bound,
                    bytemuck::cast_slice(&acts),
                    bytemuck::cast_slice(&steps_and_sums),
                    bytes(&before),
                    &[0; 4],
                ],
                grid,
            };
            let found = floats(&debug::run(&gpu, &run).unwrap()[3]);
            assert!(worst(&found, &expected) < 1e-6, "{shader:?}, add {add}: {found:?} {expected:?}");
        }
    }
}

#[test]
fn gated_product_equals_the_gate_of_two_products() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(3);
    let (ffn, cols, tokens) = (37, 384, 3);
    let codes = pack(Layout::I2sP128, 2 * ffn, cols, &rng.codes(2 * ffn * cols));
    let (gate_scale, up_scale) = (0.02, 0.03);
    let mut acts = QuantizedActs::new(tokens, cols);
    acts.set_raw(cols, &rng.i8s(tokens * cols), &[0.01, 0.02, 0.03]);
    let half = codes.len() / 2;
    let (mut gated, mut up) = (vec![0.0; tokens * ffn], vec![0.0; tokens * ffn]);
    let view = |codes, scale| TernaryView::new(ffn, cols, codes, Layout::I2sP128, Scales::PerTensor(scale)).unwrap();
    ternary::matmul(
        &scalar(),
        &acts,
        &mut [
            ternary::Part { weights: view(&codes[..half], gate_scale), out: &mut gated, add: false },
            ternary::Part { weights: view(&codes[half..], up_scale), out: &mut up, add: false },
        ],
    );
    let x: Vec<i8> = (0..tokens).flat_map(|t| acts.values(t).to_vec()).collect();
    let steps_and_sums: Vec<[u32; 2]> =
        (0..tokens).map(|t| [acts.step(t).to_bits(), acts.sum(t).cast_unsigned()]).collect();
    for (kind, constant) in [(gate::Kind::Relu2, 1.0), (gate::Kind::Silu, 2.0)] {
        let mut expected = gated.clone();
        gate::apply(&scalar(), kind, &mut expected, &up);
        let shaders = [(Shader::TernaryMatvec, tokens), (Shader::TernaryFew, 1)];
        for (choices, (shader, across)) in lane_choices(&gpu).into_iter().flat_map(|c| shaders.map(|s| (c, s))) {
            let params = params::Ternary {
                rows: ffn as u32,
                row_quads: 6,
                out_stride: ffn as u32,
                part1: ffn as u32,
                part2: 2 * ffn as u32,
                scale0: gate_scale,
                scale1: up_scale,
                ..Default::default()
            };
            let run = Run {
                variant: Variant::new(shader, choices, None),
                constants: &[("ADD", 0.0), ("GATE", constant)],
                params: params.into(),
                dynamic: Dynamic { tokens: tokens as u32, ..Dynamic::default() },
                buffers: &[
                    &codes,
                    bytemuck::cast_slice(&x),
                    bytemuck::cast_slice(&steps_and_sums),
                    &vec![0; 4 * tokens * ffn],
                    &[0; 4],
                ],
                grid: [ffn.div_ceil(16), across, 1],
            };
            let found = floats(&debug::run(&gpu, &run).unwrap()[3]);
            assert!(worst(&found, &expected) < CLOSE, "{kind:?}, {shader:?}: {}", worst(&found, &expected));
        }
    }
}

/// The way without immediates gives the same numbers.
#[test]
fn uniform_parameters_equal_immediates() {
    let Some(gpu) = open_gpu(Tuning { immediates: Some(false), ..Tuning::default() }) else { return };
    assert_eq!(gpu.choices().params, ParamSource::Uniform);
    let mut rng = Rng::new(10);
    let (rows, cols, tokens) = (65, 384, 3);
    let (codes, acts) = ternary_case(&mut rng, rows, cols, tokens, Pattern::Random);
    let weights = TernaryView::new(rows, cols, &codes, Layout::I2sP128, Scales::PerTensor(1.0)).unwrap();
    let mut quantized = QuantizedActs::new(tokens, cols);
    quantized.set_raw(cols, &acts, &vec![1.0; tokens]);
    let mut expected = vec![0; tokens * rows];
    ternary::matmul_i32(&scalar(), &quantized, weights, &mut expected);
    for shader in [Shader::TernaryMatvec, Shader::TernaryFew, Shader::TernaryMatmul] {
        assert_eq!(debug::ternary_product(&gpu, shader, gpu.choices(), &weights, &acts).unwrap(), expected);
    }
}
