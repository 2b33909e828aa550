//! Every composed shader, without a device: it parses, validates, matches its row of the table, and is written
//! as SPIR-V, MSL and HLSL, so that a kernel Metal or DirectX 12 could not take fails here.

use bitnet_gpu::backend::gpu::pipelines::{Access, Lanes, ParamSource, Shader, Variant};
use naga::{
    AddressSpace, StorageAccess,
    back::{
        PipelineConstants,
        hlsl::{self, ShaderModel},
        msl, pipeline_constants, spv,
    },
    valid::{Capabilities, ModuleInfo, SubgroupOperationSet, ValidationFlags, Validator},
};

fn all_variants() -> Vec<Variant> {
    Shader::ALL.iter().flat_map(|shader| shader.variants()).collect()
}

/// Capabilities that a device without optional features offers, plus those that the variant's choices ask for.
fn capabilities(variant: &Variant) -> Capabilities {
    // SHADER_FLOAT16_IN_FLOAT32 is unpack2x16float and friends: core WGSL.
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    if variant.choices.lanes == Lanes::Subgroup {
        capabilities |= Capabilities::SUBGROUP;
    }
    if variant.choices.params == ParamSource::Immediate {
        capabilities |= Capabilities::IMMEDIATES;
    }
    capabilities
}

fn parse(variant: &Variant) -> (naga::Module, ModuleInfo) {
    let text = variant.compose();
    let module = naga::front::wgsl::parse_str(&text)
        .unwrap_or_else(|e| panic!("{}: {}", variant.name(), e.emit_to_string(&text)));
    let info = Validator::new(ValidationFlags::all(), capabilities(variant))
        .subgroup_operations(SubgroupOperationSet::all())
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .validate(&module)
        .unwrap_or_else(|e| panic!("{}: {}", variant.name(), e.emit_to_string(&text)));
    (module, info)
}

/// The constants a pipeline gives, with some value each.
fn constants(variant: &Variant) -> PipelineConstants {
    let names = variant.constants().into_iter();
    let mut constants: PipelineConstants = names.map(|name| (name.to_owned(), 1.0)).collect();
    constants.insert("WG".to_owned(), f64::from(variant.workgroup()));
    constants
}

#[test]
fn every_variant_validates_and_matches_the_table() {
    let variants = all_variants();
    assert!(variants.len() > 60, "only {} variants", variants.len());
    for variant in &variants {
        let name = variant.name();
        let kernel = variant.program.kernel();
        let (module, _) = parse(variant);

        let mut storage: Vec<(u32, Access)> = Vec::new();
        let mut fields = None;
        for (_, global) in module.global_variables.iter() {
            match global.space {
                AddressSpace::Storage { access } => {
                    let binding = global.binding.as_ref().expect("a storage buffer has a binding");
                    assert_eq!(binding.group, 0, "{name}");
                    let writes = access.contains(StorageAccess::STORE);
                    storage.push((binding.binding, if writes { Access::Write } else { Access::Read }));
                }
                AddressSpace::Uniform | AddressSpace::Immediate => {
                    let naga::TypeInner::Struct { members, .. } = &module.types[global.ty].inner else {
                        panic!("{name}: parameters are not a struct")
                    };
                    fields = Some(members.iter().map(|m| m.name.clone().unwrap()).collect::<Vec<_>>());
                }
                _ => {}
            }
        }
        storage.sort_by_key(|&(number, _)| number);
        let expected: Vec<(u32, Access)> = (0..).zip(kernel.bindings.iter().copied()).collect();
        assert_eq!(storage, expected, "{name}: bindings");
        assert_eq!(
            fields.as_deref(),
            Some(&kernel.params.iter().map(|&f| f.to_owned()).collect::<Vec<_>>()[..]),
            "{name}"
        );

        let mut overrides: Vec<_> = module.overrides.iter().map(|(_, o)| o.name.clone().unwrap()).collect();
        overrides.sort();
        let mut expected: Vec<String> = constants(variant).into_keys().collect();
        expected.sort();
        assert_eq!(overrides, expected, "{name}: pipeline constants");
        let workgroup = variant.workgroup();
        assert!(workgroup.is_power_of_two() && workgroup <= 256, "{name}");
        assert!(kernel.bindings.len() <= 8, "{name}: more storage buffers than every device has");
        let entry_points: Vec<_> = module.entry_points.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(entry_points, ["main"], "{name}");
    }
}

/// Each kernel's file says what it computes, and no file lies there unused.
#[test]
fn every_file_is_used_and_kernels_have_their_header() {
    let texts: Vec<String> = all_variants().iter().map(Variant::compose).collect();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut kernels = 0;
    for (folder, is_kernel) in [(folder.join("common"), false), (folder, true)] {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                continue;
            }
            let (name, source) = (path.display(), std::fs::read_to_string(&path).unwrap());
            assert!(texts.iter().any(|text| text.contains(&source)), "{name} is in no kernel");
            assert!(source.starts_with("// "), "{name} does not say what it is");
            if is_kernel {
                kernels += 1;
                let header: Vec<&str> = source.lines().take(5).collect();
                for (line, start) in header.iter().zip(["// ", "// In: ", "// Out: ", "// Grid: ", "// Reference: "]) {
                    assert!(line.starts_with(start), "{name}: expected a line \"{start}..\", found \"{line}\"");
                }
            }
        }
    }
    assert!(kernels >= 10, "only {kernels} kernels found");
}

#[test]
fn workgroup_memory_fits_the_smallest_devices() {
    for variant in all_variants() {
        let (module, info) = parse(&variant);
        let (module, _) = pipeline_constants::process_overrides(&module, &info, None, &constants(&variant)).unwrap();
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).unwrap();
        let bytes: u32 = module
            .global_variables
            .iter()
            .filter(|(_, global)| global.space == AddressSpace::WorkGroup)
            .map(|(_, global)| layouter[global.ty].size)
            .sum();
        assert!(bytes <= 16 * 1024, "{}: {bytes} bytes of workgroup memory", variant.name());
    }
}

#[test]
fn every_variant_is_written_as_spirv_msl_and_hlsl() {
    for variant in all_variants() {
        let name = variant.name();
        let (module, info) = parse(&variant);
        let (module, info) = pipeline_constants::process_overrides(&module, &info, None, &constants(&variant)).unwrap();

        let options = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
        let words = spv::write_vec(&module, &info, &options, None).unwrap_or_else(|e| panic!("{name}: SPIR-V: {e}"));
        assert_eq!(words[0], 0x0723_0203, "{name}: SPIR-V magic");

        let options = msl::Options { lang_version: (2, 1), fake_missing_bindings: true, ..msl::Options::default() };
        let (text, _) = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
            .unwrap_or_else(|e| panic!("{name}: MSL: {e}"));
        assert!(text.contains("kernel void main_"), "{name}: MSL has no entry point:\n{text}");

        // 6.4 has dot4add_i8packed; without subgroups the kernels must also pass on 5.1, what wgpu falls back to.
        let models: &[ShaderModel] = match variant.choices.lanes {
            Lanes::Subgroup => &[ShaderModel::V6_4],
            Lanes::Workgroup => &[ShaderModel::V6_4, ShaderModel::V5_1],
        };
        for &shader_model in models {
            let options = hlsl::Options {
                shader_model,
                fake_missing_bindings: true,
                immediates_target: Some(hlsl::BindTarget::default()),
                ..hlsl::Options::default()
            };
            let mut text = String::new();
            hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
                .write(&module, &info, None)
                .unwrap_or_else(|e| panic!("{name}: HLSL {shader_model:?}: {e}"));
            assert!(text.contains("[numthreads("), "{name}: HLSL has no entry point");
        }
    }
}
