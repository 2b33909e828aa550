//! Every kernel alone against the scalar reference of `bitnet-cpu-kernels`: integer results exactly, float
//! results within a tolerance relative to their norm.

mod gpu_common;

use bitnet_cpu_kernels::{
    attention::{self, KvCache, KvType},
    dense,
    format::{DenseType, DenseView, Layout, Scales, TernaryView, pack, ternary_bytes},
    gate, norm,
    quantize::{self, QuantizedActs},
    rope::{self, RopeTable},
    ternary,
    testing::Rng,
};
use bitnet_gpu::backend::gpu::{
    Gpu, Tuning,
    debug::{self, Run},
    params::{self, Dynamic},
    pipelines::{Choices, Lanes, ParamSource, Product, Shader, Variant},
};
use gpu_common::{activations, bytes, floats, open_gpu, scalar, worst};

/// Float kernels differ from the reference by the order of additions only.
const CLOSE: f64 = 2e-5;

/// All choices this device can run for kernels that have both twins.
fn lane_choices(gpu: &Gpu) -> Vec<Choices> {
    let own = gpu.choices();
    let mut all = vec![Choices { lanes: Lanes::Workgroup, ..own }];
    if gpu.caps().subgroups.is_some_and(|(least, _)| least >= 4) {
        all.push(Choices { lanes: Lanes::Subgroup, ..own });
    } else {
        eprintln!("not run: subgroup variants ({} has none)", gpu.caps().name);
    }
    all
}

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
    const TOKENS: [usize; 6] = [1, 2, 3, 5, 64, 70];
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
            for product in [Product::Int8, Product::F32] {
                for shader in [Shader::TernaryMatvec, Shader::TernaryMatmul] {
                    if shader == Shader::TernaryMatmul && lanes.lanes == Lanes::Subgroup {
                        continue; // it has one entry point only
                    }
                    let choices = Choices { product, ..lanes };
                    let found = debug::ternary_product(&gpu, shader, choices, &weights, &acts).unwrap();
                    let name = Variant::new(shader, choices, None).name();
                    let at = found.iter().zip(&expected).position(|(a, b)| a != b);
                    assert_eq!(at, None, "{name}: {rows} x {cols}, {tokens} tokens, {pattern:?}");
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
        for (shader, grid) in [(Shader::TernaryMatvec, [2, tokens, 1]), (Shader::TernaryMatmul, [1, 1, 1])] {
            let mut constants = vec![("ADD", f64::from(u8::from(add)))];
            if shader == Shader::TernaryMatvec {
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
        for choices in lane_choices(&gpu) {
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
                variant: Variant::new(Shader::TernaryMatvec, choices, None),
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
                grid: [ffn.div_ceil(16), tokens, 1],
            };
            let found = floats(&debug::run(&gpu, &run).unwrap()[3]);
            assert!(worst(&found, &expected) < CLOSE, "{kind:?}: {}", worst(&found, &expected));
        }
    }
}

/// What norm_quantize wrote: int8 (tokens, words * 4), steps and sums.
struct Quantized {
    values: Vec<i8>,
    steps: Vec<f32>,
    sums: Vec<i32>,
}

fn quantized(contents: &[Vec<u8>]) -> Quantized {
    let acts: Vec<[u32; 2]> = bytemuck::pod_collect_to_vec(&contents[3]);
    Quantized {
        values: bytemuck::pod_collect_to_vec(&contents[2]),
        steps: acts.iter().map(|a| f32::from_bits(a[0])).collect(),
        sums: acts.iter().map(|a| a[1].cast_signed()).collect(),
    }
}

/// Equal but for values that lie on the edge between two integers, of which there are very few.
fn assert_quantized(what: &str, found: &Quantized, expected: &QuantizedActs) {
    for t in 0..expected.tokens() {
        let own = &found.values[t * expected.stride()..][..expected.stride()];
        let (cols, reference) = (expected.cols(), expected.values(t));
        assert!(own[cols..].iter().all(|&q| q == 0), "{what}: padding of token {t}");
        let differences: Vec<i32> =
            own[..cols].iter().zip(reference).map(|(&a, &b)| (i32::from(a) - i32::from(b)).abs()).collect();
        assert!(differences.iter().all(|&d| d <= 1), "{what}: token {t} differs by more than one");
        let edges = differences.iter().filter(|&&d| d > 0).count();
        assert!(edges <= 1 + cols / 500, "{what}: {edges} of {cols} values of token {t} differ");
        assert_eq!(found.sums[t], own.iter().map(|&q| i32::from(q)).sum::<i32>(), "{what}: sum of token {t}");
        let step = expected.step(t);
        assert!((found.steps[t] - step).abs() <= 1e-5 * step, "{what}: step {} for {step}", found.steps[t]);
    }
}

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
    let params = params::NormQuantize { cols: 8, words: 32, in_stride: 8, ..Default::default() };
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
        let params = params::NormQuantize { cols: 300, words: 96, in_stride: 300, place: 77, ..Default::default() };
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

fn style_constant(style: rope::Style) -> f64 {
    f64::from(u8::from(style == rope::Style::Interleaved))
}

#[test]
fn rope_append_equals_the_reference() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(5);
    // (heads, kv_heads, head_dim, rotated, head norms)
    let shapes = [
        (1, 1, 2, 2, false),
        (6, 2, 64, 64, false),
        (4, 4, 100, 100, true),
        (3, 1, 128, 64, true),
        (2, 1, 256, 0, false),
    ];
    for (heads, kv_heads, head_dim, dims, norms) in shapes {
        for style in [rope::Style::HalfSplit, rope::Style::Interleaved] {
            for (k_type, v_type) in [(KvType::F16, KvType::F32), (KvType::F32, KvType::F16)] {
                let (tokens, start, capacity) = (3, 4, 9);
                let (q, kv) = (heads * head_dim, kv_heads * head_dim);
                let stride = q + 2 * kv + 2;
                let x = activations(&mut rng, tokens * stride);
                let table = RopeTable::new(dims, 10000.0, 1.0, None, capacity);
                let (q_norm, k_norm) = (rng.floats(head_dim), rng.floats(head_dim));

                let part = |offset: usize, width: usize| -> Vec<f32> {
                    (0..tokens).flat_map(|t| x[t * stride + offset..][..width].to_vec()).collect()
                };
                let (mut eq, mut ek, ev) = (part(0, q), part(q, kv), part(q + kv, kv));
                let cpu = scalar();
                if norms {
                    norm::rms_norm_in_place(&cpu, &mut eq, head_dim, &q_norm, 1e-6);
                    norm::rms_norm_in_place(&cpu, &mut ek, head_dim, &k_norm, 1e-6);
                }
                if dims > 0 {
                    rope::apply(&cpu, &mut eq, heads, head_dim, start, &table, style);
                    rope::apply(&cpu, &mut ek, kv_heads, head_dim, start, &table, style);
                }

                let (cos, sin) = table.data();
                let rope_data = if cos.is_empty() { vec![0.0] } else { [cos, sin].concat() };
                let params = params::RopeAppend {
                    heads: heads as u32,
                    kv_heads: kv_heads as u32,
                    head_dim: head_dim as u32,
                    stride: stride as u32,
                    q_offset: 0,
                    k_offset: q as u32,
                    v_offset: (q + kv) as u32,
                    half: (dims / 2) as u32,
                    sines: cos.len() as u32,
                    eps: 1e-6,
                    ..Default::default()
                };
                let is_f32 = |ty| f64::from(u8::from(ty == KvType::F32));
                for choices in lane_choices(&gpu) {
                    let norms = f64::from(u8::from(norms));
                    let run = Run {
                        variant: Variant::new(Shader::RopeAppend, choices, None),
                        constants: &[
                            ("Q_NORM", norms),
                            ("K_NORM", norms),
                            ("INTERLEAVED", style_constant(style)),
                            ("K_F32", is_f32(k_type)),
                            ("V_F32", is_f32(v_type)),
                        ],
                        params: params.into(),
                        dynamic: Dynamic { tokens: tokens as u32, start: start as u32, ..Dynamic::default() },
                        buffers: &[
                            bytes(&x),
                            &vec![0; capacity * kv * k_type.bytes()],
                            &vec![0; capacity * kv * v_type.bytes()],
                            bytes(&rope_data),
                            bytes(&q_norm),
                            bytes(&k_norm),
                            &[0; 4],
                        ],
                        grid: [heads + 2 * kv_heads, tokens, 1],
                    };
                    let contents = debug::run(&gpu, &run).unwrap();
                    let what = format!("{heads}/{kv_heads} heads of {head_dim}, {style:?}, {k_type:?}/{v_type:?}");
                    let written = floats(&contents[0]);
                    let fq: Vec<f32> = (0..tokens).flat_map(|t| written[t * stride..][..q].to_vec()).collect();
                    assert!(worst(&fq, &eq) < CLOSE, "{what}: q");
                    for (name, contents, ty, expected) in
                        [("k", &contents[1], k_type, &ek), ("v", &contents[2], v_type, &ev)]
                    {
                        let cache = cache_values(contents, ty);
                        let own = &cache[start * kv..(start + tokens) * kv];
                        let close = if ty == KvType::F16 { 2e-2 } else { CLOSE };
                        assert!(worst(own, expected) < close, "{what}: {name}: {}", worst(own, expected));
                        let untouched = cache[..start * kv].iter().chain(&cache[(start + tokens) * kv..]);
                        assert!(untouched.copied().all(|v| v == 0.0), "{what}: {name} outside the new positions");
                    }
                }
            }
        }
    }
}

fn cache_values(bytes: &[u8], ty: KvType) -> Vec<f32> {
    match ty {
        KvType::F32 => floats(bytes),
        KvType::F16 => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
    }
}

fn cache_bytes(values: &[f32], ty: KvType) -> Vec<u8> {
    match ty {
        KvType::F32 => bytes(values).to_vec(),
        KvType::F16 => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
    }
}

/// The f16 bits of every kind of f32: subnormal, halfway, overflow, sign.
#[test]
fn cache_rounding_equals_the_processors() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut values =
        vec![0.0, -0.0, 1.0, 65504.0, 65519.9, 65520.0, 1e9, -1e9, 5.96e-8, 2.98e-8, 2.99e-8, 6.1e-5, 1e-40];
    // Exactly halfway between two neighbours, both parities, normal and subnormal.
    values.extend([1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 1.5 * 2f32.powi(-24), 2.5 * 2f32.powi(-24)]);
    let mut rng = Rng::new(6);
    while values.len() < 256 {
        values.push(f32::from_bits((rng.next_u64() as u32 & 0x8fff_ffff) | 0x3000_0000));
    }
    let expected: Vec<u16> = values.iter().map(|&v| half::f16::from_f32(v).to_bits()).collect();
    // v of one head of 256 is packed unchanged.
    let mut x = vec![0.0; 512];
    x.extend(&values);
    let params = params::RopeAppend {
        heads: 1,
        kv_heads: 1,
        head_dim: 256,
        stride: 768,
        k_offset: 256,
        v_offset: 512,
        ..Default::default()
    };
    let run = Run {
        variant: Variant::new(Shader::RopeAppend, gpu.choices(), None),
        constants: &[("Q_NORM", 0.0), ("K_NORM", 0.0), ("INTERLEAVED", 0.0), ("K_F32", 0.0), ("V_F32", 0.0)],
        params: params.into(),
        dynamic: Dynamic { tokens: 1, ..Dynamic::default() },
        buffers: &[bytes(&x), &[0; 512], &[0; 512], &[0; 4], &[0; 4], &[0; 4], &[0; 4]],
        grid: [3, 1, 1],
    };
    let found: Vec<u16> = bytemuck::pod_collect_to_vec(&debug::run(&gpu, &run).unwrap()[2]);
    for (i, &value) in values.iter().enumerate() {
        assert_eq!(found[i], expected[i], "f16 bits of {value:e}");
    }
}

#[test]
fn attention_equals_the_reference() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(7);
    // (heads, kv_heads, head_dim, start, tokens, splits)
    let cases = [
        (1, 1, 2, 0, 1, 1),
        (4, 4, 100, 0, 5, 1),
        (4, 2, 64, 31, 2, 1),
        (20, 5, 128, 300, 1, 3),
        (6, 1, 32, 63, 3, 2),
        (10, 2, 256, 40, 4, 5),
        (3, 3, 96, 0, 37, 1),
        (8, 2, 130, 10, 33, 1),
        // More splits than keys for the first tokens: some are empty.
        (2, 1, 16, 0, 4, 4),
    ];
    for (heads, kv_heads, head_dim, start, tokens, splits) in cases {
        for (k_type, v_type) in [(KvType::F16, KvType::F16), (KvType::F32, KvType::F16), (KvType::F16, KvType::F32)] {
            let keys = start + tokens;
            let (q, kv) = (heads * head_dim, kv_heads * head_dim);
            // Values the types hold exactly, so that only the arithmetic is compared.
            let exact = |x: f32| half::f16::from_f32(x).to_f32();
            let k: Vec<f32> = rng.floats(keys * kv).into_iter().map(exact).collect();
            let v: Vec<f32> = rng.floats(keys * kv).into_iter().map(exact).collect();
            let (stride, offset) = (q + 6, 2);
            let x: Vec<f32> = activations(&mut rng, tokens * stride);
            let scale = 1.0 / (head_dim as f32).sqrt();
            let mut cache = KvCache::new(kv_heads, head_dim, keys, KvType::F32, KvType::F32);
            cache.append(&scalar(), 0, &k, &v);
            let queries: Vec<f32> = (0..tokens).flat_map(|t| x[t * stride + offset..][..q].to_vec()).collect();
            let mut expected = vec![0.0; tokens * q];
            attention::attend(&scalar(), &queries, heads, &cache, start, scale, &mut expected);

            let params = params::Attention {
                heads: heads as u32,
                kv_heads: kv_heads as u32,
                head_dim: head_dim as u32,
                stride: stride as u32,
                q_offset: offset as u32,
                scale,
                ..Default::default()
            };
            let is_f32 = |ty| f64::from(u8::from(ty == KvType::F32));
            let dynamic =
                Dynamic { tokens: tokens as u32, start: start as u32, splits: splits as u32, ..Dynamic::default() };
            let constants = [("K_F32", is_f32(k_type)), ("V_F32", is_f32(v_type))];
            let (k_bytes, v_bytes) = (cache_bytes(&k, k_type), cache_bytes(&v, v_type));
            let what =
                format!("{heads}/{kv_heads} heads of {head_dim}, {start} + {tokens} keys, {k_type:?}/{v_type:?}");

            let run = Run {
                variant: Variant::new(Shader::AttentionPrefill, gpu.choices(), None),
                constants: &constants,
                params: params.into(),
                dynamic,
                buffers: &[bytes(&x), &k_bytes, &v_bytes, &vec![0; 4 * tokens * q]],
                grid: [heads, tokens.div_ceil(16), 1],
            };
            let found = floats(&debug::run(&gpu, &run).unwrap()[3]);
            assert!(worst(&found, &expected) < CLOSE, "prefill, {what}: {}", worst(&found, &expected));

            let width = head_dim + 2;
            let bundles = kv_heads * (heads / kv_heads).div_ceil(4);
            let run = Run {
                variant: Variant::new(Shader::AttentionDecode, gpu.choices(), None),
                buffers: &[bytes(&x), &k_bytes, &v_bytes, &vec![0; 4 * tokens * splits * heads * width]],
                grid: [bundles, splits, tokens],
                ..run
            };
            let parts = debug::run(&gpu, &run).unwrap().swap_remove(3);

            // The merge writes the attention output beside quantising it.
            for choices in lane_choices(&gpu) {
                let merge = merge(&gpu, choices, &parts, (heads, head_dim, tokens, splits));
                let found = floats(&merge[0]);
                assert!(worst(&found, &expected) < CLOSE, "decode, {what}: {}", worst(&found, &expected));
                let mut acts = QuantizedActs::new(tokens, q);
                quantize::norm_quantize(&scalar(), &expected, q, Some(&vec![1.0; q]), 1e-5, &mut acts);
                assert_quantized(&what, &quantized(&merge), &acts);
            }
        }
    }
}

fn merge(
    gpu: &Gpu,
    choices: Choices,
    parts: &[u8],
    (heads, head_dim, tokens, splits): (usize, usize, usize, usize),
) -> Vec<Vec<u8>> {
    let cols = heads * head_dim;
    let words = cols.next_multiple_of(128) / 4;
    let weight = vec![1.0; cols];
    let params = params::NormQuantize {
        cols: cols as u32,
        words: words as u32,
        in_stride: cols as u32,
        heads: heads as u32,
        head_dim: head_dim as u32,
        eps: 1e-5,
        ..Default::default()
    };
    let run = Run {
        variant: Variant::new(Shader::MergeNormQuantize, choices, None),
        constants: &[("NORM", 1.0)],
        params: params.into(),
        dynamic: Dynamic { tokens: tokens as u32, splits: splits as u32, ..Dynamic::default() },
        buffers: &[
            &vec![0; 4 * tokens * cols],
            bytes(&weight),
            &vec![0; 4 * tokens * words],
            &vec![0; 8 * tokens],
            &[0; 4],
            parts,
        ],
        grid: [1, tokens, 1],
    };
    debug::run(gpu, &run).unwrap()
}

#[test]
fn gate_and_final_norm_equal_the_reference() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(8);
    for cols in [1, 255, 256, 700] {
        let tokens = 2;
        let mut x = activations(&mut rng, tokens * 2 * cols);
        x[0] = -200.0; // e^200 is infinite
        for (kind, constant) in [(gate::Kind::Relu2, 1.0), (gate::Kind::Silu, 2.0)] {
            let mut expected = x.clone();
            for token in expected.chunks_mut(2 * cols) {
                let (g, up) = token.split_at_mut(cols);
                gate::apply(&scalar(), kind, g, up);
            }
            let params = params::GateUp {
                cols: cols as u32,
                stride: 2 * cols as u32,
                gate_offset: 0,
                up_offset: cols as u32,
                ..Default::default()
            };
            let run = Run {
                variant: Variant::new(Shader::GateUp, gpu.choices(), None),
                constants: &[("GATE", constant)],
                params: params.into(),
                dynamic: Dynamic { tokens: tokens as u32, ..Dynamic::default() },
                buffers: &[bytes(&x)],
                grid: [cols.div_ceil(256), tokens, 1],
            };
            let found = floats(&debug::run(&gpu, &run).unwrap()[0]);
            assert!(worst(&found, &expected) < CLOSE, "{kind:?}, {cols} columns: {}", worst(&found, &expected));
        }

        let (stride, first, wanted) = (cols + 3, 2, 2);
        let x = activations(&mut rng, 4 * stride);
        let weight = rng.floats(cols);
        let wanted_x: Vec<f32> = (first..first + wanted).flat_map(|t| x[t * stride..][..cols].to_vec()).collect();
        let mut expected = vec![0.0; wanted * cols];
        norm::rms_norm(&scalar(), &wanted_x, cols, &weight, 1e-5, &mut expected);
        for choices in lane_choices(&gpu) {
            let params = params::RmsNorm { cols: cols as u32, stride: stride as u32, eps: 1e-5, ..Default::default() };
            let run = Run {
                variant: Variant::new(Shader::RmsNorm, choices, None),
                constants: &[],
                params: params.into(),
                dynamic: Dynamic { tokens: wanted as u32, first: first as u32, ..Dynamic::default() },
                buffers: &[bytes(&x), bytes(&weight), &vec![0; 4 * wanted * cols], &[0; 4]],
                grid: [1, wanted, 1],
            };
            let found = floats(&debug::run(&gpu, &run).unwrap()[2]);
            assert!(worst(&found, &expected) < CLOSE, "norm, {cols} columns: {}", worst(&found, &expected));
        }
    }
}

#[test]
fn embed_and_head_equal_the_reference() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(9);
    for ty in DenseType::ALL {
        for (rows, cols) in [(1usize, 256usize), (37, 256), (70, 768), (9, 6), (5, 34)] {
            let cols = cols.next_multiple_of(ty.block_len()).next_multiple_of(2);
            let row_bytes = ty.row_bytes(cols);
            let data = gpu_common::model::dense_bytes(&mut rng, ty, rows * cols);
            let view = DenseView::new(rows, cols, &data, ty).unwrap();
            let what = format!("{ty:?}, {rows} x {cols}");

            // A window of the rows from 1 (or 0) on, 64 bytes into the binding.
            let row0 = usize::from(rows > 1);
            let mut table = vec![0xffu8; 64];
            table.extend_from_slice(&data[row0 * row_bytes..]);

            let ids: Vec<u32> = (0..rows as u32).rev().collect();
            let before = vec![7.0; rows * cols];
            let mut expected = before.clone();
            for (t, &id) in ids.iter().enumerate().filter(|&(_, &id)| id as usize >= row0) {
                dense::gather(view, id as usize, &mut expected[t * cols..][..cols]);
            }
            let params = params::Embed {
                rows: (rows - row0) as u32,
                row0: row0 as u32,
                cols: cols as u32,
                row_bytes: row_bytes as u32,
                table0: 64,
                stride: cols as u32,
                ..Default::default()
            };
            let run = Run {
                variant: Variant::new(Shader::Embed, gpu.choices(), Some(ty)),
                constants: &[],
                params: params.into(),
                dynamic: Dynamic { tokens: rows as u32, ..Dynamic::default() },
                buffers: &[bytemuck::cast_slice(&ids), &table, bytes(&before), &[0; 4]],
                grid: [cols.div_ceil(128), rows, 1],
            };
            let contents = debug::run(&gpu, &run).unwrap();
            assert_eq!(floats(&contents[2]), expected, "embed, {what}");
            assert_eq!(contents[3], [0; 4], "embed, {what}: damage");

            for (tokens, tile) in [(1, 1u32), (6, 4)] {
                let x = rng.floats(tokens * cols);
                let mut products = vec![0.0; tokens * rows];
                dense::matmul(&scalar(), view, &x, &mut products);
                let mut expected = products.clone();
                if row0 == 1 {
                    expected.iter_mut().step_by(rows).for_each(|logit| *logit = 7.0);
                }
                let params = params::Head {
                    rows: (rows - row0) as u32,
                    row0: row0 as u32,
                    cols: cols as u32,
                    row_bytes: row_bytes as u32,
                    table0: 64,
                    vocab: rows as u32,
                    ..Default::default()
                };
                let untouched = vec![7.0; tokens * rows];
                for choices in lane_choices(&gpu) {
                    let run = Run {
                        variant: Variant::new(Shader::Head, choices, Some(ty)),
                        constants: &[("TILE", f64::from(tile))],
                        params: params.into(),
                        dynamic: Dynamic { tokens: tokens as u32, ..Dynamic::default() },
                        buffers: &[bytes(&x), &table, bytes(&untouched), &[0; 4]],
                        grid: [rows.div_ceil(4), tokens.div_ceil(tile as usize), 1],
                    };
                    let found = floats(&debug::run(&gpu, &run).unwrap()[2]);
                    assert!(worst(&found, &expected) < CLOSE, "head, {what}, {tokens}: {}", worst(&found, &expected));
                }
            }
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
    for shader in [Shader::TernaryMatvec, Shader::TernaryMatmul] {
        assert_eq!(debug::ternary_product(&gpu, shader, gpu.choices(), &weights, &acts).unwrap(), expected);
    }
}
