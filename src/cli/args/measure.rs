//! The commands that measure a model: its speed, its answers, its logits.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{
    EngineArgs, ModelArgs,
    engine::{BackendChoice, CacheType, HeadScreen, MAX_CONTEXT},
};

#[derive(Args, Debug)]
pub struct PerplexityArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// The text. Without -p and -f it is read from standard input, unless that is a terminal
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "file")]
    pub prompt: Option<String>,

    /// Read the text from a file
    #[arg(short, long, value_name = "FILE", allow_hyphen_values = true)]
    pub file: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Args, Debug)]
pub struct LogitsArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", required = true, value_delimiter = ',', allow_hyphen_values = true)]
    pub ids: Vec<i64>,

    /// Print all logits as {"tokens":[..],"logits":[..]} instead of the highest ones
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// Lengths of the prompts, separated by commas; 0 = none
    #[arg(short = 'p', long, value_name = "N", value_delimiter = ',', default_value = "512", value_parser = bench_tokens())]
    pub n_prompt: Vec<u32>,

    /// Lengths of the answers, separated by commas; 0 = none
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', default_value = "128", value_parser = bench_tokens())]
    pub n_gen: Vec<u32>,

    /// Numbers of CPU threads, separated by commas; -1 = as many as the machine runs at once
    #[arg(
        short,
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "-1",
        value_parser = clap::value_parser!(i64).range(-1..=512),
        allow_negative_numbers = true
    )]
    pub threads: Vec<i64>,

    /// How often each test is run, after one run to warm up
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repetitions: u32,

    /// What computes, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "auto")]
    pub backend: Vec<BackendChoice>,

    /// Most tokens of a prompt computed at once
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch_size: u32,

    /// Type of the key cache [llama.cpp: -ctk]
    #[arg(long, value_enum, value_name = "TYPE", default_value = "f16")]
    pub cache_type_k: CacheType,

    /// Type of the value cache [llama.cpp: -ctv]
    #[arg(long, value_enum, value_name = "TYPE", default_value = "f16")]
    pub cache_type_v: CacheType,

    /// Whether answers find the highest logit by a copy of the output head in 6 bits, instead of computing all logits
    #[arg(long, value_enum, default_value = "auto")]
    pub head_screen: HeadScreen,

    /// Run each test once more on the GPU to time every kernel
    #[arg(long)]
    pub profile: bool,

    /// Form of the report
    #[arg(short, long, value_enum, default_value = "md")]
    pub output: BenchFormat,
}

/// A length that fits any context.
fn bench_tokens() -> impl clap::builder::TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(..=MAX_CONTEXT)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchFormat {
    Md,
    Json,
    Jsonl,
    Csv,
}

#[derive(Args, Debug)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// A file with one prompt to a line, instead of three built-in ones
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,

    /// Tokens to compare after each prompt
    #[arg(short, long, visible_alias = "predict", value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(..=4096))]
    pub n_predict: u32,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
