//! The four packings of I2_S: the built-in model, packed anew in each, is recognised and says the same.

use std::{fs, path::Path};

use bitnet_cpu_kernels::format::{Codec, Dialect, I2sPacking};
use bitnet_gpu::{
    gguf::{File, TensorSpec, TensorType, Writer},
    probe,
};

use crate::common::cli::run;

const BUILT_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/llama-stories-ternary-4m.gguf");

/// A copy in another packing, with bytes behind the scales as a quantiser in C leaves them, or zeros.
fn packed(folder: &Path, packing: I2sPacking, left_over: u8) -> String {
    let file = File::open(Path::new(BUILT_IN)).unwrap();
    let mut specs = Vec::new();
    let mut data = Vec::new();
    for info in file.tensors() {
        let mut bytes = file.data(info).to_vec();
        if info.ty == TensorType::I2_S {
            let (cols, rows) = (info.dims[0] as usize, info.dims[1] as usize);
            let of = |packing| Codec::new(Dialect::I2S(packing), rows, cols).unwrap();
            let (usual, wanted) = (of(I2sPacking::P128), of(packing));
            bytes = wanted.encode(&usual.decode(&bytes).unwrap(), &usual.scales(&bytes).unwrap()).unwrap();
            let end = bytes.len();
            bytes[end - 28..].fill(left_over);
        }
        specs.push(TensorSpec { name: info.name.clone(), dims: info.dims.clone(), ty: info.ty });
        data.push(bytes);
    }
    let path = folder.join(format!("{}-{left_over}.gguf", packing.name()));
    let mut writer = Writer::create(file.metadata(), specs, fs::File::create(&path).unwrap()).unwrap();
    for (info, data) in file.tensors().iter().zip(data) {
        writer.write_tensor(&info.name, &data).unwrap();
    }
    writer.finish().unwrap();
    path.to_str().unwrap().to_owned()
}

const ALL: [I2sPacking; 4] = [I2sPacking::P128, I2sPacking::P64, I2sPacking::R4, I2sPacking::Seq];

/// The ids that follow a prompt, and what was said on standard error.
fn story(model: &str, more: &[&str]) -> (serde_json::Value, String) {
    let args = ["run", "-m", model, "-p", "The dog", "-n", "12", "--temp", "0", "--backend", "cpu", "--json"];
    let finished = run(&[&args, more].concat());
    (finished.json()["tokens"].clone(), finished.stderr)
}

#[test]
fn each_packing_is_recognised_and_gives_the_same_text() {
    let folder = tempfile::tempdir().unwrap();
    let expected = story(BUILT_IN, &[]).0;
    for packing in ALL {
        let name = packing.name();
        // Left over bytes make the program look; zeros do not, but it can be asked to.
        for (left_over, more) in [(0xa5, &[][..]), (0, &["--i2s-layout", "auto"]), (0, &["--i2s-layout", name])] {
            let model = packed(folder.path(), packing, left_over);
            let (found, said) = story(&model, more);
            assert_eq!(found, expected, "{name} {more:?}: {said}");
            let told = said.contains(&format!("I2_S is read as {name}: a test text costs"));
            let is_news = packing != I2sPacking::P128 && more != ["--i2s-layout", name];
            assert_eq!(told, is_news, "{name} {more:?}: {said}");
        }
        let model = packed(folder.path(), packing, 0xa5);
        let report = run(&["inspect", &model, "--json"]).json();
        assert_eq!(report["i2s_layout"]["packing"], name, "{report}");
        let reason = report["i2s_layout"]["reason"].as_str().unwrap();
        assert!(reason.contains("nats a token"), "{reason}");
        let q = report["tensors"].as_array().unwrap().iter().find(|t| t["name"] == "blk.0.attn_q.weight").unwrap();
        assert_eq!(q["why"], format!("type id 36, read as {name}"));
    }
    // Nothing tells them apart, and a wrong one runs.
    let wrong = packed(folder.path(), I2sPacking::P64, 0);
    assert_ne!(story(&wrong, &[]).0, expected);
}

#[test]
fn convert_finds_the_packing_too() {
    let folder = tempfile::tempdir().unwrap();
    let model = packed(folder.path(), I2sPacking::R4, 1);
    let out = folder.path().join("out.gguf");
    let finished = run(&["convert", &model, "--type", "i2_s", "-o", out.to_str().unwrap()]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(fs::read(out).unwrap() == fs::read(BUILT_IN).unwrap(), "another file than the one it was packed from");
}

#[test]
fn a_model_that_no_packing_explains_is_read_as_usual() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("random.gguf");
    let made = run(&["dummy", "--size", "125M", "-o", path.to_str().unwrap()]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let file = File::open(&path).unwrap();
    assert!(!probe::is_doubtful(&file), "this program leaves zeros");
    let found = probe::i2s_packing(&file, 2).unwrap();
    assert_eq!(found.packing, I2sPacking::P128);
    assert!(found.reason.contains("no packing") || found.reason.contains("no tokenizer"), "{}", found.reason);
}
