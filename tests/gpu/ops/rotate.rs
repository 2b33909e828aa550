//! Rotations: as f32, and between norm and quantisation.

use bitnet_cpu_kernels::{
    gate, norm,
    quantize::{self, QuantizedActs},
    rotate::{self, Rotation},
    testing::Rng,
};
use bitnet_gpu::backend::gpu::{
    Tuning,
    debug::{self, Run},
    params::{self, Dynamic},
    pipelines::{Input, Shader, Variant},
};

use super::{CLOSE, assert_quantized_groups, lane_choices};
use crate::common::gpu::{activations, bytes, floats, open_gpu, scalar, worst};

/// Columns and blocks: one tile of 1024 columns and several, blocks within a tile and over several of them.
const SHAPES: [(usize, usize); 9] =
    [(64, 4), (192, 64), (256, 256), (1024, 1024), (1280, 256), (5120, 1024), (4096, 2048), (8192, 4096), (320, 1)];

pub fn signs(rng: &mut Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| if rng.below(2) == 0 { -1.0 } else { 1.0 }).collect()
}

/// Signs of a row over the root of the block: what the kernels multiply by.
pub fn factors(signs: &[f32], block: usize) -> Vec<f32> {
    signs.iter().map(|sign| sign / (block as f32).sqrt()).collect()
}

/// `factors` times the weights of a norm; the weights alone where there is no rotation.
pub fn normed_factors(factors: &[f32], weight: &[f32], block: usize) -> Vec<f32> {
    factors.iter().zip(weight).map(|(f, w)| if block > 1 { f * w } else { *w }).collect()
}

/// H (s o x) of rows; nothing happens in blocks of 1.
pub fn forward(x: &mut [f32], block: usize, signs: &[f32]) {
    if block > 1 {
        rotate::forward(&scalar(), &Rotation::new(signs.len(), block, Some(signs)).unwrap(), x);
    }
}

#[test]
fn rotations_equal_the_reference() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(71);
    for (cols, block) in SHAPES {
        // Rows from the second token on, into rows from the third on.
        let (tokens, first, normed) = (2, 1, 2);
        let x = activations(&mut rng, (tokens + first) * cols);
        let (signs, weight) = (signs(&mut rng, cols), rng.floats(cols));
        let factors = factors(&signs, block);
        for (inverse, has_norm) in [(false, true), (false, false), (true, false)] {
            let mut expected = x[first * cols..].to_vec();
            if has_norm {
                norm::rms_norm_in_place(&scalar(), &mut expected, cols, &weight, 1e-5);
            }
            if !inverse {
                forward(&mut expected, block, &signs);
            } else if block > 1 {
                rotate::inverse(&scalar(), &Rotation::new(cols, block, Some(&signs)).unwrap(), &mut expected);
            }
            let product = normed_factors(&factors, &weight, block);
            let mut weights = if has_norm { product } else { factors.clone() };
            if inverse && block == 1 {
                weights.fill(1.0);
            }
            let params =
                params::Rotate { cols: cols as u32, in_stride: cols as u32, eps: 1e-5, place: 7, ..Default::default() };
            let rows = vec![9.0; (tokens + normed) * cols];
            for choices in lane_choices(&gpu) {
                let run = Run {
                    variant: Variant::new(Shader::Rotate, choices, None),
                    constants: &[
                        ("NORM", f64::from(u8::from(has_norm))),
                        ("INVERSE", f64::from(u8::from(inverse))),
                        ("BLOCK", block as f64),
                    ],
                    params: params.into(),
                    dynamic: Dynamic {
                        tokens: tokens as u32,
                        first: first as u32,
                        normed: normed as u32,
                        ..Dynamic::default()
                    },
                    buffers: &[bytes(&x), bytes(&weights), bytes(&rows), &[0; 4]],
                    grid: [cols.div_ceil(1024), tokens, 1],
                };
                let contents = debug::run(&gpu, &run).unwrap();
                let what =
                    format!("{cols} in blocks of {block}, inverse {inverse}, norm {has_norm}, {:?}", choices.lanes);
                let found = floats(&contents[2]);
                assert!(found[..normed * cols].iter().all(|&v| v == 9.0), "{what}: rows before");
                let found = &found[normed * cols..];
                assert!(worst(found, &expected) < CLOSE, "{what}: {}", worst(found, &expected));
                assert_eq!(contents[3], [0; 4], "{what}: damage");
            }
        }
    }
}

#[test]
fn rotated_quantisation_equals_the_reference() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(72);
    for (cols, block) in SHAPES {
        for size in [64, 128, 256].into_iter().filter(|size| cols % size == 0) {
            for has_norm in [true, false] {
                let (tokens, stride, offset) = (2, cols + 3, 2);
                let mut x = activations(&mut rng, tokens * stride + offset);
                x[stride + offset..stride + offset + cols].fill(0.0); // a token of zeros: the step's floor
                let (signs, weight) = (signs(&mut rng, cols), rng.floats(cols));
                let mut rows: Vec<f32> = (0..tokens).flat_map(|t| x[t * stride + offset..][..cols].to_vec()).collect();
                if has_norm {
                    norm::rms_norm_in_place(&scalar(), &mut rows, cols, &weight, 1e-5);
                }
                forward(&mut rows, block, &signs);
                let mut expected = QuantizedActs::with_group(tokens, cols, Some(size));
                quantize::norm_quantize(&scalar(), &rows, cols, None, 0.0, &mut expected);

                let factors = factors(&signs, block);
                let product = normed_factors(&factors, &weight, block);
                let (words, groups) = (cols.next_multiple_of(128) / 4, cols / size);
                let params = params::RotateQuantize {
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
                        variant: Variant::new(Shader::RotateQuantize, choices, None),
                        constants: &[
                            ("NORM", f64::from(u8::from(has_norm))),
                            ("BLOCK", block as f64),
                            ("GROUP", size as f64),
                        ],
                        params: params.into(),
                        dynamic: Dynamic { tokens: tokens as u32, ..Dynamic::default() },
                        buffers: &[
                            bytes(&x),
                            bytes(if has_norm { &product } else { &factors }),
                            &vec![0xff; tokens * words * 4],
                            &vec![0; tokens * groups * 8],
                            &[0; 4],
                            &[0; 4],
                        ],
                        grid: [words.div_ceil(256), tokens, 1],
                    };
                    let contents = debug::run(&gpu, &run).unwrap();
                    let what = format!("{cols} in blocks of {block}, groups of {size}, norm {has_norm}, {choices:?}");
                    assert_quantized_groups(&what, &contents, &expected, size);
                    assert_eq!(contents[4], [0; 4], "{what}: damage");
                }
            }
        }
    }
}

/// The result of attention in splits, times the sigmoid of each head's gate, which lies behind its queries.
#[test]
fn splits_are_merged_and_gated_before_they_are_rotated() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(73);
    let (tokens, size) = (2, 64);
    for (heads, dim, block) in [(4, 64, 256), (3, 64, 64), (8, 256, 1024), (6, 256, 1)] {
        let cols = heads * dim;
        for splits in [1, 3] {
            let parts =
                rng.floats(tokens * splits * heads * (dim + 2)).into_iter().map(|v| v + 1.5).collect::<Vec<_>>();
            let stride = 2 * cols + 8;
            let gates = activations(&mut rng, tokens * stride);
            let signs = signs(&mut rng, cols);
            let mut merged = vec![0.0; tokens * cols];
            let mut opened = vec![0.0; tokens * cols];
            for (at, value) in merged.iter_mut().enumerate() {
                let (token, head, d) = (at / cols, at % cols / dim, at % dim);
                let part = |split: usize| &parts[((token * splits + split) * heads + head) * (dim + 2)..][..dim + 2];
                opened[at] = gates[token * stride + (2 * head + 1) * dim + d];
                if splits == 1 {
                    *value = part(0)[d];
                    continue;
                }
                let share = |split: usize| f64::from(part(split)[dim]).exp();
                let above: f64 = (0..splits).map(|s| share(s) * f64::from(part(s)[d])).sum();
                let below: f64 = (0..splits).map(|s| share(s) * f64::from(part(s)[dim + 1])).sum();
                *value = (above / below) as f32;
            }
            gate::apply(&scalar(), gate::Kind::Sigmoid, &mut opened, &merged);
            forward(&mut opened, block, &signs);
            let mut expected = QuantizedActs::with_group(tokens, cols, Some(size));
            quantize::norm_quantize(&scalar(), &opened, cols, None, 0.0, &mut expected);

            let (words, groups) = (cols.next_multiple_of(128) / 4, cols / size);
            let params = params::RotateQuantize {
                cols: cols as u32,
                words: words as u32,
                groups: groups as u32,
                gate_stride: stride as u32,
                ..Default::default()
            };
            let factors = factors(&signs, block);
            for choices in lane_choices(&gpu) {
                let run = Run {
                    variant: Variant::new(Shader::RotateQuantize.reading(Input::Splits), choices, None),
                    constants: &[
                        ("NORM", 0.0),
                        ("BLOCK", block as f64),
                        ("GROUP", size as f64),
                        ("HEADS", heads as f64),
                        ("HEAD_DIM", dim as f64),
                        ("GATE_DIM", dim as f64),
                    ],
                    params: params.into(),
                    dynamic: Dynamic { tokens: tokens as u32, splits: splits as u32, ..Dynamic::default() },
                    buffers: &[
                        bytes(&parts),
                        bytes(&factors),
                        &vec![0xff; tokens * words * 4],
                        &vec![0; tokens * groups * 8],
                        &[0; 4],
                        bytes(&gates),
                    ],
                    grid: [words.div_ceil(256), tokens, 1],
                };
                let contents = debug::run(&gpu, &run).unwrap();
                let what = format!("{heads} heads of {dim}, blocks of {block}, {splits} splits, {choices:?}");
                assert_quantized_groups(&what, &contents, &expected, size);
            }
        }
    }
}
