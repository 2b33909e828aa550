//! Less than the machine has: threads that the system refuses.

use std::process::{Command, Stdio};

use crate::common::cli::{Finished, program};

/// The program where its user may have no further thread. Limits do not hold for root, so that it is another user's then.
fn without_threads(args: &[&str]) -> Finished {
    let inner = program(args);
    let script = "ulimit -u 1; exec \"$0\" \"$@\"";
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let mut command = Command::new(if is_root { "setpriv" } else { "bash" });
    if is_root {
        command.args(["--reuid=54321", "--regid=54321", "--clear-groups", "bash"]);
    }
    command.args(["-c", script]).arg(inner.get_program()).args(args);
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap().into()
}

#[test]
fn threads_that_are_refused_are_done_without() {
    let args = ["run", "-p", "The dog", "-n", "3", "--temp", "0", "--backend", "cpu", "--json", "-t", "4"];
    let done = without_threads(&args);
    let expected: Finished = program(&args).output().unwrap().into();
    assert_eq!(done.json()["tokens"], expected.json()["tokens"]);
    let notes = done.stderr.lines().filter(|line| line.starts_with("warning: 1 thread instead of 4: "));
    assert_eq!(notes.count(), 1, "{}", done.stderr);
}
