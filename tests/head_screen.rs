//! The screened output head gives what the full one gives, on a trained model.

mod cli_support;

use std::{path::Path, sync::Arc};

use bitnet_cpu_kernels::isa::Isa;
use bitnet_gpu::{
    backend::{Backend, Wanted, cpu::CpuBackend},
    generate::Session,
    model::Model,
    plan::{BackendKind, Demand, KvType, Plan, Segment, Sizes},
};

/// The model that is part of the program, on the CPU.
fn session(isa: Isa, head_screen: bool) -> Session {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/llama-stories-ternary-4m.gguf");
    let model = Arc::new(Model::open(&path).unwrap());
    let segment = Segment {
        layers: 0..model.config.layers,
        backend: BackendKind::Cpu,
        embed: true,
        head: true,
        reason: "test".into(),
    };
    let (k_type, v_type) = (KvType::F16, KvType::F16);
    let sizes = Sizes { context_tokens: 256, batch_tokens: 16, k_type, v_type, head_screen };
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
        let sizes = Sizes { context_tokens: 16, batch_tokens: 16, k_type, v_type, head_screen };
        Demand::of(&model, &sizes).segment_bytes(0..4, true, true)
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
            screened.step_for(id, Wanted::Top(count)).unwrap();
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

#[test]
fn texts_stay_the_same() {
    for sampling in [&["--temp", "0"][..], &["--temp", "0.9", "--top-k", "2", "--seed", "5"]] {
        let text = |choice| {
            let args = ["run", "--backend", "cpu", "-n", "60", "-p", "Once", "--head-screen", choice];
            let finished = cli_support::run(&[&args, sampling].concat());
            assert_eq!(finished.code, Some(0), "{finished:?}");
            finished.stdout
        };
        assert_eq!(text("on"), text("off"), "{sampling:?}");
    }
}
