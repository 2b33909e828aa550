//! The screened output head gives what the full one gives, on a trained model.

use std::{fs, path::Path, sync::Arc};

use bitnet_cpu_kernels::isa::Isa;
use bitnet_gpu::{
    backend::{
        Backend, Want,
        cpu::{self, CpuBackend, Kernels},
    },
    dummy::{DummyOptions, HeadType, Shape, make},
    model::Model,
    plan::{BackendKind, KvType, Plan, Segment, Sizes},
    session::{Phase, Runtime, Session, Work},
};
use tempfile::TempDir;

use crate::common::cli::run;

/// The model that is part of the program, on the CPU.
fn session(isa: Isa, head_screen: bool) -> Session {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/llama-stories-ternary-4m.gguf");
    session_of(&path, isa, head_screen)
}

fn session_of(path: &Path, isa: Isa, head_screen: bool) -> Session {
    let model = Arc::new(Model::open(path).unwrap());
    let segment = Segment {
        layers: 0..model.config.layers,
        backend: BackendKind::Cpu,
        embed: true,
        head: true,
        reason: "test".into(),
    };
    let (k_type, v_type) = (KvType::F16, KvType::F16);
    let sizes = Sizes { head_screen, ..Sizes::new(256, 16).with_kv(k_type, v_type) };
    let backend: Box<dyn Backend> = Box::new(CpuBackend::new(isa, 2));
    let plan = Plan { segments: vec![segment], prefill: None, sizes };
    Session::load(&model, &plan, vec![(BackendKind::Cpu, backend)], &mut |_| {}).unwrap()
}

#[test]
fn the_plan_counts_the_copy() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/llama-stories-ternary-4m.gguf");
    let model = Model::open(&path).unwrap();
    let (k_type, v_type) = (KvType::F16, KvType::F16);
    let bytes = |head_screen| {
        let sizes = Sizes { head_screen, ..Sizes::new(16, 16).with_kv(k_type, v_type) };
        cpu::demand(Isa::Scalar, &Kernels::AsLoaded, &model, &sizes).segment_bytes(0..4, true, true)
    };
    // 2048 rows of 256 columns in 6 bits, with scale, error, norm and bound.
    assert_eq!(bytes(true) - bytes(false), 2048 * (256 * 6 / 8 + 16));
}

/// The first `count` of a full sort: the highest first, the lowest id first among equals.
fn highest(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(count);
    all
}

#[test]
fn each_step_of_a_story_has_the_same_highest_logits_bit_for_bit() {
    for isa in Isa::available() {
        let (mut full, mut screened) = (session(isa, false), session(isa, true));
        let (mut id, mut short) = (1, 0);
        for step in 0..150 {
            let count = 1 + step % 2;
            let expected = highest(full.step(id).unwrap(), count);
            screened.step_for(id, Want::Top(count)).unwrap();
            if let Some(candidates) = screened.candidates() {
                let found: Vec<(u32, f32)> = candidates.top.iter().map(|c| (c.id, c.logit)).collect();
                assert_eq!(found, expected, "{isa}, step {step}");
                assert!((count..2048 / 4).contains(&screened.head_rows()), "{} rows", screened.head_rows());
                short += 1;
            } else {
                assert_eq!(highest(screened.logits_mut(), count), expected, "{isa}, step {step}");
                assert_eq!(screened.head_rows(), 2048);
            }
            id = expected[0].0;
        }
        assert!(short > 100, "{isa}: the screen decided {short} of 150 steps");
    }
}

/// A pass over several tokens gives the candidates of single steps, also behind a row of another sequence.
#[test]
fn each_token_of_a_pass_has_the_candidates_of_a_step() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/llama-stories-ternary-4m.gguf");
    let model = Arc::new(Model::open(&path).unwrap());
    let (phase, mut passes) = (Phase::Decode, 0);
    for isa in Isa::available() {
        let sizes = Sizes { sequences: 2, head_screen: true, ..Sizes::new(128, 16) };
        let cpu: Box<dyn Backend> = Box::new(CpuBackend::new(isa, 2));
        let plan = Plan::all_cpu(model.config.layers, sizes, "test");
        let mut runtime = Runtime::load(&model, &plan, vec![(BackendKind::Cpu, cpu)], &mut |_| {}).unwrap();
        assert!(runtime.limits().most_each >= 2);
        let (mut other, mut sequence) = (runtime.begin().unwrap(), runtime.begin().unwrap());
        let mut full = session(isa, false);
        // What the model says itself, so that the copy decides.
        let mut ids = vec![1];
        for len in [2, 3, 8, 5, 4, 7] {
            let steps: Vec<Vec<f32>> = (0..len)
                .map(|at| {
                    let logits = full.step(ids[at]).unwrap().to_vec();
                    ids.push(highest(&logits, 1)[0].0);
                    logits
                })
                .collect();
            let count = 1 + len % 2;
            let mut work = vec![Work { sequence: &mut sequence, ids: &ids[..len], want: Want::Each(count), phase }];
            if len < 8 {
                work.insert(0, Work { sequence: &mut other, ids: &ids[..1], want: Want::Top(2), phase });
            }
            let row = work.len() - 1;
            runtime.run(&mut work).unwrap();
            let (output, logits) = runtime.output_and_logits(row);
            let found: Vec<Vec<(u32, f32)>> = if output.each > 0 {
                passes += 1;
                assert_eq!((output.each, output.candidates.top.len(), logits.len()), (len, len * count, 0));
                output.candidates.top.chunks(count).map(|top| top.iter().map(|c| (c.id, c.logit)).collect()).collect()
            } else {
                logits.chunks(2048).map(|logits| highest(logits, count)).collect()
            };
            let expected: Vec<_> = steps.iter().map(|logits| highest(logits, count)).collect();
            assert_eq!(found, expected, "{isa}, {len} tokens");
            ids.drain(..len);
        }
    }
    assert!(passes > 3, "{passes} passes by candidates");
}

/// A Qwen3-shaped model of random ternary weights, the head included.
#[test]
fn a_ternary_head_is_screened_in_its_own_bits() {
    let folder = TempDir::new().unwrap();
    let (config, path) = (folder.path().join("config.json"), folder.path().join("m.gguf"));
    let json = r#"{"architectures": ["Qwen3ForCausalLM"], "hidden_size": 320, "intermediate_size": 512,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 3000,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true}"#;
    fs::write(&config, json).unwrap();
    let options = DummyOptions { head: HeadType::Q2_0, ..Default::default() };
    make(&Shape::from_config(&config).unwrap(), &path, &options).unwrap();
    let (k_type, v_type) = (KvType::F16, KvType::F16);
    let bytes = |isa, head_screen| {
        let sizes = Sizes { head_screen, ..Sizes::new(16, 16).with_kv(k_type, v_type) };
        let model = Model::open(&path).unwrap();
        cpu::demand(isa, &Kernels::AsLoaded, &model, &sizes).segment_bytes(0..2, true, true)
    };
    for isa in Isa::available() {
        // 3008 rows of 384 columns in 2 bits (five weights a byte would be 640 columns) and 5 scales; a product with each
        // byte, scale, error, norm and bound for 3000.
        assert_eq!(bytes(isa, true) - bytes(isa, false), 3008 * (384 / 4 + 5 * 2) + 3000 * (8 + 16), "{isa}");
        let (mut full, mut screened) = (session_of(&path, isa, false), session_of(&path, isa, true));
        for step in 0..40 {
            let (id, count) = (step * 71 % 3000, 1 + step as usize % 2);
            let expected = highest(full.step(id).unwrap(), count);
            screened.step_for(id, Want::Top(count)).unwrap();
            let candidates = screened.candidates().unwrap_or_else(|| panic!("{isa}, step {step}: not screened"));
            let found: Vec<(u32, f32)> = candidates.top.iter().map(|c| (c.id, c.logit)).collect();
            assert_eq!(found, expected, "{isa}, step {step}");
            assert!((count..count + 10).contains(&screened.head_rows()), "{} rows", screened.head_rows());
        }
    }
}

#[test]
fn texts_stay_the_same() {
    for sampling in [&["--temp", "0"][..], &["--temp", "0.9", "--top-k", "2", "--seed", "5"]] {
        let text = |choice| {
            let args = ["run", "--backend", "cpu", "-n", "60", "-p", "Once", "--head-screen", choice];
            let finished = run(&[&args, sampling].concat());
            assert_eq!(finished.code, Some(0), "{finished:?}");
            finished.stdout
        };
        assert_eq!(text("on"), text("off"), "{sampling:?}");
    }
}
