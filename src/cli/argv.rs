//! llama.cpp spells some flags with one dash and several letters (`-ngl 99`). The argument parser would
//! read those as a row of one-letter flags, so they are rewritten to their long names first.

use std::{collections::HashSet, ffi::OsString};

use clap::Command;

use super::llama::{self, Reply, Takes};

/// llama.cpp's spelling and the long name.
const LONG_NAMES: [(&str, &str); 23] = [
    ("-cram", "--cache-ram"),
    ("--top-nsigma", "--top-n-sigma"),
    ("--usage", "--help"),
    ("-hfr", "--hf-repo"),
    ("-sysf", "--system-prompt-file"),
    ("-cb", "--cont-batching"),
    ("-cnv", "--conversation"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-dev", "--device"),
    ("-fa", "--flash-attn"),
    ("-hf", "--hf-repo"),
    ("-hff", "--hf-file"),
    ("-jf", "--json-schema-file"),
    ("-lm", "--load-mode"),
    ("-ngl", "--n-gpu-layers"),
    ("-no-cnv", "--no-conversation"),
    ("-np", "--parallel"),
    ("-rea", "--reasoning"),
    ("-sys", "--system-prompt"),
    ("-tb", "--threads-batch"),
    ("-temp", "--temp"),
    ("-ub", "--ubatch-size"),
];

/// Arguments for the parser, and flags that it does not get.
#[derive(Debug, Default)]
pub struct Rewritten {
    /// For the argument parser; begins with the program's name.
    pub args: Vec<OsString>,
    /// Flags that were left out, and why that changes nothing.
    pub left_out: Vec<String>,
    /// A flag that the command does not have, and what to do instead.
    pub refused: Option<String>,
}

/// Rewrites flags, and flags only: an argument that is the value of the flag before it stays as it is, and
/// so does everything after `--`. `args` begins with the program's name.
pub fn rewrite(args: impl IntoIterator<Item = OsString>, program: &Command) -> Rewritten {
    let mut known = Flags::of(program);
    let mut command: Option<&Command> = None;
    let mut value_next = false;
    let mut verbatim = false;
    let mut out = Rewritten::default();
    let mut args = args.into_iter().enumerate().peekable();
    while let Some((at, arg)) = args.next() {
        let flag = arg.to_str().filter(|_| at > 0 && !verbatim && !value_next);
        value_next = false;
        let Some(flag) = flag else {
            out.args.push(arg);
            continue;
        };
        let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        let long = LONG_NAMES.iter().find(|(short, _)| *short == name).map(|&(_, long)| long);
        let name = long.unwrap_or(name);
        if name == LIST_DEVICES {
            let args = out.args.first().cloned().into_iter().chain(["devices".into()]).collect();
            return Rewritten { args, ..Rewritten::default() };
        }
        if command.is_some() && name.starts_with('-') && !known.all.contains(name) {
            if let Some((reply, takes)) = llama::reply(command.map_or("", Command::get_name), name) {
                let next = args.peek().and_then(|(_, next)| next.to_str());
                if value.is_none() && is_taken(takes, next) {
                    args.next();
                }
                match reply {
                    Reply::LeftOut(why) => out.left_out.push(format!("{name} ({why})")),
                    Reply::Refused(instead) => {
                        _ = out.refused.get_or_insert(format!("{name} is not a flag here: {instead}"))
                    }
                }
                continue;
            }
            if let Some(other) = command.and_then(|command| owner(program, command, name)) {
                let message = format!("{name} is a flag of `bitnet-gpu {other}`");
                out.refused.get_or_insert(message);
            }
        }
        verbatim = flag == "--";
        value_next = value.is_none() && known.with_value.contains(name);
        if command.is_none()
            && let Some(found) = program.find_subcommand(flag)
        {
            command = Some(found);
            known = Flags::of(found);
            known.add(program);
        }
        out.args.push(match (long, value) {
            (Some(long), Some(value)) => format!("{long}={value}").into(),
            (Some(long), None) => long.into(),
            (None, _) => arg,
        });
    }
    out
}

/// llama.cpp's flag for what is a command here.
const LIST_DEVICES: &str = "--list-devices";

/// Whether `next` belongs to a flag that takes so much.
fn is_taken(takes: Takes, next: Option<&str>) -> bool {
    match takes {
        Takes::Nothing => false,
        Takes::Value => next.is_some(),
        Takes::Switch => next.is_some_and(|next| ["on", "off", "auto", "0", "1"].contains(&next)),
    }
}

/// Another command that has the flag.
fn owner<'a>(program: &'a Command, than: &Command, flag: &str) -> Option<&'a str> {
    let mut others = program.get_subcommands().filter(|command| command.get_name() != than.get_name());
    others.find(|command| Flags::of(command).all.contains(flag)).map(Command::get_name)
}

/// The flags of a command: `-x`, `--long` and aliases.
#[derive(Default)]
struct Flags {
    all: HashSet<String>,
    /// Those that are followed by a value.
    with_value: HashSet<String>,
}

impl Flags {
    fn of(command: &Command) -> Self {
        let mut flags = Self::default();
        for name in ["-h", "--help", "-V", "--version"] {
            flags.all.insert(name.to_owned());
        }
        flags.add(command);
        flags
    }

    fn add(&mut self, command: &Command) {
        for arg in command.get_arguments().filter(|arg| !arg.is_positional()) {
            let short = arg.get_short_and_visible_aliases().into_iter().flatten().map(|c| format!("-{c}"));
            let long = arg.get_long().into_iter().chain(arg.get_all_aliases().into_iter().flatten());
            let names: Vec<String> = short.chain(long.map(|long| format!("--{long}"))).collect();
            if arg.get_action().takes_values() {
                self.with_value.extend(names.iter().cloned());
            }
            self.all.extend(names);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;
    use crate::cli::args::Cli;

    fn rewritten(line: &[&str]) -> Vec<String> {
        let args = std::iter::once("bitnet-gpu").chain(line.iter().copied()).map(OsString::from);
        let out = rewrite(args, &Cli::command()).args;
        out.into_iter().skip(1).map(|arg| arg.into_string().unwrap()).collect()
    }

    #[test]
    fn flags_are_rewritten_with_and_without_an_equals_sign() {
        assert_eq!(
            rewritten(&["run", "-ngl", "99", "-ctk", "f16", "-temp", "0", "-no-cnv", "-ngl=3"]),
            [
                "run",
                "--n-gpu-layers",
                "99",
                "--cache-type-k",
                "f16",
                "--temp",
                "0",
                "--no-conversation",
                "--n-gpu-layers=3"
            ]
        );
    }

    #[test]
    fn values_are_left_alone() {
        for line in [
            &["run", "-p", "-ngl"][..],
            &["run", "--prompt", "-temp"],
            &["run", "-f", "-ngl", "-n", "-1"],
            &["run", "--stop", "-ctk"],
            &["tokenize", "-p", "-ngl", "--json"],
            &["run", "-m", "-hf"],
        ] {
            assert_eq!(rewritten(line), line);
        }
        // The value of a rewritten flag, too; and a flag after a value is a flag again.
        assert_eq!(rewritten(&["run", "-temp", "-ngl", "-ngl", "1"]), ["run", "--temp", "-ngl", "--n-gpu-layers", "1"]);
        // A value that is joined to its flag takes nothing away from the next argument.
        assert_eq!(rewritten(&["run", "--prompt=-ngl", "-ngl", "1"]), ["run", "--prompt=-ngl", "--n-gpu-layers", "1"]);
    }

    #[test]
    fn nothing_after_two_dashes_or_inside_a_text_is_touched() {
        assert_eq!(rewritten(&["run", "--", "-ngl"]), ["run", "--", "-ngl"]);
        assert_eq!(rewritten(&["run", "-nglx", "x-ngl", "-ng"]), ["run", "-nglx", "x-ngl", "-ng"]);
    }

    /// Those of llama-cli, llama-server and llama-bench in 2026, one a line, with V where a value follows: facts of its
    /// common/arg.cpp and tools/llama-bench.
    const OF_LLAMA_CPP: &str = include_str!("llama_flags.txt");

    #[test]
    fn every_flag_of_llama_cpp_is_honoured_left_out_or_answered() {
        let program = Cli::command();
        let (mut counts, mut unknown) = ([0; 3], Vec::new());
        for line in OF_LLAMA_CPP.lines() {
            let (flag, value) = line.split_once(' ').map_or((line, false), |(flag, _)| (flag, true));
            for command in ["run", "chat", "serve", "bench"] {
                let mut args = vec!["bitnet-gpu", command, flag];
                args.extend(value.then_some("1"));
                let out = rewrite(args.into_iter().map(OsString::from), &program);
                if out.refused.is_some() {
                    counts[0] += 1;
                } else if !out.left_out.is_empty() {
                    counts[1] += 1;
                    if out.args.len() != 2 {
                        unknown.push(format!("{command} {flag}: its value is left"));
                    }
                } else {
                    counts[2] += 1;
                    let parsed = program.clone().try_get_matches_from(out.args);
                    if parsed.is_err_and(|error| error.kind() == ErrorKind::UnknownArgument) {
                        unknown.push(format!("{command} {flag}"));
                    }
                }
            }
        }
        assert!(unknown.is_empty(), "{unknown:?}");
        assert!(counts.iter().all(|&count| count > 100), "{counts:?}");
    }

    #[test]
    fn flags_of_others_are_answered() {
        let program = Cli::command();
        let of = |line: &[&str]| {
            let args = std::iter::once("bitnet-gpu").chain(line.iter().copied()).map(OsString::from);
            rewrite(args, &program)
        };
        let kept = of(&["run", "-fa", "on", "--mlock", "-fa", "-p", "x", "-ub=3", "--threads-batch", "4", "--", "-fa"]);
        assert_eq!(kept.args, ["bitnet-gpu", "run", "-p", "x", "--", "-fa"]);
        assert_eq!(kept.left_out.len(), 5, "{kept:?}");
        let refused = |line: &[&str]| of(line).refused.unwrap_or_default();
        assert!(refused(&["run", "-mg", "1"]).contains("--device N"));
        assert!(refused(&["run", "--port", "1"]).contains("a flag of `bitnet-gpu serve`"));
        assert_eq!(refused(&["run", "--nonsense"]), "", "the parser says that");
        assert_eq!(refused(&["run", "-p", "--lora"]), "", "a text");
        // Some commands do what a flag asks for.
        for (line, is_left_out) in [
            (&["run", "-i"][..], false),
            (&["chat", "-cnv"], true),
            (&["chat", "-no-cnv"], false),
            (&["serve", "--embedding"], true),
            (&["bench", "--embedding"], false),
        ] {
            let answered = of(line);
            assert_eq!((answered.left_out.len(), answered.refused.is_none()), (usize::from(is_left_out), is_left_out));
        }
        assert_eq!(of(&["bench", "-nkvo", "0", "-nopo", "1", "--no-host", "0"]).args, ["bitnet-gpu", "bench"]);
        assert_eq!(of(&["run", "-m", "x", "--list-devices"]).args, ["bitnet-gpu", "devices"]);
    }

    #[cfg(unix)]
    #[test]
    fn arguments_that_are_not_unicode_pass() {
        use std::os::unix::ffi::OsStringExt;
        let odd = OsString::from_vec(vec![b'-', 0xFF]);
        let args = [OsString::from("bitnet-gpu"), "run".into(), odd.clone()];
        assert_eq!(rewrite(args, &Cli::command()).args[2], odd);
    }
}
