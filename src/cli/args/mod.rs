//! The flags: llama.cpp's names and meanings, its environment variables where it has them.

mod answer;
mod engine;
mod make;
mod measure;
mod sample;
mod show;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

pub use self::{
    answer::{ChatArgs, RunArgs},
    engine::{BackendChoice, EngineArgs, GpuLayers, HeadScreen, Preference},
    make::{ConvertArgs, DummyArgs, TernaryChoice},
    measure::{BenchArgs, BenchFormat, LogitsArgs, PerplexityArgs, VerifyArgs},
    sample::SampleArgs,
    show::{DevicesArgs, DoctorArgs, InspectArgs, PlanArgs, TokenizeArgs},
};

/// Runs ternary (1.58-bit) language models on any GPU, or on the CPU.
#[derive(Debug, Parser)]
#[command(name = "bitnet-gpu", version, arg_required_else_help = true, propagate_version = true)]
pub struct Cli {
    /// Say more; twice: say everything. RUST_LOG chooses in detail
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Continue a text
    Run(RunArgs),
    /// Talk with the model
    Chat(ChatArgs),
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
    /// Show which backend would run which layer, and why, without loading
    Plan(PlanArgs),
    /// Make a GGUF file of a Hugging Face model directory
    Convert(ConvertArgs),
    /// Make a model of any shape with random weights, for measurements
    Dummy(DummyArgs),
    /// Show how well the model predicts a text
    Perplexity(PerplexityArgs),
    /// Measure speed, and how near it comes to what the machine can do
    Bench(BenchArgs),
}

/// Which model.
#[derive(Args, Debug)]
pub struct ModelArgs {
    /// GGUF file; without it, the small story model inside this program
    #[arg(short, long, value_name = "FILE", env = "LLAMA_ARG_MODEL")]
    pub model: Option<PathBuf>,
}
