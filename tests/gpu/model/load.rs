//! Before the first step: the memory a plan asks for, the upload, and models that are refused.

use std::sync::Arc;

use bitnet_gpu::{
    Remedy,
    backend::{Backend, Want, gpu::Tuning},
    model::Model,
    plan::{KvType, Segment, Sizes},
};

use super::{open, sizes, whole};
use crate::common::gpu::{
    model::{BITNET, LLAMA, QWEN3, Spec, random_ids, random_model},
    open_backend,
};

#[test]
fn progress_adds_up_to_the_weights() {
    let model = Arc::new(random_model(&QWEN3, 15));
    let Some(mut backend) = open_backend(Tuning::default()) else { return };
    let sizes = sizes(KvType::F16);
    let needed = backend.segment_bytes(&model, &whole(&model), &sizes).unwrap();
    let mut done = 0;
    backend.load(&model, &whole(&model), &sizes, &mut |bytes| done += bytes).unwrap();
    let ternary: u64 = model.weights.blocks.iter().map(|b| b.ternary_bytes() as u64).sum();
    let most = needed.total() - needed.states;
    assert!(done > ternary && done <= most, "{done} bytes uploaded, {needed:?}");
    // Two caches, three layers, 160 positions, 2 heads of 100, f16.
    assert_eq!(needed.states, 2 * 3 * 160 * 200 * 2);
    assert_eq!(needed.total(), needed.weights + needed.tables + needed.states + needed.activations);
}

/// The parts a plan is made of add up to what any segment is given, with small arenas as well.
#[test]
fn parts_add_up_to_segments() {
    for (spec, seed) in [(BITNET, 30), (LLAMA, 31), (QWEN3, 32)] {
        for max_arena_bytes in [None, Some(65_536)] {
            let model = Arc::new(random_model(&spec, seed));
            let Some(backend) = open_backend(Tuning { max_arena_bytes, ..Tuning::default() }) else { return };
            let sizes = Sizes { head_screen: seed == 31, ..sizes(KvType::F16) };
            let demand = backend.demand(&model, &sizes).unwrap();
            for start in 0..=spec.layers {
                for end in start..=spec.layers {
                    for (embed, head) in [(false, false), (true, false), (false, true), (true, true)] {
                        let segment = Segment { layers: start..end, embed, head, ..whole(&model) };
                        let given = backend.segment_bytes(&model, &segment, &sizes).unwrap();
                        assert_eq!(demand.segment(start..end, embed, head), given, "{segment:?}");
                    }
                }
            }
        }
    }
}

/// A model that cannot be loaded, whatever the memory, is refused before anything is planned, in the same words.
#[test]
fn a_plan_is_refused_as_loading_is() {
    // 160 positions of 36 f32; 160 keys of 6 heads of 36 in f16.
    let refusals = [("the table of rotations", 23_000), ("a cache of 160 tokens", 69_000)];
    for (reason, max_binding_bytes) in refusals {
        let model = Arc::new(random_model(&LLAMA, 33));
        let tuning = Tuning { max_binding_bytes: Some(max_binding_bytes), ..Tuning::default() };
        let Some(mut backend) = open_backend(tuning) else { return };
        let planned = backend.demand(&model, &sizes(KvType::F16)).unwrap_err();
        let loaded = backend.load(&model, &whole(&model), &sizes(KvType::F16), &mut |_| {}).unwrap_err();
        assert_eq!(planned.remedy(), Some(&Remedy::LowerContext));
        assert_eq!((planned.to_string(), planned.remedy()), (loaded.to_string(), loaded.remedy()));
        assert!(planned.to_string().contains(reason), "{planned}");
    }
}

/// Weights written where the GPU reads them, and through staging memory.
#[test]
fn both_ways_of_upload_give_the_same_bits() {
    let model = Arc::new(random_model(&LLAMA, 34));
    let ids = random_ids(&LLAMA, 35, 20);
    let logits = |mapped| {
        let tuning = Tuning { mapped_upload: Some(mapped), max_arena_bytes: Some(50_000), ..Tuning::default() };
        open(&model, KvType::F16, tuning).map(|mut gpu| gpu.run(&ids, 0, Want::All).unwrap())
    };
    let (Some(mapped), Some(staged)) = (logits(true), logits(false)) else { return };
    assert_eq!(mapped, staged);

    // What can be mapped may be less than a model takes: the first arena is, the second is not.
    let tuning = Tuning {
        mapped_upload: Some(true),
        max_arena_bytes: Some(50_000),
        mappable_bytes: Some(49_000),
        ..Tuning::default()
    };
    let Some(mut gpu) = open(&model, KvType::F16, tuning) else { return };
    assert_eq!(gpu.run(&ids, 0, Want::All).unwrap(), staged);
}

#[test]
fn not_enough_memory_is_known_before_loading() {
    let model = Arc::new(random_model(&BITNET, 16));
    let Some(mut backend) = open_backend(Tuning { memory_bytes: Some(100_000), ..Tuning::default() }) else { return };
    let before = backend.counters().objects_created;
    let error = backend.load(&model, &whole(&model), &sizes(KvType::F16), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("100000 available"), "{error}");
    assert_eq!(backend.counters().objects_created, before, "nothing was created");
}

#[test]
fn models_the_kernels_cannot_index_are_refused() {
    let Some(mut backend) = open_backend(Tuning::default()) else { return };
    let mut refused = |model: Model, needle: &str| {
        let error =
            backend.load(&Arc::new(model.clone()), &whole(&model), &sizes(KvType::F16), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains(needle), "{error}");
    };
    refused(random_model(&Spec { head_dim: 258, heads: 1, kv_heads: 1, ..BITNET }, 22), "the head size");
    let mut short = random_model(&BITNET, 23);
    short.weights.output_norm.pop();
    refused(short, "the output norm: expected 256, found 255");
    let mut short = random_model(&BITNET, 24);
    short.weights.token_embd.rows -= 1;
    refused(short, "the embedding table: expected 301 x 256, found 300 x 256");
    let mut narrow = random_model(&BITNET, 25);
    narrow.config.ffn_dim += 128;
    refused(narrow, "layer 0");
}
