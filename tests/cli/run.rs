//! `run` as a process, on the built-in model.

use std::{
    env, fs,
    io::{BufReader, Read},
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::common::cli::{Finished, program, run, run_with_input};

/// Arguments of a short greedy run on the CPU, then `more`.
fn short<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["run", "--backend", "cpu", "--temp", "0", "-n", "6"], more].concat()
}

#[test]
fn the_text_comes_on_stdout_and_the_summary_on_stderr() {
    let finished = run(&short(&["-p", "Once upon a time", "--stats"]));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stdout.starts_with("Once upon a time, "), "{finished:?}");
    assert!(finished.stdout.ends_with('\n') && finished.stdout.len() > 25, "{finished:?}");
    for part in
        ["prompt   5 tokens", "answer   6 tokens", "tok/s", "p50", "ended by -n", "CPU (", "layers 0-3 and the head"]
    {
        assert!(finished.stderr.contains(part), "no {part:?} in {}", finished.stderr);
    }
    let bare = run(&short(&["-p", "Once upon a time", "--no-display-prompt"]));
    assert_eq!(format!("Once upon a time{}", bare.stdout), finished.stdout);
    // A script that did not ask is not told.
    assert_eq!(bare.stderr, "");
}

#[test]
fn without_arguments_it_tells_a_story() {
    let finished = run(&["run", "-n", "4", "--stats"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stdout.starts_with("Once upon a time"), "{finished:?}");
    assert!(finished.stderr.contains("built-in story model") && finished.stderr.contains("seed "), "{finished:?}");
}

#[test]
fn an_open_but_silent_standard_input_is_not_waited_for() {
    let mut child = program(&["run", "-n", "4"]).stdin(Stdio::piped()).spawn().unwrap();
    let silent = child.stdin.take();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(text.starts_with("Once upon a time"), "{text:?}");
    drop(silent);
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_prompt_comes_from_anywhere() {
    let expected = run(&short(&["-p", "One day, a cat"])).stdout;
    assert_eq!(run(&short(&["One day, a cat"])).stdout, expected);
    assert_eq!(run(&short(&["--prompt=One day, a cat"])).stdout, expected);
    assert_eq!(run_with_input(&short(&[]), b"One day, a cat").stdout, expected);
    // One line break at the end of a file is not part of the prompt.
    assert_eq!(run_with_input(&short(&[]), b"One day, a cat\r\n").stdout, expected);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prompt.txt");
    fs::write(&path, "One day, a cat\n").unwrap();
    assert_eq!(run(&short(&["-f", path.to_str().unwrap()])).stdout, expected);
}

#[test]
fn a_prompt_that_looks_like_a_flag_is_a_prompt() {
    for prompt in ["-ngl", "-n", "--json", "-temp 0"] {
        let finished = run(&short(&["-p", prompt]));
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert!(finished.stdout.starts_with(prompt), "{finished:?}");
    }
}

#[test]
fn escapes_are_processed_unless_told_otherwise() {
    assert!(run(&short(&["-p", r"A\nB"])).stdout.starts_with("A\nB"));
    assert!(run(&short(&["-p", r"A\nB", "--no-escape"])).stdout.starts_with(r"A\nB"));
    // A file holds the characters themselves.
    assert!(run_with_input(&short(&[]), br"A\nB").stdout.starts_with(r"A\nB"));
}

#[test]
fn json_is_one_object_with_everything_in_it() {
    let json = run(&short(&["-p", "Once upon a time", "--json"])).json();
    assert_eq!(json["prompt_tokens"], 5);
    assert_eq!(json["prompt_ids"].as_array().unwrap().len(), 5);
    assert_eq!(json["tokens"].as_array().unwrap().len(), 6);
    assert_eq!(json["finish"], "limit");
    assert!(json["text"].as_str().unwrap().starts_with(", "), "{json}");
    assert!(json["timings"]["decode_rate"].as_f64().unwrap() > 0.0, "{json}");
    // All 2048 rows of the head, or those that a screen leaves.
    let head_rows = |screen: &str| {
        let json =
            run(&short(&["-p", "Once upon a time", "--json", "--draft-max", "0", "--head-screen", screen])).json();
        json["timings"]["head_rows_exact"].as_f64().unwrap()
    };
    assert_eq!(head_rows("off"), 2048.0);
    assert!((1.0..500.0).contains(&head_rows("on")));
    let segment = &json["plan"][0];
    assert_eq!(segment["layers"], serde_json::json!([0, 4]));
    assert_eq!(segment["backend"], "cpu");
    assert!(segment["device"].as_str().unwrap().starts_with("CPU ("), "{json}");
    assert!(!segment["reason"].as_str().unwrap().is_empty());

    // A single token needs no decode step: the rates are null, not infinite.
    let json = run(&["run", "-p", "A", "-n", "1", "--json", "--backend", "cpu"]).json();
    assert_eq!(json["timings"]["decode_rate"], Value::Null);
}

#[test]
fn a_stop_text_ends_the_answer_before_it() {
    let full = run(&["run", "-p", "Once upon a time", "-n", "30", "--temp", "0", "--json", "--backend", "cpu"]).json();
    let text = full["text"].as_str().unwrap();
    // Cut inside a word, so that the stop text begins and ends within tokens.
    let stop = &text[12..18];
    let json = run(&[
        "run",
        "-p",
        "Once upon a time",
        "-n",
        "30",
        "--temp",
        "0",
        "--json",
        "--backend",
        "cpu",
        "--stop",
        stop,
    ])
    .json();
    assert_eq!(json["finish"], "stop");
    assert_eq!(json["text"], text[..text.find(stop).unwrap()]);
}

#[test]
fn a_seed_makes_the_text_repeatable() {
    let ids = |seed| {
        let args =
            ["run", "-p", "Once upon a time", "-n", "24", "--json", "--backend", "cpu", "-temp", "1.5", "-s", seed];
        run(&args).json()["tokens"].clone()
    };
    assert_eq!(ids("7"), ids("7"));
    assert_ne!(ids("7"), ids("8"));
}

#[test]
fn sampling_flags_change_the_text_and_bad_values_are_named() {
    let ids = |more: &[&str]| {
        let args = ["run", "-p", "Once upon a time", "-n", "16", "--json", "--backend", "cpu", "-s", "3"];
        run(&[&args, more].concat()).json()["tokens"].clone()
    };
    let plain = ids(&[]);
    for flags in [&["--typical", "0.2"][..], &["--mirostat", "2", "--mirostat-ent", "8"], &["--typical-p=0.2"]] {
        assert_ne!(ids(flags), plain, "{flags:?}");
    }
    assert_eq!(ids(&["--typical", "1", "--mirostat", "0"]), plain);
    // A bias decides the first token; a ban takes it away.
    assert_eq!(ids(&["-l", "700+100"])[0], 700);
    let first = plain[0].as_u64().unwrap();
    assert_ne!(ids(&["--logit-bias", &format!("{first}-inf")])[0], first);

    let named = [
        (["--top-p", "-0.5"], "--top-p must be between 0 and 1, not -0.5"),
        (["--min-p", "NaN"], "--min-p must be between 0 and 1, not NaN"),
        (["--repeat-penalty", "-1"], "--repeat-penalty must be above 0, not -1"),
        (["--frequency-penalty", "inf"], "--frequency-penalty must be a finite number, not inf"),
        (["--typical", "-1"], "--typical must be between 0 and 1, not -1"),
        (["--mirostat-ent", "-2"], "--mirostat-ent must be 0 or more, not -2"),
        (["--mirostat-lr", "1.5"], "--mirostat-lr must be between 0 and 1, not 1.5"),
        (["--logit-bias", "999999+1"], "--logit-bias is for a token below"),
    ];
    for (flags, expected) in named {
        let finished = run(&["run", "-p", "Hi", "--backend", "cpu", "--mirostat", "2", flags[0], flags[1]]);
        assert!(finished.one_line_error(2).contains(expected), "{finished:?}");
    }
    let one = run(&["run", "-p", "Hi", "--mirostat", "1"]);
    assert!(one.code == Some(2) && one.stderr.contains("Mirostat 1 is not supported"), "{one:?}");
}

#[test]
fn the_context_limits_prompt_and_answer() {
    let finished = run(&["run", "-p", "Once upon a time there was a dog", "-c", "4", "--backend", "cpu"]);
    let line = finished.one_line_error(1);
    assert!(line.contains("the context is full") && line.contains("4 tokens available"), "{line}");

    let args = ["run", "-p", "Once upon a time", "-c", "9", "--ignore-eos", "--json", "--backend", "cpu"];
    let json = run(&args).json();
    assert_eq!(json["finish"], "context");
    assert_eq!(json["tokens"].as_array().unwrap().len(), 9 - 5 + 1);
}

#[test]
fn a_small_batch_and_one_thread_give_the_same_tokens() {
    let prompt = "Once upon a time there was a little girl who had a red ball and a big dog.";
    let ids = |more: &[&str]| run(&[&short(&["-p", prompt, "--json"])[..], more].concat()).json()["tokens"].clone();
    assert_eq!(ids(&[]), ids(&["-b", "3", "-t", "1"]));
}

#[test]
fn bench_prints_a_table_of_cpu_gpu_and_auto() {
    let finished = run(&["run", "--bench", "-p", "Once upon a time", "-n", "8"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    for part in [
        "prefill tok/s",
        "decode tok/s",
        "ms/token p50",
        "memory",
        "mJ/token",
        "head rows",
        "of 2048, in full",
        "| CPU: CPU (",
        "| auto: CPU (",
        "auto:\n  CPU",
    ] {
        assert!(finished.stdout.contains(part), "no {part:?} in {}", finished.stdout);
    }
    let both = finished.stdout.contains("| GPU: GPU (")
        && finished.stdout.contains("tokens: equal on the CPU and GPU (8 of 8)");
    let alone = finished.stdout.contains("GPU: no usable GPU adapter");
    assert!(both || alone, "{}", finished.stdout);
    assert!(!(alone && env::var_os("BITNET_REQUIRE_GPU").is_some()), "{}", finished.stdout);

    assert!(finished.stdout.contains("decode, tok/s\n  CPU "), "{}", finished.stdout);

    let dir = tempfile::tempdir().unwrap();
    let plot = dir.path().join("rates.svg");
    let plotted = ["run", "--bench", "-p", "Once upon a time", "-n", "8", "--json", "--plot", plot.to_str().unwrap()];
    let json = run(&plotted).json();
    let svg = fs::read_to_string(&plot).unwrap();
    assert!(svg.contains("decode, tok/s") && svg.contains(">auto</text>") && svg.contains(">bitnet-gpu "), "{svg}");
    assert!(run(&plotted).one_line_error(1).contains("rates.svg"), "a file is not overwritten");
    assert_eq!(json["runs"].as_array().unwrap().len(), 3);
    assert_eq!(json["runs"][0]["tokens"].as_array().unwrap().len(), 8);
    assert!(json["runs"][0]["memory_bytes"].as_u64().unwrap() > 1_000_000);
    assert_eq!(json["runs"][0]["timings"]["head_rows_exact"], 2048.0);
    for rates in ["prefill_rates", "decode_rates"] {
        let rates = json["runs"][0][rates].as_array().unwrap();
        assert!(rates.len() > 1 && rates.iter().all(|rate| rate.as_f64().unwrap() > 0.0), "{rates:?}");
    }
}

/// The program's greedy tokens against those that transformers computed for the same weights, all in f32
/// (`assets/reference.py`). The default cache rounds to f16, which moves logits of this model by up to 0.1.
#[test]
fn greedy_tokens_of_the_story_model_are_those_of_transformers() {
    let reference: Value = serde_json::from_str(include_str!("../../assets/reference.json")).unwrap();
    let prompts = reference["greedy"].as_object().unwrap();
    assert!(!prompts.is_empty());
    for (prompt, expected) in prompts {
        let args = ["run", "-p", prompt, "-n", "48", "--temp", "0", "--backend", "cpu", "--json"];
        let json = run(&[&args[..], &["-ctk", "f32", "-ctv", "f32"]].concat()).json();
        assert_eq!(json["prompt_ids"], expected["prompt_ids"], "{prompt:?}");
        let first_48 = &expected["greedy_ids"].as_array().unwrap()[..48];
        assert_eq!(json["tokens"].as_array().unwrap(), first_48, "{prompt:?}");
        let text = expected["text"].as_str().unwrap();
        assert!(text.starts_with(json["text"].as_str().unwrap()), "{prompt:?}: {}", json["text"]);
    }
}

/// On the GPU, and with layers on both, the same text; skipped where there is no adapter.
#[test]
fn every_placement_gives_the_same_tokens() {
    let run_with = |placement: &[&str]| {
        run(&[&["run", "-p", "Once upon a time", "-n", "48", "--temp", "0", "--json"], placement].concat())
    };
    let cpu = run_with(&["--backend", "cpu"]).json();
    assert_eq!(run_with(&["--backend", "auto"]).json()["tokens"], cpu["tokens"]);
    let gpu = run_with(&["--backend", "gpu"]);
    if gpu.code == Some(1) && gpu.stderr.contains("no usable GPU adapter") {
        assert!(env::var_os("BITNET_REQUIRE_GPU").is_none(), "{gpu:?}");
        eprintln!("skipped: {}", gpu.stderr);
        return;
    }
    assert_eq!(gpu.json()["tokens"], cpu["tokens"]);
    assert_eq!(gpu.json()["plan"][0]["backend"], "gpu");
    // Drawn, too: the same seed, the same text. The logits differ in their last bits, so a draw that falls between
    // two tokens can differ as well: at these seeds none does.
    let warm = ["--temp", "0.8", "--top-p", "0.95"];
    for sampled in [&["-s", "7"][..], &["-s", "5", "--typical", "0.9"], &["-s", "9", "--mirostat", "2"]] {
        let ids = |backend| {
            let args = ["run", "-p", "One day, a cat", "-n", "40", "--json", "--backend", backend];
            run(&[&args[..], &warm, sampled].concat()).json()["tokens"].clone()
        };
        assert_eq!(ids("gpu"), ids("cpu"), "{sampled:?}");
    }
    let both = run_with(&["-ngl", "2"]).json();
    assert_eq!(both["tokens"], cpu["tokens"]);
    let backends: Vec<_> = both["plan"].as_array().unwrap().iter().map(|s| (&s["backend"], &s["layers"])).collect();
    let (first, second) = (serde_json::json!([0, 2]), serde_json::json!([2, 4]));
    assert_eq!(backends, [(&Value::from("cpu"), &first), (&Value::from("gpu"), &second)]);
}

/// As on a machine without a GPU: `auto` says so in the summary and goes on, `gpu` fails.
#[cfg(target_os = "linux")]
#[test]
fn without_a_driver_it_runs_on_the_cpu_and_says_so() {
    let without = |backend: &str| {
        let mut command = program(&["run", "-p", "Once upon a time", "-n", "3", "--stats", "--backend", backend]);
        command.env("VK_DRIVER_FILES", "/nonexistent").env("VK_ICD_FILENAMES", "/nonexistent").output().unwrap()
    };
    let auto = without("auto");
    let summary = String::from_utf8(auto.stderr).unwrap();
    assert!(auto.status.success(), "{summary}");
    assert!(summary.contains("and the head (no Vulkan, Metal or DirectX 12 driver was found; VK_"), "{summary}");
    let gpu = Finished::from(without("gpu"));
    assert!(gpu.one_line_error(1).contains("no usable GPU adapter"), "{gpu:?}");
}

/// A run that goes on for long; returns when its first text has come.
fn long_run(more: &[&str]) -> Child {
    let args = ["run", "-p", "Once upon a time", "--stats", "--ignore-eos", "-c", "30000", "--backend", "cpu"];
    let mut child = program(&[&args, more].concat()).spawn().unwrap();
    let mut first = [0; 30];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert!(first.starts_with(b"Once upon a time"));
    child
}

#[test]
fn a_reader_that_has_seen_enough_is_a_quiet_end() {
    let mut child = long_run(&[]);
    drop(child.stdout.take());
    let finished = child.wait_with_output().unwrap();
    assert_eq!(finished.status.code(), Some(0));
    let stderr = String::from_utf8(finished.stderr).unwrap();
    assert!(!stderr.contains("error"), "{stderr}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    for args in [&short(&["-p", "Hi"])[..], &["--help"], &["run", "-h"], &["--version"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = program(args).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with("error: cannot write standard output: "), "{args:?}: {stderr}");
    }
}

#[cfg(unix)]
mod interrupts {
    use std::{io::Write, os::unix::process::ExitStatusExt, process::Command};

    use super::*;

    fn interrupt(child: &Child) {
        send(child, "INT");
    }

    fn send(child: &Child, signal: &str) {
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
    }

    fn hangup_is_ignored() -> bool {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
    }

    /// Keeps reading, so that the program is never blocked on a full pipe, and waits for the end.
    fn end(mut child: Child) -> (Option<i32>, String, String) {
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let reader = thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).unwrap();
            text
        });
        let output = child.wait_with_output().unwrap();
        (output.status.code(), reader.join().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    #[test]
    fn ctrl_c_ends_the_answer_with_a_summary() {
        let child = long_run(&[]);
        interrupt(&child);
        let (code, stdout, stderr) = end(child);
        assert_eq!(code, Some(130), "{stderr}");
        assert!(stdout.ends_with('\n'));
        assert!(stderr.contains("ended by Ctrl-C"), "{stderr}");
        assert!(!stderr.contains("error"), "{stderr}");
    }

    #[test]
    fn other_signals_end_it_with_the_codes_of_a_shell() {
        for (signal, expected) in [("TERM", 143), ("HUP", 129)] {
            if signal == "HUP" && hangup_is_ignored() {
                eprintln!("skipped: SIGHUP is ignored here, as under nohup");
                continue;
            }
            let child = long_run(&[]);
            send(&child, signal);
            let (code, stdout, stderr) = end(child);
            assert_eq!(code, Some(expected), "{stderr}");
            assert!(stdout.ends_with('\n') && stderr.contains("ended by a signal"), "{stderr}");
            assert!(!stderr.contains("error"), "{stderr}");
        }
    }

    /// Whatever it is doing then.
    #[test]
    fn a_signal_before_there_is_anything_to_end() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        for milliseconds in [0, 3, 10, 30, 100] {
            let mut command = program(&["run", "-n", "1000000", "-c", "30000", "--ignore-eos", "--no-display-prompt"]);
            let child = command.env("BITNET_CACHE", &cache).current_dir(&folder).spawn().unwrap();
            thread::sleep(Duration::from_millis(milliseconds));
            send(&child, "TERM");
            let output = child.wait_with_output().unwrap();
            // Before the program listens, the system ends it.
            let by_system = output.status.signal() == Some(15);
            assert!(by_system || output.status.code() == Some(143), "{milliseconds} ms: {output:?}");
            assert!(!String::from_utf8_lossy(&output.stderr).contains("error"), "{output:?}");
        }
    }

    /// `nohup` has SIGHUP ignored, and so it stays.
    #[test]
    fn an_ignored_signal_stays_ignored() {
        let of_program = program(&[]);
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"trap '' HUP; echo ready; exec "$0" run -n 2 --backend cpu"#]);
        shell.arg(of_program.get_program()).env("BITNET_CACHE", "");
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        // It waits for its prompt by then, in all likelihood.
        thread::sleep(Duration::from_millis(100));
        send(&child, "HUP");
        child.stdin.take().unwrap().write_all(b"Once upon a time").unwrap();
        let (code, stdout, stderr) = end(child);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stdout.starts_with("Once upon a time"), "{stdout}");
    }

    /// A prompt of one batch, from which nothing was read when it was given up: there is no rate to tell.
    #[test]
    fn ctrl_c_ends_a_prompt_in_the_middle_of_a_batch() {
        let prompt = "and then ".repeat(2000);
        let args = ["run", "-p", &prompt, "--stats", "-c", "30000", "-b", "4096", "--backend", "cpu", "-t", "1"];
        let is_given_up = || {
            let mut child = program(&args).spawn().unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0; 30]).unwrap();
            interrupt(&child);
            let (code, _, stderr) = end(child);
            assert_eq!(code, Some(130), "{stderr}");
            assert!(stderr.contains("ended by Ctrl-C"), "{stderr}");
            let of_prompt = stderr.lines().find(|line| line.starts_with("prompt ")).expect("a summary");
            of_prompt.contains(" tokens, - tok/s")
        };
        // The batch takes a second; where this process was halted for longer, it was read to its end.
        assert!((0..5).any(|_| is_given_up()), "five times a batch was read to its end");
    }

    #[test]
    fn a_second_ctrl_c_ends_the_program_at_once() {
        // A batch runs to its end on a GPU: the first Ctrl-C waits for that, the second does not.
        let prompt = "and then ".repeat(2000);
        let args = ["run", "-p", &prompt, "--stats", "-c", "30000", "-b", "4096", "--backend", "gpu"];
        let mut child = program(&args).spawn().unwrap();
        if child.stdout.as_mut().unwrap().read_exact(&mut [0; 30]).is_err() {
            let (_, _, stderr) = end(child);
            assert!(stderr.contains("no usable GPU adapter"), "{stderr}");
            assert!(env::var_os("BITNET_REQUIRE_GPU").is_none(), "a GPU is required: {stderr}");
            return eprintln!("skipped: no GPU adapter");
        }
        interrupt(&child);
        // Signals of one kind that wait are one.
        thread::sleep(Duration::from_millis(50));
        interrupt(&child);
        let (code, _, stderr) = end(child);
        assert_eq!(code, Some(130), "{stderr}");
        // A fast GPU may be done before the second.
        assert!(!stderr.contains("answer ") || stderr.contains("ended by Ctrl-C"), "{stderr}");
    }
}

#[test]
fn an_8_bit_cache_is_half_as_large() {
    let q8 = ["-ctk", "q8_0", "-ctv", "q8_0"];
    let plan = |more: &[&str]| run(&[&["plan", "--json"], more].concat());
    let bytes = |more: &[&str]| plan(more).json()["cache_bytes"].as_u64().unwrap();
    for backend in ["cpu", "gpu"] {
        if backend == "gpu" && bitnet_gpu::backend::gpu::adapters().is_empty() {
            assert_ne!(env::var("BITNET_REQUIRE_GPU").as_deref(), Ok("1"), "BITNET_REQUIRE_GPU=1, but no adapter");
            eprintln!("skipped: no GPU adapter");
            continue;
        }
        let on = ["--backend", backend];
        let (half, whole) = (bytes(&[&q8[..], &on].concat()), bytes(&on));
        // 34 bytes for 32 elements, against 64.
        assert_eq!(half * 64, whole * 34, "{backend}");
        assert_eq!(run(&short(&[&q8[..], &on].concat())).stdout, run(&short(&on)).stdout, "{backend}");
    }
}

/// The limit is the shell's, so only where there is one of that kind.
#[cfg(target_os = "linux")]
#[test]
fn memory_that_the_system_refuses_is_an_error() {
    let whole = program(&["run", "--backend", "cpu", "-c", "970000", "-n", "1", "-p", "x"]);
    let limited = std::process::Command::new("sh")
        .args(["-c", "ulimit -v 1960000; exec \"$@\"", "sh"])
        .arg(whole.get_program())
        .args(whole.get_args())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&limited.stderr);
    assert_eq!(limited.status.code(), Some(1), "{message}");
    assert!(message.contains("not enough memory for the keys and values of 970000 tokens"), "{message}");
    assert!(message.contains("MiB could not be reserved (lower the context with -c"), "{message}");
}

/// The context grows with the prompt, as far as the model was trained, unless its size is said.
#[test]
fn a_long_prompt_gets_the_context_that_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let (model, text) = (folder.path().join("m.gguf"), folder.path().join("long.txt"));
    let (model, config) = (model.to_str().unwrap(), folder.path().join("config.json"));
    let shape = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true
    });
    fs::write(&config, shape.to_string()).unwrap();
    let made = run(&["dummy", "-o", model, "--config", config.to_str().unwrap()]);
    assert_eq!(made.code, Some(0), "{made:?}");
    fs::write(&text, "x".repeat(4200)).unwrap();
    let args = ["run", "-m", model, "-f", text.to_str().unwrap(), "-n", "2", "--backend", "cpu", "--json"];
    let done = run(&args).json();
    assert_eq!((&done["prompt_tokens"], &done["context_tokens"]), (&4200.into(), &4352.into()));
    let fixed = run(&[&args[..], &["-c", "4096"]].concat());
    assert!(fixed.one_line_error(1).contains("the context is full"), "{fixed:?}");
}
