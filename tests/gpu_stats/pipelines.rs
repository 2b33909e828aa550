//! Every pipeline that the engine can build, by its own table of kernels.

use bitnet_gpu::backend::gpu::pipelines::{ParamSource, Program, Shader, Variant};

use super::constants::{constant_sets, values};

pub struct Pipeline {
    /// The variant's name, and those constants of which there are several values.
    pub name: String,
    pub variant: Variant,
    pub constants: Vec<(&'static str, f64)>,
}

/// Parameters as immediates: all drivers here have them, and where they come from changes a load or two.
fn variants(program: Program) -> impl Iterator<Item = Variant> {
    program.variants().into_iter().filter(|variant| variant.choices.params == ParamSource::Immediate)
}

/// All texts with all their sets of constants.
pub fn all() -> Vec<Pipeline> {
    let programs = Shader::ALL.iter().flat_map(|shader| shader.programs());
    programs.flat_map(|program| variants(program).flat_map(of_variant)).collect()
}

fn of_variant(variant: Variant) -> impl Iterator<Item = Pipeline> {
    constant_sets(&variant).into_iter().map(move |constants| {
        let mut name = variant.name().replace("-immediate", "");
        for &(constant, value) in &constants {
            // WG follows from the program, and windows go with the types of the cache.
            let is_told = constant == "WG" || constant.starts_with("WINDOW");
            if !is_told && values(constant, variant.program).len() > 1 {
                name.push_str(&format!(" {constant}={value}"));
            }
        }
        Pipeline { name, variant, constants }
    })
}

#[test]
fn every_program_is_among_them_and_names_differ() {
    let all = all();
    for program in Shader::ALL.iter().flat_map(|shader| shader.programs()) {
        assert!(all.iter().any(|pipeline| pipeline.variant.program == program), "{program:?}");
    }
    let names: std::collections::BTreeSet<&str> = all.iter().map(|pipeline| &*pipeline.name).collect();
    assert_eq!(names.len(), all.len());
}
