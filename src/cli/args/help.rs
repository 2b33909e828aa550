//! The form of help texts: `-h` within a screen, commands by what they are for.

use clap::Command;

/// Commands in groups, each group with its heading.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Use a model", &["run", "chat", "serve", "embed"]),
    ("Models on this machine", &["pull", "list", "rm", "ps", "inspect", "convert", "dummy"]),
    ("Speed and devices", &["plan", "bench", "tune", "devices", "doctor", "verify", "report-gpu"]),
    ("Look inside", &["tokenize", "logits", "perplexity"]),
    ("This program", &["completions", "man", "help"]),
];

/// Flags that `-h` shows of a command with many; `--help` shows all.
const EVERYDAY: [&str; 24] = [
    "model",
    "word",
    "words",
    "prompt",
    "file",
    "n_predict",
    "system_prompt",
    "temp",
    "seed",
    "backend",
    "n_gpu_layers",
    "threads",
    "ctx_size",
    "json",
    "stats",
    "quiet",
    "verbose",
    "host",
    "port",
    "models_dir",
    "parallel",
    "n_prompt",
    "n_gen",
    "output",
];

/// A command with more flags has only the everyday ones in `-h`.
const MANY: usize = 14;

/// The program with its commands in groups, and with the everyday flags in `-h`; `is_short`: which is asked for.
pub fn shaped(program: Command, is_short: bool) -> Command {
    let list = commands(&program);
    let template = format!("{{about}}\n\n{{usage-heading}} {{usage}}\n\n{list}Options:\n{{options}}{{after-help}}");
    program
        .help_template(template)
        .after_help("`bitnet-gpu COMMAND -h` shows the everyday flags of a command, `--help` all.")
        .mut_subcommands(|command| with_everyday_flags(command, is_short))
}

fn commands(program: &Command) -> String {
    let about = |name: &str| match program.find_subcommand(name) {
        Some(command) => command.get_about().map(ToString::to_string).unwrap_or_default(),
        None => "Show this text or the help of a command".into(),
    };
    let mut text = String::new();
    for (heading, names) in GROUPS {
        text += &format!("{heading}:\n");
        text.extend(names.iter().map(|name| format!("  {name:<11} {}\n", about(name))));
    }
    text + "\n"
}

fn with_everyday_flags(command: Command, is_short: bool) -> Command {
    if command.get_arguments().count() <= MANY {
        return command;
    }
    command.mut_args(|arg| {
        let is_everyday = EVERYDAY.contains(&arg.get_id().as_str());
        arg.hide_short_help(!is_everyday).hide_env(is_short)
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::args::Cli;

    #[test]
    fn each_command_is_in_one_group() {
        let mut listed: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        listed.sort_unstable();
        let program = Cli::command();
        let mut there: Vec<&str> = program.get_subcommands().map(Command::get_name).chain(["help"]).collect();
        there.sort_unstable();
        assert_eq!(listed, there);
    }

    #[test]
    fn everyday_flags_are_flags() {
        let program = Cli::command();
        let known: Vec<&str> = program
            .get_subcommands()
            .chain([&program])
            .flat_map(|command| command.get_arguments().map(|arg| arg.get_id().as_str()))
            .collect();
        for flag in &EVERYDAY {
            assert!(known.contains(flag), "{flag}");
        }
    }

    #[test]
    fn short_help_fits_a_screen() {
        for command in shaped(Cli::command(), true).term_width(80).get_subcommands_mut() {
            let lines = command.render_help().to_string().lines().count();
            assert!(lines <= 50, "{}: {lines} lines", command.get_name());
        }
    }
}
