//! Rotation, cache writes, attention in both phases, and the merge of its splits.

use std::slice;

use bitnet_cpu_kernels::{
    attention::{self, KvCache, KvRows, KvType, Placed},
    norm,
    quantize::{self, QuantizedActs},
    rope::{self, RopeTable},
    testing::Rng,
};
use bitnet_gpu::backend::gpu::{
    Gpu, Tuning,
    debug::{self, Run},
    params::{self, Dynamic},
    pipelines::{Choices, Input, Shader, Variant},
};

use super::{CLOSE, assert_quantized, batch, lane_choices, quantized};
use crate::common::gpu::{activations, bytes, floats, open_gpu, scalar, worst};

fn exact(x: f32) -> f32 {
    half::f16::from_f32(x).to_f32()
}

/// The constant of kv_cache.wgsl.
fn cache_constant(ty: KvType) -> f64 {
    match ty {
        KvType::F16 => 0.0,
        KvType::F32 => 1.0,
        KvType::Q8_0 => 2.0,
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
            for (k_type, v_type) in [
                (KvType::F16, KvType::F32),
                (KvType::F32, KvType::F16),
                (KvType::Q8_0, KvType::F16),
                (KvType::F16, KvType::Q8_0),
            ] {
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
                    let mut step = table.clone();
                    step.fill(start..start + tokens);
                    rope::apply(&cpu, &mut eq, heads, head_dim, &step, style);
                    rope::apply(&cpu, &mut ek, kv_heads, head_dim, &step, style);
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
                for choices in lane_choices(&gpu) {
                    let norms = f64::from(u8::from(norms));
                    let run = Run {
                        variant: Variant::new(Shader::RopeAppend, choices, None),
                        constants: &[
                            ("Q_NORM", norms),
                            ("K_NORM", norms),
                            ("INTERLEAVED", style_constant(style)),
                            ("K_TYPE", cache_constant(k_type)),
                            ("V_TYPE", cache_constant(v_type)),
                        ],
                        params: params.into(),
                        dynamic: Dynamic { tokens: tokens as u32, ..Dynamic::default() },
                        buffers: &[
                            bytes(&x),
                            &vec![0; capacity * kv_heads * head_bytes(k_type, head_dim)],
                            &vec![0; capacity * kv_heads * head_bytes(v_type, head_dim)],
                            bytes(&rope_data),
                            bytes(&q_norm),
                            bytes(&k_norm),
                            &batch(&vec![0; tokens], start, 0),
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
                        let cache = cache_values(contents, ty, head_dim);
                        let own = &cache[start * kv..(start + tokens) * kv];
                        let close = stored_close(ty);
                        assert!(worst(own, expected) < close, "{what}: {name}: {}", worst(own, expected));
                        let untouched = cache[..start * kv].iter().chain(&cache[(start + tokens) * kv..]);
                        assert!(untouched.copied().all(|v| v == 0.0), "{what}: {name} outside the new positions");
                    }
                }
            }
        }
    }
}

/// How far a cached value may be from the reference, relative to a typical one: rounding and the largest ones decide.
fn stored_close(ty: KvType) -> f64 {
    match ty {
        KvType::F16 => 2e-2,
        KvType::F32 => CLOSE,
        // Half of 1/127 of values 20 times a typical one.
        KvType::Q8_0 => 0.1,
    }
}

/// Bytes of a head at a position: of q8_0 the codes, then an f16 a block, both to whole words.
fn head_bytes(ty: KvType, head_dim: usize) -> usize {
    match ty {
        KvType::F16 => 2 * head_dim,
        KvType::F32 => 4 * head_dim,
        KvType::Q8_0 => head_dim.next_multiple_of(4) + (2 * head_dim.div_ceil(32)).next_multiple_of(4),
    }
}

fn f16_at(bytes: &[u8], i: usize) -> f32 {
    half::f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32()
}

fn cache_values(bytes: &[u8], ty: KvType, head_dim: usize) -> Vec<f32> {
    match ty {
        KvType::F32 => floats(bytes),
        KvType::F16 => (0..bytes.len() / 2).map(|i| f16_at(bytes, i)).collect(),
        KvType::Q8_0 => {
            let heads = bytes.chunks_exact(head_bytes(ty, head_dim));
            let value = |head: &[u8], i: usize| {
                f16_at(&head[head_dim.next_multiple_of(4)..], i / 32) * f32::from(head[i].cast_signed())
            };
            heads.flat_map(|head| (0..head_dim).map(move |i| value(head, i))).collect()
        }
    }
}

/// [`attention::append`] of one sequence's tokens, by the reference.
fn append(cache: &mut KvCache, start: usize, tokens: usize, k: &[f32], v: &[f32]) {
    attention::append(&scalar(), slice::from_mut(cache), &[Placed { cache: 0, start, tokens }], k, v);
}

/// [`attention::attend`] of one sequence's tokens from `start` on, by the reference.
fn attend(q: &[f32], heads: usize, cache: &KvCache, start: usize, scale: f32, out: &mut [f32]) {
    let rows = [Placed { cache: 0, start, tokens: q.len() / (heads * cache.head_dim()) }];
    attention::attend(&scalar(), q, heads, slice::from_ref(cache), &rows, scale, out);
}

/// Heads of `head_dim` as the CPU's cache keeps them.
fn cache_bytes(values: &[f32], ty: KvType, head_dim: usize) -> Vec<u8> {
    let heads = values.len() / head_dim;
    let mut cache = KvCache::new(1, head_dim, heads, ty, ty);
    append(&mut cache, 0, heads, values, values);
    let [rows, _] = cache.read(0..heads);
    match rows {
        KvRows::Floats(values) => bytes(&values).to_vec(),
        KvRows::F16 { bits } => bytemuck::cast_slice(&bits).to_vec(),
        KvRows::Q8_0 { codes, scales } => {
            let mut bytes = vec![0; heads * head_bytes(ty, head_dim)];
            let blocks = head_dim.div_ceil(32);
            for (head, bytes) in bytes.chunks_exact_mut(head_bytes(ty, head_dim)).enumerate() {
                bytes[..head_dim].copy_from_slice(bytemuck::cast_slice(&codes[head * head_dim..][..head_dim]));
                let scales = scales[head * blocks..][..blocks].iter().flat_map(|scale| scale.to_le_bytes());
                bytes[head_dim.next_multiple_of(4)..].iter_mut().zip(scales).for_each(|(to, from)| *to = from);
            }
            bytes
        }
    }
}

/// Codes and scales of every kind of block: of any magnitude, of the subnormals of f16 and f32, with ties, zeros, and
/// of partial blocks.
#[test]
fn cached_8_bit_values_are_the_processors_bytes() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(16);
    for head_dim in [2, 6, 32, 34, 64, 100, 128, 130, 256] {
        let tokens = 64;
        let mut value = |t: usize, e: usize| match t {
            // Halves of codes: 127 makes d a power of two.
            0 => [127.0, 0.5, 1.5, -2.5, -126.5, 63.5][e % 6],
            1 => [-127.0, -0.5, 31.5, 0.0][e % 4] * 2.0_f32.powi(-20),
            2 => 0.0,
            3 => f32::from_bits(e as u32),
            // 65504 * 127 is the largest.
            4 => 8e6 * rng.f32(),
            // d is 0 or the least number of f16.
            5 => 2e-6 * rng.f32(),
            6 => 1e-9 * rng.f32(),
            // Every magnitude between.
            _ => rng.f32() * 2.0_f32.powi(t as i32 / 2 - 20) * if rng.below(50) == 0 { 20.0 } else { 1.0 },
        };
        let mut heads = || (0..tokens * head_dim).map(|i| value(i / head_dim, i % head_dim)).collect::<Vec<f32>>();
        let (k, v) = (heads(), heads());
        let x: Vec<f32> = (0..tokens)
            .flat_map(|t| {
                [&vec![0.0; head_dim][..], &k[t * head_dim..][..head_dim], &v[t * head_dim..][..head_dim]].concat()
            })
            .collect();
        let width = head_dim as u32;
        let params = params::RopeAppend {
            heads: 1,
            kv_heads: 1,
            head_dim: width,
            stride: 3 * width,
            k_offset: width,
            v_offset: 2 * width,
            ..Default::default()
        };
        let (expected_k, expected_v) =
            (cache_bytes(&k, KvType::Q8_0, head_dim), cache_bytes(&v, KvType::Q8_0, head_dim));
        let run = Run {
            variant: Variant::new(Shader::RopeAppend, gpu.choices(), None),
            constants: &[("Q_NORM", 0.0), ("K_NORM", 0.0), ("INTERLEAVED", 0.0), ("K_TYPE", 2.0), ("V_TYPE", 2.0)],
            params: params.into(),
            dynamic: Dynamic { tokens: tokens as u32, ..Dynamic::default() },
            buffers: &[
                bytes(&x),
                &vec![0; expected_k.len()],
                &vec![0; expected_v.len()],
                &[0; 4],
                &[0; 4],
                &[0; 4],
                &batch(&[0; 64], 0, 0),
            ],
            grid: [3, tokens, 1],
        };
        let appended = debug::run(&gpu, &run).unwrap();
        // Each token alone, as decoding appends it.
        let decoded: Vec<_> = (0..tokens).map(|t| decode_alone(&gpu, &x[3 * t * head_dim..][..3 * head_dim])).collect();
        for (t, alone) in decoded.iter().enumerate() {
            let own = t * head_bytes(KvType::Q8_0, head_dim)..(t + 1) * head_bytes(KvType::Q8_0, head_dim);
            for (name, i, expected) in [("k", 1, &expected_k), ("v", 2, &expected_v)] {
                assert_eq!(appended[i][own.clone()], expected[own.clone()], "{name} of {head_dim}, token {t}");
                assert_eq!(alone[i], expected[own.clone()], "{name} of {head_dim}, token {t} by attention_decode");
            }
        }
    }
}

/// Buffers that attention_decode leaves for a token with one head of q, k and v, in a cache of q8_0.
fn decode_alone(gpu: &Gpu, x: &[f32]) -> Vec<Vec<u8>> {
    let head_dim = x.len() / 3;
    let width = head_dim as u32;
    let params = params::AttentionDecode {
        heads: 1,
        kv_heads: 1,
        head_dim: width,
        stride: 3 * width,
        k_offset: width,
        v_offset: 2 * width,
        scale: 1.0,
        ..Default::default()
    };
    let cache = vec![0; head_bytes(KvType::Q8_0, head_dim)];
    let run = Run {
        variant: Variant::new(Shader::AttentionDecode, gpu.choices(), None),
        constants: &[
            ("Q_NORM", 0.0),
            ("K_NORM", 0.0),
            ("INTERLEAVED", 0.0),
            ("K_TYPE", 2.0),
            ("V_TYPE", 2.0),
            ("FRESH", head_dim as f64),
            ("SPLIT_KEYS", 1.0),
        ],
        params: params.into(),
        dynamic: Dynamic { tokens: 1, splits: 1, ..Dynamic::default() },
        buffers: &[
            bytes(x),
            &cache,
            &cache,
            &[0; 4],
            &[0; 4],
            &[0; 4],
            &batch(&[0], 0, 0),
            &vec![0; 4 * (head_dim + 2)],
        ],
        grid: [1, 1, 1],
    };
    debug::run(gpu, &run).unwrap()
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
        constants: &[("Q_NORM", 0.0), ("K_NORM", 0.0), ("INTERLEAVED", 0.0), ("K_TYPE", 0.0), ("V_TYPE", 0.0)],
        params: params.into(),
        dynamic: Dynamic { tokens: 1, ..Dynamic::default() },
        buffers: &[bytes(&x), &[0; 512], &[0; 512], &[0; 4], &[0; 4], &[0; 4], &batch(&[0], 0, 0)],
        grid: [3, 1, 1],
    };
    let found: Vec<u16> = bytemuck::pod_collect_to_vec(&debug::run(&gpu, &run).unwrap()[2]);
    for (i, &value) in values.iter().enumerate() {
        assert_eq!(found[i], expected[i], "f16 bits of {value:e}");
    }
}

/// Types of keys and values.
const TYPES: [(KvType, KvType); 4] =
    [(KvType::F16, KvType::F16), (KvType::F32, KvType::Q8_0), (KvType::Q8_0, KvType::F32), (KvType::Q8_0, KvType::F16)];

#[test]
fn attention_of_many_tokens_equals_the_reference() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(7);
    // (heads, kv_heads, head_dim, start, tokens)
    let cases = [
        (1, 1, 2, 0, 1),
        (4, 4, 100, 0, 5),
        (4, 2, 64, 31, 2),
        (20, 5, 128, 300, 1),
        (10, 2, 256, 40, 4),
        (3, 3, 96, 0, 37),
        (8, 2, 130, 10, 33),
    ];
    for (heads, kv_heads, head_dim, start, tokens) in cases {
        for (k_type, v_type) in TYPES {
            let keys = start + tokens;
            let (q, kv) = (heads * head_dim, kv_heads * head_dim);
            // Values the types hold exactly, so that only the arithmetic is compared.
            let k: Vec<f32> = rng.floats(keys * kv).into_iter().map(exact).collect();
            let v: Vec<f32> = rng.floats(keys * kv).into_iter().map(exact).collect();
            let (stride, offset) = (q + 6, 2);
            let x: Vec<f32> = activations(&mut rng, tokens * stride);
            let scale = 1.0 / (head_dim as f32).sqrt();
            let mut cache = KvCache::new(kv_heads, head_dim, keys, k_type, v_type);
            append(&mut cache, 0, keys, &k, &v);
            let queries: Vec<f32> = (0..tokens).flat_map(|t| x[t * stride + offset..][..q].to_vec()).collect();
            let mut expected = vec![0.0; tokens * q];
            attend(&queries, heads, &cache, start, scale, &mut expected);

            let params = params::Attention {
                heads: heads as u32,
                kv_heads: kv_heads as u32,
                head_dim: head_dim as u32,
                stride: stride as u32,
                q_offset: offset as u32,
                scale,
                ..Default::default()
            };
            let run = Run {
                variant: Variant::new(Shader::AttentionPrefill, gpu.choices(), None),
                constants: &[("K_TYPE", cache_constant(k_type)), ("V_TYPE", cache_constant(v_type))],
                params: params.into(),
                dynamic: Dynamic { tokens: tokens as u32, ..Dynamic::default() },
                buffers: &[
                    bytes(&x),
                    &cache_bytes(&k, k_type, head_dim),
                    &cache_bytes(&v, v_type, head_dim),
                    &vec![0; 4 * tokens * q],
                    &batch(&vec![0; tokens], start, 0),
                ],
                grid: [heads, tokens.div_ceil(16), 1],
            };
            let found = floats(&debug::run(&gpu, &run).unwrap()[3]);
            let what =
                format!("{heads}/{kv_heads} heads of {head_dim}, {start} + {tokens} keys, {k_type:?}/{v_type:?}");
            assert!(worst(&found, &expected) < CLOSE, "{what}: {}", worst(&found, &expected));
        }
    }
}

/// Treatment of queries and keys before attention.
#[derive(Clone, Copy, Debug)]
enum Heads {
    /// Nothing: values stay such as f16 holds, so that only the arithmetic is compared.
    Plain,
    Rotated(rope::Style, bool),
}

/// A step of few tokens: rotation, the cache, splits of the keys, their merge, and the quantisation of the result.
#[test]
fn attention_of_few_tokens_equals_the_reference() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(8);
    // (heads, kv_heads, head_dim, start, tokens, splits, heads)
    let (half, interleaved) = (rope::Style::HalfSplit, rope::Style::Interleaved);
    let cases = [
        (1, 1, 2, 0, 1, 1, Heads::Plain),
        (4, 4, 100, 0, 5, 1, Heads::Plain),
        (4, 2, 64, 31, 2, 1, Heads::Rotated(half, false)),
        (20, 5, 128, 300, 1, 3, Heads::Plain),
        (20, 5, 128, 300, 1, 3, Heads::Rotated(half, false)),
        (6, 1, 32, 63, 3, 2, Heads::Rotated(interleaved, true)),
        // The new keys lie in several splits.
        (3, 3, 36, 2, 6, 4, Heads::Rotated(interleaved, false)),
        (10, 2, 256, 40, 4, 5, Heads::Rotated(half, true)),
        // More splits than keys for the first tokens: some are empty.
        (2, 1, 16, 0, 4, 4, Heads::Plain),
    ];
    for case in cases {
        for (k_type, v_type) in TYPES {
            for choices in lane_choices(&gpu) {
                attention_of_few_tokens(&gpu, &mut rng, choices, case, (k_type, v_type));
            }
        }
    }
}

fn attention_of_few_tokens(
    gpu: &Gpu,
    rng: &mut Rng,
    choices: Choices,
    (heads, kv_heads, head_dim, start, tokens, splits, how): (usize, usize, usize, usize, usize, usize, Heads),
    (k_type, v_type): (KvType, KvType),
) {
    let what = format!(
        "{heads}/{kv_heads} heads of {head_dim}, {start} + {tokens} keys in {splits}, {k_type:?}/{v_type:?}, {how:?}, {:?}",
        choices.lanes
    );
    let (style, dims, norms) = match how {
        Heads::Plain => (rope::Style::HalfSplit, 0, false),
        Heads::Rotated(style, norms) => (style, head_dim, norms),
    };
    let (keys, capacity) = (start + tokens, start + tokens + 2);
    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    let stride = q + 2 * kv + 2;
    let x: Vec<f32> = activations(rng, tokens * stride).into_iter().map(exact).collect();
    let before: Vec<f32> = rng.floats(2 * start * kv).into_iter().map(exact).collect();
    let (k_before, v_before) = before.split_at(start * kv);
    let (q_norm, k_norm) = (rng.floats(head_dim), rng.floats(head_dim));
    let table = RopeTable::new(dims, 10000.0, 1.0, None, capacity);

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
        let mut step = table.clone();
        step.fill(start..start + tokens);
        rope::apply(&cpu, &mut eq, heads, head_dim, &step, style);
        rope::apply(&cpu, &mut ek, kv_heads, head_dim, &step, style);
    }
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut cache = KvCache::new(kv_heads, head_dim, keys, k_type, v_type);
    append(&mut cache, 0, start, k_before, v_before);
    append(&mut cache, start, tokens, &ek, &ev);
    let mut expected = vec![0.0; tokens * q];
    attend(&eq, heads, &cache, start, scale, &mut expected);

    let (cos, sin) = table.data();
    let rope_data = if cos.is_empty() { vec![0.0] } else { [cos, sin].concat() };
    let params = params::AttentionDecode {
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
        scale,
        ..Default::default()
    };
    // Beyond the keys before, the cache holds what must not be read.
    let filled = |values: &[f32], ty: KvType| {
        let mut all = cache_bytes(values, ty, head_dim);
        all.resize(capacity * kv_heads * head_bytes(ty, head_dim), 0x77);
        all
    };
    let dynamic = Dynamic { tokens: tokens as u32, splits: splits as u32, ..Dynamic::default() };
    let norm_flag = f64::from(u8::from(norms));
    let run = Run {
        variant: Variant::new(Shader::AttentionDecode, choices, None),
        constants: &[
            ("Q_NORM", norm_flag),
            ("K_NORM", norm_flag),
            ("INTERLEAVED", style_constant(style)),
            ("K_TYPE", cache_constant(k_type)),
            ("V_TYPE", cache_constant(v_type)),
            ("FRESH", (tokens * head_dim) as f64),
            ("SPLIT_KEYS", (start + tokens).div_ceil(splits) as f64),
        ],
        params: params.into(),
        dynamic,
        buffers: &[
            bytes(&x),
            &filled(k_before, k_type),
            &filled(v_before, v_type),
            bytes(&rope_data),
            bytes(&q_norm),
            bytes(&k_norm),
            &batch(&vec![0; tokens], start, 0),
            &vec![0; 4 * tokens * splits * heads * (head_dim + 2)],
        ],
        grid: [kv_heads * (heads / kv_heads).div_ceil(4), splits, tokens],
    };
    let contents = debug::run(gpu, &run).unwrap();
    // Rotations differ in the last bit of f32, which may be a bit of f16.
    let rotated_close = if matches!(how, Heads::Rotated(..)) { 2e-3 } else { CLOSE };
    let close = match k_type {
        // One code of a key up or down.
        KvType::Q8_0 if matches!(how, Heads::Rotated(..)) => 2e-2,
        KvType::F16 => rotated_close,
        _ => CLOSE,
    };
    for (name, contents, ty, expected) in [("k", &contents[1], k_type, &ek), ("v", &contents[2], v_type, &ev)] {
        let values = cache_values(contents, ty, head_dim);
        let own = &values[start * kv..keys * kv];
        assert!(worst(own, expected) < stored_close(ty), "{what}: {name}: {}", worst(own, expected));
        let (before, new_and_after) = contents.split_at(start * kv_heads * head_bytes(ty, head_dim));
        let after = &new_and_after[tokens * kv_heads * head_bytes(ty, head_dim)..];
        assert!(after.iter().all(|&b| b == 0x77), "{what}: {name} after the new positions");
        let kept = cache_bytes(if name == "k" { k_before } else { v_before }, ty, head_dim);
        assert!(before == kept, "{what}: {name} before the new positions");
    }

    let merge = Run {
        variant: Variant::new(Shader::AttentionMerge, choices, None),
        constants: &[],
        params: params::AttentionMerge { heads: heads as u32, head_dim: head_dim as u32, ..Default::default() }.into(),
        dynamic,
        buffers: &[&contents[7]],
        grid: [heads, tokens, 1],
    };
    // One split is not merged.
    let parts = if splits == 1 { contents[7].clone() } else { debug::run(gpu, &merge).unwrap().swap_remove(0) };
    let all = floats(&parts);
    let found: Vec<f32> = (0..tokens * heads)
        .flat_map(|i| {
            let head = i / heads * splits * heads + i % heads;
            all[head * (head_dim + 2)..][..head_dim].to_vec()
        })
        .collect();
    assert!(worst(&found, &expected) < close, "{what}: {}", worst(&found, &expected));

    let (words, ones) = (q.next_multiple_of(128) / 4, vec![1.0; q]);
    let params =
        params::NormQuantize { cols: q as u32, words: words as u32, groups: 1, eps: 1e-5, ..Default::default() };
    let quantise = Run {
        variant: Variant::new(Shader::NormQuantize.reading(Input::Parts), choices, None),
        constants: &[("NORM", 1.0), ("HEADS", heads as f64), ("HEAD_DIM", head_dim as f64)],
        params: params.into(),
        dynamic,
        buffers: &[&parts, bytes(&ones), &vec![0; 4 * tokens * words], &vec![0; 8 * tokens], &[0; 4]],
        grid: [1, tokens, 1],
    };
    let mut acts = QuantizedActs::new(tokens, q);
    quantize::norm_quantize(&cpu, &found, q, Some(&ones), 1e-5, &mut acts);
    assert_quantized(&what, &quantized(&debug::run(gpu, &quantise).unwrap()), &acts);
}
