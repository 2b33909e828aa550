//! `--no-mmap`: the same results from a copy of the file, which is not needed any more.

use std::{fs, path::PathBuf, sync::Arc};

use bitnet_cpu_kernels::isa::Isa;
use bitnet_gpu::{
    backend::{Backend, Want, cpu::CpuBackend},
    bytes::Access,
    convert::in_memory,
    gguf::File,
    model::Model,
    plan::{BackendKind, KvType, Plan, Sizes},
    session::Session,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{
    cli::{program, run},
    shared,
};

const BUILT_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/llama-stories-ternary-4m.gguf");

fn copy_of_built_in(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("model.gguf");
    fs::copy(BUILT_IN, &path).unwrap();
    path
}

/// The model on the CPU, for some steps.
fn session(file: &File) -> Session {
    let model = Arc::new(Model::from_gguf(file).unwrap());
    let (k_type, v_type) = (KvType::F16, KvType::F16);
    let sizes = Sizes::new(32, 16).with_kv(k_type, v_type);
    let backend: Box<dyn Backend> = Box::new(CpuBackend::new(Isa::detect(), 2));
    let plan = Plan::all_cpu(model.config.layers, sizes, "test");
    Session::load(&model, &plan, vec![(BackendKind::Cpu, backend)], &mut |_| {}).unwrap()
}

fn logits(mut session: Session) -> Vec<f32> {
    for id in [1, 17, 300, 5] {
        session.step_for(id, Want::Last).unwrap();
    }
    session.all_logits().unwrap().to_vec()
}

#[test]
fn the_file_may_be_cut_and_deleted_after_loading() {
    let folder = tempfile::tempdir().unwrap();
    let path = copy_of_built_in(&folder);
    let expected = logits(session(&File::open(&path).unwrap()));

    let copied = session(&File::open_with(&path, Access::Copy(&|_, _| {})).unwrap());
    // In place, so that it is the same file: a map of it would end the process at the first touch.
    fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(logits(copied), expected);
}

#[test]
fn a_directory_is_not_needed_either() {
    let Some(source) = shared("golden/bitnet-a") else { return };
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(&source).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let expected = logits(session(&in_memory(&source, None).unwrap()));
    let file = in_memory(folder.path(), None).unwrap();
    let told = std::cell::Cell::new((0, 0));
    let copied = file.detached(&|done, all| told.set((done, all))).unwrap();
    assert!(told.get().0 > 0 && told.get().0 == told.get().1, "{told:?}");
    let copied = session(&copied);
    for entry in fs::read_dir(folder.path()).unwrap() {
        fs::File::options().write(true).open(entry.unwrap().path()).unwrap().set_len(0).unwrap();
    }
    assert_eq!(logits(copied), expected);
}

#[test]
fn every_command_that_loads_a_model_takes_it_and_answers_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = copy_of_built_in(&folder);
    let model = path.to_str().unwrap();
    let answer = |args: &[&str], more: &[&str]| {
        let done = run(&[args, &["-m", model], more].concat());
        assert_eq!(done.code, Some(0), "{done:?}");
        done.stdout
    };
    let text = folder.path().join("text.txt");
    fs::write(&text, "Once upon a time there was a little dog. ".repeat(60)).unwrap();
    let text = text.to_str().unwrap();
    for args in [
        &["run", "-p", "Once", "-n", "8", "--temp", "0", "--backend", "cpu"][..],
        &["logits", "--ids", "1,2,3", "--backend", "cpu"],
        &["perplexity", "-f", text, "--backend", "cpu"],
        &["tokenize", "-p", "a dog"],
    ] {
        let mapped = answer(args, &[]);
        assert_eq!(answer(args, &["--no-mmap"]), mapped, "{args:?}");
        assert_eq!(answer(args, &["--no-mmap", "--mmap"]), mapped, "{args:?}");
    }
    for args in [
        &["bench", "-p", "0", "-n", "2", "-r", "1", "--backend", "cpu"][..],
        &["tune", "-t", "1"],
        &["inspect", "--check"],
        &["chat", "--backend", "cpu", "-n", "2"],
    ] {
        answer(args, &["--no-mmap"]);
    }
}

#[test]
fn inspect_and_plan_say_what_is_mapped() {
    let memory = |more: &[&str]| {
        let done = run(&[&["inspect", BUILT_IN, "--json"], more].concat()).json();
        done["memory"]["mapped_bytes"].as_u64().unwrap()
    };
    assert!(memory(&[]) > 0);
    assert_eq!(memory(&["--no-mmap"]), 0);
    let plan = |more: &[&str]| run(&[&["plan", "-m", BUILT_IN, "--backend", "cpu", "--json"], more].concat()).json();
    assert_eq!(plan(&[])["weights_copied"], false);
    assert_eq!(plan(&["--no-mmap"])["weights_copied"], true);
}

#[test]
fn the_environment_says_it_too_and_a_flag_says_otherwise() {
    let mapped = |value: &str, more: &[&str]| {
        let args = [&["inspect", BUILT_IN, "--json"], more].concat();
        let done = program(&args).env("LLAMA_ARG_NO_MMAP", value).output().unwrap();
        let report: Value = serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {done:?}"));
        report["memory"]["mapped_bytes"].as_u64().unwrap() > 0
    };
    assert!(!mapped("1", &[]) && !mapped("true", &[]));
    assert!(mapped("0", &[]) && mapped("1", &["--mmap"]));
}

#[test]
fn what_cannot_be_copied_is_an_error_of_one_line() {
    let missing = run(&["run", "--no-mmap", "-m", "no-such-file.gguf", "-p", "x"]);
    assert!(missing.one_line_error(1).contains("no-such-file.gguf"), "{missing:?}");
    // Larger than any memory, without taking place on the disk.
    if cfg!(target_os = "linux") {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.gguf");
        let made = fs::File::create(&path).and_then(|file| file.set_len(1 << 42));
        if let Err(error) = made {
            return eprintln!("skipped: no sparse file of 4 TiB here: {error}");
        }
        let refused = run(&["run", "--no-mmap", "-m", path.to_str().unwrap(), "-p", "x"]);
        let line = refused.one_line_error(1);
        assert!(line.contains("free memory") && line.contains("without --no-mmap"), "{line}");
    }
}
