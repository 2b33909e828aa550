//! Whole random models on the GPU: against plain loops and the CPU backend, one token at a time and in batches,
//! with every way of forcing the kernels into another path, and with things going wrong in the middle.

use std::sync::Arc;

use bitnet_cpu_kernels::{
    format::{DenseType, ScaleKind},
    isa::Isa,
};
use bitnet_gpu::{
    Error, Remedy,
    backend::{
        Activations, Backend, Batch, KvRows, LayerState, Rest, SegmentId, SlotId, Want,
        cpu::CpuBackend,
        gpu::{Geometry, GpuBackend, Tuning},
    },
    model::{Linear, MatrixScales, Model, Norm},
    plan::{BackendKind, KvType, Segment, Sizes},
};

use crate::common::gpu::{
    Devices,
    model::{
        BITNET, GEMMA3_EMBEDDING, LLAMA, QWEN3, QWEN3_EMBEDDING, Spec, grouped, random_ids, random_model,
        reference_logits,
    },
    open_backend, relative_l2,
};

/// Most relative L2 error over all tokens compared, and of one token. Float order alone flips an activation between
/// two integers now and then, which random weights amplify and the cache carries on: tokens without a flip agree to
/// 1e-6, those after one were off by up to 0.02. A wrong formula gives 0.3 and more.
const CLOSE: f64 = 2e-2;
const CLOSE_TOKEN: f64 = 5e-2;

fn sizes(kv: KvType) -> Sizes {
    Sizes::new(160, 80).with_kv(kv, kv)
}

fn segment(layers: std::ops::Range<usize>, embed: bool, head: bool) -> Segment {
    Segment { layers, backend: BackendKind::Gpu, embed, head, reason: "test".to_owned() }
}

fn whole(model: &Model) -> Segment {
    segment(0..model.config.layers, true, true)
}

/// A model loaded as one segment.
struct Loaded<B> {
    backend: B,
    segment: SegmentId,
    activations: Activations,
}

impl<B: Backend> Loaded<B> {
    fn new(mut backend: B, model: &Arc<Model>, sizes: &Sizes) -> Self {
        let segment = backend.load(model, &whole(model), sizes, &mut |_| {}).unwrap();
        Self { backend, segment, activations: Activations::default() }
    }

    fn run(&mut self, ids: &[u32], start: usize, wanted: Want) -> Result<Vec<f32>, Error> {
        self.activations.ids = ids.to_vec();
        let batch = Batch::one(start..start + ids.len(), wanted);
        self.backend.run(self.segment, &batch, &mut self.activations)?;
        Ok(self.activations.logits.clone())
    }

    /// All logits of the last step, which gave candidates.
    fn full_logits(&mut self) -> Vec<f32> {
        let mut logits = Vec::new();
        self.backend.full_logits(self.segment, SlotId(0), &mut logits).unwrap();
        logits
    }

    /// The logits after each token, one step a token.
    fn decode(&mut self, ids: &[u32]) -> Vec<f32> {
        ids.iter().enumerate().flat_map(|(at, &id)| self.run(&[id], at, Want::Last).unwrap()).collect()
    }
}

fn open(model: &Arc<Model>, kv: KvType, tuning: Tuning) -> Option<Loaded<GpuBackend>> {
    Some(Loaded::new(open_backend(tuning)?, model, &sizes(kv)))
}

/// As [`open`], on a device opened before.
fn open_on(devices: &mut Devices, model: &Arc<Model>, kv: KvType, tuning: Tuning) -> Option<Loaded<GpuBackend>> {
    Some(Loaded::new(devices.backend(tuning)?, model, &sizes(kv)))
}

#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f32], vocab: usize) {
    let rows = found.chunks(vocab).zip(expected.chunks(vocab));
    let errors: Vec<f64> = rows.map(|(a, b)| relative_l2(a, b)).collect();
    assert_eq!(found.len(), expected.len(), "{what}: logits");
    let worst = errors.iter().copied().fold(0.0, f64::max);
    let all = relative_l2(found, expected);
    eprintln!("{what}: relative L2 {all:.1e}, worst token {worst:.1e}");
    assert!(all <= CLOSE && worst <= CLOSE_TOKEN, "{what}: relative L2 {all}, of each token {errors:?}");
}

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
        ("a scale a row", rows),
        ("groups of 64", grouped(64)),
        ("groups of 128", grouped(128)),
        ("groups of 256", grouped(256)),
    ] {
        let model = Arc::new(random_model(&spec, 1));
        for kv in [KvType::F16, KvType::F32, KvType::Q8_0] {
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
        (grouped(64), KvType::F16),
        (grouped(256), KvType::F16),
        (Spec { scales: ScaleKind::PerRow, ..BITNET }, KvType::F16),
    ] {
        for tuning in [Tuning::default(), Tuning { subgroups: Some(false), ..Tuning::default() }] {
            let model = Arc::new(random_model(&spec, 13));
            let Some(mut gpu) = open_on(&mut devices, &model, kv, tuning) else { return };
            assert_eq!(gpu.backend.limits(gpu.segment).exact_tokens, 8);
            // From the first position on, and where the keys are split.
            let ids = random_ids(&spec, 14, 148);
            for start in [0, 126] {
                if start > 0 {
                    gpu.run(&ids[..64], 0, Want::Nothing).unwrap();
                    gpu.run(&ids[64..start], 64, Want::Nothing).unwrap();
                }
                let alone: Vec<f32> =
                    (start..start + 8).flat_map(|at| gpu.run(&ids[at..at + 1], at, Want::Last).unwrap()).collect();
                for tokens in 2..=8 {
                    let found = gpu.run(&ids[start..start + tokens], start, Want::All).unwrap();
                    let at = found.iter().zip(&alone).position(|(a, b)| a.to_bits() != b.to_bits());
                    assert_eq!(at, None, "{:?} {kv:?}: {tokens} tokens at {start}", spec.family);
                }
            }
        }
    }
}

const APART: Geometry = Geometry { workgroup: 128, folded_workgroups: 4, fold: false };
const LARGE: Geometry = Geometry { workgroup: 256, folded_workgroups: 1, fold: true };

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
            ("f32 products", Tuning { int8_dot: Some(false), ..Tuning::default() }),
            ("norms of their own", Tuning { fold: Some(false), ..Tuning::default() }),
            ("the largest product apart", Tuning { geometry: Some(APART), ..Tuning::default() }),
            ("large workgroups", Tuning { geometry: Some(LARGE), fold: Some(false), ..Tuning::default() }),
            ("one folded workgroup", Tuning { geometry: Some(LARGE), ..Tuning::default() }),
            ("uniform parameters", Tuning { immediates: Some(false), ..Tuning::default() }),
            ("checked shaders", Tuning { checked_shaders: true, ..Tuning::default() }),
            // Two thirds of a gate-and-up pair, a fifth of the table.
            ("windows", Tuning { max_binding_bytes: Some(26 << 10), ..Tuning::default() }),
            ("small arenas", Tuning { max_arena_bytes: Some(40 << 10), ..Tuning::default() }),
            ("chunks of 7", Tuning { chunk_tokens: Some(7), ..Tuning::default() }),
            ("chunks of 1", Tuning { chunk_tokens: Some(1), ..Tuning::default() }),
        ];
        for (name, tuning) in paths {
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

/// Keys and values go to the CPU and to another cache of the GPU bit by bit, and what is computed on them is the same.
#[test]
fn caches_move_without_a_change() {
    for (spec, kv) in [(BITNET, KvType::F16), (LLAMA, KvType::Q8_0), (QWEN3, KvType::Q8_0), (QWEN3, KvType::F32)] {
        let model = Arc::new(random_model(&spec, 11));
        let Some(mut gpu) = open(&model, kv, Tuning::default()) else { return };
        let mut cpu = Loaded::new(CpuBackend::new(Isa::Scalar, 1), &model, &sizes(kv));
        let mut other = open(&model, kv, Tuning::default()).unwrap();
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
    let model = Arc::new(random_model(&LLAMA, 8));
    let Some(mut one) = open(&model, KvType::F16, Tuning::default()) else { return };
    let ids = random_ids(&LLAMA, 9, 12);
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
            assert_eq!(activations.hidden.len(), range.len() * LLAMA.dim);
            gpu.run(b, &batch, &mut activations).unwrap();
            gpu.run(c, &batch, &mut activations).unwrap();
            found.extend(activations.logits);
        }
        assert_close(&format!("{} first", first.name()), &found, &expected, LLAMA.vocab);
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
                assert_eq!(step.readback_bytes, 4 + 4 * spec.vocab as u64);
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

#[test]
fn progress_adds_up_to_the_weights() {
    let model = Arc::new(random_model(&QWEN3, 15));
    let Some(mut backend) = open_backend(Tuning::default()) else { return };
    let sizes = sizes(KvType::F16);
    let needed = backend.segment_bytes(&model, &whole(&model), &sizes).unwrap();
    let mut done = 0;
    backend.load(&model, &whole(&model), &sizes, &mut |bytes| done += bytes).unwrap();
    let ternary: u64 = model.weights.blocks.iter().map(|b| b.ternary_bytes() as u64).sum();
    let most = needed.total() - needed.kv;
    assert!(done > ternary && done <= most, "{done} bytes uploaded, {needed:?}");
    // Two caches, three layers, 160 positions, 2 heads of 100, f16.
    assert_eq!(needed.kv, 2 * 3 * 160 * 200 * 2);
    assert_eq!(needed.total(), needed.weights + needed.tables + needed.kv + needed.activations);
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
fn damaged_weights_are_named_with_their_layer() {
    let Some(_) = open_backend(Tuning::default()) else { return };
    type Damage = fn(&mut Model);
    let damage: [(&str, Damage); 6] = [
        ("the embedding", |m| m.weights.token_embd.data = vec![0xff; m.weights.token_embd.data.len()].into()),
        ("layer 1", |m| replace(m, 1, |role, norm| (role == Norm::Attn).then(|| norm[7] = f32::NAN))),
        ("layer 2", |m| replace(m, 2, |role, norm| (role == Norm::FfnSub).then(|| norm[0] = f32::INFINITY))),
        ("layer 0", |m| scale(m, 0, Linear::V)),
        ("layer 2", |m| scale(m, 2, Linear::Down)),
        ("the output head", |m| m.weights.output_norm[3] = f32::NAN),
    ];
    for (place, damage) in damage {
        // A head of its own, so that a damaged table only damages the embedding.
        let spec = Spec { head: Some(DenseType::F32), ..BITNET };
        let mut model = random_model(&spec, 17);
        damage(&mut model);
        let Some(mut gpu) = open(&Arc::new(model), KvType::F16, Tuning::default()) else { return };
        for tokens in [1, 20] {
            let error = gpu.run(&random_ids(&spec, 18, tokens), 0, Want::Last).unwrap_err();
            match &error {
                Error::NotFinite { place: found, .. } => assert_eq!(found, place, "{tokens} tokens"),
                other => panic!("{place}: {other}"),
            }
        }
    }
}

/// Rebuilds a block with its norms changed.
fn replace(model: &mut Model, layer: usize, change: impl Fn(Norm, &mut Vec<f32>) -> Option<()>) {
    let block = &model.weights.blocks[layer];
    let linears = Linear::ALL.map(|role| block.linear(role).clone());
    let norms = Norm::BLOCK.map(|role| {
        let mut norm = block.norm(role).map(<[f32]>::to_vec);
        if let Some(norm) = &mut norm {
            change(role, norm);
        }
        norm
    });
    model.weights.blocks[layer] = bitnet_gpu::model::Block::new(linears, norms);
}

fn scale(model: &mut Model, layer: usize, damaged: Linear) {
    let block = &model.weights.blocks[layer];
    let linears = Linear::ALL.map(|role| {
        let mut matrix = block.linear(role).clone();
        if role == damaged {
            matrix.scales = MatrixScales::PerTensor(f32::NAN).into();
        }
        matrix
    });
    let norms = Norm::BLOCK.map(|role| block.norm(role).map(<[f32]>::to_vec));
    model.weights.blocks[layer] = bitnet_gpu::model::Block::new(linears, norms);
}

#[test]
fn a_lost_device_is_an_error_of_every_later_call() {
    let model = Arc::new(random_model(&BITNET, 19));
    let Some(mut gpu) = open(&model, KvType::F16, Tuning::default()) else { return };
    let ids = random_ids(&BITNET, 20, 30);
    gpu.run(&ids[..3], 0, Want::Last).unwrap();
    gpu.backend.gpu().destroyer()();
    for tokens in [1, 20] {
        let error = gpu.run(&ids[3..3 + tokens], 3, Want::Last).unwrap_err();
        assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
    }
    let error = gpu.backend.load(&model, &whole(&model), &sizes(KvType::F16), &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
}

/// Whatever the step is doing when the device goes away, it ends with that error.
#[test]
fn a_device_lost_within_a_step_is_an_error() {
    let model = Arc::new(random_model(&BITNET, 26));
    for delay_us in [0, 300, 1000, 3000, 10_000] {
        let Some(mut gpu) = open(&model, KvType::F16, Tuning::default()) else { return };
        let ids = random_ids(&BITNET, 27, 80);
        gpu.run(&ids, 0, Want::Last).unwrap();
        let destroy = gpu.backend.gpu().destroyer();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_micros(delay_us));
            destroy();
        });
        let error = (0..1000).find_map(|_| gpu.run(&ids, 0, Want::Last).err());
        thread.join().unwrap();
        assert!(matches!(error, Some(Error::DeviceLost { .. })), "after {delay_us} us: {error:?}");
    }
}

#[test]
fn wrong_input_is_refused_before_it_reaches_the_device() {
    let model = Arc::new(random_model(&BITNET, 21));
    let Some(mut gpu) = open(&model, KvType::F16, Tuning::default()) else { return };
    let mut refused = |ids: &[u32], start, needle: &str| {
        let error = gpu.run(ids, start, Want::Last).unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
    };
    refused(&[BITNET.vocab as u32], 0, "below 301, found 301");
    refused(&[1, 2], 1, "at most position 0");
    refused(&[], 0, "1 to 80 tokens");
    refused(&[0; 81], 0, "1 to 80 tokens, some of each row, found 81");
    refused(&[0; 161], 0, "161 tokens needed, 160");
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

/// The id of the highest logit, the lowest of equals.
fn best(logits: &[f32]) -> u32 {
    let highest = logits.iter().copied().fold(f32::MIN, f32::max);
    logits.iter().position(|&l| l == highest).unwrap() as u32
}

impl Loaded<GpuBackend> {
    /// Candidates of a step that wants the best `count` ids.
    fn top(&mut self, id: u32, at: usize, count: usize) -> Vec<(u32, f32)> {
        self.activations.ids = vec![id];
        self.backend.run(self.segment, &Batch::one(at..at + 1, Want::Top(count)), &mut self.activations).unwrap();
        assert!(self.activations.logits.is_empty(), "candidates instead of logits");
        self.activations.rows[0].candidates.top.iter().map(|c| (c.id, c.logit)).collect()
    }
}

/// All ways to ask for the next token give the same: all logits, the best one with the next step under way, the best
/// few with the next step recorded; whether the caller runs what was chosen or not.
#[test]
fn chosen_ids_are_those_of_the_logits() {
    for immediates in [true, false] {
        let tuning = Tuning { immediates: Some(immediates), ..Tuning::default() };
        let model = Arc::new(random_model(&BITNET, 28));
        let Some(mut plain) = open(&model, KvType::F16, tuning.clone()) else { return };
        let Some(mut chosen) = open(&model, KvType::F16, tuning) else { return };
        let prompt = random_ids(&BITNET, 29, 9);
        let mut logits = plain.run(&prompt, 0, Want::Last).unwrap();
        chosen.run(&prompt, 0, Want::Top(1)).unwrap();
        assert_eq!(chosen.activations.rows[0].candidates.top[0].id, best(&logits));
        let mut id = best(&logits);
        for at in 9..120 {
            // Another token than the chosen one, going back, and every few tokens more than one candidate.
            if at % 7 == 0 {
                id = (id + 1) % BITNET.vocab as u32;
            }
            if at == 50 {
                let again = random_ids(&BITNET, 31, 12);
                plain.run(&again, 20, Want::Nothing).unwrap();
                chosen.run(&again, 20, Want::Nothing).unwrap();
                plain.run(&again[..4], 32, Want::Nothing).unwrap();
                chosen.run(&again[..4], 32, Want::Nothing).unwrap();
            }
            let at = if at < 50 { at } else { at - 50 + 36 };
            logits = plain.run(&[id], at, Want::Last).unwrap();
            let count = [1, 1, 1, 40, 40][at / 10 % 5];
            let found = chosen.top(id, at, count);
            let mut expected: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
            expected.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
            assert_eq!(found.len(), if count == 1 { 1 } else { 254 });
            assert_eq!(found, expected[..found.len()], "{count} ids at {at}");
            match chosen.activations.rows[0].candidates.rest {
                Rest::Lower => assert_eq!(count, 1),
                Rest::Summed { log_sum_exp } => {
                    let exact = logits.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
                    assert!((f64::from(log_sum_exp) - exact).abs() < 5e-5, "{log_sum_exp} for {exact}");
                }
                Rest::None => panic!("there are 301 ids"),
            }
            if at % 5 == 4 {
                // The candidates did not suffice: the head again, for all logits.
                assert_eq!(chosen.full_logits(), logits, "all logits at {at}");
            }
            id = best(&logits);
        }
    }
}

/// A screened head leaves the ids and logits of the full one: the best one, the best few, and all where those are wanted;
/// whatever came before, in windows as well, and it counts the rows that it computed in full.
#[test]
fn a_screened_head_gives_what_the_full_one_gives() {
    for (head, max_binding_bytes) in [(DenseType::F16, None), (DenseType::Q8_0, Some(400_000)), (DenseType::F32, None)]
    {
        let spec = Spec { vocab: 1100, layers: 1, table: head, head: None, ..BITNET };
        let model = Arc::new(random_model(&spec, 50));
        let tuning = Tuning { max_binding_bytes, ..Tuning::default() };
        let Some(backend) = open_backend(tuning.clone()) else { return };
        let Some(mut full) = open(&model, KvType::F16, tuning) else { return };
        let mut screened = Loaded::new(backend, &model, &Sizes { head_screen: true, ..sizes(KvType::F16) });
        let prompt = random_ids(&spec, 51, 30);
        let mut logits = full.run(&prompt, 0, Want::Last).unwrap();
        screened.run(&prompt, 0, Want::Top(1)).unwrap();
        let mut id = best(&logits);
        assert_eq!(screened.activations.rows[0].candidates.top[0].id, id, "after a prompt");
        let mut fewest = spec.vocab;
        for at in 30..110 {
            if at % 9 == 0 {
                id = (id + 1) % spec.vocab as u32;
            }
            logits = full.run(&[id], at, Want::Last).unwrap();
            let count = [1, 1, 2, 3][at / 10 % 4];
            let found = screened.top(id, at, count);
            let mut expected: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
            expected.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
            assert_eq!(found, expected[..[0, 1, 2, 254][count]], "{head:?}: {count} ids at {at}");
            let rest = screened.activations.rows[0].candidates.rest;
            assert_eq!(matches!(rest, Rest::Lower), count < 3, "{rest:?} at {at}");
            let rows = screened.activations.rows[0].head_rows;
            // Three are more than a screen finds among so few rows.
            assert!(if count < 3 { (count..=spec.vocab).contains(&rows) } else { rows == spec.vocab }, "{rows} rows");
            fewest = fewest.min(rows);
            if at % 7 == 3 {
                // The candidates did not suffice: the head again, for all logits.
                assert_eq!(screened.full_logits(), logits, "all logits at {at}");
            }
            id = best(&logits);
        }
        assert!(fewest < spec.vocab / 4, "{head:?}: never fewer than {fewest} rows");
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
    for (count, head, bytes) in [(1, 5, 4 + 16 + 4), (2, 7, 4 + 8 + 2 * 8 + 4)] {
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
    for (count, more, most_bytes) in [(1, 1, 20), (40, 2, 2048)] {
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

/// Steps end where the context does, though the one after would be begun.
#[test]
fn nothing_is_begun_behind_the_end_of_the_context() {
    let model = Arc::new(random_model(&BITNET, 33));
    let Some(mut gpu) = open(&model, KvType::F16, Tuning::default()) else { return };
    gpu.run(&random_ids(&BITNET, 34, 80), 0, Want::Nothing).unwrap();
    gpu.run(&random_ids(&BITNET, 35, 76), 80, Want::Top(1)).unwrap();
    for at in 156..160 {
        let id = gpu.activations.rows[0].candidates.top[0].id;
        gpu.top(id, at, 1);
    }
    gpu.activations.ids = vec![1];
    let error = gpu.backend.run(gpu.segment, &Batch::one(160..161, Want::Top(1)), &mut gpu.activations).unwrap_err();
    assert!(matches!(error, Error::ContextFull { needed: 161, context: 160 }), "{error}");
}
