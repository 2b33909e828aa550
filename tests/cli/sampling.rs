//! Sampling as a model's file recommends it, and as flags have it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bitnet_gpu::gguf::{File, TensorSpec, Value, Writer};
use serde_json::{Value as Json, json};

use crate::common::cli::{program, run};

const BUILT_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/llama-stories-ternary-4m.gguf");

/// The built-in model with these keys of `general.sampling`.
fn model(folder: &Path, pairs: &[(&str, Value)]) -> PathBuf {
    let file = File::open(Path::new(BUILT_IN)).unwrap();
    let mut metadata = file.metadata().clone();
    for (name, value) in pairs {
        metadata.set(format!("general.sampling.{name}"), value.clone());
    }
    let spec = |info: &bitnet_gpu::gguf::TensorInfo| TensorSpec {
        name: info.name.clone(),
        dims: info.dims.clone(),
        ty: info.ty,
    };
    let path = folder.join("model.gguf");
    let specs = file.tensors().iter().map(spec).collect();
    let mut writer = Writer::create(&metadata, specs, fs::File::create(&path).unwrap()).unwrap();
    for info in file.tensors() {
        writer.write_tensor(&info.name, &file.data(info)).unwrap();
    }
    writer.finish().unwrap();
    path
}

fn told(model: Option<&Path>, flags: &[&str]) -> Json {
    let path = model.map(|path| ["-m", path.to_str().unwrap()]);
    let usual = ["run", "--backend", "cpu", "-p", "Once upon a time", "-n", "12", "--seed", "7", "--json"];
    run(&[&usual[..], path.as_ref().map_or(&[][..], |flags| flags), flags].concat()).json()
}

#[test]
fn the_file_is_asked_where_no_flag_says_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let pairs =
        [("temp", Value::F32(1.5)), ("top_k", Value::I32(0)), ("top_p", Value::F32(0.75)), ("min_p", Value::F32(0.0))];
    let path = model(folder.path(), &pairs);
    let by_file = told(Some(&path), &[]);
    let by_flags = told(None, &["--temp", "1.5", "--top-k", "0", "--top-p", "0.75", "--min-p", "0"]);
    assert_eq!(by_file["tokens"], by_flags["tokens"]);
    assert_ne!(by_file["tokens"], told(None, &[])["tokens"]);
    let setting = |value: f64, source: &str| json!({"value": value, "source": source});
    assert_eq!(
        by_file["sampling"],
        json!({
            "temp": setting(1.5, "file"), "top-k": setting(0.0, "file"), "top-p": setting(0.75, "file"),
            "min-p": setting(0.0, "file"), "repeat-penalty": setting(1.0, "default"),
        })
    );
    // Flags win, those of the environment too.
    let both = told(Some(&path), &["--temp", "0", "--top-p", "0.5"]);
    assert_eq!((&both["sampling"]["temp"], &both["sampling"]["top-p"]), (&setting(0.0, "flag"), &setting(0.5, "flag")));
    assert_eq!(both["tokens"], told(None, &["--temp", "0"])["tokens"]);
    let mut command =
        program(&["run", "-m", path.to_str().unwrap(), "-p", "Once", "-n", "2", "--backend", "cpu", "--stats"]);
    let output = command.env("LLAMA_ARG_TOP_P", "0.25").output().unwrap();
    let summary = String::from_utf8(output.stderr).unwrap();
    let line = "sampling temp 1.5 (file), top-k 0 (file), top-p 0.25 (flag), min-p 0 (file), repeat-penalty 1\n";
    assert!(summary.contains(line), "{summary}");
}

#[test]
fn what_makes_no_sense_is_left_out_with_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let path = model(folder.path(), &[("temp", Value::F32(f32::NAN)), ("top_p", Value::F32(0.75))]);
    let finished = run(&["run", "-m", path.to_str().unwrap(), "-p", "Once", "-n", "2", "--backend", "cpu", "--stats"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stderr.contains("general.sampling.temp is left out: "), "{finished:?}");
    assert!(finished.stderr.contains("sampling temp 0.8, top-k 40, top-p 0.75 (file), "), "{finished:?}");
}

/// A comparison of backends stays greedy.
#[test]
fn a_comparison_is_greedy_whatever_the_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = model(folder.path(), &[("temp", Value::F32(1.5))]);
    let rows = |path: Option<&Path>| {
        let path = path.map(|path| ["-m", path.to_str().unwrap()]);
        let usual = ["run", "-p", "Once upon a time", "-n", "6", "--bench", "--json"];
        let json = run(&[&usual[..], path.as_ref().map_or(&[][..], |flags| flags)].concat()).json();
        json["runs"][0]["tokens"].as_array().unwrap().clone()
    };
    assert_eq!(rows(Some(&path)), rows(None));
}
