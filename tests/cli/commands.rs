//! The commands besides `run`, and wrong usage of all of them, as a process.

use std::{fs, path::PathBuf};

use bitnet_cpu_kernels::Isa;
use serde_json::{Value, json};

use crate::common::{
    cli::{Finished, program, run, run_on_gpu, run_with_input},
    shared,
};

fn numbers(array: &Value) -> Vec<f64> {
    array.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn built_in_model() -> Vec<u8> {
    fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/llama-stories-ternary-4m.gguf")).unwrap()
}

#[test]
fn help_and_version() {
    let version = run(&["--version"]);
    let of_package = concat!("bitnet-gpu ", env!("CARGO_PKG_VERSION"));
    assert!(version.code == Some(0) && version.stdout.starts_with(of_package), "{version:?}");
    assert!(version.stdout.contains(std::env::consts::ARCH), "{version:?}");
    assert_eq!(run(&["-V"]).stdout, format!("{of_package}\n"));
    let help = run(&["--help"]);
    assert_eq!(help.code, Some(0));
    for command in ["run", "tokenize", "logits", "inspect", "devices", "plan", "convert"] {
        assert!(help.stdout.contains(command), "{command}");
        let help = run(&[command, "--help"]);
        assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""), "{command}");
    }
    let nothing = run(&[]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(2), ""));
    assert!(nothing.stderr.contains("Usage:"), "{nothing:?}");
}

#[test]
fn wrong_usage_exits_with_two_and_names_the_flag() {
    let cases: &[(&[&str], &str)] = &[
        (&["write"], "write"),
        (&["run", "--frobnicate"], "--frobnicate"),
        (&["run", "-p"], "--prompt"),
        (&["run", "-p", "x", "-f", "y"], "--file"),
        (&["run", "x", "-p", "y"], "PROMPT"),
        (&["run", "-ngl", "some"], "--n-gpu-layers"),
        (&["run", "-ngl", "-3"], "--n-gpu-layers"),
        (&["run", "-ctk", "q3"], "--cache-type-k"),
        (&["run", "-c", "99999999999"], "--ctx-size"),
        (&["run", "-t", "100000"], "--threads"),
        (&["run", "-b", "0"], "--batch-size"),
        (&["run", "-s", "-2"], "--seed"),
        (&["run", "--backend", "tpu"], "--backend"),
        (&["run", "--temp", "hot"], "--temp"),
        (&["logits"], "--ids"),
        (&["logits", "--ids", "1,x"], "--ids"),
        (&["convert"], "SRC"),
        (&["convert", "x", "--type", "q4_0"], "--type"),
        (&["convert", "x", "--head", "q4_0"], "--head"),
        (&["convert", "x", "--i2s-layout", "p32"], "--i2s-layout"),
        (&["dummy", "-o", "x.gguf"], "--size"),
        (&["dummy", "-o", "x.gguf", "--size", "7B", "--like", "2b-4t"], "--like"),
    ];
    for (args, named) in cases {
        let finished = run(args);
        assert_eq!(finished.code, Some(2), "{args:?}: {finished:?}");
        assert_eq!(finished.stdout, "", "{args:?}");
        assert!(finished.stderr.starts_with("error: "), "{args:?}: {finished:?}");
        assert!(finished.stderr.contains(named), "{args:?}: no {named} in {}", finished.stderr);
    }
}

#[test]
fn values_the_parser_cannot_judge_are_usage_errors_as_well() {
    for (args, named) in [
        (["run", "-p", "x", "--temp", "nan"], "--temp "),
        (["run", "-p", "x", "--top-p", "1.5"], "top-p"),
        (["run", "-p", "x", "--min-p", "2"], "min-p"),
        (["run", "-p", "x", "--repeat-penalty", "0"], "--repeat-penalty"),
        (["run", "-p", "x", "--stop", ""], "stop string"),
        (["run", "-p", r"\xff", "-n", "1"], "UTF-8"),
    ] {
        let finished = run(&args);
        assert!(finished.one_line_error(2).contains(named), "{finished:?}");
    }
}

#[test]
fn no_prompt_is_a_usage_error_that_shows_an_example() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    fs::write(&path, built_in_model()).unwrap();
    let finished = run(&["run", "-m", path.to_str().unwrap()]);
    assert!(finished.one_line_error(2).contains("for example: bitnet-gpu run -m model.gguf -p"), "{finished:?}");
}

#[test]
fn files_that_are_no_models_are_named_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let empty = tempfile::tempdir().unwrap();
    let model = built_in_model();
    let cases = [
        (dir.path().join("absent.gguf").to_str().unwrap().to_owned(), "cannot open"),
        (dir.path().to_str().unwrap().to_owned(), "expected one GGUF file"),
        (empty.path().to_str().unwrap().to_owned(), "config.json is missing"),
        (write("empty.gguf", b""), "empty.gguf"),
        (write("page.gguf", b"<!DOCTYPE html><html><body>Not found</body></html>"), "HTML"),
        (write("noise.gguf", &[0x5A; 4096]), "noise.gguf"),
        (write("cut.gguf", &model[..model.len() / 2]), "cut.gguf"),
        // A line break in a name must not make two lines of the message.
        ("no\nsuch\x1b[31mfile".to_owned(), r"no\nsuch\u{1b}"),
    ];
    for (path, reason) in &cases {
        for args in [
            &["run", "-m", path, "-p", "x"][..],
            &["tokenize", "-m", path, "-p", "x"],
            &["logits", "-m", path, "--ids", "1"],
            &["inspect", path],
            &["plan", "-m", path],
        ] {
            let finished = run(args);
            assert!(finished.one_line_error(1).contains(reason), "{args:?}: {finished:?}");
        }
    }
}

#[test]
fn a_prompt_file_must_exist_and_be_text() {
    let finished = run(&["run", "-f", "no-such-file.txt"]);
    assert!(finished.one_line_error(1).contains("cannot read no-such-file.txt"), "{finished:?}");
    let finished = run_with_input(&["run"], b"ab\xFF");
    assert!(finished.one_line_error(1).contains("byte 2 of the text: expected UTF-8"), "{finished:?}");
}

#[cfg(unix)]
#[test]
fn a_text_without_end_is_refused() {
    for args in [&["run", "-n", "1", "--backend", "cpu", "-f", "/dev/zero"][..], &["tokenize", "-f", "/dev/zero"]] {
        let error = run(args);
        assert_eq!(error.one_line_error(1), "error: /dev/zero: text: expected at most 64 MiB, found more");
    }
}

#[test]
fn a_cache_larger_than_this_machine_is_refused() {
    if !cfg!(target_os = "linux") {
        eprintln!("skipped: the memory size is only known on Linux");
        return;
    }
    // 2^24 tokens of 4 layers x 2 x 128 x 4 bytes: 64 GiB, so four times that in f32 with more layers is not at hand;
    // the built-in model reaches 64 GiB, which some machines have.
    let finished = run(&["plan", "-c", "16777216", "-ctk", "f32", "-ctv", "f32", "--backend", "cpu"]);
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let kib: u64 = memory.lines().next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    if kib >= 64 << 20 {
        eprintln!("skipped: this machine has more than 64 GiB");
        return;
    }
    let lines: Vec<&str> = finished.stderr.lines().collect();
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(lines.last().unwrap().starts_with("error: cache for 16777216 tokens: expected at most"), "{finished:?}");
}

#[test]
fn the_environment_sets_what_flags_do_not() {
    let model = |more: &[&str], path: &str| {
        let mut command = program(&[&["run", "-p", "x", "-n", "1", "--backend", "cpu"], more].concat());
        command.env("LLAMA_ARG_MODEL", path).output().unwrap()
    };
    assert_eq!(model(&[], "from-the-environment.gguf").status.code(), Some(1));
    let stderr = String::from_utf8(model(&["-m", "from-a-flag.gguf"], "from-the-environment.gguf").stderr).unwrap();
    assert!(stderr.contains("from-a-flag.gguf"), "{stderr}");

    // The name of a model in words wins as well, with a text and without.
    for words in [&["org/not-pulled", "-p", "Once"][..], &["org/not-pulled", "Once"]] {
        let mut command = program(&[&["run", "-n", "1", "--backend", "cpu"], words].concat());
        let stderr = command.env("LLAMA_ARG_MODEL", "from-the-environment.gguf").output().unwrap().stderr;
        let stderr = String::from_utf8(stderr).unwrap();
        assert!(stderr.contains("org/not-pulled") && !stderr.contains("environment"), "{words:?}: {stderr}");
    }
    // Another word is a text for the model of the environment.
    let mut command = program(&["run", "Once upon", "-n", "1", "--backend", "cpu"]);
    let output = command.env("LLAMA_ARG_MODEL", "from-the-environment.gguf").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("from-the-environment.gguf"), "{output:?}");

    let mut command = program(&["plan", "--json", "--backend", "cpu"]);
    let output = command.env("LLAMA_ARG_CTX_SIZE", "77").env("LLAMA_ARG_BATCH", "5").output().unwrap();
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&plan["context_tokens"], &plan["batch_tokens"]), (&json!(77), &json!(5)));
}

#[test]
fn tokenize_prints_ids_in_three_forms() {
    let plain = run(&["tokenize", "-p", "Once upon"]);
    assert_eq!(plain.code, Some(0), "{plain:?}");
    let json = run(&["tokenize", "-p", "Once upon", "--json"]).json();
    let ids: Vec<u64> = json["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    assert_eq!(ids[0], 0, "the text begins with BOS");
    let listed = run(&["tokenize", "-p", "Once upon", "--ids"]);
    assert_eq!(listed.stdout, format!("{ids:?}\n"));
    let first_of_line = |line: &str| line.split(" -> ").next().unwrap().trim().parse::<u64>().unwrap();
    assert_eq!(plain.stdout.lines().map(first_of_line).collect::<Vec<_>>(), ids);

    let no_bos = run(&["tokenize", "-p", "Once upon", "--json", "--no-bos"]).json();
    assert_eq!(no_bos["ids"], json!(ids[1..]));
    assert_eq!(run_with_input(&["tokenize", "--json"], b"Once upon").json(), json);
}

#[test]
fn special_tokens_in_a_text_are_text_unless_asked() {
    let ids = |more: &[&str]| {
        let args = ["tokenize", "-p", "<|endoftext|>", "--no-bos", "--json"];
        run(&[&args, more].concat()).json()["ids"].clone()
    };
    assert_eq!(ids(&["--special"]), json!([0]));
    assert!(ids(&[]).as_array().unwrap().len() > 1);
}

#[test]
fn tokenize_works_on_a_vocabulary_without_weights() {
    let Some(vocab) = shared("vocab/ggml-vocab-llama-bpe.gguf") else { return };
    let vocab = vocab.to_str().unwrap();
    let json = run(&["tokenize", "-m", vocab, "-p", "Hello world", "--no-bos", "--json"]).json();
    assert_eq!(json, json!({"ids": [9906, 1917]}), "Llama 3's ids");
    let finished = run(&["run", "-m", vocab, "-p", "x"]);
    assert!(finished.one_line_error(1).contains("vocabulary-only"), "{finished:?}");
}

#[test]
fn logits_are_those_of_the_last_position() {
    let args = ["logits", "--ids", "0,463,447,259,404", "--backend", "cpu", "--json"];
    let json = run(&args).json();
    assert_eq!(json["tokens"], json!([0, 463, 447, 259, 404]));
    let logits = numbers(&json["logits"]);
    assert_eq!(logits.len(), 2048);
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    let reference: Value = serde_json::from_str(include_str!("../../assets/reference.json")).unwrap();
    let expected = &reference["greedy"]["Once upon a time"];
    assert_eq!((&json["tokens"], &json!(best)), (&expected["prompt_ids"], &expected["greedy_ids"][0]));

    let table = run(&args[..5]).stdout;
    assert!(table.lines().nth(2).unwrap().starts_with("| 12 "), "{table}");
}

#[test]
fn an_id_outside_the_vocabulary_is_named() {
    for (ids, named) in [("1,2048", "2048"), ("-1", "-1"), ("5,99999999999", "99999999999")] {
        let finished = run(&["logits", "--ids", ids, "--backend", "cpu"]);
        assert!(
            finished.one_line_error(1).ends_with(&format!("token id: expected 0 to 2047, found {named}")),
            "{finished:?}"
        );
    }
}

#[test]
fn inspect_shows_keys_and_tensors() {
    let text = run(&["inspect"]).stdout;
    for part in ["runs as BitNet", "general.architecture", "I2_S", "blk.3.ffn_down.weight", "[768, 256]", "tensors: 46"]
    {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let json = run(&["inspect", "--json", "--check"]).json();
    assert_eq!(json["runs"], true);
    assert_eq!(json["types"]["I2_S"]["tensors"], 28);
    assert_eq!(json["tensors"].as_array().unwrap().len(), 46);
    assert_eq!(json["architecture"], "bitnet-b1.58");
}

/// Kinds of layers, blocks that do not run, and the basis of the weights.
#[test]
fn inspect_says_what_sets_a_hybrid_model_apart() {
    let rotation = |version, block, signs, projections| {
        let mut rotation = json!({"version": version, "block": block, "signs": signs, "head": true});
        rotation["projections"] = projections;
        rotation
    };
    let cases = [
        (
            "b-q2_0-g64-mtp",
            [3, 1, 1],
            Value::Null,
            "3 layers a gated DeltaNet (12 value heads of 64 over 4 key heads), 1 block of multi-token prediction for drafts",
        ),
        (
            "d-hadamard-pq2_0",
            [3, 1, 0],
            rotation(1, 256, "explicit", json!(25)),
            "weights rotated in blocks of 256 with signs (prism.hadamard 1)",
        ),
        // The outputs of the three DeltaNets are not rotated.
        (
            "f-hadamard-identity-pq2_0",
            [3, 1, 0],
            rotation(1, 256, "identity", json!(22)),
            "blocks of 256 without signs",
        ),
        ("g-hadamard-v2-b1024-ptq1_0", [1, 1, 0], rotation(2, 1024, "explicit", json!(13)), "(prism.hadamard 2)"),
    ];
    for (name, [recurrent, attention, mtp], rotation, line) in cases {
        let Some(path) = shared(&format!("golden/qwen35/qwen35-{name}.gguf")) else { return };
        let path = path.to_str().unwrap();
        let structure = json!({
            "recurrent_layers": recurrent, "attention_layers": attention, "mtp_blocks": mtp, "rotation": rotation,
        });
        assert_eq!(run(&["inspect", path, "--json"]).json()["structure"], structure, "{name}");
        let text = run(&["inspect", path]).stdout;
        assert!(text.contains(line), "no {line:?} in {text}");
    }
    assert_eq!(run(&["inspect", "--json"]).json()["structure"], Value::Null);
}

/// The block of multi-token prediction: counted where drafts may use it, and asked for by name where there is none.
#[test]
fn drafts_by_the_model_are_planned_and_counted() {
    let Some(path) = shared("golden/qwen35/qwen35-b-q2_0-g64-mtp.gguf") else { return };
    let path = path.to_str().unwrap();
    // 18 bytes for 64 weights: 256 x 512 (join and q), 2 x 256 x 128, 256 x 256 and 3 x 256 x 768; norms of 5 x 256 and 2 x 64.
    let bytes = (2 * 131_072 + 65_536 + 65_536 + 3 * 196_608) * 18 / 64 + 4 * (1280 + 128);
    let memory = run(&["inspect", path, "--json"]).json()["memory"].clone();
    assert_eq!(memory["mtp_bytes"], bytes);
    let plan = run(&["plan", "-m", path, "--backend", "cpu", "-c", "128", "--json"]).json();
    assert!(plan["drafts"].as_str().unwrap().starts_with("by the block"), "{plan}");
    // Keys and values of 128 positions in f16, and buffers.
    assert!(plan["segment_memory"][0]["mtp_bytes"].as_u64().unwrap() > bytes as u64 + 128 * 2 * 2 * 64 * 2, "{plan}");
    let text = run(&["plan", "-m", path, "--backend", "cpu"]).stdout;
    assert!(text.contains("multi-token prediction ") && text.contains("drafts: by the block"), "{text}");

    let answer = |args: &[&str]| {
        let common = ["run", "-m", path, "--backend", "cpu", "-p", "a b c", "-n", "24", "--temp", "0", "--json"];
        run(&[&common[..], args].concat()).json()
    };
    let plain = answer(&["--spec-type", "none"]);
    assert_eq!(plain["drafted_tokens"], 0);
    let drafted = answer(&["--spec-type", "draft-mtp", "--draft-max", "3"]);
    assert_eq!(drafted["tokens"], plain["tokens"]);
    assert!(drafted["drafted_tokens"].as_u64().unwrap() >= drafted["accepted_tokens"].as_u64().unwrap());
    assert!(drafted["drafted_tokens"].as_u64().unwrap() > 20, "{drafted}");
    let without = run(&["run", "--spec-type", "draft-mtp", "-n", "1", "-p", "a"]);
    assert_eq!(without.code, Some(1), "{without:?}");
    assert!(without.stderr.contains("multi-token prediction"), "{without:?}");
    assert_eq!(run(&["plan", "--json"]).json()["drafts"], Value::Null);
}

#[test]
fn inspect_check_fails_on_a_model_that_cannot_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.gguf");
    let mut bytes = built_in_model();
    let tensors = run(&["inspect", "--json"]).json()["tensors"].clone();
    let ternary = tensors.as_array().unwrap().iter().rfind(|t| t["type"] == "I2_S").unwrap();
    // Code 3, four times.
    bytes[ternary["offset"].as_u64().unwrap() as usize] = 0xFF;
    fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    let look = run(&["inspect", path]);
    assert_eq!(look.code, Some(0), "{look:?}");
    let reason = "row 0, column 0: expected a weight of -1, 0 or +1";
    assert!(look.stdout.contains("cannot run:") && look.stdout.contains(reason), "{look:?}");
    let check = run(&["inspect", path, "--check"]);
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(check.stderr.starts_with("error: ") && check.stderr.contains(reason), "{check:?}");
}

#[test]
fn a_matrix_of_zeros_is_said_by_every_command_that_reads_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zeros.gguf");
    let mut bytes = built_in_model();
    let report = run(&["inspect", "--json"]).json();
    let tensor = report["tensors"].as_array().unwrap().iter().rfind(|t| t["type"] == "I2_S").unwrap();
    let (start, len) = (tensor["offset"].as_u64().unwrap() as usize, tensor["bytes"].as_u64().unwrap() as usize);
    // All codes but the scale, which stands in the last 32 bytes.
    bytes[start..start + len - 32].fill(0b01_01_01_01);
    fs::write(&path, bytes).unwrap();
    let (path, name) = (path.to_str().unwrap(), tensor["name"].as_str().unwrap());
    let check = run(&["inspect", path, "--check"]);
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(check.stderr.contains(&format!("tensor {name}: expected weights, found nothing but zeros")), "{check:?}");
    assert_eq!(run(&["inspect", path]).code, Some(0));
    let answer = run(&["run", "-m", path, "-p", "a", "-n", "1", "--backend", "cpu"]);
    assert_eq!((answer.code, answer.stderr.matches("nothing but zeros").count()), (Some(0), 1), "{answer:?}");
    assert!(answer.stderr.contains(name), "{answer:?}");
}

#[test]
fn plan_says_where_layers_go_and_why() {
    let text = run(&["plan", "--backend", "cpu"]).stdout;
    assert!(text.contains("CPU: layers 0-3 and the head (asked for the CPU)"), "{text}");
    assert!(text.contains("CPU: ") && text.contains(" hardware thread"), "{text}");
    let json = run(&["plan", "-ngl", "0", "--json", "-c", "128", "-t", "3"]).json();
    assert_eq!((&json["context_tokens"], &json["n_threads"]), (&json!(128), &json!(3)));
    assert_eq!(json["segments"][0]["layers"], json!([0, 4]));
    assert_eq!(json["segments"][0]["backend"], "cpu");
    let memory = &json["segment_memory"][0];
    // Four layers, keys and values of two heads of 64 in f16, 128 tokens.
    assert_eq!(memory["kv_bytes"], 4 * 2 * 2 * 64 * 2 * 128);
    let parts = ["weight_bytes", "table_bytes", "kv_bytes", "activation_bytes"];
    let sum: u64 = parts.iter().map(|part| memory[part].as_u64().unwrap()).sum();
    assert!(sum > 1_000_000 && memory["total_bytes"] == sum, "{memory}");
    assert!(json["gpu_budget_bytes"].is_null(), "no GPU was looked for: {json}");
}

/// Within a factor of two, as a program that is built for tests is another than the one that was measured.
#[cfg(target_os = "linux")]
#[test]
fn plan_tells_about_how_much_memory_a_run_takes() {
    let plan = run(&["plan", "--backend", "cpu", "-c", "64", "-b", "64", "--json"]).json();
    let planned = plan["peak_bytes"].as_u64().unwrap();
    let bench = ["bench", "--backend", "cpu", "-p", "8", "-n", "4", "-r", "1", "-b", "64", "-o", "jsonl"];
    let rows = run(&bench).stdout;
    let last: Value = serde_json::from_str(rows.lines().last().unwrap()).unwrap();
    let taken = last["peak_rss_bytes"].as_u64().unwrap();
    assert!((planned / 2..planned * 2).contains(&taken), "{taken} instead of {planned}");
    let text = run(&["plan", "--backend", "cpu"]).stdout;
    assert!(text.contains("\nmemory: up to ") && text.contains(" of program and vocabulary"), "{text}");
}

/// `plan` tells the same of the GPU as loading does: it splits by the same bytes and refuses for the same reasons.
#[test]
fn plan_promises_what_the_gpu_holds() {
    let all = ["plan", "--backend", "gpu", "--json", "-c", "256", "--gpu-memory"];
    let plan = |memory: &str| run_on_gpu(&[&all[..], &[memory]].concat()).map(|done| done.json());
    let Some(roomy) = plan("1G") else { return };
    assert_eq!(roomy["segments"].as_array().unwrap().len(), 1, "{roomy}");
    let needed = roomy["segment_memory"][0]["total_bytes"].as_u64().unwrap();
    let exact = plan(&needed.to_string()).unwrap();
    assert_eq!(exact["segments"], roomy["segments"]);
    assert_eq!((exact["gpu_budget_bytes"].as_u64(), &exact["gpu_budget_source"]), (Some(needed), &json!("given")));
    let split = plan(&(needed - 1).to_string()).unwrap();
    assert_eq!(split["segments"][1]["layers"], json!([1, 4]), "{split}");
    assert!(split["segments"][0]["reason"].as_str().unwrap().contains("does not fit"), "{split}");
    // Both load as planned.
    for memory in [needed, needed - 1] {
        let memory = memory.to_string();
        let args = ["run", "-p", "Once", "-n", "2", "--backend", "gpu", "-c", "256", "--gpu-memory", &memory];
        run_on_gpu(&args).unwrap();
    }
    let wrong = run(&["plan", "--gpu-memory", "lots"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
}

#[test]
fn devices_lists_the_processor_and_adapters() {
    let text = run(&["devices"]).stdout;
    assert!(text.starts_with("CPU: ") && text.contains("GPU"), "{text}");
    let json = run(&["devices", "--json"]).json();
    assert!(json["cpu"]["threads"].as_u64().unwrap() > 0);
    assert!(json["gpus"].is_array());
}

#[test]
fn the_instruction_set_of_the_kernels_can_be_chosen() {
    let devices = |isa: &str| -> Finished { program(&["devices"]).env("BITNET_ISA", isa).output().unwrap().into() };
    for isa in Isa::available() {
        let text = devices(isa.name()).stdout;
        assert!(text.lines().next().unwrap().ends_with(&format!(", kernels: {isa}")), "{isa}: {text}");
    }
    let finished = devices("avx9");
    let error = finished.one_line_error(1);
    assert!(error.contains("BITNET_ISA: expected one of scalar, ") && error.ends_with("found avx9"), "{error}");
}

#[test]
fn convert_makes_a_model_that_runs_as_in_transformers() {
    let Some(source) = shared("demo-model/export") else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let out = out.to_str().unwrap();
    let report = run(&["convert", source.to_str().unwrap(), "-o", out, "--json"]).json();
    assert_eq!(report["types"]["I2_S"]["tensors"], 28);
    let reference = fs::read(shared("demo-model/reference.json").unwrap()).unwrap();
    let reference: Value = serde_json::from_slice(&reference).unwrap();
    let args = ["run", "-p", "Once upon a time", "-n", "12", "--temp", "0", "--backend", "cpu", "--json", "-m", out];
    let expected = &reference["greedy"]["Once upon a time"]["greedy_ids"].as_array().unwrap()[..12];
    assert_eq!(run(&args).json()["tokens"].as_array().unwrap(), expected);

    let again = run(&["convert", source.to_str().unwrap(), "-o", out]);
    assert!(again.one_line_error(2).contains("out.gguf"), "an existing file is kept: {again:?}");
    let empty = tempfile::tempdir().unwrap();
    let other = dir.path().join("other.gguf");
    let nothing = run(&["convert", empty.path().to_str().unwrap(), "-o", other.to_str().unwrap()]);
    assert!(nothing.one_line_error(1).contains("config.json"), "{nothing:?}");
    assert!(!other.exists());
}

#[test]
fn convert_takes_a_file_to_another_type_and_head() {
    let Some(source) = shared("golden/qwen3-ternary/qwen3-tq1_0-g256.gguf") else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let (source, out) = (source.to_str().unwrap(), out.to_str().unwrap());
    let args = ["convert", source, "-o", out, "--type", "tq2_0", "--head", "q8_0", "--json"];
    let planned = run(&[&args[..], &["--dry-run"]].concat()).json();
    assert!(planned["dry_run"].as_bool().unwrap() && !std::path::Path::new(out).exists());
    let report = run(&args).json();
    assert_eq!((&report["matrices"], &report["types"]["TQ2_0"]["tensors"]), (&json!(14), &json!(14)));
    assert_eq!(report["types"]["Q8_0"]["tensors"], 1);
    assert_eq!((&report["bytes_out"], &report["types"]), (&planned["bytes_out"], &planned["types"]));
    assert_eq!(report["bytes_out"], fs::metadata(out).unwrap().len());

    let unnamed = run(&["convert", source, "--type", "tq2_0"]);
    assert!(unnamed.one_line_error(2).contains("-o has to name the output"), "{unnamed:?}");
    let other = dir.path().join("other.gguf");
    let refused = run(&["convert", source, "-o", other.to_str().unwrap(), "--type", "i2_s"]);
    assert!(refused.one_line_error(1).contains("tensor blk.0.attn_q.weight as I2_S"), "{refused:?}");
}

#[test]
fn dummy_makes_a_model_of_the_shape_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.json");
    let shape = json!({
        "model_type": "bitnet", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "relu2", "tie_word_embeddings": true,
    });
    fs::write(&config, shape.to_string()).unwrap();
    let out = dir.path().join("dummy.gguf");
    let (config, out) = (config.to_str().unwrap(), out.to_str().unwrap());
    let report = run(&["dummy", "--config", config, "-o", out, "--head", "q8_0", "--json"]).json();
    assert_eq!(report["types"]["I2_S"]["tensors"], 14);
    assert_eq!(report["types"]["Q8_0"]["tensors"], 1);
    let logits = run(&["logits", "-m", out, "--ids", "7,299", "--backend", "cpu", "--json"]).json();
    assert_eq!(logits["logits"].as_array().unwrap().len(), 300);
    let words = run(&["run", "-m", out, "-p", "x", "-n", "4", "--ignore-eos", "--backend", "cpu", "--json"]).json();
    assert_eq!(words["tokens"].as_array().unwrap().len(), 4);
}

#[test]
fn a_model_without_a_tokenizer_works_through_ids() {
    let Some(source) = shared("golden/bitnet-a") else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("no-tokenizer.gguf");
    let out = out.to_str().unwrap();
    let report = run(&["convert", source.to_str().unwrap(), "-o", out]);
    assert_eq!(report.code, Some(0), "{report:?}");
    assert!(report.stdout.contains("warning: ") && report.stdout.contains("tokenizer"), "{report:?}");
    let expected: Value = serde_json::from_slice(&fs::read(source.join("expected_logits.json")).unwrap()).unwrap();
    let case = &expected["cases"][0];
    let ids: Vec<String> = case["ids"].as_array().unwrap().iter().map(Value::to_string).collect();
    let args =
        ["logits", "-m", out, "--ids", &ids.join(","), "--backend", "cpu", "-ctk", "f32", "-ctv", "f32", "--json"];
    let logits = numbers(&run(&args).json()["logits"]);
    let wanted = numbers(&case["last_logits"]);
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let off = norm(&mut logits.iter().zip(&wanted).map(|(a, b)| a - b)) / norm(&mut wanted.iter().copied());
    // The bound of the project's reference tests; float order alone gives up to 0.018.
    assert!(logits.len() == wanted.len() && off <= 0.025, "relative error {off}");

    for args in [&["run", "-m", out, "-p", "x"][..], &["tokenize", "-m", out, "-p", "x"]] {
        let finished = run(args);
        assert!(finished.one_line_error(1).contains("tokenizer.ggml.model is missing"), "{finished:?}");
    }
}

#[test]
fn empty_variables_count_as_not_set() {
    let names = ["LLAMA_ARG_THREADS", "LLAMA_ARG_CTX_SIZE", "LLAMA_ARG_MODEL", "LLAMA_ARG_N_GPU_LAYERS"];
    let mut command = program(&["plan", "--backend", "cpu"]);
    for name in names {
        command.env(name, "");
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = program(&["plan", "--backend", "cpu"]).env("LLAMA_ARG_THREADS", "x").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn text_piped_in_beside_a_question_belongs_to_it() {
    let tokens = |args: &[&str], input: &str| {
        let args = [&["run", "--backend", "cpu", "-n", "1", "--temp", "0", "--json"], args].concat();
        run_with_input(&args, input.as_bytes()).json()["prompt_tokens"].as_u64().unwrap()
    };
    let alone = tokens(&["Tell me"], "");
    assert!(tokens(&["Tell me"], "of the cat\n") > alone);
    assert_eq!(tokens(&["-p", "Tell me"], "of the cat\n"), alone);
}

#[test]
fn a_folder_with_one_file_is_that_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let empty = run(&["plan", "-m", path, "--backend", "cpu"]);
    assert!(empty.stderr.contains("config.json is missing"), "{empty:?}");
    fs::write(dir.path().join("a.gguf"), built_in_model()).unwrap();
    let one = run(&["plan", "-m", path, "--backend", "cpu"]);
    assert_eq!(one.code, Some(0), "{one:?}");
    fs::write(dir.path().join("b.gguf"), built_in_model()).unwrap();
    let two = run(&["plan", "-m", path, "--backend", "cpu"]);
    assert_eq!(two.code, Some(1), "{two:?}");
    assert!(two.stderr.contains("expected one GGUF file, or the file named, found a.gguf, b.gguf"), "{two:?}");
}

#[test]
fn a_variable_that_hides_the_gpus_is_named() {
    for (value, expected) in
        [("gl", "WGPU_BACKEND=gl leaves no adapter"), ("", "WGPU_BACKEND is empty, which counts as not")]
    {
        let with = |args: &[&str]| -> Finished { program(args).env("WGPU_BACKEND", value).output().unwrap().into() };
        let report = with(&["devices", "--json"]).json();
        assert!(report["hidden"][0].as_str().unwrap().starts_with(expected), "{report}");
        if value == "gl" {
            let done = with(&["run", "-p", "x", "-n", "1", "--backend", "gpu"]);
            assert!(done.one_line_error(1).contains(expected), "{done:?}");
        }
    }
}

#[test]
fn a_device_is_chosen_by_number_or_name_or_not_at_all() {
    let gpus = run(&["devices", "--json"]).json()["gpus"].as_array().unwrap().len();
    let with = |device: &str| run(&["run", "-p", "x", "-n", "1", "--temp", "0", "-ngl", "1", "-dev", device, "--json"]);
    let past = with(&gpus.to_string());
    assert_eq!(past.code, Some(1), "{past:?}");
    if gpus > 0 {
        assert!(past.one_line_error(1).contains(&format!("there is no number {gpus}; found: 0: ")), "{past:?}");
        assert_eq!(with("0").json()["plan"].as_array().unwrap().len(), 2, "the CPU and this GPU");
    }
    let plan = &with("none").json()["plan"];
    assert_eq!((plan.as_array().unwrap().len(), plan[0]["backend"].as_str()), (1, Some("cpu")));
    assert_eq!(run(&["run", "--list-devices"]).stdout, run(&["devices"]).stdout);
}

#[test]
fn flags_of_llama_cpp_that_change_nothing_are_taken() {
    let args = ["run", "-p", "x", "-n", "1", "--temp", "0", "--backend", "cpu", "--json"];
    let done = run(&[&args[..], &["-fa", "on", "--mlock", "-ub", "64"]].concat());
    assert_eq!(done.json()["tokens"], run(&args).json()["tokens"]);
    let notes: Vec<&str> = done.stderr.lines().filter(|line| line.starts_with("note: left out")).collect();
    assert!(notes.len() == 1 && notes[0].contains("--flash-attn") && notes[0].contains("--ubatch-size"), "{done:?}");
    assert!(run(&["run", "--lora", "x.gguf", "-p", "x"]).one_line_error(2).contains("merge them"));
}

#[test]
fn shell_habits_are_answered() {
    let forgotten = run(&["run", "-p", "Tell", "me", "a", "story"]);
    assert!(forgotten.one_line_error(2).ends_with("needs quotes: -p \"Tell me a story\""), "{forgotten:?}");
    let cold = run(&["run", "-p", "x", "--temp", "-1"]);
    assert!(cold.one_line_error(2).contains("--temp must be 0 or more, not -1"), "{cold:?}");
    let ids = |text: &[u8]| {
        run_with_input(&["run", "-n", "1", "--backend", "cpu", "--json"], text).json()["prompt_ids"].clone()
    };
    assert_eq!(ids(b"\xEF\xBB\xBFA cat.\r\nA dog.\r\n"), ids(b"A cat.\nA dog.\n"));
    let wide = run_with_input(&["run", "-n", "1", "--backend", "cpu", "--json"], b"\xFF\xFEA\0 \0");
    assert!(wide.one_line_error(1).contains("found UTF-16"), "{wide:?}");
}

#[test]
fn a_model_is_named_with_a_word_or_with_a_flag() {
    for command in
        [&["plan"][..], &["tokenize", "-p", "x"], &["bench"], &["perplexity", "-p", "x"], &["tune"], &["embed"]]
    {
        let word = run(&[command, &["no-such-model.gguf"]].concat());
        assert!(word.one_line_error(1).contains("no-such-model.gguf"), "{command:?}: {word:?}");
        let both = run(&[command, &["no-such-model.gguf", "-m", "another.gguf"]].concat());
        assert!(both.one_line_error(2).contains("one word too many"), "{command:?}: {both:?}");
    }
}

#[test]
fn quiet_leaves_results_and_errors() {
    let done = run(&["run", "-q", "-p", "x", "-n", "1", "--temp", "0", "--backend", "cpu", "--stats"]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{done:?}");
    let talked = run_with_input(&["chat", "-q", "-n", "1", "--backend", "cpu"], b"Hello\n");
    assert_eq!((talked.code, talked.stderr.as_str()), (Some(0), ""), "{talked:?}");
    assert!(run(&["run", "-q", "-m", "no-such-model.gguf", "-p", "x"]).one_line_error(1).contains("no-such-model"));
}

#[test]
fn shells_and_manuals_know_the_flags() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(&["completions", shell]);
        assert_eq!(script.code, Some(0), "{script:?}");
        assert!(script.stdout.contains("perplexity") && script.stdout.contains("ctx-size"), "{shell}");
    }
    let page = run(&["man"]).stdout;
    for part in [".TH bitnet", "BITNET-GPU RUN", "BITNET-GPU SERVE", "ctx\\-size"] {
        assert!(page.contains(part), "no {part:?} in the manual page");
    }
    assert!(run(&["completions", "command.com"]).code == Some(2));
}

/// The software driver looks for a display there and complains.
#[cfg(target_os = "linux")]
#[test]
fn drivers_do_not_complain_about_a_missing_folder() {
    let output = program(&["devices"]).env_remove("XDG_RUNTIME_DIR").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !stderr.contains("XDG_RUNTIME_DIR"), "{stderr}");
}
