//! Every module as wgpu hands it to drivers, read by SPIR-V's own validator.

use std::{
    env, fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use super::{layouts, pipelines, spirv};

/// Names the validator, with its arguments; `spirv-val` by default.
const VALIDATOR: &str = "BITNET_SPIRV_VAL";

/// Its rule against layouts of variables that may have none.
const LAYOUT: &str = "VUID-StandaloneSpirv-None-10684";

/// The validator's command; `None`, and a line that says so, where there is none.
fn validator() -> Option<Vec<String>> {
    let command = env::var(VALIDATOR).unwrap_or_else(|_| "spirv-val".to_owned());
    let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    if Command::new(&words[0]).args(&words[1..]).arg("--version").output().is_err() {
        eprintln!("SPIR-V: skipped: no {command} here");
        return None;
    }
    Some(words)
}

/// Messages of the validator about a module; empty if it is valid.
fn said(validator: &[String], words: &[u32], file: &Path) -> String {
    fs::write(file, bytemuck::cast_slice(words)).unwrap();
    let output = Command::new(&validator[0])
        .args(&validator[1..])
        .args(["--target-env", "vulkan1.3"])
        .arg(file)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert_eq!(output.status.success(), text.is_empty(), "{validator:?}: {}", String::from_utf8_lossy(&text));
    String::from_utf8_lossy(&text).into_owned()
}

/// Newer validators refuse the layouts that naga gives variables in workgroup memory. Nothing else is wrong, also behind these.
#[test]
fn nothing_but_naga_s_layouts_is_wrong_with_a_module() {
    let Some(validator) = validator() else { return };
    let mut writer = spirv::Writer::default();
    let modules: Vec<_> =
        pipelines::all().into_iter().map(|pipeline| (writer.write(&pipeline, true, true), pipeline.name)).collect();
    let (with_layouts, shared, next) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for worker in 0..thread::available_parallelism().map_or(1, usize::from) {
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("module-{worker}.spv"));
            let (modules, validator, with_layouts, shared, next) =
                (&modules, &validator, &with_layouts, &shared, &next);
            scope.spawn(move || {
                while let Some((words, name)) = modules.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let first = said(validator, words, &file);
                    if first.is_empty() {
                        continue;
                    }
                    assert!(first.contains(LAYOUT), "{name}: {first}");
                    with_layouts.fetch_add(1, Ordering::Relaxed);
                    // Types that buffers have as well keep theirs.
                    let second = said(validator, &layouts::without_surplus(words), &file);
                    assert!(second.is_empty() || second.contains(LAYOUT), "{name}: {second}");
                    shared.fetch_add(usize::from(!second.is_empty()), Ordering::Relaxed);
                }
            });
        }
    });
    let [with_layouts, shared] = [with_layouts, shared].map(AtomicUsize::into_inner);
    eprintln!("{} modules, {with_layouts} with layouts too many, {shared} of them on types of buffers", modules.len());
}

/// A fault that every version of the validator knows; and the layouts of buffers stay.
#[test]
fn a_damaged_module_is_refused() {
    let Some(validator) = validator() else { return };
    let pipeline = &pipelines::all()[0];
    let words = spirv::Writer::default().write(pipeline, true, true);
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("module-damaged.spv");
    assert_eq!(said(&validator, &layouts::without_surplus(&words), &file), "", "{}", pipeline.name);
    assert_ne!(said(&validator, &words[..words.len() - 1], &file), "", "{}", pipeline.name);
}
