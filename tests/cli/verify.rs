//! `verify` as a process, on the built-in model.

use std::{env, fs};

use crate::common::{
    cli::{Finished, run},
    shared,
};

/// `None` where there is no GPU to compare with, which is said.
fn with_gpu(finished: Finished) -> Option<Finished> {
    if !finished.stderr.contains("no usable GPU adapter") {
        return Some(finished);
    }
    assert!(env::var_os("BITNET_REQUIRE_GPU").is_none(), "a GPU is required: {finished:?}");
    assert_eq!(finished.code, Some(1), "{finished:?}");
    eprintln!("skipped: no GPU adapter");
    None
}

#[test]
fn the_built_in_model_passes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompts.txt");
    fs::write(&file, "One day, a cat\n\nThe dog\n").unwrap();
    let args = ["verify", "--prompts", file.to_str().unwrap(), "-n", "4"];
    let Some(finished) = with_gpu(run(&args)) else { return };
    assert_eq!(finished.code, Some(0), "{finished:?}");
    for part in ["whole numbers compared", "layers    4: ", "tokens    ", " of 10 equal", "\npassed\n"] {
        assert!(finished.stdout.contains(part), "no {part:?} in {}", finished.stdout);
    }
    let report = run(&["verify", "-n", "4", "--json", "--device", "0"]).json();
    assert_eq!((report["passed"].as_bool(), report["tokens"].as_u64()), (Some(true), Some(15)), "{report}");
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    for args in [
        &["verify", "-dev", "77"][..],
        &["bench", "-p", "4", "-n", "0", "-r", "1", "--backend", "gpu", "--device", "77"],
    ] {
        let refused = run(args);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        let is_named = refused.stderr.contains("no usable GPU adapter: there is no number 77; found: ");
        assert!(is_named || env::var_os("BITNET_REQUIRE_GPU").is_none(), "{refused:?}");
    }
    let none = run(&["verify", "--device", "none"]);
    assert!(none.one_line_error(2).contains("without a device there is nothing to compare"), "{none:?}");
    let none = run(&["bench", "-p", "4", "-n", "0", "-r", "1", "--backend", "gpu", "-dev", "none"]);
    assert!(none.one_line_error(2).contains("without a device there is no GPU to measure"), "{none:?}");
}

#[test]
fn prompts_that_cannot_be_used_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompts.txt");
    for (text, code) in [("\n \n".to_owned(), 2), ("word ".repeat(3000), 1)] {
        fs::write(&file, text).unwrap();
        run(&["verify", "--prompts", file.to_str().unwrap()]).one_line_error(code);
    }
    run(&["verify", "--prompts", "/nonexistent/prompts.txt"]).one_line_error(1);
}

/// A scale for each group of columns: the CPU multiplies 16 rows side by side, the GPU reads rows one after the other.
#[test]
fn a_model_with_group_scales_passes() {
    let Some(file) = shared("golden/qwen3-ternary/qwen3-q2_0-g64.gguf") else { return };
    let Some(finished) = with_gpu(run(&["verify", "-m", file.to_str().unwrap(), "-n", "2"])) else { return };
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stdout.ends_with("passed\n"), "{finished:?}");
}

/// Test models that other programs computed logits of; they have no tokenizer.
#[test]
fn models_without_a_tokenizer_pass() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("golden.gguf");
    for name in ["bitnet-a", "bitnet-c"] {
        let Some(golden) = shared(&format!("golden/{name}")) else { return };
        let converted = run(&["convert", golden.to_str().unwrap(), "-o", file.to_str().unwrap(), "--force"]);
        assert_eq!(converted.code, Some(0), "{converted:?}");
        let Some(finished) = with_gpu(run(&["verify", "-m", file.to_str().unwrap(), "-n", "4"])) else { return };
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert!(finished.stderr.contains("token ids") && finished.stdout.ends_with("passed\n"), "{finished:?}");
    }
}
