//! Things that go wrong: damaged weights, a device that is lost, wrong input.

use std::sync::Arc;

use bitnet_cpu_kernels::format::DenseType;
use bitnet_gpu::{
    Error,
    backend::{Backend, Want, gpu::Tuning},
    model::{Block, Linear, MatrixScales, Model, Norm},
    plan::KvType,
};

use super::{open, sizes, whole};
use crate::common::gpu::{
    model::{BITNET, Spec, random_ids, random_model},
    open_backend,
};

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
    let linears = Linear::ATTENTION.map(|role| (role, block.linear(role).clone()));
    let norms = Norm::BLOCK.map(|role| {
        let mut norm = block.norm(role).map(<[f32]>::to_vec);
        if let Some(norm) = &mut norm {
            change(role, norm);
        }
        norm
    });
    model.weights.blocks[layer] = Block::new(linears, norms);
}

fn scale(model: &mut Model, layer: usize, damaged: Linear) {
    let block = &model.weights.blocks[layer];
    let linears = Linear::ATTENTION.map(|role| {
        let mut matrix = block.linear(role).clone();
        if role == damaged {
            matrix.scales = MatrixScales::PerTensor(f32::NAN).into();
        }
        (role, matrix)
    });
    let norms = Norm::BLOCK.map(|role| block.norm(role).map(<[f32]>::to_vec));
    model.weights.blocks[layer] = Block::new(linears, norms);
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
