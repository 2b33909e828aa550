//! llama.cpp spells some flags with one dash and several letters (`-ngl 99`). The argument parser would
//! read those as a row of one-letter flags, so they are rewritten to their long names first.

use std::{collections::HashSet, ffi::OsString};

use clap::Command;

/// llama.cpp's spelling and the long name. Flags this program does not have are here as well: the parser
/// then refuses `--flash-attn`, where it would have looked for a file named `a` after `-fa`.
const LONG_NAMES: [(&str, &str); 18] = [
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

/// Rewrites flags, and flags only: an argument that is the value of the flag before it stays as it is, and
/// so does everything after `--`. `args` begins with the program's name.
pub fn rewrite(args: impl IntoIterator<Item = OsString>, program: &Command) -> Vec<OsString> {
    let mut takes_value = flags_with_a_value(program);
    let mut command_seen = false;
    let mut value_next = false;
    let mut verbatim = false;
    let mut rewritten = Vec::new();
    for (at, arg) in args.into_iter().enumerate() {
        let flag = arg.to_str().filter(|_| at > 0 && !verbatim && !value_next);
        value_next = false;
        let Some(flag) = flag else {
            rewritten.push(arg);
            continue;
        };
        let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        let long = LONG_NAMES.iter().find(|(short, _)| *short == name).map(|&(_, long)| long);
        let name = long.unwrap_or(name);
        verbatim = flag == "--";
        value_next = value.is_none() && takes_value.contains(name);
        if !command_seen && let Some(command) = program.find_subcommand(flag) {
            command_seen = true;
            takes_value = flags_with_a_value(command);
        }
        rewritten.push(match (long, value) {
            (Some(long), Some(value)) => format!("{long}={value}").into(),
            (Some(long), None) => long.into(),
            (None, _) => arg,
        });
    }
    rewritten
}

/// `-x`, `--long` and aliases of all flags of `command` that are followed by a value.
fn flags_with_a_value(command: &Command) -> HashSet<String> {
    let mut names = HashSet::new();
    for arg in command.get_arguments().filter(|arg| !arg.is_positional() && arg.get_action().takes_values()) {
        names.extend(arg.get_short_and_visible_aliases().into_iter().flatten().map(|c| format!("-{c}")));
        names.extend(arg.get_long().map(|long| format!("--{long}")));
        names.extend(arg.get_all_aliases().into_iter().flatten().map(|alias| format!("--{alias}")));
    }
    names
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;
    use crate::cli::args::Cli;

    fn rewritten(line: &[&str]) -> Vec<String> {
        let args = std::iter::once("bitnet-gpu").chain(line.iter().copied()).map(OsString::from);
        let out = rewrite(args, &Cli::command());
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
            &["run", "-f", "-fa", "-n", "-1"],
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

    #[test]
    fn every_flag_is_known_by_its_long_name_or_refused_by_it() {
        for (short, long) in LONG_NAMES {
            assert_eq!(rewritten(&["run", short]), ["run", long]);
            let args = [OsString::from("bitnet-gpu"), "run".into(), short.into()];
            if let Err(error) = Cli::command().try_get_matches_from(rewrite(args, &Cli::command())) {
                // One that lacks its value is known; clap names it by the flag that it is an alias of.
                let is_known = error.kind() == ErrorKind::InvalidValue;
                assert!(is_known || error.to_string().contains(long), "{short}: {error}");
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn arguments_that_are_not_unicode_pass() {
        use std::os::unix::ffi::OsStringExt;
        let odd = OsString::from_vec(vec![b'-', 0xFF]);
        let args = [OsString::from("bitnet-gpu"), "run".into(), odd.clone()];
        assert_eq!(rewrite(args, &Cli::command())[2], odd);
    }
}
