//! Arbitrary bytes as a Hugging Face directory: `config.json`, a zero byte, and `model.safetensors`.
#![no_main]

use std::{fs, sync::LazyLock};

use bitnet_gpu::convert::in_memory;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a folder for the files"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some(end) = data.iter().position(|&byte| byte == 0) else { return };
    let folder = FOLDER.path();
    fs::write(folder.join("config.json"), &data[..end]).expect("written");
    fs::write(folder.join("model.safetensors"), &data[end + 1..]).expect("written");
    drop(in_memory(folder, None));
});
