//! Hugging Face directories run as they are: the same model as the file that `convert` makes of them.

use std::{fs, ops::ControlFlow, path::Path};

use bitnet_gpu::{
    convert::{ConvertOptions, Head, convert, in_memory},
    gguf::File,
};
use serde_json::Value;

use crate::common::{cli::run, shared};

/// Tensor by tensor, with the metadata.
fn assert_same(memory: &File, file: &File) {
    assert_eq!(memory.metadata(), file.metadata());
    assert_eq!(memory.tensors().len(), file.tensors().len());
    for (a, b) in memory.tensors().iter().zip(file.tensors()) {
        assert_eq!((&a.name, &a.dims, a.ty, a.len_bytes), (&b.name, &b.dims, b.ty, b.len_bytes));
        assert!(memory.data(a)[..] == file.data(b)[..], "{}", a.name);
    }
}

#[test]
fn a_directory_is_the_file_that_convert_makes_of_it() {
    for name in ["bitnet-a", "bitnet-a-offline", "bitnet-c", "bitnet-c-bitlinear"] {
        let Some(dir) = shared(&format!("golden/{name}")) else { continue };
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("model.gguf");
        convert(&dir, &out, &ConvertOptions { head: Some(Head::Keep), ..Default::default() }).unwrap();
        assert_same(&in_memory(&dir, None).unwrap(), &File::open(&out).unwrap());

        let expected: Value = serde_json::from_slice(&fs::read(dir.join("expected_logits.json")).unwrap()).unwrap();
        let ids = expected["cases"][0]["ids"].to_string();
        let logits = |model: &Path| {
            let model = model.to_str().unwrap();
            run(&["logits", "-m", model, "--ids", &ids, "--backend", "cpu", "--json"]).json()["logits"].clone()
        };
        assert_eq!(logits(&dir), logits(&out), "{name}");
    }
}

#[test]
fn a_trained_checkpoint_tells_the_story_that_transformers_does() {
    let Some(dir) = shared("demo-model/export") else { return };
    let reference: Value =
        serde_json::from_slice(&fs::read(shared("demo-model/reference.json").unwrap()).unwrap()).unwrap();
    let args = ["run", "-p", "Once upon a time", "-n", "24", "--temp", "0", "--backend", "cpu", "--json"];
    let story = run(&[&args[..], &["-m", dir.to_str().unwrap()]].concat()).json()["text"].clone();
    let expected = reference["greedy"]["Once upon a time"]["text"].as_str().unwrap();
    assert!(expected.starts_with(story.as_str().unwrap()), "{story} is not the beginning of {expected:?}");
    let report = run(&["inspect", dir.to_str().unwrap(), "--json"]).json();
    assert_eq!((&report["runs"], &report["architecture"]), (&Value::Bool(true), &Value::from("bitnet-b1.58")));
}

#[test]
fn progress_ends_the_work_and_damage_is_named() {
    let Some(dir) = shared("golden/bitnet-a-offline") else { return };
    let stopped = in_memory(&dir, Some(&|_| ControlFlow::Break(()))).unwrap_err().to_string();
    assert!(stopped.starts_with("cannot read "), "{stopped}");
    let seen = std::cell::RefCell::new(Vec::new());
    in_memory(
        &dir,
        Some(&|at| {
            seen.borrow_mut().push((at.done_bytes, at.total_bytes));
            ControlFlow::Continue(())
        }),
    )
    .unwrap();
    let (done, total) = *seen.borrow().last().unwrap();
    assert_eq!(done, total, "all of it");

    let folder = tempfile::tempdir().unwrap();
    let empty = run(&["run", "-m", folder.path().to_str().unwrap(), "-p", "x"]);
    assert!(empty.one_line_error(1).contains("config.json is missing"), "{empty:?}");
    for name in ["config.json", "model.safetensors"] {
        fs::copy(dir.join(name), folder.path().join(name)).unwrap();
    }
    let weights = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let at = 8 + header + json["model.layers.0.mlp.up_proj.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    // The copy of a read-only file is read-only, too.
    fs::remove_file(&weights).unwrap();
    bytes[at] |= 0b11;
    fs::write(&weights, bytes).unwrap();
    let damaged = run(&["run", "-m", folder.path().to_str().unwrap(), "-p", "x"]);
    let line = damaged.one_line_error(1);
    assert!(line.contains("up_proj.weight: expected codes 0, 1 and 2, found 3 at row 0, column 0"), "{line}");
}
