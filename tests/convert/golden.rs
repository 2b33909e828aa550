//! Checkpoints whose logits transformers has computed: masters and packed forms have to give the same model.

use bitnet_gpu::{
    convert::{ConvertOptions, convert},
    gguf::{File, TensorType},
};

use half::bf16;

use super::support::{Case, scale, shared, ternary};

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
