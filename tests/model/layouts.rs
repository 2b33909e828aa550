//! Backends choose the layout of ternary matrices when they load; the model keeps what the file has.

use std::sync::Arc;

use bitnet_cpu_kernels::isa::Isa;
use bitnet_gpu::{
    backend::{Backend, cpu::CpuBackend, gpu::Tuning},
    gguf::File,
    model::{Linear, Model, TernaryCodes, TernaryScales, names},
    plan::{BackendKind, KvType, Segment, Sizes},
};

use super::dialect_hostile::{files, two_scales};
use crate::common::gpu::open_backend;

/// Asserts that the codes of all projections are bytes of the file, and group scales too: nothing is decoded.
fn assert_as_in_file(what: &str, model: &Model, file: &File) {
    for role in Linear::ATTENTION {
        let matrix = model.weights.blocks[0].linear(role);
        let data = file.data(file.tensor(&names::linear(0, role)).unwrap());
        let places = matrix.source().as_ptr_range();
        assert!(data.as_ptr_range().start == places.start && places.end <= data.as_ptr_range().end, "{what} {role:?}");
        let in_place = what.starts_with("I2_S") || what.starts_with("TL2");
        assert_eq!(matches!(matrix.codes, TernaryCodes::Packed { .. }), in_place, "{what} {role:?}");
        if matrix.scales.group().is_some() {
            assert!(matches!(matrix.scales, TernaryScales::Encoded { .. }), "{what} {role:?}");
        }
    }
}

#[test]
fn a_loaded_model_has_no_decoded_copy() {
    let of = |name: &str| files().into_iter().find(|(found, _)| *found == name).unwrap().1;
    // The second scale of each is another one.
    let grouped = [("TQ1_0", 54 + 52), ("TQ2_0", 66 + 64), ("Q2_0", 18), ("PQ2_0", 34), ("PTQ1_0", 28 + 26)]
        .map(|(name, at)| (name, two_scales(of(name), at)));
    for (at, (name, file)) in files().into_iter().chain(grouped).enumerate() {
        let file = File::parse(file.build().into()).unwrap();
        let model = Arc::new(Model::from_gguf(&file).unwrap());
        assert_eq!(model.weights.act_group().is_some(), at >= files().len(), "{name}");
        assert_as_in_file(name, &model, &file);
        let cpu: Box<dyn Backend> = Box::new(CpuBackend::new(Isa::detect(), 2));
        let gpu = open_backend(Tuning::default()).map(|gpu| Box::new(gpu) as Box<dyn Backend>);
        for mut backend in [Some(cpu), gpu].into_iter().flatten() {
            let segment =
                Segment { layers: 0..1, backend: BackendKind::Cpu, embed: true, head: true, reason: "test".into() };
            let sizes = Sizes::new(16, 16).with_kv(KvType::F16, KvType::F16);
            backend.load(&model, &segment, &sizes, &mut |_| {}).unwrap();
            assert_as_in_file(name, &model, &file);
        }
    }
}
