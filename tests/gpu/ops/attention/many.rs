//! Attention of many tokens.

use bitnet_cpu_kernels::{attention::KvCache, testing::Rng};
use bitnet_gpu::backend::gpu::{
    Tuning,
    debug::{self, Run},
    params::{self, Dynamic},
    pipelines::{Shader, Variant},
};

use super::{
    super::{CLOSE, batch},
    TYPES, append, attend, cache_bytes, cache_constant, exact,
};
use crate::common::gpu::{activations, bytes, floats, open_gpu, worst};

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
                stride: stride as u32,
                q_offset: offset as u32,
                scale,
                ..Default::default()
            };
            let run = Run {
                variant: Variant::new(Shader::AttentionPrefill, gpu.choices(), None),
                constants: &[
                    ("HEAD_DIM", head_dim as f64),
                    ("K_TYPE", cache_constant(k_type)),
                    ("V_TYPE", cache_constant(v_type)),
                ],
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
