//! The command line: the only place that reads arguments and prints.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 wrong
//! usage, 130, 143 and 129 ended by Ctrl-C, SIGTERM and SIGHUP.

mod agreement;

mod answering;

mod args;

mod argv;

mod bench;

mod chart;

mod chat;

mod compare;

mod convert;

mod devices;

mod doctor;

mod download;

mod embed;

mod engine;

mod format;

mod input;

mod inspect;

mod interrupt;

mod llama;

mod logits;

mod models;

mod observer;

mod output;

mod perplexity;

mod plan;

mod progress;

mod ps;

mod pull;

mod report_gpu;

mod run;

mod serve;

mod shell;

mod source;

mod tokenize;

mod tune;

mod verify;

use std::{
    any::Any,
    env,
    ffi::{OsStr, OsString},
    io::{self, Write},
    panic::{self, AssertUnwindSafe},
    process::{self, ExitCode},
    thread,
};

use bitnet_cpu_kernels::Isa;
use clap::{ArgMatches, CommandFactory, FromArgMatches, builder::Resettable, parser::ValueSource};

use self::args::{Cli, Command};
use crate::{
    backend::gpu,
    error::{Error, ErrorKind, Remedy, Result},
    machine,
};

/// This program in the role of a child that looks for adapters, whose drivers may crash.
pub const LOOK_UP_ADAPTERS: &str = "--look-up-adapters";

/// Exit codes beside [`USAGE`] and those of signals.
const SUCCESS: u8 = 0;
const FAILURE: u8 = 1;

/// Runs the program on the process's arguments and returns its exit code.
pub fn main() -> ExitCode {
    let look_up = || {
        let mut command = process::Command::new(env::current_exe()?);
        command.arg(LOOK_UP_ADAPTERS);
        Ok(command)
    };
    ExitCode::from(run(env::args_os().collect(), look_up))
}

/// Runs the program on `args`, of which the first is its name, and returns its exit code. `look_up` is this program with the
/// argument [`LOOK_UP_ADAPTERS`].
pub fn run(args: Vec<OsString>, look_up: fn() -> io::Result<process::Command>) -> u8 {
    panic::set_hook(Box::new(print_panic));
    if args.get(1).is_some_and(|arg| arg == LOOK_UP_ADAPTERS) {
        // Where a driver hangs and the parent was ended, nobody waits.
        let _ = thread::Builder::new().spawn(|| {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            interrupt::end_at_once(0)
        });
        gpu::adapters();
        return SUCCESS;
    }
    gpu::look_first_by(look_up);
    interrupt::install();
    let command = without_empty_variables(args::shaped(Cli::command(), args.iter().any(|arg| arg == "-h")));
    let argv = argv::rewrite(args, &command);
    if let Some(refused) = argv.refused {
        output::error(refused);
        return USAGE;
    }
    if !argv.left_out.is_empty() {
        output::note(format_args!("note: left out, as it changes nothing here: {}", argv.left_out.join(", ")));
    }
    let parsed = command.try_get_matches_from(argv.args);
    let (cli, matches) = match parsed.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches))) {
        Ok(parsed) => parsed,
        Err(answer) => return print_answer(&answer),
    };
    init_log(cli.verbose, cli.quiet);
    output::set_quiet(cli.quiet);
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        choose_isa(env::var(ISA).ok())?;
        dispatch(cli.command, &matches, cli.verbose > 0)
    }));
    gpu::settle();
    match result {
        Ok(Ok(())) if interrupt::raised() => interrupt::exit_code(),
        Ok(Ok(())) => SUCCESS,
        Ok(Err(error)) if output::is_closed_pipe(&error) => SUCCESS,
        Ok(Err(error)) => {
            output::error(one_line(&error_text(&error)));
            if interrupt::raised() { interrupt::exit_code() } else { exit_code(&error) }
        }
        // The hook has printed it.
        Err(_) => FAILURE,
    }
}

/// Prints what the parser of arguments answers and returns the exit code: wrong usage, or help and `--version`, which are
/// results.
fn print_answer(answer: &clap::Error) -> u8 {
    let printed = answer.print().and_then(|()| io::stdout().flush()).map_err(output::stdout_error);
    match printed {
        Err(error) if !answer.use_stderr() && !output::is_closed_pipe(&error) => {
            output::error(error);
            FAILURE
        }
        _ => answer.exit_code() as u8,
    }
}

fn dispatch(mut command: Command, matches: &ArgMatches, verbose: bool) -> Result<()> {
    let of_environment = || {
        let source = matches.subcommand().and_then(|(_, of_command)| of_command.value_source("model"));
        source == Some(ValueSource::EnvVariable)
    };
    match &mut command {
        Command::Run(args) => args.settle(of_environment())?,
        // The first of its words counts as -m does; the others are more models.
        Command::Serve(args) => args.settle(of_environment())?,
        other => {
            if let Some((word, model)) = other.named_model() {
                model.take_word(word.word.take(), of_environment())?;
            }
        }
    }
    match &command {
        Command::Run(args) => run::run(args, verbose),
        Command::Chat(args) => chat::run(args, verbose),
        Command::Serve(args) => serve::run(args, verbose),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Devices(args) => devices::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Verify(args) => verify::run(args),
        Command::ReportGpu(args) => report_gpu::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Pull(args) => pull::run(args),
        Command::List(args) => models::list(args),
        Command::Rm(args) => models::remove(args),
        Command::Ps(args) => ps::run(args),
        Command::Convert(args) => convert::convert(args),
        Command::Dummy(args) => convert::dummy(args),
        Command::Tune(args) => tune::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Embed(args) => embed::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Completions(args) => shell::completions(args),
        Command::Man => shell::manual(),
    }
}

/// Names the instruction set whose kernels the CPU runs: what a lesser processor would do can be tried and measured.
const ISA: &str = "BITNET_ISA";

fn choose_isa(name: Option<String>) -> Result<()> {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(()) };
    let isa = Isa::by_name(&name).ok_or_else(|| {
        let names: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
        Error::malformed(ISA, format!("one of {} (what this processor has)", names.join(", ")), &name)
    })?;
    isa.choose();
    Ok(())
}

/// RUST_LOG decides; without it warnings are shown, and with -v more. The graphics stack speaks up at
/// `warn` about adapters that are merely absent, and the HTTP client about proxies that are not taken, so they are
/// silent unless asked.
fn init_log(verbose: u8, quiet: bool) {
    let default = match verbose {
        _ if quiet => "off",
        0 => "warn,wgpu_core=off,wgpu_hal=off,naga=off,ureq=off",
        1 => "info,wgpu_core=error,wgpu_hal=error,naga=error,ureq=off",
        _ => "debug",
    };
    let in_detail = verbose > 1 || env::var_os("RUST_LOG").is_some();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(default))
        .format(move |out, record| {
            let level = match record.level() {
                log::Level::Error => "error",
                log::Level::Warn => "warning",
                log::Level::Info => "info",
                log::Level::Debug => "debug",
                log::Level::Trace => "trace",
            };
            let target = if in_detail { format!(" [{}]", record.target()) } else { String::new() };
            writeln!(out, "{level}{target}: {}", one_line(&record.args().to_string()))
        })
        .init();
}

/// A panic is a bug here: it is said in one line, with the place, and ends the program like an error.
/// RUST_BACKTRACE=1 adds the backtrace.
fn print_panic(info: &panic::PanicHookInfo<'_>) {
    let place = info.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
    let message = one_line(panic_message(info.payload()));
    output::error(format_args!("internal error at {place}: {message} (this is a bug: please report it)"));
    if env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
        output::note(std::backtrace::Backtrace::force_capture());
    }
}

fn panic_message(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Control characters, which a hostile file can bring into a message, are escaped.
fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for c in message.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// Empty variables of the environment count as not set: tools that start containers set them so.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| env::var_os(name).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| match arg.get_env().is_some_and(is_empty) {
        true => arg.env(Resettable::<clap::builder::OsStr>::Reset),
        false => arg,
    });
    command.mut_subcommands(without_empty_variables)
}

/// Exit code of wrong usage.
const USAGE: u8 = 2;

/// 2 for usage, as of the argument parser; 1 for everything else.
fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Remediable { error, .. } => exit_code(error),
        Error::InFile { source, .. } => exit_code(source),
        error if error.kind() == ErrorKind::Usage => USAGE,
        _ => FAILURE,
    }
}

/// An error with the flag that may help.
fn error_text(error: &Error) -> String {
    let hint = match error.remedy() {
        None => String::new(),
        Some(Remedy::RaiseContext) => " (raise it with -c)".into(),
        Some(Remedy::LowerContext) => " (lower it with -c)".into(),
        Some(Remedy::ShrinkCache) => " (lower the context with -c, or take smaller types with -ctk and -ctv)".into(),
        Some(Remedy::UseKernel(name)) => format!(": use --kernel {name}"),
        Some(Remedy::MapFile) => " (without --no-mmap it is read in place)".into(),
        Some(Remedy::Pull(name)) => format!("; `bitnet-gpu pull {name}` fetches it from the Hugging Face Hub"),
        Some(Remedy::ChatTemplate) => " (--chat-template takes another one)".into(),
        Some(Remedy::Overwrite) => "; --force overwrites it".into(),
        Some(Remedy::ReplaceLink) => "; --force replaces the link".into(),
        Some(Remedy::Ternarise) => " (--ternarise does it all the same)".into(),
    };
    // Options have the names of their flags.
    let dashes = if matches!(error, Error::BadOption { .. }) { "--" } else { "" };
    format!("{dashes}{error}{hint}")
}

/// A usage error that shows how it is done.
fn usage(message: &str, example: &str) -> Error {
    Error::Usage(format!("{message}, for example: {example}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn errors_name_the_flag_that_may_help() {
        let full = Error::ContextFull { needed: 7, context: 6 };
        assert_eq!(error_text(&full), "the context is full: 7 tokens needed, 6 tokens available (raise it with -c)");
        let exists = Error::Usage("out.gguf exists".into()).with_remedy(Remedy::Overwrite).in_file("x");
        assert_eq!(error_text(&exists), "x: out.gguf exists; --force overwrites it");
        assert_eq!((exit_code(&exists), exit_code(&Error::missing("key", ""))), (2, 1));
        assert_eq!(exit_code(&Error::argument("name of the prompt", "query", "none")), 2);
        let option = Error::BadOption { name: "top-p".into(), reason: "must be between 0 and 1, not 2".into() };
        assert_eq!((error_text(&option).as_str(), exit_code(&option)), ("--top-p must be between 0 and 1, not 2", 2));
    }

    #[test]
    fn messages_stay_on_one_line_and_harmless() {
        assert_eq!(one_line("tensor a\nb\x1b[31m é"), "tensor a\\nb\\u{1b}[31m é");
    }
}
