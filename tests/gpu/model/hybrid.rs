//! Hybrid models of gated DeltaNets and gated attention on the GPU.

use std::sync::Arc;

use bitnet_cpu_kernels::isa::Isa;
use bitnet_gpu::{
    backend::{
        Backend, Checkpoint, LayerState, SlotId, States, Want,
        cpu::CpuBackend,
        gpu::{Geometry, GpuBackend, Tuning, pipelines::Product},
    },
    model::Model,
    plan::{BackendKind, KvType, Plan, Segment, Sizes},
    session::Session,
};

use super::{Loaded, best, open_on, sizes};
use crate::common::{
    gpu::{Devices, open_backend, relative_l2},
    hybrid::{ROTATED, SMALL, Spec, random_ids, random_model},
};

const SPECS: [(&str, Spec); 2] = [("plain", SMALL), ("rotated", ROTATED)];

/// As [`super::assert_close`], with bounds for what a recurrent state carries on of an activation that float order has
/// flipped from one integer to the next: tokens were off by up to 0.08. Gives the error of the best token: those before
/// the first flip agree to 1e-6.
#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f32], vocab: usize) -> f64 {
    assert_eq!(found.len(), expected.len(), "{what}: logits");
    let rows = found.chunks(vocab).zip(expected.chunks(vocab));
    let errors: Vec<f64> = rows.map(|(a, b)| relative_l2(a, b)).collect();
    let worst = errors.iter().copied().fold(0.0, f64::max);
    let best = errors.iter().copied().fold(1.0, f64::min);
    let all = relative_l2(found, expected);
    eprintln!("{what}: relative L2 {all:.1e}, best token {best:.1e}, worst {worst:.1e}");
    assert!(all <= 4e-2 && worst <= 0.15, "{what}: relative L2 {all}, of each token {errors:?}");
    best
}

/// Both as far apart as float order, which flips an activation between two integers now and then.
#[test]
fn decode_and_prefill_equal_the_cpu() {
    let mut devices = Devices::default();
    for (name, spec) in SPECS {
        let model = Arc::new(random_model(&spec, 1));
        for kv in [KvType::F16, KvType::Q8_0] {
            let Some(mut gpu) = open_on(&mut devices, &model, kv, Tuning::default()) else { return };
            // 140 tokens: more than one tile of the products, and more than one split of the keys.
            let ids = random_ids(&spec, 2, 140);
            let mut cpu = Loaded::new(CpuBackend::new(Isa::Scalar, 1), &model, &sizes(kv));
            let mut expected = cpu.run(&ids[..70], 0, Want::All).unwrap();
            expected.extend(cpu.run(&ids[70..], 70, Want::All).unwrap());
            let decoded = gpu.decode(&ids);
            assert!(assert_close(&format!("{name} {kv:?} decode"), &decoded, &expected, spec.vocab) < 1e-5);
            let mut prefilled = gpu.run(&ids[..70], 0, Want::All).unwrap();
            prefilled.extend(gpu.run(&ids[70..], 70, Want::All).unwrap());
            assert!(assert_close(&format!("{name} {kv:?} prefill"), &prefilled, &expected, spec.vocab) < 1e-5);
        }
    }
}

/// Every way to compute the same.
#[test]
fn every_path_gives_the_same_logits() {
    let mut devices = Devices::default();
    let apart = Geometry { workgroup: 128, folded_workgroups: 4, fold: false };
    for (name, spec) in SPECS {
        let model = Arc::new(random_model(&spec, 3));
        let ids = random_ids(&spec, 4, 30);
        let Some(mut plain) = open_on(&mut devices, &model, KvType::F16, Tuning::default()) else { return };
        let expected = plain.decode(&ids);
        for (what, tuning) in [
            ("no subgroups", Tuning { subgroups: Some(false), ..Tuning::default() }),
            ("f32 products", Tuning { product: Some(Product::F32), ..Tuning::default() }),
            ("norms of their own", Tuning { fold: Some(false), ..Tuning::default() }),
            ("the largest product apart", Tuning { geometry: Some(apart), ..Tuning::default() }),
            ("uniform parameters", Tuning { immediates: Some(false), ..Tuning::default() }),
            ("bounds checks", Tuning { checked_shaders: true, ..Tuning::default() }),
            ("small chunks", Tuning { chunk_tokens: Some(9), ..Tuning::default() }),
        ] {
            let mut gpu = open_on(&mut devices, &model, KvType::F16, tuning).unwrap();
            let what = format!("{name}: {what}");
            assert_close(&format!("{what}, decode"), &gpu.decode(&ids), &expected, spec.vocab);
            assert_close(&format!("{what}, prefill"), &gpu.run(&ids, 0, Want::All).unwrap(), &expected, spec.vocab);
        }
    }
}

/// Drafts are checked by steps of several tokens: they count only if those give the bits of single ones.
#[test]
fn few_tokens_together_give_the_bits_of_each_alone() {
    let mut devices = Devices::default();
    for (name, spec) in SPECS {
        for tuning in [Tuning::default(), Tuning { subgroups: Some(false), ..Tuning::default() }] {
            let model = Arc::new(random_model(&spec, 5));
            let Some(mut gpu) = open_on(&mut devices, &model, KvType::F16, tuning) else { return };
            assert_eq!(gpu.backend.limits(gpu.segment).exact_tokens, 8);
            let ids = random_ids(&spec, 6, 40);
            for tokens in 2..=8 {
                let alone = gpu.decode(&ids[..3 * tokens]);
                let together: Vec<f32> = (0..3)
                    .flat_map(|at| gpu.run(&ids[at * tokens..(at + 1) * tokens], at * tokens, Want::All).unwrap())
                    .collect();
                let at = together.iter().zip(&alone).position(|(a, b)| a.to_bits() != b.to_bits());
                assert_eq!(at, None, "{name}: {tokens} tokens");
            }
        }
    }
}

/// At most nine dispatches for a DeltaNet and eight for attention, also where the keys are split: of those of the models
/// here, whose down projections quantise their own input, two fewer; where nothing does, nine for either.
#[test]
fn a_decode_step_creates_nothing() {
    let mut devices = Devices::default();
    for (name, spec) in SPECS {
        for fold in [true, false] {
            let tuning = Tuning { fold: Some(fold), ..Tuning::default() };
            let model = Arc::new(random_model(&spec, 7));
            let Some(mut gpu) = open_on(&mut devices, &model, KvType::F16, tuning) else { return };
            let ids = random_ids(&spec, 8, 140);
            gpu.run(&ids[..80], 0, Want::Last).unwrap();
            for at in [80, 139] {
                let before = gpu.backend.counters();
                if at > 80 {
                    gpu.run(&ids[81..at], 81, Want::Nothing).unwrap();
                    assert_eq!(gpu.backend.counters().since(&before).objects_created, 0, "a prompt");
                }
                let before = gpu.backend.counters();
                gpu.run(&ids[at..at + 1], at, Want::Last).unwrap();
                let step = gpu.backend.counters().since(&before);
                assert_eq!((step.objects_created, step.submits), (0, 1), "{name}, token {at}");
                let deltas = spec.layers.iter().filter(|&&delta| delta).count() as u64;
                let attentions = spec.layers.len() as u64 - deltas;
                let layers = if fold { 7 * deltas + 6 * attentions } else { 9 * (deltas + attentions) };
                // The embedding and its rotation, the last norm and the head.
                let beside = if spec.rotation.is_some() { 4 } else { 3 };
                assert_eq!(step.dispatches, layers + beside, "{name}, fold {fold}, token {at}");
            }
        }
    }
}

fn several(model: &Model) -> (Segment, Sizes) {
    let segment = Segment {
        layers: 0..model.config.layers,
        backend: BackendKind::Gpu,
        embed: true,
        head: true,
        reason: "test".to_owned(),
    };
    (segment, Sizes { sequences: 3, ..sizes(KvType::F16) })
}

/// Recurrent layers go back to checkpoints only, and what they cannot do is refused.
#[test]
fn states_are_kept_forked_and_moved() {
    for (name, spec) in SPECS {
        let model = Arc::new(random_model(&spec, 9));
        let Some(mut backend) = open_backend(Tuning::default()) else { return };
        let (segment, sizes) = several(&model);
        let id = backend.load(&model, &segment, &sizes, &mut |_| {}).unwrap();
        let mut gpu = Loaded { backend, segment: id, activations: Default::default() };
        let ids = random_ids(&spec, 10, 30);
        let alone = gpu.decode(&ids);
        let last = |n: usize| &alone[(n - 1) * spec.vocab..n * spec.vocab];
        let same = |found: &[f32], n: usize, what: &str| {
            assert!(found.iter().zip(last(n)).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}: {what}");
        };
        // From the beginning: zeros, whatever is there.
        assert!(!states(&mut gpu).rewind(SlotId(0), 10), "{name}");
        assert!(states(&mut gpu).rewind(SlotId(0), 30), "{name}");
        let error = gpu.run(&ids[10..11], 10, Want::Last).unwrap_err().to_string();
        assert!(error.contains("position 0 or 30"), "{error}");
        states(&mut gpu).clear(SlotId(0)).unwrap();
        for (at, &id) in ids[..10].iter().enumerate() {
            same(&gpu.run(&[id], at, Want::Last).unwrap(), at + 1, "from the beginning");
        }

        // Kept at 10, gone on to 14 with other tokens, and back.
        states(&mut gpu).checkpoint(SlotId(0), Checkpoint(1)).unwrap();
        for at in 10..14 {
            gpu.run(&[ids[29 - at]], at, Want::Nothing).unwrap();
        }
        assert!(states(&mut gpu).fork(SlotId(0), SlotId(2), 12).is_err(), "{name}: a length that nobody has");
        // A fork from the checkpoint and one from where it stands.
        states(&mut gpu).fork(SlotId(0), SlotId(2), 10).unwrap();
        states(&mut gpu).fork(SlotId(0), SlotId(1), 14).unwrap();
        states(&mut gpu).restore(SlotId(0), Checkpoint(1)).unwrap();
        for (at, &id) in ids.iter().enumerate().take(14).skip(10) {
            same(&gpu.run(&[id], at, Want::Last).unwrap(), at + 1, "back at a checkpoint");
        }
        assert!(states(&mut gpu).restore(SlotId(1), Checkpoint(1)).is_err(), "{name}: a fork has no checkpoints");

        // Another backend goes on, and hands back.
        let mut cpu = CpuBackend::new(Isa::Scalar, 1);
        let on_cpu = cpu.load(&model, &segment, &sizes, &mut |_| {}).unwrap();
        let mut moved = LayerState::default();
        for layer in 0..spec.layers.len() {
            states(&mut gpu).export(layer, SlotId(2), 0..10, &mut moved).unwrap();
            cpu.states(on_cpu).unwrap().import(layer, SlotId(0), 0..10, &moved).unwrap();
        }
        states(&mut gpu).clear(SlotId(0)).unwrap();
        for layer in 0..spec.layers.len() {
            cpu.states(on_cpu).unwrap().export(layer, SlotId(0), 0..10, &mut moved).unwrap();
            states(&mut gpu).import(layer, SlotId(0), 0..10, &moved).unwrap();
        }
        for (at, &id) in ids.iter().enumerate().take(20).skip(10) {
            same(&gpu.run(&[id], at, Want::Last).unwrap(), at + 1, "after a visit to the CPU");
        }
        let mut on_cpu = Loaded { backend: cpu, segment: on_cpu, activations: Default::default() };
        let found: Vec<f32> = (10..20).flat_map(|at| on_cpu.run(&[ids[at]], at, Want::Last).unwrap()).collect();
        assert_close(&format!("{name}, on the CPU"), &found, &alone[10 * spec.vocab..20 * spec.vocab], spec.vocab);
    }
}

fn states(gpu: &mut Loaded<GpuBackend>) -> &mut dyn States {
    gpu.backend.states(gpu.segment).unwrap()
}

/// Greedy answers, which go on from the choice that the device made: a recurrent state takes no step that was not asked
/// for. Also split between both backends.
#[test]
fn greedy_answers_equal_single_steps() {
    for (name, spec) in SPECS {
        let model = Arc::new(random_model(&spec, 11));
        let Some(backend) = open_backend(Tuning::default()) else { return };
        let mut gpu = Loaded::new(backend, &model, &sizes(KvType::F16));
        let ids = random_ids(&spec, 12, 12);
        let mut logits = gpu.decode(&ids);
        let mut expected = Vec::new();
        for at in ids.len()..ids.len() + 20 {
            let id = best(&logits[logits.len() - spec.vocab..]);
            expected.push(id);
            logits = gpu.run(&[id], at, Want::Last).unwrap();
        }
        for wrong in [false, true] {
            states(&mut gpu).clear(SlotId(0)).unwrap();
            let mut id = 0;
            for (at, &token) in ids.iter().enumerate() {
                id = gpu.top(token, at, 1)[0].0;
            }
            for (n, &expected) in expected.iter().enumerate() {
                assert_eq!(id, expected, "{name}: token {n}");
                let at = ids.len() + n;
                // Now and then another one than the best, and back.
                if wrong && n % 5 == 3 {
                    states(&mut gpu).checkpoint(SlotId(0), Checkpoint(0)).unwrap();
                    gpu.top((id + 1) % spec.vocab as u32, at, 1);
                    states(&mut gpu).restore(SlotId(0), Checkpoint(0)).unwrap();
                }
                id = gpu.top(id, at, 1)[0].0;
            }
        }
    }
}

/// The first layers on the CPU, the others on the GPU; and a prompt on one backend, an answer on the other.
#[test]
fn split_models_equal_whole_ones() {
    let mut devices = Devices::default();
    for (name, spec) in SPECS {
        let model = Arc::new(random_model(&spec, 13));
        let ids = random_ids(&spec, 14, 40);
        let layers = spec.layers.len();
        let cpu =
            || -> (BackendKind, Box<dyn Backend>) { (BackendKind::Cpu, Box::new(CpuBackend::new(Isa::Scalar, 1))) };
        let parts = |cut: usize, rest: BackendKind| {
            let part = |layers: std::ops::Range<usize>, backend| Segment {
                embed: layers.start == 0,
                head: layers.end == spec.layers.len(),
                layers,
                backend,
                reason: "test".to_owned(),
            };
            vec![part(0..cut, BackendKind::Cpu), part(cut..layers, rest)]
        };
        let whole = Plan::all_cpu(layers, sizes(KvType::F16), "test");
        let mut expected = Session::load(&model, &whole, vec![cpu()], &mut |_| {}).unwrap();
        let mut logits = expected.prefill(&ids[..20]).unwrap().to_vec();
        for &id in &ids[20..] {
            logits.extend_from_slice(expected.step(id).unwrap());
        }
        for (what, decode, prefill) in [
            ("split", BackendKind::Gpu, None),
            ("prompts on the GPU", BackendKind::Cpu, Some(BackendKind::Gpu)),
            ("answers on the GPU", BackendKind::Gpu, Some(BackendKind::Cpu)),
        ] {
            let plan =
                Plan { segments: parts(1, decode), prefill: prefill.map(|rest| parts(1, rest)), ..whole.clone() };
            let Some(gpu) = devices.backend(Tuning::default()) else { return };
            let backends = vec![cpu(), (BackendKind::Gpu, Box::new(gpu) as Box<dyn Backend>)];
            let mut session = Session::load(&model, &plan, backends, &mut |_| {}).unwrap();
            let mut found = session.prefill(&ids[..20]).unwrap().to_vec();
            for &id in &ids[20..] {
                found.extend_from_slice(session.step(id).unwrap());
            }
            assert_close(&format!("{name}, {what}"), &found, &logits, spec.vocab);
        }
    }
}
