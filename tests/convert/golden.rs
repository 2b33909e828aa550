//! Checkpoints whose logits transformers has computed: masters and packed forms have to give the same model.

use bitnet_gpu::{
    convert::{ConvertOptions, convert},
    gguf::{File, TensorType},
};

use half::bf16;

use super::support::{Case, scale, ternary};
use crate::common::shared;

fn converted(case: &Case, name: &str) -> Option<File> {
    let source = shared(&format!("golden/{name}"))?;
    let out = case.folder.path().join(format!("{name}.gguf"));
    convert(&source, &out, &ConvertOptions::default()).unwrap();
    Some(File::open(&out).unwrap())
}

/// The packed forms were made from the masters by transformers: with its own mean, and the scale in bf16.
fn same_model(masters: &str, packed: &str, rounded: impl Fn(f32) -> f32) {
    let case = Case::new();
    let (Some(masters), Some(packed)) = (converted(&case, masters), converted(&case, packed)) else { return };
    assert_eq!(masters.tensors().len(), packed.tensors().len());
    let mut matrices = 0;
    for tensor in masters.tensors() {
        let name = &tensor.name;
        if tensor.ty != TensorType::I2_S {
            assert!(masters.data(tensor)[..] == packed.data(packed.tensor(name).unwrap())[..], "{name}");
            continue;
        }
        matrices += 1;
        assert!(ternary(&masters, name) == ternary(&packed, name), "codes of {name}");
        assert_eq!(scale(&packed, name), rounded(scale(&masters, name)), "scale of {name}");
    }
    assert_eq!(matrices % 7, 0);
    assert!(matrices >= 21);
}

#[test]
fn autobitlinear_scales_multiply() {
    same_model("bitnet-a", "bitnet-a-offline", |mean| bf16::from_f32(mean).to_f32());
}

#[test]
fn bitlinear_scales_divide() {
    same_model("bitnet-c", "bitnet-c-bitlinear", |mean| 1.0 / bf16::from_f32(1.0 / mean).to_f32());
}

/// A trained checkpoint of the shape that the model inside the program has, which another training gave.
#[test]
fn a_trained_checkpoint_becomes_a_file_of_the_built_in_models_form() {
    const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/llama-stories-ternary-4m.gguf");
    let Some(source) = shared("demo-model/export") else { return };
    let case = Case::new();
    let options = ConvertOptions { name: Some("Llama-stories-ternary-4M"), ..Default::default() };
    let report = convert(&source, &case.output(), &options).unwrap();
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    // 4 layers of q, k, v, o (256 x 256 and 128 x 256 twice each) and gate, up, down (768 x 256).
    assert_eq!(report.types["I2_S"].elements, 3_145_728);
    let (made, committed) = (File::open(&case.output()).unwrap(), File::open(COMMITTED.as_ref()).unwrap());
    let form =
        |file: &File| -> Vec<_> { file.tensors().iter().map(|t| (t.name.clone(), t.ty, t.dims.clone())).collect() };
    assert_eq!(form(&made), form(&committed));
    let metadata = |file: &File| -> Vec<_> {
        let pairs = file.metadata().iter().filter(|(key, _)| !key.starts_with("general.sampling."));
        pairs.map(|(key, value)| format!("{key} {value:?}")).collect()
    };
    assert!(metadata(&made) == metadata(&committed), "the command in assets/README.md gives other metadata");
}
