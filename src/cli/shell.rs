//! `completions` and `man`: what packages install beside the program.

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::{
    args::{Cli, CompletionsArgs},
    output,
};
use crate::error::{Error, Result};

const NAME: &str = "bitnet-gpu";

pub fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), NAME, &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

/// One page: the program, then each command with its flags.
pub fn manual() -> Result<()> {
    let mut program = Cli::command();
    program.build();
    let mut page = Vec::new();
    let mut write = || {
        Man::new(program.clone()).render(&mut page)?;
        program.get_subcommands().filter(|command| command.get_name() != "help").try_for_each(|command| {
            page.extend_from_slice(format!(".SH \"{}\"\n", heading(command)).as_bytes());
            let man = Man::new(command.clone());
            man.render_synopsis_section(&mut page)?;
            man.render_description_section(&mut page)?;
            man.render_options_section(&mut page)
        })
    };
    write().map_err(|error| Error::io("write", "the manual page", error))?;
    output::print(&String::from_utf8_lossy(&page))
}

fn heading(command: &Command) -> String {
    format!("{NAME} {}", command.get_name()).to_uppercase()
}
