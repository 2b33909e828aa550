//! `tune` as a process: its table, what it keeps, and that no kernel changes an answer.

use std::{fs, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::cli::{Finished, program, run};

/// A model with shapes for all kernels.
fn model(folder: &Path, ty: &str) -> String {
    let config = serde_json::json!({
        "architectures": ["BitNetForCausalLM"], "vocab_size": 300, "hidden_size": 256, "intermediate_size": 320,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "relu2",
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let out = folder.join(format!("{ty}.gguf")).display().to_string();
    let config = folder.join("config.json").display().to_string();
    let made = run(&["dummy", "--config", &config, "--type", ty, "-o", &out]);
    assert_eq!(made.code, Some(0), "{made:?}");
    out
}

fn run_in(cache: &Path, args: &[&str]) -> Finished {
    program(args).env("BITNET_CACHE", cache).output().unwrap().into()
}

#[test]
fn what_is_measured_is_kept_and_used() {
    let folder = TempDir::new().unwrap();
    let cache = folder.path().join("cache");
    let model = model(folder.path(), "i2_s");
    let bench = |kernel: &str| {
        let args =
            ["bench", "-m", &model, "--backend", "cpu", "-t", "2", "-p", "0", "-n", "4", "-r", "1", "-o", "json"];
        let done = run_in(&cache, &[&args[..], &["--kernel", kernel]].concat());
        let rows: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {done:?}"));
        let text = |field: &str| rows[0][field].as_str().unwrap().to_owned();
        (text("backends"), text("logits_hash"))
    };
    let (plain, hash) = bench("auto");
    assert_eq!(bench("i2_s"), (plain.clone(), hash.clone()));

    let done = run_in(&cache, &["tune", "-m", &model, "-t", "2", "--json", "--force"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let timings = report["timings"].as_array().unwrap();
    let mut kernels: Vec<_> = timings.iter().map(|timing| timing["kernel"].as_str().unwrap()).collect();
    kernels.sort_unstable();
    kernels.dedup();
    assert!(kernels == ["i2_s", "tl1", "tl2"] || kernels == ["base3", "i2_s", "tl1", "tl2"], "{kernels:?}");
    // 256 x 256, 128 x 256, 320 x 256 and 256 x 320.
    assert_eq!(timings.len(), 4 * kernels.len(), "{report}");
    assert_eq!(timings.iter().filter(|timing| timing["chosen"] == true).count(), 4, "{report}");
    assert!(timings.iter().all(|timing| timing["decode_us"].as_f64().unwrap() > 0.0), "{report}");
    let tilings = report["tilings"].as_array().unwrap();
    assert_eq!(tilings.len(), 4, "{report}");
    for times in tilings {
        let (decode, prompt) = (times["decode"].as_array().unwrap(), times["prompt"].as_array().unwrap());
        assert!(decode.iter().any(|time| time["piece_bytes"] == times["piece_bytes"]), "{times}");
        let chosen = |time: &Value| ["tile_rows", "tile_tokens"].iter().all(|field| time[field] == times[field]);
        assert!(prompt.iter().any(chosen) && prompt.iter().all(|time| time["us"].as_f64().unwrap() > 0.0), "{times}");
    }
    let counts: Vec<u64> =
        report["threads"].as_array().unwrap().iter().map(|times| times["n_threads"].as_u64().unwrap()).collect();
    assert_eq!(counts, [1, 2]);
    for field in ["decode_threads", "prompt_threads"] {
        assert!(counts.contains(&report[field].as_u64().unwrap()), "{report}");
    }
    let kept = report["kept"].as_str().unwrap();
    // The machine may be busy, so that either is right.
    assert!(report["disturbed"].as_array().is_some_and(|shapes| shapes.len() <= 4), "{report}");

    // Whatever it found, the kept choice decides: here all are made the same.
    let text = fs::read_to_string(kept).unwrap();
    let forced =
        ["i2_s", "tl1", "base3"].iter().fold(text, |text, name| text.replace(&format!("\"{name}\""), "\"tl2\""));
    fs::write(kept, forced).unwrap();
    let (device, same) = bench("auto");
    assert!(device.contains("tl2") && !plain.contains("tl2"), "{device}, {plain}");
    assert_eq!(same, hash, "no kernel changes a logit");
    for kernel in ["tl1", "tl2", "mad", "base3"] {
        assert_eq!(bench(kernel).1, hash, "{kernel}");
    }

    // A damaged file is as good as none, and so is one that is forgotten.
    fs::write(kept, "{").unwrap();
    assert_eq!(bench("auto"), (plain, hash));
    let forget = || run_in(&cache, &["tune", &model, "-t", "2", "--forget"]).stdout;
    assert_eq!(forget(), format!("removed {kept}\n"));
    assert!(!Path::new(kept).exists());
    assert!(forget().ends_with("nothing was kept for 2 threads\n"));
}

#[test]
fn the_table_names_shapes_and_kernels() {
    let folder = TempDir::new().unwrap();
    let done = run(&["tune", "-m", &model(folder.path(), "tl2"), "-t", "1"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    for part in [
        "| 256 x 320",
        "| i2_s ",
        "| tl1 ",
        "| tl2 ",
        "1 thread",
        "64 KiB",
        "| 32 x 512",
        "answers, prompts",
        "not kept",
    ] {
        assert!(done.stdout.contains(part), "{part}: {}", done.stdout);
    }
}
