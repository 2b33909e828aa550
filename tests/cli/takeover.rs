//! A GPU that fails at load or in the middle of an answer: the CPU goes on with the same text. The failures are made
//! by a variable of the environment, see `backend::gpu::fault`.

use bitnet_gpu::backend::gpu::adapters;
use serde_json::Value;

use crate::common::cli::{Finished, program, run, run_with_input_and};

/// After it no two logits are so close that the order of float additions, which is another on each backend, decides.
const PROMPT: &str = "One day, a cat";
/// Its tokens, BOS included.
const PROMPT_TOKENS: usize = 6;

/// A machine without any adapter has nothing that could fail.
fn no_gpu() -> bool {
    let none = adapters().is_empty();
    if none {
        assert_ne!(std::env::var("BITNET_REQUIRE_GPU").as_deref(), Ok("1"), "BITNET_REQUIRE_GPU=1, but no GPU adapter");
        eprintln!("skipped: no GPU adapter");
    }
    none
}

fn with_fault(args: &[&str], fault: &str) -> Finished {
    program(args).env("BITNET_TEST_GPU_FAULT", fault).output().unwrap().into()
}

/// The one line that says so, and nothing else of its kind.
#[track_caller]
fn warning(finished: &Finished) -> &str {
    let told: Vec<&str> = finished.stderr.lines().filter(|line| line.contains("the GPU failed")).collect();
    let lines: Vec<&&str> = told.iter().filter(|line| line.starts_with("warning: ")).collect();
    assert!(lines.len() == 1 && lines[0].contains("the CPU goes on"), "{finished:?}");
    lines[0]
}

const GREEDY: [&str; 2] = ["--temp", "0"];
const SEEDED: [&str; 4] = ["--temp", "0.9", "--seed", "12"];

/// 60 tokens of the built-in model.
fn sixty<'a>(backend: &[&'a str], sample: &[&'a str]) -> Vec<&'a str> {
    [&["run", "--json", "-n", "60", "--ignore-eos", "-p", PROMPT], backend, sample].concat()
}

#[test]
fn whatever_fails_at_token_20_of_60_the_tokens_are_those_of_the_undisturbed_run() {
    if no_gpu() {
        return;
    }
    const FAULTS: [(&str, &str); 5] = [
        ("lost", "GPU device lost: "),
        ("memory", "GPU out of memory while running "),
        ("nan", "not a finite number in "),
        ("silence", "GPU device lost: no answer for "),
        ("dropped", "GPU device lost: the driver dropped a step: number "),
    ];
    // Every failure of a whole and of a split model, greedily and with draws. Only the first of these runs steps ahead.
    for (backend, sample, faults) in [
        (&["--backend", "gpu"][..], &GREEDY[..], &FAULTS[..]),
        (&["-ngl", "2"], &SEEDED, &FAULTS),
        (&["--backend", "gpu"], &SEEDED, &FAULTS[..1]),
    ] {
        let args = sixty(backend, sample);
        let expected = run(&args).json();
        assert_eq!(expected["prompt_tokens"], PROMPT_TOKENS);
        assert_eq!(expected["takeover"], Value::Null);
        assert_eq!(expected["tokens"].as_array().unwrap().len(), 60);
        let on_cpu = run(&sixty(&["--backend", "cpu"], sample)).json();
        assert_eq!(expected["tokens"], on_cpu["tokens"], "the same seed gives the same text on both");
        for (kind, reason) in faults {
            let finished = with_fault(&args, &format!("{kind}@{}", PROMPT_TOKENS + 20));
            let found = finished.json();
            assert_eq!(found["tokens"], expected["tokens"], "{kind} {backend:?} {sample:?}");
            assert_eq!(found["text"], expected["text"]);
            // The step of that token, or the pass that checks a draft with it.
            let after = found["takeover"]["after_tokens"].as_u64().unwrap() as usize;
            assert!((PROMPT_TOKENS + 17..=PROMPT_TOKENS + 20).contains(&after), "{found}");
            assert!(found["takeover"]["reason"].as_str().unwrap().contains(reason), "{found}");
            assert_eq!(found["plan"].as_array().unwrap().len(), 1);
            assert_eq!(found["plan"][0]["backend"], "cpu");
            assert!(warning(&finished).contains(reason), "{finished:?}");
        }
    }
}

#[test]
fn an_8_bit_cache_is_taken_over_too() {
    if no_gpu() {
        return;
    }
    // Before which no two logits are close with such a cache.
    let prompt = "Lily said hello";
    let q8 = ["-ctk", "q8_0", "-ctv", "q8_0", "--temp", "0", "-n", "60", "--ignore-eos", "-p", prompt];
    let on = |backend| [&["run", "--json", "--backend", backend], &q8[..]].concat();
    let expected = run(&on("gpu")).json();
    assert_eq!(expected["plan"][0]["backend"], "gpu");
    assert_eq!(expected["tokens"], run(&on("cpu")).json()["tokens"], "on the CPU alone");
    let finished = with_fault(&on("gpu"), "lost@25");
    let found = finished.json();
    assert_eq!(found["tokens"], expected["tokens"]);
    assert_eq!(found["plan"][0]["backend"], "cpu");
    assert!(found["takeover"]["after_tokens"].as_u64().unwrap() >= 20, "{found}");
    warning(&finished);
}

#[test]
fn the_cpu_goes_on_with_the_kernel_that_was_asked_for() {
    if no_gpu() {
        return;
    }
    let args = sixty(&["--backend", "gpu", "--kernel", "tl2"], &GREEDY);
    let expected = run(&args).json();
    for fault in ["lost@20", "load"] {
        let found = with_fault(&args, fault).json();
        assert_eq!(found["tokens"], expected["tokens"], "{fault}");
        let device = found["plan"][0]["device"].as_str().unwrap();
        assert!(device.starts_with("CPU (") && device.contains("tl2"), "{fault}: {device}");
    }
}

#[test]
fn a_prompt_is_run_again_too() {
    if no_gpu() {
        return;
    }
    let args =
        ["run", "--json", "--backend", "gpu", "--temp", "0", "-n", "8", "-p", "Once upon a time there was a cat"];
    let expected = run(&args).json();
    let finished = with_fault(&args, "lost@2");
    assert_eq!(finished.json()["tokens"], expected["tokens"]);
    assert!(warning(&finished).contains("after 0 tokens"), "{finished:?}");
}

#[test]
fn a_gpu_that_cannot_load_the_model_is_replaced() {
    if no_gpu() {
        return;
    }
    for backend in [&["--backend", "gpu"][..], &["-ngl", "2"]] {
        let args = sixty(backend, &GREEDY);
        let expected = run(&args).json();
        let finished = with_fault(&args, "load");
        let found = finished.json();
        assert_eq!(found["tokens"], expected["tokens"]);
        assert_eq!(found["plan"][0]["backend"], "cpu");
        assert!(warning(&finished).contains("allocating the caches: out of memory"), "{finished:?}");
        // A budget that nothing fits in is known before; the plan says so.
        let finished = with_fault(&args, "memory=100000");
        let found = finished.json();
        assert_eq!(found["tokens"], expected["tokens"]);
        assert!(found["plan"][0]["reason"].as_str().unwrap().contains("does not fit"), "{found}");
    }
}

/// A model whose layers take most of its memory: 8 of 1.3 MiB with their cache, and a table of 1 MiB.
fn deep_model(directory: &std::path::Path) -> String {
    let config = directory.join("config.json");
    let text = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 512, "intermediate_size": 1536,
        "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 1024,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": true}"#;
    std::fs::write(&config, text).unwrap();
    let model = directory.join("deep.gguf").to_str().unwrap().to_owned();
    let made = run(&["dummy", "--config", config.to_str().unwrap(), "-o", &model]);
    assert_eq!(made.code, Some(0), "{made:?}");
    model
}

/// How a run went: its tokens, the layers on the GPU, and what it warned of.
fn deep_run(model: &str, layers: &str, fault: &str) -> (Value, u64, Vec<String>) {
    let args = ["run", "--json", "-m", model, "-ngl", layers, "-p", "abc", "-n", "30", "--temp", "0", "--ignore-eos"];
    let finished = with_fault(&args, fault);
    let json = finished.json();
    let gpu = json["plan"].as_array().unwrap().iter().filter(|segment| segment["backend"] == "gpu");
    let layers = gpu.map(|s| s["layers"][1].as_u64().unwrap() - s["layers"][0].as_u64().unwrap()).sum();
    let told = finished.stderr.lines().filter(|line| line.starts_with("warning: ") && line.contains("layers fit"));
    (json, layers, told.map(str::to_owned).collect())
}

/// Less memory than was planned with, when the model is loaded or in the middle: fewer layers on the GPU, one line that
/// says so, and the same tokens.
#[test]
fn a_gpu_with_less_memory_keeps_the_layers_that_fit() {
    if no_gpu() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let model = deep_model(directory.path());
    let plan = run(&["plan", "--json", "-m", &model, "-ngl", "all"]).json();
    let all = plan["segment_memory"][0]["total_bytes"].as_u64().unwrap();
    let (expected, layers, told) = deep_run(&model, "all", "");
    assert_eq!((layers, told.len()), (8, 0), "{expected}");
    for (fault, reason) in [
        (format!("later={}", all * 6 / 10), "the budget fell: "),
        (format!("load,above={}", all * 8 / 10), "GPU out of memory while allocating the caches: "),
        (format!("memory@12,above={}", all * 8 / 10), "GPU out of memory while running "),
    ] {
        let (found, layers, told) = deep_run(&model, "all", &fault);
        assert_eq!(found["tokens"], expected["tokens"], "{fault}");
        assert!((1..8).contains(&layers), "{fault}: {layers} layers: {found}");
        assert!(told.len() == 1 && told[0].contains(reason), "{fault}: {told:?}");
        assert!(told[0].contains(&format!("{layers} of 8 layers fit in ")), "{fault}: {told:?}");
        // The step of that token, or the pass that checks a draft with it.
        let after = found["takeover"]["after_tokens"].as_u64();
        assert!(
            if fault.starts_with("memory") { (9..=12).contains(&after.unwrap()) } else { after.is_none() },
            "{found}"
        );
    }
    // Twice: three quarters are too much as well.
    for fault in [format!("load,above={}", all * 6 / 10), format!("memory@12,above={}", all * 6 / 10)] {
        let (found, layers, told) = deep_run(&model, "all", &fault);
        assert_eq!((found["tokens"] == expected["tokens"], told.len()), (true, 2), "{fault}: {told:?}");
        assert!((1..6).contains(&layers), "{fault}: {layers} layers");
    }
    // Never enough.
    let (found, layers, _) = deep_run(&model, "all", "memory@12");
    assert_eq!((found["tokens"] == expected["tokens"], layers), (true, 0), "{found}");
}

#[test]
fn a_conversation_goes_on() {
    if no_gpu() {
        return;
    }
    let args = ["chat", "--backend", "gpu", "--temp", "0", "-n", "12", "--ignore-eos"];
    let said = b"Hello\nAnd then?\nOne day\n";
    let expected = run_with_input_and(&args, said, |_| {});
    assert_eq!(expected.code, Some(0), "{expected:?}");
    // In the second answer: the first turn has fewer than 60 tokens, the conversation more.
    let finished = run_with_input_and(&args, said, |command| {
        command.env("BITNET_TEST_GPU_FAULT", "lost@60");
    });
    assert_eq!((finished.code, &finished.stdout), (Some(0), &expected.stdout), "{finished:?}");
    warning(&finished);
}

#[test]
fn measurements_are_not_taken_over() {
    if no_gpu() {
        return;
    }
    for args in [
        &["bench", "--backend", "gpu", "-p", "0", "-n", "4", "-r", "1"][..],
        &["run", "--bench", "-n", "4", "-p", "Once upon a time"],
        &["logits", "--backend", "gpu", "--ids", "1,2,3,4"],
    ] {
        let finished = with_fault(args, "lost@2");
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.contains("GPU device lost"), "{finished:?}");
    }
}

#[test]
fn a_fault_that_is_none_is_refused() {
    if no_gpu() {
        return;
    }
    let finished = with_fault(&["run", "--backend", "gpu", "-n", "1"], "explode");
    assert!(finished.code == Some(1) && finished.stderr.contains("BITNET_TEST_GPU_FAULT"), "{finished:?}");
}

#[test]
fn a_gpu_that_fails_its_self_test_is_not_used() {
    if no_gpu() {
        return;
    }
    let reason = "failed the self-test of ternary_matvec_i2s: expected ";
    let asked = with_fault(&["run", "-p", PROMPT, "-n", "2", "--backend", "gpu"], "self-test");
    let line = asked.one_line_error(1);
    assert!(line.contains("no usable GPU adapter: ") && line.contains(reason), "{line}");
    let plan = with_fault(&["plan", "--backend", "auto", "--json"], "self-test").json();
    assert_eq!(plan["segments"].as_array().unwrap().len(), 1, "{plan}");
    assert_eq!(plan["segments"][0]["backend"], "cpu");
    assert!(plan["segments"][0]["reason"].as_str().unwrap().contains(reason), "{plan}");
    let auto = with_fault(&["run", "-p", PROMPT, "-n", "2"], "self-test");
    assert_eq!(auto.code, Some(0), "{auto:?}");
}
