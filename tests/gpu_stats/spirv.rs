//! A pipeline's SPIR-V as wgpu-hal 30 writes it for our kernels (vulkan/adapter.rs, `compile_stage` in vulkan/device.rs):
//! without checks of bounds and loops, workgroup memory not cleared.

use std::collections::HashMap;

use naga::{
    ShaderStage,
    back::{pipeline_constants, spv},
    proc::{BoundsCheckPolicies, BoundsCheckPolicy},
    valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator},
};

use super::pipelines::Pipeline;

/// Texts that were parsed: several pipelines share one.
#[derive(Default)]
pub struct Writer(HashMap<String, (naga::Module, ModuleInfo)>);

impl Writer {
    /// The words, for a device with these optional instructions.
    pub fn write(&mut self, pipeline: &Pipeline, has_dot: bool, has_int8: bool) -> Vec<u32> {
        let name = &pipeline.name;
        let (module, info) = self.0.entry(pipeline.variant.name()).or_insert_with(|| {
            let text = pipeline.variant.compose();
            let module =
                naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&text)));
            let info = Validator::new(ValidationFlags::all(), Capabilities::all())
                .subgroup_operations(SubgroupOperationSet::all())
                .subgroup_stages(ShaderStages::COMPUTE)
                .validate(&module)
                .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&text)));
            (module, info)
        });
        let constants = pipeline.constants.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
        let entry = Some((ShaderStage::Compute, "main"));
        let (module, info) = pipeline_constants::process_overrides(module, info, entry, &constants)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let one = spv::PipelineOptions { entry_point: "main".to_owned(), shader_stage: ShaderStage::Compute };
        spv::write_vec(&module, &info, &options(has_dot, has_int8), Some(&one))
            .unwrap_or_else(|e| panic!("{name}: {e}"))
    }
}

fn options(has_dot: bool, has_int8: bool) -> spv::Options<'static> {
    use spv::Capability as C;
    let mut capabilities = vec![
        C::Shader,
        C::Matrix,
        C::Sampled1D,
        C::Image1D,
        C::ImageQuery,
        C::DerivativeControl,
        C::StorageImageExtendedFormats,
        C::GroupNonUniform,
        C::GroupNonUniformVote,
        C::GroupNonUniformArithmetic,
        C::GroupNonUniformBallot,
        C::GroupNonUniformShuffle,
        C::GroupNonUniformShuffleRelative,
        C::GroupNonUniformQuad,
    ];
    if has_dot {
        capabilities.extend([
            C::DotProductInputAllKHR,
            C::DotProductInput4x8BitKHR,
            C::DotProductInput4x8BitPackedKHR,
            C::DotProductKHR,
        ]);
    }
    capabilities.extend(has_int8.then_some(C::Int8));
    spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
        capabilities: Some(capabilities.into_iter().collect()),
        bounds_check_policies: BoundsCheckPolicies {
            index: BoundsCheckPolicy::Unchecked,
            buffer: BoundsCheckPolicy::Unchecked,
            image_load: BoundsCheckPolicy::Unchecked,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..spv::Options::default()
    }
}
