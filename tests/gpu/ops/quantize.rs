//! Norm and quantisation, and the word that tells of NaN and infinity.

use bitnet_cpu_kernels::{
    quantize::{self, QuantizedActs},
    testing::Rng,
};
use bitnet_gpu::backend::gpu::{
    Tuning,
    debug::{self, Run},
    params::{self, Dynamic},
    pipelines::{Shader, Variant},
};

use super::{assert_quantized, lane_choices, quantized};
use crate::common::gpu::{activations, bytes, open_gpu, scalar};

#[test]
fn norm_quantize_equals_the_reference() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(4);
    for choices in lane_choices(&gpu) {
        for cols in [2, 127, 128, 129, 640, 2560, 6912, 23040] {
            for norm in [true, false] {
                let (tokens, stride, offset) = (3, cols + 5, 4);
                let mut x = activations(&mut rng, tokens * stride + offset);
                x[stride + offset..stride + offset + cols].fill(0.0); // a token of zeros: the step's floor
                let weight = rng.floats(cols);
                let dense_x: Vec<f32> = (0..tokens).flat_map(|t| x[t * stride + offset..][..cols].to_vec()).collect();
                let mut expected = QuantizedActs::new(tokens, cols);
                let scalar = scalar();
                quantize::norm_quantize(&scalar, &dense_x, cols, norm.then_some(&weight[..]), 1e-5, &mut expected);

                let words = cols.next_multiple_of(128) / 4;
                let params = params::NormQuantize {
                    cols: cols as u32,
                    words: words as u32,
                    in_stride: stride as u32,
                    in_offset: offset as u32,
                    groups: 1,
                    eps: 1e-5,
                    ..Default::default()
                };
                let run = Run {
                    variant: Variant::new(Shader::NormQuantize, choices, None),
                    constants: &[("NORM", f64::from(u8::from(norm)))],
                    params: params.into(),
                    dynamic: Dynamic { tokens: tokens as u32, ..Dynamic::default() },
                    buffers: &[
                        bytes(&x),
                        bytes(&weight),
                        &vec![0xff; tokens * words * 4],
                        &vec![0; tokens * 8],
                        &[0; 4],
                    ],
                    grid: [1, tokens, 1],
                };
                let contents = debug::run(&gpu, &run).unwrap();
                let what = format!("{cols} columns, norm {norm}, {:?}", choices.lanes);
                assert_quantized(&what, &quantized(&contents), &expected);
                assert_eq!(contents[4], [0; 4], "{what}: damage");
            }
        }
    }
}

#[test]
fn rounding_is_half_to_even() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    // A largest value of 127 makes the step 1: the values are quantised as they are.
    let x = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.5];
    let params = params::NormQuantize { cols: 8, words: 32, in_stride: 8, groups: 1, ..Default::default() };
    for choices in lane_choices(&gpu) {
        let run = Run {
            variant: Variant::new(Shader::NormQuantize, choices, None),
            constants: &[("NORM", 0.0)],
            params: params.into(),
            dynamic: Dynamic { tokens: 1, ..Dynamic::default() },
            buffers: &[bytes(&x), &[0; 32], &[0; 128], &[0; 8], &[0; 4]],
            grid: [1, 1, 1],
        };
        let found = quantized(&debug::run(&gpu, &run).unwrap());
        assert_eq!(found.values[..8], [127, 0, 2, 2, 0, -2, -2, 4]);
        assert_eq!((found.steps[0], found.sums[0]), (1.0, 131));
    }
}

#[test]
fn damage_names_the_earliest_place() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = vec![1.0; 300];
        x[299] = bad;
        let params =
            params::NormQuantize { cols: 300, words: 96, in_stride: 300, groups: 1, place: 77, ..Default::default() };
        for (before, after) in [(0u32, 77u32), (80, 80)] {
            let run = Run {
                variant: Variant::new(Shader::NormQuantize, gpu.choices(), None),
                constants: &[("NORM", 0.0)],
                params: params.into(),
                dynamic: Dynamic { tokens: 1, ..Dynamic::default() },
                buffers: &[bytes(&x), &[0; 4], &[0; 384], &[0; 8], &before.to_le_bytes()],
                grid: [1, 1, 1],
            };
            assert_eq!(debug::run(&gpu, &run).unwrap()[4], after.to_le_bytes(), "{bad}");
        }
    }
}
