//! Head norms, rotation, and the rows of the cache.

use bitnet_cpu_kernels::{attention::KvType, rope::Style, testing::Rng};
use bitnet_gpu::backend::gpu::{
    Gpu, Tuning,
    debug::{self, Run},
    params::{self, Dynamic},
    pipelines::{Choices, Shader, Variant},
};

use super::{
    super::{CLOSE, batch, lane_choices},
    EPS, Heads, Prepared, assert_appended, cache_bytes, constants, head_bytes,
};
use crate::common::gpu::{activations, bytes, floats, open_gpu, worst};

#[test]
fn rope_append_equals_the_reference() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(5);
    let types = [
        (KvType::F16, KvType::F32),
        (KvType::F32, KvType::F16),
        (KvType::Q8_0, KvType::F16),
        (KvType::F16, KvType::Q8_0),
    ];
    // (heads, kv_heads, head_dim, rotated, head norms)
    for (heads, kv_heads, head_dim, dims, norms) in [
        (1, 1, 2, 2, false),
        (6, 2, 64, 64, false),
        (4, 4, 100, 100, true),
        (3, 1, 128, 64, true),
        (2, 1, 256, 0, false),
    ] {
        for style in [Style::HalfSplit, Style::Interleaved] {
            let of = Heads { heads, kv_heads, head_dim, dims, style, norms, start: 4, tokens: 3 };
            for types in types {
                for choices in lane_choices(&gpu) {
                    rope_append(&gpu, &mut rng, choices, &of, types);
                }
            }
        }
    }
}

fn rope_append(gpu: &Gpu, rng: &mut Rng, choices: Choices, of: &Heads, (k_type, v_type): (KvType, KvType)) {
    let capacity = 9;
    let (q, kv, stride) = (of.heads * of.head_dim, of.kv(), of.stride());
    let x = activations(rng, of.tokens * stride);
    let prepared = Prepared::new(of, &x, capacity, rng);
    let params = params::RopeAppend {
        heads: of.heads as u32,
        kv_heads: of.kv_heads as u32,
        stride: stride as u32,
        q_offset: 0,
        k_offset: q as u32,
        v_offset: (q + kv) as u32,
        half: (of.dims / 2) as u32,
        sines: prepared.sines as u32,
        eps: EPS,
        ..Default::default()
    };
    let before = [k_type, v_type].map(|ty| vec![0x77; capacity * of.kv_bytes(ty)]);
    let run = Run {
        variant: Variant::new(Shader::RopeAppend, choices, None),
        constants: &constants(of, (k_type, v_type)),
        params: params.into(),
        dynamic: Dynamic { tokens: of.tokens as u32, ..Dynamic::default() },
        buffers: &[
            bytes(&x),
            &before[0],
            &before[1],
            bytes(&prepared.rope),
            bytes(&prepared.q_norm),
            bytes(&prepared.k_norm),
            &batch(&vec![0; of.tokens], of.start, 0),
        ],
        grid: [of.heads + 2 * of.kv_heads, of.tokens, 1],
    };
    let contents = debug::run(gpu, &run).unwrap();
    let what = format!("{of:?}, {k_type:?}/{v_type:?}, {:?}", choices.lanes);
    let written = floats(&contents[0]);
    let found: Vec<f32> = written.chunks_exact(stride).flat_map(|token| &token[..q]).copied().collect();
    assert!(worst(&found, &prepared.q) < CLOSE, "{what}: q");
    assert_appended(&format!("{what}: k"), of, k_type, (&before[0], &contents[1]), &prepared.k);
    assert_appended(&format!("{what}: v"), of, v_type, (&before[1], &contents[2]), &prepared.v);
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
            stride: 3 * width,
            k_offset: width,
            v_offset: 2 * width,
            ..Default::default()
        };
        let (expected_k, expected_v) =
            (cache_bytes(&k, KvType::Q8_0, head_dim), cache_bytes(&v, KvType::Q8_0, head_dim));
        let run = Run {
            variant: Variant::new(Shader::RopeAppend, gpu.choices(), None),
            constants: &[("HEAD_DIM", head_dim as f64), ("K_TYPE", 2.0), ("V_TYPE", 2.0)],
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
            ("HEAD_DIM", head_dim as f64),
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
    let params =
        params::RopeAppend { heads: 1, kv_heads: 1, stride: 768, k_offset: 256, v_offset: 512, ..Default::default() };
    let run = Run {
        variant: Variant::new(Shader::RopeAppend, gpu.choices(), None),
        constants: &[("HEAD_DIM", 256.0)],
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
