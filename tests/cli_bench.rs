//! `bench` as a process: the shape of its reports, not its figures.

mod cli_support;

use cli_support::run;
use serde_json::Value;

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

#[test]
fn wrong_lengths_are_usage_errors() {
    for args in [["-p", "x"], ["-n", "-5"], ["-r", "0"], ["-t", "513"]] {
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
