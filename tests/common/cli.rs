//! Runs the program as a process, away from the settings of whoever runs the tests.

use std::{
    env,
    io::Write,
    process::{Command, Output, Stdio},
};

/// The program, with an environment that no `LLAMA_ARG_*` or log setting reaches.
pub fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet-gpu"));
    let settings = env::vars_os().map(|(name, _)| name);
    let foreign = settings.filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("LLAMA_ARG_")
            || ["BITNET_BACKEND", "BITNET_KERNEL", "RUST_LOG", "RUST_BACKTRACE"].contains(&name.as_ref())
    });
    for name in foreign {
        command.env_remove(name);
    }
    // What an earlier run measured must not decide what a test sees.
    command.env("BITNET_CACHE", "");
    // No test reaches for the network.
    command.env("HF_HUB_OFFLINE", "1");
    // Software drivers print lines of their own where it is not set.
    command.env("XDG_RUNTIME_DIR", env::temp_dir());
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Result of a finished run.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("stdout is text"),
            stderr: String::from_utf8(output.stderr).expect("stderr is text"),
        }
    }
}

pub fn run(args: &[&str]) -> Finished {
    program(args).output().expect("the program starts").into()
}

/// `None`, and a line that says so, on a machine without any adapter; `BITNET_REQUIRE_GPU` makes that a failure.
pub fn run_on_gpu(args: &[&str]) -> Option<Finished> {
    let done = run(args);
    if done.stderr.contains("no usable GPU adapter") {
        assert!(env::var_os("BITNET_REQUIRE_GPU").is_none(), "a GPU is required: {done:?}");
        eprintln!("skipped: {}", done.stderr.trim());
        return None;
    }
    assert_eq!(done.code, Some(0), "{done:?}");
    Some(done)
}

/// Gives `input` on standard input.
pub fn run_with_input(args: &[&str], input: &[u8]) -> Finished {
    run_with_input_and(args, input, |_| {})
}

/// As [`run_with_input`], after a change of the command.
pub fn run_with_input_and(args: &[&str], input: &[u8], change: impl FnOnce(&mut Command)) -> Finished {
    let mut command = program(args);
    change(command.stdin(Stdio::piped()));
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    // The program may end without reading it.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("the program ends").into()
}

impl Finished {
    /// Failed with `code` and one line on standard error that begins with `error:`; returns the line.
    #[track_caller]
    pub fn one_line_error(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        let line = self.stderr.strip_suffix('\n').expect("a line");
        assert!(line.starts_with("error: ") && !line.contains('\n'), "not one line: {self:?}");
        line
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert_eq!(self.stdout.matches('\n').count(), 1, "one line: {self:?}");
        serde_json::from_str(&self.stdout).expect("JSON")
    }
}
