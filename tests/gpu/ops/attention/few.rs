//! A step of few tokens: rotation, the cache, splits of the keys, their merge, and the quantisation of the result.

use bitnet_cpu_kernels::{
    attention::{KvCache, KvType},
    quantize::{self, QuantizedActs},
    rope::Style,
    testing::Rng,
};
use bitnet_gpu::backend::gpu::{
    Gpu, Tuning,
    debug::{self, Run},
    params::{self, Dynamic},
    pipelines::{Choices, Input, Shader, Variant},
};

use super::{
    super::{CLOSE, assert_quantized, batch, lane_choices, quantized},
    EPS, Heads, Prepared, TYPES, append, assert_appended, attend, cache_bytes, constants, exact,
};
use crate::common::gpu::{activations, bytes, floats, open_gpu, scalar, worst};

/// A step, and how many parts its keys are split into.
struct Case {
    of: Heads,
    splits: usize,
    types: (KvType, KvType),
    choices: Choices,
}

#[test]
fn attention_of_few_tokens_equals_the_reference() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(8);
    // Without a rotation values stay such as f16 holds, so that only the arithmetic is compared.
    let plain = (Style::HalfSplit, false, false);
    let (half, interleaved) = ((Style::HalfSplit, true, false), (Style::Interleaved, true, false));
    let normed = |style| (style, true, true);
    // (heads, kv_heads, head_dim, start, tokens, splits, (style, rotated, head norms))
    for (heads, kv_heads, head_dim, start, tokens, splits, (style, rotated, norms)) in [
        (1, 1, 2, 0, 1, 1, plain),
        (4, 4, 100, 0, 5, 1, plain),
        (4, 2, 64, 31, 2, 1, half),
        (20, 5, 128, 300, 1, 3, plain),
        (20, 5, 128, 300, 1, 3, half),
        (6, 1, 32, 63, 3, 2, normed(Style::Interleaved)),
        // The new keys lie in several splits.
        (3, 3, 36, 2, 6, 4, interleaved),
        (10, 2, 256, 40, 4, 5, normed(Style::HalfSplit)),
        // More splits than keys for the first tokens: some are empty.
        (2, 1, 16, 0, 4, 4, plain),
    ] {
        let dims = if rotated { head_dim } else { 0 };
        let of = Heads { heads, kv_heads, head_dim, dims, style, norms, start, tokens };
        for types in TYPES {
            for choices in lane_choices(&gpu) {
                check(&gpu, &mut rng, &Case { of, splits, types, choices });
            }
        }
    }
}

fn check(gpu: &Gpu, rng: &mut Rng, case: &Case) {
    let &Case { of, splits, types: (k_type, v_type), choices } = case;
    let Heads { heads, head_dim, start, tokens, .. } = of;
    let what = format!("{of:?}, {splits} splits, {k_type:?}/{v_type:?}, {:?}", choices.lanes);
    let (q, kv) = (heads * head_dim, of.kv());
    let (keys, capacity) = (start + tokens, start + tokens + 2);
    let x: Vec<f32> = activations(rng, tokens * of.stride()).into_iter().map(exact).collect();
    let earlier: Vec<f32> = rng.floats(2 * start * kv).into_iter().map(exact).collect();
    let (k_earlier, v_earlier) = earlier.split_at(start * kv);
    let prepared = Prepared::new(&of, &x, capacity, rng);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut cache = KvCache::new(of.kv_heads, head_dim, keys, k_type, v_type);
    append(&mut cache, 0, start, k_earlier, v_earlier);
    append(&mut cache, start, tokens, &prepared.k, &prepared.v);
    let mut expected = vec![0.0; tokens * q];
    attend(&prepared.q, heads, &cache, start, scale, &mut expected);

    // Beyond the earlier keys, the cache holds what must not be read.
    let before = [(k_earlier, k_type), (v_earlier, v_type)].map(|(values, ty)| {
        let mut all = cache_bytes(values, ty, head_dim);
        all.resize(capacity * of.kv_bytes(ty), 0x77);
        all
    });
    let contents = decode(gpu, case, &x, &prepared, &before);
    assert_appended(&format!("{what}: k"), &of, k_type, (&before[0], &contents[1]), &prepared.k);
    assert_appended(&format!("{what}: v"), &of, v_type, (&before[1], &contents[2]), &prepared.v);

    // One split is not merged.
    let parts = if splits == 1 { contents[7].clone() } else { merge(gpu, case, &contents[7]) };
    let all = floats(&parts);
    let found: Vec<f32> = (0..tokens * heads)
        .flat_map(|i| {
            let head = i / heads * splits * heads + i % heads;
            all[head * (head_dim + 2)..][..head_dim].to_vec()
        })
        .collect();
    let close = match k_type {
        // One code of a key up or down.
        KvType::Q8_0 if of.dims > 0 => 2e-2,
        // Rotations differ in the last bit of f32, which may be a bit of f16.
        KvType::F16 if of.dims > 0 => 2e-3,
        _ => CLOSE,
    };
    assert!(worst(&found, &expected) < close, "{what}: {}", worst(&found, &expected));
    check_quantized(gpu, case, &what, &parts, &found);
}

/// The words of a step.
fn dynamic(case: &Case) -> Dynamic {
    Dynamic { tokens: case.of.tokens as u32, splits: case.splits as u32, ..Dynamic::default() }
}

/// Buffers that attention_decode leaves.
fn decode(gpu: &Gpu, case: &Case, x: &[f32], prepared: &Prepared, before: &[Vec<u8>; 2]) -> Vec<Vec<u8>> {
    let &Case { of, splits, types, choices } = case;
    let q = of.heads * of.head_dim;
    let params = params::AttentionDecode {
        heads: of.heads as u32,
        kv_heads: of.kv_heads as u32,
        stride: of.stride() as u32,
        q_offset: 0,
        k_offset: q as u32,
        v_offset: (q + of.kv()) as u32,
        half: (of.dims / 2) as u32,
        sines: prepared.sines as u32,
        eps: EPS,
        scale: 1.0 / (of.head_dim as f32).sqrt(),
        ..Default::default()
    };
    let mut constants = constants(&of, types);
    constants.extend([
        ("FRESH", (of.tokens * of.head_dim) as f64),
        ("SPLIT_KEYS", (of.start + of.tokens).div_ceil(splits) as f64),
    ]);
    let run = Run {
        variant: Variant::new(Shader::AttentionDecode, choices, None),
        constants: &constants,
        params: params.into(),
        dynamic: dynamic(case),
        buffers: &[
            bytes(x),
            &before[0],
            &before[1],
            bytes(&prepared.rope),
            bytes(&prepared.q_norm),
            bytes(&prepared.k_norm),
            &batch(&vec![0; of.tokens], of.start, 0),
            &vec![0; 4 * of.tokens * splits * of.heads * (of.head_dim + 2)],
        ],
        grid: [of.kv_heads * (of.heads / of.kv_heads).div_ceil(4), splits, of.tokens],
    };
    debug::run(gpu, &run).unwrap()
}

/// The parts of the keys merged into the first.
fn merge(gpu: &Gpu, case: &Case, parts: &[u8]) -> Vec<u8> {
    let (heads, head_dim) = (case.of.heads as u32, case.of.head_dim as u32);
    let run = Run {
        variant: Variant::new(Shader::AttentionMerge, case.choices, None),
        constants: &[],
        params: params::AttentionMerge { heads, head_dim, ..Default::default() }.into(),
        dynamic: dynamic(case),
        buffers: &[parts],
        grid: [case.of.heads, case.of.tokens, 1],
    };
    debug::run(gpu, &run).unwrap().swap_remove(0)
}

/// Compares the quantisation of the parts with that of the same values, `found` there.
fn check_quantized(gpu: &Gpu, case: &Case, what: &str, parts: &[u8], found: &[f32]) {
    let Heads { heads, head_dim, tokens, .. } = case.of;
    let q = heads * head_dim;
    let (words, ones) = (q.next_multiple_of(128) / 4, vec![1.0; q]);
    let params =
        params::NormQuantize { cols: q as u32, words: words as u32, groups: 1, eps: 1e-5, ..Default::default() };
    let run = Run {
        variant: Variant::new(Shader::NormQuantize.reading(Input::Parts), case.choices, None),
        constants: &[("NORM", 1.0), ("HEADS", heads as f64), ("HEAD_DIM", head_dim as f64)],
        params: params.into(),
        dynamic: dynamic(case),
        buffers: &[parts, bytes(&ones), &vec![0; 4 * tokens * words], &vec![0; 8 * tokens], &[0; 4]],
        grid: [1, tokens, 1],
    };
    let mut acts = QuantizedActs::new(tokens, q);
    quantize::norm_quantize(&scalar(), found, q, Some(&ones), 1e-5, &mut acts);
    assert_quantized(what, &quantized(&debug::run(gpu, &run).unwrap()), &acts);
}
