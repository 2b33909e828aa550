//! Costs of a step: dispatches, submits, bytes read back, and nothing created.

use std::sync::Arc;

use bitnet_gpu::{
    backend::{
        Want,
        gpu::{GpuBackend, Tuning},
    },
    plan::{KvType, Sizes},
};

use super::{APART, Loaded, open, open_on, sizes};
use crate::common::gpu::{
    Devices,
    model::{BITNET, LLAMA, QWEN3, Spec, grouped, random_ids, random_model},
    open_backend,
};

/// A step creates nothing, submits once, and has five dispatches a layer, six when the keys are split, and four more
/// where norms are kernels of their own.
#[test]
fn a_decode_step_creates_nothing() {
    let mut devices = Devices::default();
    for spec in [BITNET, LLAMA, QWEN3, grouped(128)] {
        for (immediates, fold) in [(true, true), (false, true), (true, false)] {
            let tuning = Tuning { immediates: Some(immediates), fold: Some(fold), ..Tuning::default() };
            let model = Arc::new(random_model(&spec, 12));
            let Some(mut gpu) = open_on(&mut devices, &model, KvType::F16, tuning) else { return };
            let ids = random_ids(&spec, 13, 10);
            for (at, &id) in ids.iter().enumerate() {
                let before = gpu.backend.counters();
                gpu.run(&[id], at, Want::Last).unwrap();
                let step = gpu.backend.counters().since(&before);
                assert_eq!(step.objects_created, 0, "{:?}, token {at}", spec.family);
                assert_eq!(step.submits, 1);
                // The embedding, the layers, the last norm and the head.
                let layer = if fold { 5 } else { 9 };
                assert_eq!(step.dispatches, layer * spec.layers as u64 + 3, "{:?}, fold {fold}", spec.family);
                assert_eq!(step.readback_bytes, 8 + 4 * spec.vocab as u64);
            }
            let before = gpu.backend.counters();
            gpu.run(&random_ids(&spec, 14, 70), 10, Want::Last).unwrap();
            assert_eq!(gpu.backend.counters().since(&before).objects_created, 0, "a prompt");
            gpu.run(&random_ids(&spec, 14, 70), 80, Want::Last).unwrap();
            let before = gpu.backend.counters();
            gpu.run(&random_ids(&spec, 14, 1), 150, Want::Last).unwrap();
            let step = gpu.backend.counters().since(&before);
            let layer = if fold { 6 } else { 10 };
            assert_eq!(step.dispatches, layer * spec.layers as u64 + 3, "{:?}, split keys", spec.family);
        }
    }
}

/// The largest product of a layer with its norm apart, as far as seven dispatches a layer and six more allow.
#[test]
fn norms_apart_keep_to_the_number_of_dispatches() {
    // Beside the layers: the embedding, the norm, the head, two for the choice of a few ids; with windows many.
    for (max_binding_bytes, apart) in [(None, 3), (Some(26 << 10), 0)] {
        let tuning = Tuning { geometry: Some(APART), max_binding_bytes, ..Tuning::default() };
        let Some(backend) = open_backend(tuning) else { return };
        let model = Arc::new(random_model(&LLAMA, 60));
        let mut gpu = Loaded::new(backend, &model, &Sizes { context_tokens: 40, ..sizes(KvType::F16) });
        let folded = open_backend(Tuning { max_binding_bytes, ..Tuning::default() }).unwrap();
        let mut folded = Loaded::new(folded, &model, &Sizes { context_tokens: 40, ..sizes(KvType::F16) });
        let dispatches = |gpu: &mut Loaded<GpuBackend>| {
            let before = gpu.backend.counters();
            gpu.run(&[5], 0, Want::Last).unwrap();
            gpu.backend.counters().since(&before).dispatches
        };
        assert_eq!(dispatches(&mut gpu), dispatches(&mut folded) + apart, "{max_binding_bytes:?}");
    }
}

/// Cost of a step with a quantized head: three dispatches more than with the full one, or four for a few ids, nothing
/// created, and one more word that comes back.
#[test]
fn a_screened_step_is_as_bounded_as_a_full_one() {
    let spec = Spec { vocab: 1100, ..BITNET };
    let model = Arc::new(random_model(&spec, 52));
    let Some(backend) = open_backend(Tuning::default()) else { return };
    let mut gpu = Loaded::new(backend, &model, &Sizes { head_screen: true, ..sizes(KvType::F16) });
    // The embedding, five kernels of each layer, and of the head: query, screen, (cut,) probe, rescore, and the choice.
    for (count, head, bytes) in [(1, 5, 8 + 16 + 4), (2, 7, 8 + 8 + 2 * 8 + 4)] {
        let mut id = gpu.top(7, 0, count)[0].0;
        for at in 1..6 {
            let before = gpu.backend.counters();
            // Not the chosen one, so that no step is begun before it is asked for.
            id = gpu.top((id + 1) % spec.vocab as u32, at, count)[0].0;
            let step = gpu.backend.counters().since(&before);
            assert_eq!((step.objects_created, step.submits), (0, 1));
            assert_eq!(step.dispatches, 1 + 5 * spec.layers as u64 + head);
            assert_eq!(step.readback_bytes, bytes);
        }
    }
}

/// A choice of ids: at most 2 KiB come back, nothing is created, and the next step is submitted with the current one.
#[test]
fn a_choice_reads_back_little() {
    let model = Arc::new(random_model(&BITNET, 32));
    let Some(mut gpu) = open(&model, KvType::F16, Tuning::default()) else { return };
    let usual = {
        let before = gpu.backend.counters();
        gpu.run(&[5], 0, Want::Last).unwrap();
        gpu.backend.counters().since(&before).dispatches
    };
    for (count, more, most_bytes) in [(1, 1, 24), (40, 2, 2048)] {
        let mut id = gpu.top(7, 0, count)[0].0;
        let start = gpu.backend.counters();
        for at in 1..21 {
            let before = gpu.backend.counters();
            id = gpu.top(id, at, count)[0].0;
            let step = gpu.backend.counters().since(&before);
            assert_eq!(step.objects_created, 0);
            assert!(step.readback_bytes <= most_bytes, "{} bytes", step.readback_bytes);
        }
        let all = gpu.backend.counters().since(&start);
        // One step more is under way, or recorded, than was asked for; the first was recorded before.
        assert!((20..=21).contains(&all.submits), "{} submits", all.submits);
        assert!((20 * (usual + more)..=21 * (usual + more)).contains(&all.dispatches), "{} dispatches", all.dispatches);
    }
}
