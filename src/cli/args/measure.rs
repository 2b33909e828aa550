//! The commands that measure a model: its speed, its answers, its logits.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{
    EngineArgs, ModelArgs, ModelWord, TextArgs,
    engine::{
        BackendChoice, CacheType, HeadChoice, KernelChoice, MAX_CONTEXT, MAX_THREADS, ThreadsArgs, byte_size, device,
    },
};
use crate::generate::Pooling;

#[derive(Args, Debug)]
pub struct PerplexityArgs {
    #[command(flatten)]
    pub word: ModelWord,

    #[command(flatten)]
    pub model: ModelArgs,

    #[command(flatten)]
    pub text: TextArgs,

    /// Read markup such as <|eot_id|> in the text as the token it names; otherwise it is text, as in llama-perplexity
    #[arg(long)]
    pub special: bool,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: bitnet-gpu embed -m model.gguf -p \"What is a ternary weight?\" --query")]
pub struct EmbedArgs {
    #[command(flatten)]
    pub word: ModelWord,

    #[command(flatten)]
    pub model: ModelArgs,

    #[command(flatten)]
    pub text: TextArgs,

    /// Every line is a text of its own
    #[arg(long)]
    pub lines: bool,

    /// Put "query: " before each text: it is a question, and what it is compared with are documents
    #[arg(long)]
    pub query: bool,

    /// Put this before each text
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "query")]
    pub prefix: Option<String>,

    /// Put the model's own prompt of this name before each text, as sentence-transformers does
    #[arg(long, value_name = "NAME", conflicts_with_all = ["query", "prefix"])]
    pub prompt_name: Option<String>,

    /// How the tokens of a text become one vector [default: as the file says]
    #[arg(long, value_enum, value_name = "HOW")]
    pub pooling: Option<PoolingChoice>,

    /// Write a NumPy file of the shape (texts, width) instead of printing JSON
    #[arg(short, long, value_name = "FILE.npy")]
    pub output: Option<PathBuf>,

    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PoolingChoice {
    /// The last token, which has seen all others
    Last,
    /// The mean of all tokens
    Mean,
}

impl From<PoolingChoice> for Pooling {
    fn from(choice: PoolingChoice) -> Self {
        match choice {
            PoolingChoice::Last => Self::Last,
            PoolingChoice::Mean => Self::Mean,
        }
    }
}

#[derive(Args, Debug)]
pub struct LogitsArgs {
    #[command(flatten)]
    pub word: ModelWord,

    #[command(flatten)]
    pub model: ModelArgs,

    /// Token ids, separated by commas; square brackets around them are allowed
    #[arg(long, value_name = "IDS", value_parser = ids, allow_hyphen_values = true)]
    pub ids: Ids,

    /// Print all logits as {"tokens":[..],"logits":[..]} instead of the highest ones
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Ids given with `--ids`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids(pub Vec<i64>);

/// `1,2,3` or `[1, 2, 3]`, as `tokenize --ids` prints them.
fn ids(text: &str) -> Result<Ids, String> {
    let inner = text.trim();
    let inner = match inner.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or("the closing bracket is missing")?,
        None => inner,
    };
    let id = |part: &str| part.trim().parse().map_err(|_| format!("{:?} is no token id", part.trim()));
    inner.split(',').map(id).collect::<Result<_, _>>().map(Ids)
}

#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(flatten)]
    pub word: ModelWord,

    #[command(flatten)]
    pub model: ModelArgs,

    /// Lengths of the prompts, separated by commas; 0 = none
    #[arg(short = 'p', long, value_name = "N", value_delimiter = ',', default_value = "512", value_parser = bench_tokens(), allow_negative_numbers = true)]
    pub n_prompt: Vec<u32>,

    /// Lengths of the answers, separated by commas; 0 = none
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', default_value = "128", value_parser = bench_tokens(), allow_negative_numbers = true)]
    pub n_gen: Vec<u32>,

    /// Tokens in the context before each test, separated by commas
    #[arg(short = 'd', long, value_name = "N", value_delimiter = ',', default_value = "0", value_parser = bench_tokens(), allow_negative_numbers = true)]
    pub n_depth: Vec<u32>,

    /// Numbers of sequences at a time, separated by commas: prompts and answers side by side, with llama-batched-bench's
    /// columns in place of the other tests [llama.cpp: -np]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=256), conflicts_with_all = ["n_depth", "profile", "plot"])]
    pub parallel: Vec<u32>,

    /// Numbers of CPU threads, separated by commas; 0 or -1 = one for each core that this program may use
    #[arg(
        short,
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "-1",
        value_parser = clap::value_parser!(i64).range(-1..=MAX_THREADS),
        allow_negative_numbers = true
    )]
    pub threads: Vec<i64>,

    /// How often each test is run, after one run to warm up
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000), allow_negative_numbers = true)]
    pub repetitions: u32,

    /// Backends that compute, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "auto")]
    pub backend: Vec<BackendChoice>,

    /// GPU to use: its number in `devices`, or a part of its name; none = the CPU alone [llama.cpp: -dev]
    #[arg(long, value_name = "DEVICE", value_parser = device, env = "LLAMA_ARG_DEVICE")]
    pub device: Option<String>,

    /// Memory of the GPU to use at most, as 6G or 800M; without it what its driver says is free
    #[arg(long, value_name = "SIZE", value_parser = byte_size, env = "BITNET_GPU_MEMORY")]
    pub gpu_memory: Option<u64>,

    /// Kernels for ternary matrices on the CPU, a token at a time, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "auto")]
    pub kernel: Vec<KernelChoice>,

    /// Most tokens of a prompt computed at once
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=4096), allow_negative_numbers = true)]
    pub batch_size: u32,

    /// Type of the key cache [llama.cpp: -ctk]
    #[arg(long, value_enum, value_name = "TYPE", default_value = "f16")]
    pub cache_type_k: CacheType,

    /// Type of the value cache [llama.cpp: -ctv]
    #[arg(long, value_enum, value_name = "TYPE", default_value = "f16")]
    pub cache_type_v: CacheType,

    /// Whether answers find the highest logit by a copy of the output head in few bits, instead of computing all logits
    #[arg(long, value_enum, default_value = "auto")]
    pub head_screen: HeadChoice,

    /// Run each test once more on the GPU to time every kernel
    #[arg(long)]
    pub profile: bool,

    /// Form of the report
    #[arg(short, long, value_enum, default_value = "md")]
    pub output: BenchFormat,

    /// Draw the rates into a new SVG file
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
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
#[command(after_help = "Example: bitnet-gpu tune -m model.gguf")]
pub struct TuneArgs {
    #[command(flatten)]
    pub word: ModelWord,

    #[command(flatten)]
    pub model: ModelArgs,

    #[command(flatten)]
    pub threads: ThreadsArgs,

    /// Forget what was found for this model and number of threads, and measure nothing
    #[arg(long, conflicts_with = "json")]
    pub forget: bool,

    /// Keep times that differ from round to round, too, as they do where something else uses the machine
    #[arg(long, conflicts_with = "forget")]
    pub force: bool,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub word: ModelWord,

    #[command(flatten)]
    pub model: ModelArgs,

    /// A file with one prompt to a line, instead of three built-in ones
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,

    /// Tokens to compare after each prompt
    #[arg(short, long, visible_alias = "predict", value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(..=4096), allow_negative_numbers = true)]
    pub n_predict: u32,

    /// Kernel for ternary matrices on the CPU, a token at a time
    #[arg(long, value_enum, default_value = "auto", env = "BITNET_KERNEL")]
    pub kernel: KernelChoice,

    /// GPU to compare: its number in `devices`, or a part of its name [llama.cpp: -dev]
    #[arg(long, value_name = "DEVICE", value_parser = device, env = "LLAMA_ARG_DEVICE")]
    pub device: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Example: bitnet-gpu report-gpu -o report.md\nWithout -m the models are dummies: up to 8 GB beside the report while it is made."
)]
pub struct ReportGpuArgs {
    /// The Markdown file to write
    #[arg(short, long, value_name = "FILE", default_value = "gpu-report.md")]
    pub output: PathBuf,

    /// Measure this GGUF file instead of dummies
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Shapes of dummies, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "2b,8b,27b", conflicts_with = "model")]
    pub shapes: Vec<ReportShape>,

    /// Length of the prompt
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512, value_parser = bench_tokens(), allow_negative_numbers = true)]
    pub n_prompt: u32,

    /// Length of the answer
    #[arg(short = 'n', long, value_name = "N", default_value_t = 32, value_parser = bench_tokens(), allow_negative_numbers = true)]
    pub n_gen: u32,

    /// How often each test is run, after one run to warm up
    #[arg(short, long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000), allow_negative_numbers = true)]
    pub repetitions: u32,
}

/// Dummies that `report-gpu` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportShape {
    /// BitNet b1.58 2B-4T in I2_S
    #[value(name = "2b")]
    TwoB,
    /// Llama 3 8B in Q2_0
    #[value(name = "8b")]
    EightB,
    /// Bonsai 2 27B in Q2_0
    #[value(name = "27b")]
    TwentySevenB,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_with_and_without_brackets() {
        for text in ["1,2,3", "[1, 2, 3]", " [1,2 ,3] ", "1, 2, 3"] {
            assert_eq!(ids(text), Ok(Ids(vec![1, 2, 3])), "{text}");
        }
        assert_eq!(ids("-1"), Ok(Ids(vec![-1])), "the range is checked against the model");
        for text in ["", "[]", "[1", "1]", "1,", "1 2", "x"] {
            assert!(ids(text).is_err(), "{text}");
        }
    }
}
