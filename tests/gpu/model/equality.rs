//! Equal numbers by every way: plain loops, the CPU backend, any number of tokens a step, every path of the kernels,
//! segments and caches that moved.

use std::sync::Arc;

use bitnet_cpu_kernels::{format::ScaleKind, isa::Isa};
use bitnet_gpu::{
    backend::{
        Activations, Backend, Batch, KvRows, LayerState, SlotId, Want,
        cpu::CpuBackend,
        gpu::{
            Geometry, GpuBackend, Tuning,
            pipelines::{Choices, Product},
        },
    },
    plan::{KvType, Sizes},
};

use super::{APART, Loaded, assert_close, open, open_on, segment, sizes};
use crate::common::gpu::{
    Devices,
    model::{
        BITNET, GEMMA3_EMBEDDING, LLAMA, LLAMA_INPUT_NORMS, MINICPM, QWEN2, QWEN3, QWEN3_EMBEDDING, Spec, grouped,
        random_ids, random_model, reference_logits,
    },
    open_backend,
};

#[test]
fn decode_and_prefill_equal_plain_loops() {
    let mut devices = Devices::default();
    let rows = Spec { scales: ScaleKind::PerRow, ..BITNET };
    for (name, spec) in [
        ("BitNet", BITNET),
        ("Llama", LLAMA),
        ("Qwen3", QWEN3),
        ("Qwen3 for embeddings", QWEN3_EMBEDDING),
        ("Gemma 3 for embeddings", GEMMA3_EMBEDDING),
        ("norms on inputs", LLAMA_INPUT_NORMS),
        ("Qwen2", QWEN2),
        ("MiniCPM", MINICPM),
        ("a scale a row", rows),
        ("groups of 64", grouped(64)),
        ("groups of 128", grouped(128)),
        ("groups of 256", grouped(256)),
    ] {
        let model = Arc::new(random_model(&spec, 1));
        // Scales of weights do not touch the caches.
        let types = [KvType::F16, KvType::F32, KvType::Q8_0];
        let count = if spec.scales == ScaleKind::PerTensor { 3 } else { 1 };
        for kv in types.into_iter().take(count) {
            let Some(mut gpu) = open_on(&mut devices, &model, kv, Tuning::default()) else { return };
            // 70 tokens: more than one tile of the matrix product and of attention.
            let ids = random_ids(&spec, 2, 70);
            let expected = reference_logits(&model, &ids, kv);
            let decoded = gpu.decode(&ids[..20]);
            assert_close(&format!("{name} {kv:?} decode"), &decoded, &expected[..20 * spec.vocab], spec.vocab);
            let prefilled = gpu.run(&ids, 0, Want::All).unwrap();
            assert_close(&format!("{name} {kv:?} prefill"), &prefilled, &expected, spec.vocab);

            let mut cpu = Loaded::new(CpuBackend::new(Isa::Scalar, 1), &model, &sizes(kv));
            let on_cpu = cpu.run(&ids, 0, Want::All).unwrap();
            assert_close(&format!("{name} {kv:?} against the CPU backend"), &prefilled, &on_cpu, spec.vocab);
        }
    }
}

/// Steps of every size over a cache that is already filled, rewound and overwritten.
#[test]
fn steps_of_every_size_agree() {
    let model = Arc::new(random_model(&BITNET, 3));
    let Some(mut gpu) = open(&model, KvType::F16, Tuning::default()) else { return };
    let vocab = BITNET.vocab;
    let ids = random_ids(&BITNET, 4, 150);
    let mut expected = Vec::new();
    for start in (0..150).step_by(75) {
        expected.extend(gpu.run(&ids[start..start + 75], start, Want::All).unwrap());
    }
    let last = |n: usize| &expected[(n - 1) * vocab..n * vocab];
    // Other tokens in the same positions first: what the cache held must not matter.
    gpu.run(&random_ids(&BITNET, 5, 80), 0, Want::Nothing).unwrap();
    let mut at = 0;
    for tokens in [1, 2, 3, 4, 5, 17, 1, 64, 40, 1, 4, 8] {
        let found = gpu.run(&ids[at..at + tokens], at, Want::Last).unwrap();
        at += tokens;
        assert_close(&format!("{tokens} tokens up to {at}"), &found, last(at), vocab);
    }
    assert_eq!(at, 150);
    assert!(gpu.run(&ids[10..12], 10, Want::Nothing).unwrap().is_empty(), "no logits were wanted");
    let again = gpu.run(&ids[12..13], 12, Want::Last).unwrap();
    assert_close("after going back", &again, last(13), vocab);
}

/// Drafts are checked by steps of several tokens: they count only if those give the bits of single ones.
#[test]
fn few_tokens_together_give_the_bits_of_each_alone() {
    let mut devices = Devices::default();
    for (spec, kv) in [
        (BITNET, KvType::F16),
        (BITNET, KvType::Q8_0),
        (LLAMA, KvType::F32),
        (QWEN3, KvType::Q8_0),
        (LLAMA_INPUT_NORMS, KvType::F16),
        (QWEN2, KvType::F16),
        (grouped(64), KvType::F16),
        (grouped(256), KvType::F16),
        (Spec { scales: ScaleKind::PerRow, ..BITNET }, KvType::F16),
    ] {
        for tuning in [Tuning::default(), Tuning { subgroups: Some(false), ..Tuning::default() }] {
            let model = Arc::new(random_model(&spec, 13));
            let Some(mut gpu) = open_on(&mut devices, &model, kv, tuning) else { return };
            assert_eq!(gpu.backend.limits(gpu.segment).exact_tokens, 8);
            // From the first position on, and where the keys are split: there, products are the same.
            let ids = random_ids(&spec, 14, 148);
            for start in [0, 126] {
                if start > 0 {
                    gpu.run(&ids[..64], 0, Want::Nothing).unwrap();
                    gpu.run(&ids[64..start], 64, Want::Nothing).unwrap();
                }
                let alone: Vec<f32> =
                    (start..start + 8).flat_map(|at| gpu.run(&ids[at..at + 1], at, Want::Last).unwrap()).collect();
                for tokens in (2..=8).step_by(if start == 0 { 1 } else { 3 }) {
                    let found = gpu.run(&ids[start..start + tokens], start, Want::All).unwrap();
                    let at = found.iter().zip(&alone).position(|(a, b)| a.to_bits() != b.to_bits());
                    assert_eq!(at, None, "{:?} {kv:?}: {tokens} tokens at {start}", spec.family);
                }
            }
        }
    }
}

const LARGE: Geometry = Geometry { workgroup: 256, folded_workgroups: 1, fold: true };

/// Paths that change neither products nor norms: BitNet takes them for all families.
const MECHANICS: [&str; 5] =
    ["large workgroups", "uniform parameters", "checked shaders", "small arenas", "chunks of 1"];

/// Every way to compute the same: without subgroups, in f32, with uniform parameters, with bounds checks, with
/// windows over rows, many small buffers, and small chunks.
#[test]
fn every_path_gives_the_same_logits() {
    let mut devices = Devices::default();
    for spec in [BITNET, QWEN3, grouped(64)] {
        let model = Arc::new(random_model(&spec, 6));
        let ids = random_ids(&spec, 7, 40);
        let Some(mut plain) = open_on(&mut devices, &model, KvType::F16, Tuning::default()) else { return };
        let expected = plain.run(&ids, 0, Want::All).unwrap();
        let paths = [
            ("no subgroups", Tuning { subgroups: Some(false), ..Tuning::default() }),
            ("f32 products", Tuning { product: Some(Product::F32), ..Tuning::default() }),
            ("norms of their own", Tuning { fold: Some(false), ..Tuning::default() }),
            ("the largest product apart", Tuning { geometry: Some(APART), ..Tuning::default() }),
            ("large workgroups", Tuning { geometry: Some(LARGE), fold: Some(false), ..Tuning::default() }),
            ("one folded workgroup", Tuning { geometry: Some(LARGE), ..Tuning::default() }),
            ("uniform parameters", Tuning { immediates: Some(false), ..Tuning::default() }),
            ("the least device", Tuning { least: true, ..Tuning::default() }),
            ("checked shaders", Tuning { checked_shaders: true, ..Tuning::default() }),
            // Two thirds of a gate-and-up pair, a fifth of the table.
            ("windows", Tuning { max_binding_bytes: Some(26 << 10), ..Tuning::default() }),
            ("small arenas", Tuning { max_arena_bytes: Some(40 << 10), ..Tuning::default() }),
            ("chunks of 7", Tuning { chunk_tokens: Some(7), ..Tuning::default() }),
            ("chunks of 1", Tuning { chunk_tokens: Some(1), ..Tuning::default() }),
        ];
        let is_first = spec.family == BITNET.family && spec.scales == BITNET.scales;
        for (name, tuning) in paths.into_iter().filter(|(name, _)| is_first || !MECHANICS.contains(name)) {
            // Caches of f32 and 160 positions would not fit in a binding of 26 KiB.
            let small = Sizes { context_tokens: 48, ..sizes(KvType::F16) };
            let Some(backend) = devices.backend(tuning) else { return };
            let mut other = Loaded::new(backend, &model, &small);
            assert_close(name, &other.run(&ids, 0, Want::All).unwrap(), &expected, spec.vocab);
            let last = other.run(&ids, 0, Want::Last).unwrap();
            assert_close(&format!("{name}, last"), &last, &expected[39 * spec.vocab..], spec.vocab);
            let decoded = other.decode(&ids[..6]);
            assert_close(&format!("{name}, decode"), &decoded, &expected[..6 * spec.vocab], spec.vocab);
        }
    }
}

/// Products are whole numbers: whichever twin of them a device has chosen, logits have the same bits.
#[test]
fn every_product_gives_the_same_bits() {
    let mut devices = Devices::default();
    for spec in [BITNET, QWEN3, grouped(64), grouped(256)] {
        let model = Arc::new(random_model(&spec, 16));
        let ids = random_ids(&spec, 17, 80);
        let Some(plain) = open_on(&mut devices, &model, KvType::F16, Tuning::default()) else { return };
        let mut expected: Option<Vec<u32>> = None;
        for Choices { product, tile, .. } in plain.backend.gpu().choices().products() {
            let tuning = Tuning { product: Some(product), tile: Some(tile), ..Tuning::default() };
            let mut gpu = open_on(&mut devices, &model, KvType::F16, tuning).unwrap();
            let chosen = gpu.backend.gpu().choices();
            assert_eq!((chosen.product, chosen.tile), (product, tile));
            // A prompt, a few tokens, and one at a time.
            let mut logits = gpu.run(&ids[..70], 0, Want::All).unwrap();
            logits.extend(gpu.run(&ids[70..75], 70, Want::All).unwrap());
            logits.extend((75..80).flat_map(|at| gpu.run(&ids[at..=at], at, Want::Last).unwrap()));
            let found: Vec<u32> = logits.iter().map(|x| x.to_bits()).collect();
            let expected = expected.get_or_insert_with(|| found.clone());
            let at = found.iter().zip(expected.iter()).position(|(a, b)| a != b);
            assert_eq!(at, None, "{:?} {:?}: {product:?}, {tile:?}", spec.family, spec.scales);
        }
    }
}

/// Keys and values go to the CPU and to another cache of the GPU bit by bit, and what is computed on them is the same.
#[test]
fn caches_move_without_a_change() {
    let mut devices = Devices::default();
    for (spec, kv) in [(BITNET, KvType::F16), (LLAMA, KvType::Q8_0), (QWEN3, KvType::Q8_0), (QWEN3, KvType::F32)] {
        let model = Arc::new(random_model(&spec, 11));
        let Some(mut gpu) = open_on(&mut devices, &model, kv, Tuning::default()) else { return };
        let mut cpu = Loaded::new(CpuBackend::new(Isa::Scalar, 1), &model, &sizes(kv));
        let mut other = open_on(&mut devices, &model, kv, Tuning::default()).unwrap();
        let ids = random_ids(&spec, 12, 31);
        gpu.run(&ids[..30], 0, Want::Nothing).unwrap();
        let (mut there, mut back) = (LayerState::default(), LayerState::default());
        let slot = SlotId(0);
        for layer in 0..spec.layers {
            // In two parts, the second not at the beginning.
            for part in [0..7, 7..30] {
                gpu.backend.states(gpu.segment).unwrap().export(layer, slot, part.clone(), &mut there).unwrap();
                cpu.backend.states(cpu.segment).unwrap().import(layer, slot, part.clone(), &there).unwrap();
                cpu.backend.states(cpu.segment).unwrap().export(layer, slot, part.clone(), &mut back).unwrap();
                assert_eq!(&there, &back, "{kv:?}: layer {layer}, {part:?}, on the CPU");
                other.backend.states(other.segment).unwrap().import(layer, slot, part.clone(), &back).unwrap();
                other.backend.states(other.segment).unwrap().export(layer, slot, part.clone(), &mut back).unwrap();
                assert_eq!(&there, &back, "{kv:?}: layer {layer}, {part:?}, on the GPU");
            }
        }
        let next = |on: &mut Loaded<GpuBackend>| on.run(&ids[30..], 30, Want::Last).unwrap();
        let expected = next(&mut gpu);
        assert_eq!(next(&mut other), expected, "{kv:?}: logits on the GPU");
        let on_cpu = cpu.run(&ids[30..], 30, Want::Last).unwrap();
        assert_close(&format!("{kv:?}: logits on the CPU"), &on_cpu, &expected, spec.vocab);
        let wrong = LayerState::Kv { k: KvRows::Q8_0 { codes: vec![], scales: vec![] }, v: KvRows::default() };
        if kv != KvType::Q8_0 {
            let error =
                other.backend.states(other.segment).unwrap().import(0, slot, 0..0, &wrong).unwrap_err().to_string();
            assert!(error.contains("rows for the cache"), "{error}");
        }
    }
}

/// Two segments with hidden states between them, on the GPU alone and after the CPU.
#[test]
fn segments_pass_hidden_states() {
    let model = Arc::new(random_model(&MINICPM, 8));
    let Some(mut one) = open(&model, KvType::F16, Tuning::default()) else { return };
    let ids = random_ids(&MINICPM, 9, 12);
    let expected = one.run(&ids, 0, Want::All).unwrap();
    let Some(gpu) = open_backend(Tuning::default()) else { return };
    let mut gpu = gpu;
    let cpu = CpuBackend::new(Isa::Scalar, 1);
    let mut first: [Box<dyn Backend>; 2] = [Box::new(cpu), Box::new(open_backend(Tuning::default()).unwrap())];
    for first in &mut first {
        let sizes = sizes(KvType::F16);
        let a = first.load(&model, &segment(0..1, true, false), &sizes, &mut |_| {}).unwrap();
        let b = gpu.load(&model, &segment(1..2, false, false), &sizes, &mut |_| {}).unwrap();
        let c = gpu.load(&model, &segment(2..3, false, true), &sizes, &mut |_| {}).unwrap();
        let mut found = Vec::new();
        for range in [0..7, 7..8, 8..12] {
            let mut activations = Activations { ids: ids[range.clone()].to_vec(), ..Activations::default() };
            let batch = Batch::one(range.clone(), Want::All);
            first.run(a, &batch, &mut activations).unwrap();
            assert_eq!(activations.hidden.len(), range.len() * MINICPM.dim);
            gpu.run(b, &batch, &mut activations).unwrap();
            gpu.run(c, &batch, &mut activations).unwrap();
            found.extend(activations.logits);
        }
        assert_close(&format!("{} first", first.name()), &found, &expected, MINICPM.vocab);
    }
}

/// A head whose logits do not fit in one piece for all tokens.
#[test]
fn logits_of_many_tokens_come_in_pieces() {
    let spec = Spec { vocab: 70_000, dim: 64, ffn_dim: 64, heads: 2, kv_heads: 1, layers: 1, ..BITNET };
    let model = Arc::new(random_model(&spec, 10));
    let Some(mut gpu) = open(&model, KvType::F16, Tuning::default()) else { return };
    let ids = random_ids(&spec, 11, 65);
    let all = gpu.run(&ids, 0, Want::All).unwrap();
    assert_eq!(all.len(), 65 * spec.vocab);
    let submits = gpu.backend.counters().submits;
    let last = gpu.run(&ids, 0, Want::Last).unwrap();
    assert_eq!(gpu.backend.counters().submits, submits + 1);
    assert_close("last of all", &all[64 * spec.vocab..], &last, spec.vocab);
    let one = gpu.run(&ids[20..21], 20, Want::Last).unwrap();
    assert_close("one of all", &all[20 * spec.vocab..21 * spec.vocab], &one, spec.vocab);
}
