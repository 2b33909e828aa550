//! `report-gpu` as a process.

use crate::common::cli::run;

#[test]
fn a_report_has_a_part_of_each_command_and_names_no_path() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.md");
    let path = file.to_str().unwrap();
    let dummy = folder.path().join("small.gguf");
    let config = folder.path().join("config.json");
    let shape = r#"{"architectures":["LlamaForCausalLM"],"hidden_size":256,"intermediate_size":512,"num_hidden_layers":1,
        "num_attention_heads":2,"num_key_value_heads":1,"vocab_size":320,"max_position_embeddings":128,"rms_norm_eps":1e-5,
        "rope_theta":10000.0}"#;
    std::fs::write(&config, shape).unwrap();
    let made = run(&["dummy", "--config", config.to_str().unwrap(), "-o", dummy.to_str().unwrap()]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let model = dummy.to_str().unwrap();
    let arguments = ["report-gpu", "-m", model, "-p", "8", "-n", "2", "-r", "1", "-o", path];
    let finished = run(&arguments);
    assert_eq!((finished.code, finished.stdout.trim_end()), (Some(0), path), "{finished:?}");
    let report = std::fs::read_to_string(&file).unwrap();
    let at = |part: &str| report.find(part).unwrap_or_else(|| panic!("no {part:?} in {report}"));
    assert!(at("### doctor\n") < at("advice: ") && at("advice: ") < at("### verify\n"), "{report}");
    assert!(at("### verify\n") < at("### bench\n"), "{report}");
    // Where there is a GPU both have run; else each says why not.
    let told = if report.contains("failed (") { "no usable GPU adapter" } else { "attention_decode" };
    assert!(report[at("### bench\n")..].contains(told), "{report}");
    assert!(!report.contains(folder.path().to_str().unwrap()), "{report}");
    // A report is not overwritten.
    assert_eq!(run(&arguments).code, Some(1));
}
