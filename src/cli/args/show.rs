//! The commands that show what is there: a text's tokens, a file, the machine, a plan.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use super::{EngineArgs, ModelArgs, ModelWord, TextArgs};

#[derive(Args, Debug)]
pub struct TokenizeArgs {
    #[command(flatten)]
    pub word: ModelWord,

    #[command(flatten)]
    pub model: ModelArgs,

    #[command(flatten)]
    pub text: TextArgs,

    /// Do not begin with the beginning-of-text token
    #[arg(long)]
    pub no_bos: bool,

    /// Read special tokens written in the text, such as <|eot_id|>, as what they mean
    #[arg(long)]
    pub special: bool,

    /// Print the ids alone, as [1, 2, 3]
    #[arg(long, conflicts_with = "json")]
    pub ids: bool,

    /// Print {"ids":[1,2,3]}
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct InspectArgs {
    /// GGUF file; comes before -m
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,

    #[command(flatten)]
    pub model: ModelArgs,

    /// Fail unless the model can run, after looking at every weight
    #[arg(long)]
    pub check: bool,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct DevicesArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    pub word: ModelWord,

    #[command(flatten)]
    pub model: ModelArgs,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: bitnet-gpu completions bash > ~/.local/share/bash-completion/completions/bitnet-gpu")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}
