//! The comparison of both backends: sound models pass, and one wrong weight is found and placed.

use std::sync::Arc;

use bitnet_cpu_kernels::format::{pack, unpack};
use bitnet_gpu::{
    backend::{cpu::Kernels, gpu::Tuning},
    model::{Block, Linear, Model, Norm, TernaryCodes},
    verify::{BOUND, Subject, run},
};

use crate::common::gpu::{
    model::{BITNET, LLAMA, QWEN3, random_ids, random_model},
    open_backend,
};

#[test]
fn sound_models_pass() {
    let Some(backend) = open_backend(Tuning::default()) else { return };
    for (spec, seed) in [(BITNET, 1), (LLAMA, 2), (QWEN3, 3)] {
        let model = Arc::new(random_model(&spec, seed));
        let prompts = [random_ids(&spec, 7, 4), random_ids(&spec, 1, 5)];
        let subject = Subject { cpu: &model, gpu: &model, kernels: &Kernels::AsLoaded };
        let mut parts = Vec::new();
        let report = run(subject, backend.gpu(), 2, &prompts, 3, |part| parts.push(part.to_owned())).unwrap();
        assert_eq!(report.faults, [""; 0], "{report:?}");
        assert_eq!((report.layers.len(), report.tokens, parts.len()), (spec.layers, 2 * 4, 3), "{report:?}");
        // One token and five through every matrix.
        let rows: usize = Linear::ATTENTION.iter().map(|&role| model.config.linear_shape(role).0).sum();
        assert_eq!(report.products, spec.layers * rows * 6);
        assert!(report.layers.iter().all(|&difference| difference < BOUND) && report.logits < BOUND);
        assert!(report.equal_tokens >= report.tokens - 1, "{report:?}");
    }
}

/// The model with one weight of `role` in `layer` turned into another.
fn with_a_wrong_weight(model: &Model, layer: usize, role: Linear, row: usize, col: usize) -> Model {
    let mut weights = model.weights.clone();
    let block = &weights.blocks[layer];
    let mut linears = Linear::ATTENTION.map(|role| (role, block.linear(role).clone()));
    let (_, matrix) = &mut linears[Linear::ATTENTION.iter().position(|&other| other == role).unwrap()];
    let layout = matrix.layout();
    let mut codes = unpack(layout, matrix.rows, matrix.cols, matrix.source());
    let code = &mut codes[row * matrix.cols + col];
    *code = (*code + 1) % 3;
    let bytes = pack(layout, matrix.rows, matrix.cols, &codes).into();
    matrix.codes = TernaryCodes::Packed { bytes, layout };
    weights.blocks[layer] = Block::new(linears, Norm::BLOCK.map(|norm| block.norm(norm).map(<[f32]>::to_vec)));
    Model { config: model.config.clone(), weights }
}

#[test]
fn one_wrong_weight_is_found_and_placed() {
    let Some(backend) = open_backend(Tuning::default()) else { return };
    let model = Arc::new(random_model(&BITNET, 1));
    let prompts = [random_ids(&BITNET, 4, 4)];
    for (layer, role, name) in [(0, Linear::Q, "blk.0.attn_q.weight"), (2, Linear::Down, "blk.2.ffn_down.weight")] {
        // The last row and column are where a kernel would forget something.
        let (rows, cols) = model.config.linear_shape(role);
        let wrong = Arc::new(with_a_wrong_weight(&model, layer, role, rows - 1, cols - 1));
        let subject = Subject { cpu: &model, gpu: &wrong, kernels: &Kernels::AsLoaded };
        let report = run(subject, backend.gpu(), 2, &prompts, 1, |_| {}).unwrap();
        // Once for each kernel, before anything else.
        for (fault, kernel) in report.faults.iter().zip(["ternary_matvec_i2s", "ternary_matmul_i2s"]) {
            let place = format!("layer {layer}, {name}, {kernel}: row {} is ", rows - 1);
            assert!(fault.starts_with(&place), "{fault:?} is not {place:?}");
        }
        let products = report.faults.iter().filter(|fault| fault.contains("numbers differ")).count();
        assert_eq!(products, 2, "{report:?}");
    }
}

#[test]
fn prompts_without_tokens_are_refused() {
    let Some(backend) = open_backend(Tuning::default()) else { return };
    let model = Arc::new(random_model(&BITNET, 1));
    let subject = Subject { cpu: &model, gpu: &model, kernels: &Kernels::AsLoaded };
    for prompts in [vec![], vec![vec![]], vec![vec![1], vec![]]] {
        assert!(run(subject, backend.gpu(), 1, &prompts, 1, |_| {}).is_err(), "{prompts:?}");
    }
}
