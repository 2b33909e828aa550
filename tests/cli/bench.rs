//! `bench` as a process: the shape of its reports, not its figures.

use serde_json::Value;

use crate::common::cli::{Finished, program, run, run_on_gpu};

#[test]
fn json_has_llama_benchs_names_and_the_same_logits_for_any_number_of_threads() {
    let done = run(&["bench", "-p", "8", "-n", "4", "-t", "1,2", "-r", "2", "--backend", "cpu", "-o", "json"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let rows: Value = serde_json::from_str(&done.stdout).unwrap();
    let rows = rows.as_array().unwrap();
    let tests: Vec<(&str, u64)> =
        rows.iter().map(|row| (row["test"].as_str().unwrap(), row["n_threads"].as_u64().unwrap())).collect();
    assert_eq!(tests, [("pp8", 1), ("tg4", 1), ("pp8", 2), ("tg4", 2)]);
    for row in rows {
        assert_eq!(row["samples_ns"].as_array().unwrap().len(), 2, "{row}");
        assert!(row["avg_ts"].as_f64().unwrap() > 0.0 && row["share_of_ceiling"].as_f64().unwrap() > 0.0, "{row}");
        // 4 layers of 2 x 256 x 256 + 2 x 128 x 256 + 3 x 768 x 256 weights.
        assert_eq!(row["multiply_adds_per_token"], 3_145_728);
    }
    assert_eq!(rows[0]["logits_hash"], rows[2]["logits_hash"], "threads change nothing");
    assert_eq!(rows[1]["logits_hash"], rows[3]["logits_hash"], "threads change nothing");
    assert!(rows[1]["p50_ms"].is_number() && rows[0]["p50_ms"].is_null());
}

#[test]
fn csv_has_a_line_for_each_test() {
    let done = run(&["bench", "-p", "4,0", "-n", "2", "-t", "1", "-r", "1", "--backend", "cpu", "-o", "csv"]);
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{done:?}");
    assert!(lines[0].contains("avg_ts") && lines[1].contains("\"pp4\"") && lines[2].contains("\"tg2\""), "{done:?}");
}

/// Tokens before a test change what it computes, are named, and are in no figure.
#[test]
fn tests_run_behind_tokens_in_the_context() {
    let done =
        run(&["bench", "-p", "4", "-n", "2", "-d", "0,30", "-t", "1", "-r", "2", "--backend", "cpu", "-o", "json"]);
    let rows: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {done:?}"));
    let of = |field: &str| -> Vec<&Value> { rows.as_array().unwrap().iter().map(|row| &row[field]).collect() };
    assert_eq!(of("test"), ["pp4", "tg2", "pp4 @ d30", "tg2 @ d30"]);
    assert_eq!(of("n_depth"), [0, 0, 30, 30]);
    let bytes = of("bytes_per_token");
    // 30 positions of 4 layers: 128 keys and 128 values of f16 each.
    assert_eq!(bytes[3].as_u64().unwrap() - bytes[1].as_u64().unwrap(), 30 * 4 * 2 * 128 * 2);
    let logits = of("logits_hash");
    assert!(logits[0] != logits[2] && logits[1] != logits[3], "{done:?}");
}

#[test]
fn wrong_lengths_are_usage_errors() {
    for args in [["-p", "x"], ["-n", "-5"], ["-d", "-1"], ["-r", "0"], ["-t", "513"]] {
        let mut all = vec!["bench"];
        all.extend(args);
        assert_eq!(run(&all).code, Some(2), "{args:?}");
    }
}

#[test]
fn jsonl_is_one_object_a_line() {
    let done = run(&["bench", "-p", "2", "-n", "1", "-t", "1", "-r", "1", "--backend", "cpu", "-o", "jsonl"]);
    let rows: Vec<Value> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 2);
}

/// The counts of a decode step must be those of its kernels, and nothing may be created after loading.
#[test]
fn a_profile_accounts_for_every_dispatch() {
    // No more than the least chunk: how a longer prompt is cut depends on the time it takes.
    let args = ["bench", "-p", "60", "-n", "6", "-r", "2", "--backend", "gpu", "--profile", "-o", "json"];
    let Some(done) = run_on_gpu(&args) else { return };
    let rows: Value = serde_json::from_str(&done.stdout).unwrap();
    let [prompt, decode] = &rows.as_array().unwrap()[..] else { panic!("{done:?}") };
    for (row, tokens) in [(prompt, 60), (decode, 6)] {
        let number = |field: &str| row[field].as_f64().unwrap_or_else(|| panic!("{field}: {row}"));
        assert_eq!(number("objects_created_per_token"), 0.0);
        assert!(number("record_us_per_token") > 0.0);
        let kernels = row["kernels"].as_array().unwrap();
        let sum = |field: &str| kernels.iter().map(|k| k[field].as_f64().unwrap()).sum::<f64>();
        let dispatches = number("dispatches_per_token") * f64::from(tokens);
        assert!((sum("calls") - dispatches).abs() < 1e-6, "{} calls, {dispatches} dispatches", sum("calls"));
        assert!((sum("share") - 1.0).abs() < 1e-9, "{row}");
        assert!(sum("us") > 0.0 && kernels.iter().all(|k| k["us"].as_f64().unwrap() > 0.0), "{row}");
        // Weights are read once a call: the codes of four layers, 2 bits each, for every step of one chunk.
        let bytes_of = |start: &str| -> u64 {
            let of = kernels.iter().filter(|k| k["name"].as_str().unwrap().starts_with(start));
            of.map(|k| k["bytes"].as_u64().unwrap()).sum()
        };
        let steps = if tokens == 6 { 6 } else { 1 };
        assert_eq!(bytes_of("ternary_") + bytes_of("folded_"), 3_145_728 / 4 * steps, "{row}");
        assert!(bytes_of("head") > 0 && bytes_of("attention") > 0 && bytes_of("rms_norm") == 0, "{row}");
    }
    let readback = decode["readback_bytes_per_token"].as_f64().unwrap();
    assert!((4.0..=2048.0).contains(&readback), "{decode}");
    // 5 a layer while the keys are one split, and the embedding, the last norm, the head, the choice.
    assert!(decode["dispatches_per_token"].as_f64().unwrap() <= 4.0 * 7.0 + 6.0, "{decode}");

    let Some(done) = run_on_gpu(&["bench", "-p", "0", "-n", "2", "-r", "1", "--backend", "gpu", "--profile"]) else {
        return;
    };
    assert!(done.stdout.contains("tg2: for each token ") && done.stdout.contains("| attention_decode"), "{done:?}");
}

#[test]
fn without_a_gpu_its_fields_are_empty() {
    let done =
        run(&["bench", "-p", "2", "-n", "0", "-r", "1", "-t", "1", "--backend", "cpu", "--profile", "-o", "jsonl"]);
    let row = done.json();
    assert!(row["dispatches_per_token"].is_null() && row["kernels"].is_null(), "{row}");
    assert!(done.stderr.contains("no kernels are timed for pp2"), "{done:?}");
}

#[test]
fn backends_are_compared_in_one_table_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let plot = dir.path().join("rates.svg");
    let backends = ["bench", "-p", "8", "-n", "4", "-t", "1", "-r", "1", "--backend", "cpu,gpu,auto"];
    let done = run(&[&backends[..], &["-o", "json", "--plot", plot.to_str().unwrap()]].concat());
    assert_eq!(done.code, Some(0), "{done:?}");
    let rows: Value = serde_json::from_str(&done.stdout).unwrap();
    let rows = rows.as_array().unwrap();
    assert!(rows[0]["tokens_equal"].is_null(), "the first backend is what the others are compared with");
    let gpu = std::env::var_os("BITNET_REQUIRE_GPU").is_some();
    assert!(rows.len() == 6 || !gpu && rows.len() == 4, "{done:?}");
    for row in &rows[2..] {
        assert_eq!(row["tokens_equal"], true, "{row}");
    }
    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.contains("pp8, tok/s") && svg.contains("tg4, tok/s"), "{svg}");
    assert_eq!(svg.matches("fill=\"#3b6ea5\"").count(), rows.len());
}

/// `-np` has llama-batched-bench's columns, for every number of sequences.
#[test]
fn sequences_side_by_side_have_rows_of_their_own() {
    let args = ["bench", "-p", "6", "-n", "4", "-np", "1,3", "-t", "1", "-r", "1", "--backend", "cpu"];
    let done = run(&[&args[..], &["-o", "json"]].concat());
    let rows: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {done:?}"));
    let of = |field: &str| -> Vec<&Value> { rows.as_array().unwrap().iter().map(|row| &row[field]).collect() };
    assert_eq!((of("n_parallel"), of("pl")), (vec![&1.into(), &3.into()], vec![&1.into(), &3.into()]));
    assert_eq!((of("pp"), of("tg")), (vec![&6.into(); 2], vec![&4.into(); 2]));
    assert_eq!(of("n_kv"), [10, 30]);
    for row in rows.as_array().unwrap() {
        let number = |field: &str| row[field].as_f64().unwrap_or_else(|| panic!("{field} in {row}"));
        let (tokens, time) = (number("n_kv"), number("t_pp") + number("t_tg"));
        assert!((number("t") - time).abs() < 1e-9 && (number("speed") * time - tokens).abs() < 1e-6, "{row}");
        assert!((number("speed_tg") * number("t_tg") - 4.0 * number("pl")).abs() < 1e-6, "{row}");
        assert!(number("ttft_ms_mean") <= number("ttft_ms_max") && number("ttft_ms_max") <= number("t_pp") * 1e3);
    }
    let table = run(&args).stdout;
    assert!(table.contains("S_TG t/s") && table.lines().count() >= 4, "{table}");
    assert_eq!(run(&["bench", "-np", "0"]).code, Some(2));
}

/// Keeps what was measured, whatever happens to the next device.
#[test]
fn a_device_that_fails_costs_its_own_rows() {
    let args = ["bench", "-p", "4", "-n", "8", "-r", "1", "-t", "1", "--backend", "cpu,gpu", "-o", "jsonl"];
    let done: Finished = program(&args).env("BITNET_TEST_GPU_FAULT", "lost@5").output().unwrap().into();
    assert_eq!(done.code, Some(0), "{done:?}");
    let tests: Vec<String> = done
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|row| row["n_threads"] == 1)
        .map(|row| row["test"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(tests, ["pp4", "tg8"]);
    assert!(done.stderr.contains("warning: "), "{done:?}");
}

#[test]
fn a_chart_that_cannot_be_written_costs_the_chart() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("x".repeat(300) + ".svg");
    let done = run(&[
        "bench",
        "-p",
        "4",
        "-n",
        "2",
        "-r",
        "1",
        "-t",
        "1",
        "--backend",
        "cpu",
        "--plot",
        plot.to_str().unwrap(),
    ]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stdout.contains("pp4") && done.stdout.contains("tg2"), "{done:?}");
    assert!(done.stderr.starts_with("error: ") && done.stderr.contains(".svg"), "{done:?}");
}
