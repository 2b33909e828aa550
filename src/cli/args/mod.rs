//! The flags: llama.cpp's names and meanings, its environment variables where it has them.

mod answer;
mod engine;
mod grammar;
mod help;
mod make;
mod measure;
mod models;
mod reasoning;
mod sample;
mod serve;
mod show;

use std::{env, path::PathBuf, sync::LazyLock};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, builder::FalseyValueParser};

pub use self::{
    answer::{AnswerArgs, ChatArgs, DraftArgs, RunArgs},
    engine::{BackendChoice, EngineArgs, KernelChoice, NO_DEVICE, ThreadsArgs},
    grammar::GrammarArgs,
    help::shaped,
    make::{ConvertArgs, DummyArgs, PullArgs},
    measure::{
        BenchArgs, BenchFormat, EmbedArgs, LogitsArgs, PerplexityArgs, ReportGpuArgs, ReportShape, TuneArgs, VerifyArgs,
    },
    models::{ListArgs, PsArgs, RmArgs},
    reasoning::{ReasoningArgs, ReasoningChoice},
    sample::{SampleArgs, Setting},
    serve::{ReasoningFormatChoice, ServeArgs},
    show::{CompletionsArgs, DevicesArgs, DoctorArgs, InspectArgs, PlanArgs, TokenizeArgs},
};

use crate::{
    error::{Error, Result},
    model::I2sPacking,
};

/// Version, commit where the builder of a release named it, machine and optional parts.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = option_env!("BITNET_COMMIT")
        .filter(|commit| !commit.is_empty())
        .map(|commit| format!(" ({commit})"))
        .unwrap_or_default();
    let (version, arch, os) = (env!("CARGO_PKG_VERSION"), env::consts::ARCH, env::consts::OS);
    // The program has all parts of the library.
    format!("{version}{commit}\n{os} {arch}; gpu, hub, convert, grammar, server")
});

/// Runs ternary (1.58-bit) language models on any GPU, or on the CPU.
#[derive(Debug, Parser)]
#[command(name = "bitnet-gpu", version, long_version = LONG_VERSION.as_str(), arg_required_else_help = true, propagate_version = true)]
pub struct Cli {
    /// Say more; twice: say everything
    ///
    /// RUST_LOG chooses in detail.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// Say nothing beside results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Continue a text
    Run(RunArgs),
    /// Talk with the model
    Chat(ChatArgs),
    /// Answer requests over HTTP, as the servers of OpenAI and llama.cpp do
    Serve(ServeArgs),
    /// Show the token ids of a text
    Tokenize(TokenizeArgs),
    /// Show the logits after a sequence of token ids
    Logits(LogitsArgs),
    /// Show what a model file holds
    Inspect(InspectArgs),
    /// Show the processor and the GPU adapters
    Devices(DevicesArgs),
    /// Test the kernels and the GPU drivers, and say what to do
    Doctor(DoctorArgs),
    /// Compare the GPU with the CPU on a model: products, layers, answers
    Verify(VerifyArgs),
    /// Test and measure the GPU on some models, and write one report to send
    ReportGpu(ReportGpuArgs),
    /// Show which backend would run which layer, and why, without loading
    Plan(PlanArgs),
    /// Download a model from the Hugging Face Hub
    Pull(PullArgs),
    /// List the models of the Hub that are on this machine
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Remove models from this machine
    Rm(RmArgs),
    /// Show which models a server of this machine serves
    Ps(PsArgs),
    /// Make a GGUF file of a Hugging Face model directory
    Convert(ConvertArgs),
    /// Make a model of any shape with random weights, for measurements
    Dummy(DummyArgs),
    /// Turn texts into vectors, with a model made for that
    Embed(EmbedArgs),
    /// Show how well the model predicts a text
    Perplexity(PerplexityArgs),
    /// Find the fastest CPU kernel for each matrix of a model, and use it from then on
    Tune(TuneArgs),
    /// Measure speed, and how near it comes to what the machine can do
    Bench(BenchArgs),
    /// Print a shell's script that completes commands and flags
    Completions(CompletionsArgs),
    /// Print the manual page
    Man,
}

impl Command {
    /// The word that names a model, of commands that take such a word alone, and the flags that name it.
    pub fn named_model(&mut self) -> Option<(&mut ModelWord, &mut ModelArgs)> {
        Some(match self {
            Self::Chat(ChatArgs { word, model, .. }) => (word, model),
            Self::Tokenize(TokenizeArgs { word, model, .. }) => (word, model),
            Self::Logits(LogitsArgs { word, model, .. }) => (word, model),
            Self::Verify(VerifyArgs { word, model, .. }) => (word, model),
            Self::Plan(PlanArgs { word, model, .. }) => (word, model),
            Self::Embed(EmbedArgs { word, model, .. }) => (word, model),
            Self::Perplexity(PerplexityArgs { word, model, .. }) => (word, model),
            Self::Tune(TuneArgs { word, model, .. }) => (word, model),
            Self::Bench(BenchArgs { word, model, .. }) => (word, model),
            _ => return None,
        })
    }
}

/// A model named without a flag.
#[derive(Args, Debug)]
pub struct ModelWord {
    /// The model, as -m
    #[arg(value_name = "MODEL")]
    pub word: Option<PathBuf>,
}

/// Which model.
#[derive(Args, Debug)]
pub struct ModelArgs {
    /// GGUF file, Hugging Face directory, or org/name of the Hub; without it, the small story model inside this program
    ///
    /// The file may be a part of a split one; a directory holds safetensors. org/name[:FILE] of the Hugging Face Hub is
    /// downloaded where it is not here.
    #[arg(short, long, visible_alias = "hf-repo", value_name = "FILE", env = "LLAMA_ARG_MODEL")]
    pub model: Option<PathBuf>,

    /// Copy the weights into memory instead of reading them in place from the file, which may then change or go
    #[arg(long, env = "LLAMA_ARG_NO_MMAP", value_parser = FalseyValueParser::new())]
    pub no_mmap: bool,

    /// Read the weights in place from the file all the same, which is the default
    #[arg(long)]
    pub mmap: bool,

    #[command(flatten)]
    pub layout: LayoutArgs,
}

impl ModelArgs {
    /// Takes the model that is named without a flag, which wins over one of the environment, as a flag does.
    ///
    /// # Errors
    /// If a flag names one already.
    pub fn take_word(&mut self, word: Option<PathBuf>, model_of_environment: bool) -> Result<()> {
        let Some(word) = word else { return Ok(()) };
        if self.model.is_some() && !model_of_environment {
            return Err(Error::Usage(format!("{word:?} is one word too many: -m names the MODEL already")));
        }
        self.model = Some(word);
        Ok(())
    }

    /// Whether the file is copied into memory. `--mmap` wins, as `--no-mmap` may come from the environment.
    pub fn is_copied(&self) -> bool {
        self.no_mmap && !self.mmap
    }
}

/// Which text.
#[derive(Args, Debug)]
pub struct TextArgs {
    /// The text
    ///
    /// Without -p and -f it is read from standard input, unless that is a terminal.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "file")]
    pub prompt: Option<String>,

    /// Read the text from a file; of a prompt, one line break at its end is dropped
    #[arg(short, long, value_name = "FILE", allow_hyphen_values = true)]
    pub file: Option<PathBuf>,
}

/// Properties that I2_S files do not state.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct LayoutArgs {
    /// How I2_S matrices are packed, which no file says: p64 if bitnet.cpp made it on ARM [default: auto for a file
    /// that bitnet.cpp's llama-quantize seems to have made, else p128]
    #[arg(long, value_enum, value_name = "PACKING")]
    pub i2s_layout: Option<I2sLayout>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum I2sLayout {
    /// Try a short text with each, and take the one that explains it
    Auto,
    /// Blocks of 128 weights: every published file
    P128,
    /// Blocks of 64: bitnet.cpp on ARM since November 2025
    P64,
    /// Four rows in a byte: bitnet.cpp built without ACT_PARALLEL
    R4,
    /// Four weights in order: a snapshot of bitnet.cpp of July 2026
    Seq,
}

impl I2sLayout {
    /// `None` = to be found out.
    pub fn packing(self) -> Option<I2sPacking> {
        match self {
            Self::Auto => None,
            Self::P128 => Some(I2sPacking::P128),
            Self::P64 => Some(I2sPacking::P64),
            Self::R4 => Some(I2sPacking::R4),
            Self::Seq => Some(I2sPacking::Seq),
        }
    }
}
