//! `doctor` as a process.

use crate::common::cli::run;

#[test]
fn the_report_tells_what_was_tested() {
    let finished = run(&["doctor"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    for part in [
        concat!("bitnet-gpu ", env!("CARGO_PKG_VERSION")),
        "memory: ",
        "page: ",
        "CPU: ",
        "self-test of CPU kernels scalar: passed\n",
        "\nadvice: ",
    ] {
        assert!(finished.stdout.contains(part), "no {part:?} in {}", finished.stdout);
    }
    if cfg!(target_os = "linux") {
        assert!(!finished.stdout.contains("unknown,"), "{}", finished.stdout);
    }
    assert!(finished.stdout.lines().last().unwrap().starts_with("advice: "), "one line: {}", finished.stdout);
}

#[test]
fn the_json_says_the_same() {
    let report = run(&["doctor", "--json"]).json();
    let gpus = report["devices"]["gpus"].as_array().unwrap().len();
    let kernels = report["devices"]["cpu"]["available_kernels"].as_array().unwrap().len();
    let tests = report["self_tests"].as_array().unwrap();
    assert_eq!(tests.len(), gpus + kernels, "{report}");
    for test in tests {
        assert_eq!(test["passed"].as_bool().unwrap(), test["fault"].is_null(), "{test}");
        let compared: Vec<&str> = test["compared"].as_array().unwrap().iter().filter_map(|c| c.as_str()).collect();
        let is_gpu = !test["of"].as_str().unwrap().starts_with("CPU kernels ");
        if is_gpu && test["fault"].is_null() {
            // One of the ways that were timed was taken.
            assert_eq!(compared.iter().filter(|c| c.starts_with("chosen: ")).count(), 1, "{test}");
            assert!(compared.iter().all(|c| c.contains(" us a token, ")), "{test}");
        } else {
            assert!(compared.is_empty(), "{test}");
        }
    }
    let cpu = |field: &str| report["devices"]["cpu"][field].as_u64().unwrap();
    assert!((1..=cpu("cores")).contains(&cpu("threads")), "{report}");
    assert!(cpu("cores") <= cpu("hardware_threads") && cpu("slower_cores") < cpu("cores"), "{report}");
    assert!(report["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "{report}");
    if cfg!(target_os = "linux") {
        assert!(report["memory_bytes"].as_u64().unwrap() > report["free_memory_bytes"].as_u64().unwrap(), "{report}");
        assert!(report["page_bytes"].as_u64().unwrap().is_power_of_two(), "{report}");
    }
}
