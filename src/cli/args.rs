//! The flags: llama.cpp's names and meanings, its environment variables where it has them.

use std::{num::NonZero, path::PathBuf, thread};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::{
    convert::{Head, TernaryType},
    dummy::HeadType,
    generate::SampleOptions,
    model::I2sPacking,
    plan::{KvType, Request},
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

/// Where the model runs, and with what sizes.
#[derive(Args, Debug)]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    /// What computes: auto measures and takes the faster, and never a software GPU
    #[arg(long, value_enum, default_value = "auto", env = "BITNET_BACKEND")]
    pub backend: BackendChoice,

    /// Layers on the GPU, from the end: a number, "all" that fit, or "auto" [llama.cpp: -ngl]
    #[arg(
        long,
        visible_alias = "gpu-layers",
        value_name = "N",
        default_value = "auto",
        value_parser = gpu_layers,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_N_GPU_LAYERS"
    )]
    pub n_gpu_layers: GpuLayers,

    /// CPU threads; 0 or -1 = as many as the machine runs at once
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = -1,
        value_parser = clap::value_parser!(i64).range(-1..=512),
        allow_negative_numbers = true,
        env = "LLAMA_ARG_THREADS"
    )]
    pub threads: i64,

    /// Tokens of prompt and answer together; 0 = what the model was trained for. Without this flag that
    /// too, but at most 4096
    #[arg(
        short,
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(..=MAX_CONTEXT),
        env = "LLAMA_ARG_CTX_SIZE"
    )]
    pub ctx_size: Option<u32>,

    /// Most tokens of the prompt computed at once
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = 512,
        value_parser = clap::value_parser!(u32).range(1..=4096),
        env = "LLAMA_ARG_BATCH"
    )]
    pub batch_size: u32,

    /// Type of the key cache [llama.cpp: -ctk]
    #[arg(long, value_enum, value_name = "TYPE", default_value = "f16", env = "LLAMA_ARG_CACHE_TYPE_K")]
    pub cache_type_k: CacheType,

    /// Type of the value cache [llama.cpp: -ctv]
    #[arg(long, value_enum, value_name = "TYPE", default_value = "f16", env = "LLAMA_ARG_CACHE_TYPE_V")]
    pub cache_type_v: CacheType,
}

/// A bound for numbers that come from a user; no model of today comes near.
const MAX_CONTEXT: i64 = 1 << 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendChoice {
    Auto,
    Cpu,
    Gpu,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuLayers {
    Auto,
    All,
    Count(usize),
}

/// llama.cpp's values: a count, "auto" or -1, "all" or -2.
fn gpu_layers(text: &str) -> Result<GpuLayers, String> {
    match text {
        "auto" | "-1" => Ok(GpuLayers::Auto),
        "all" | "-2" => Ok(GpuLayers::All),
        number => number
            .parse::<u32>()
            .map(|n| GpuLayers::Count(n as usize))
            .map_err(|_| "expected a number of layers, \"all\" or \"auto\"".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CacheType {
    F16,
    F32,
}

impl From<CacheType> for KvType {
    fn from(ty: CacheType) -> Self {
        match ty {
            CacheType::F16 => Self::F16,
            CacheType::F32 => Self::F32,
        }
    }
}

impl EngineArgs {
    /// Threads of the CPU backend.
    pub fn threads(&self) -> usize {
        match usize::try_from(self.threads) {
            Ok(count) if count > 0 => count,
            _ => thread::available_parallelism().map_or(1, NonZero::get),
        }
    }

    /// `--backend` and `-ngl` as one request. `--backend cpu` wins, as `-ngl` may come from the environment.
    pub fn request(&self) -> Request {
        match (self.backend, self.n_gpu_layers) {
            (BackendChoice::Cpu, _) => Request::Cpu,
            (_, GpuLayers::Count(n)) => Request::GpuLayers(n),
            (_, GpuLayers::All) | (BackendChoice::Gpu, GpuLayers::Auto) => Request::Gpu,
            (BackendChoice::Auto, GpuLayers::Auto) => Request::Auto,
        }
    }
}

/// How the next token is chosen.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SampleArgs {
    /// Random seed; the same seed gives the same text; -1 = a new one each time
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = -1,
        value_parser = clap::value_parser!(i64).range(-1..=u32::MAX as i64),
        allow_negative_numbers = true,
        env = "LLAMA_ARG_SEED"
    )]
    pub seed: i64,

    /// Temperature; 0 = always the most probable token [default: 0.8; with --bench: 0]
    #[arg(long, alias = "temperature", value_name = "T", allow_negative_numbers = true, env = "LLAMA_ARG_TEMP")]
    pub temp: Option<f32>,

    /// Choose among this many most probable tokens; 0 = among all
    #[arg(long, value_name = "K", default_value_t = 40, allow_negative_numbers = true, env = "LLAMA_ARG_TOP_K")]
    pub top_k: i32,

    /// Choose among the most probable tokens that make up this probability; 1 = among all
    #[arg(long, value_name = "P", default_value_t = 0.95, env = "LLAMA_ARG_TOP_P")]
    pub top_p: f32,

    /// Drop tokens less probable than this share of the most probable one; 0 = none
    #[arg(long, value_name = "P", default_value_t = 0.05, env = "LLAMA_ARG_MIN_P")]
    pub min_p: f32,

    /// Divides the logits of tokens seen lately; 1 = off
    #[arg(long, value_name = "R", default_value_t = 1.0, env = "LLAMA_ARG_REPEAT_PENALTY")]
    pub repeat_penalty: f32,

    /// Lowers the logits of tokens by how often they came; 0 = off
    #[arg(
        long,
        value_name = "R",
        default_value_t = 0.0,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_FREQUENCY_PENALTY"
    )]
    pub frequency_penalty: f32,

    /// Lowers the logits of tokens that came at all; 0 = off
    #[arg(
        long,
        value_name = "R",
        default_value_t = 0.0,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_PRESENCE_PENALTY"
    )]
    pub presence_penalty: f32,

    /// How many tokens the penalties look back; 0 = none, -1 = the whole context
    #[arg(
        long,
        value_name = "N",
        default_value_t = 64,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_REPEAT_LAST_N"
    )]
    pub repeat_last_n: i32,
}

impl SampleArgs {
    /// `default_temperature` counts where `--temp` is absent.
    pub fn options(&self, default_temperature: f32) -> SampleOptions {
        SampleOptions {
            temperature: self.temp.unwrap_or(default_temperature),
            top_k: usize::try_from(self.top_k).unwrap_or(0),
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            repeat_last_n: usize::try_from(self.repeat_last_n).ok(),
            seed: u32::try_from(self.seed).ok(),
        }
    }
}

#[derive(Args, Debug)]
#[command(after_help = "Example: bitnet-gpu run -m model.gguf -p \"Once upon a time\" -n 64")]
pub struct RunArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// The text to continue; as -p
    #[arg(value_name = "PROMPT", conflicts_with_all = ["prompt", "file"])]
    pub text: Option<String>,

    /// The text to continue. Without -p and -f it is read from standard input, unless that is a terminal
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "file")]
    pub prompt: Option<String>,

    /// Read the text to continue from a file; one line break at its end is dropped
    #[arg(short, long, value_name = "FILE", allow_hyphen_values = true)]
    pub file: Option<PathBuf>,

    /// Most tokens to write; -1 = until the model ends or the context is full [default: -1; with --bench: 128]
    #[arg(
        short,
        long,
        visible_alias = "predict",
        value_name = "N",
        allow_negative_numbers = true,
        env = "LLAMA_ARG_N_PREDICT"
    )]
    pub n_predict: Option<i64>,

    /// End the answer before this text; can be given several times
    #[arg(short = 'r', long, visible_alias = "reverse-prompt", value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,

    /// Go on where the model would end
    #[arg(long)]
    pub ignore_eos: bool,

    /// Take \n, \t, \" and the like in the prompt and in stop texts literally
    #[arg(long)]
    pub no_escape: bool,

    /// Process \n, \r, \t, \', \", \\ and \xHH in -p and --stop, which is the default
    #[arg(short, long, overrides_with = "no_escape")]
    pub escape: bool,

    /// Talk with the model, as `chat` does; the prompt is then the system prompt [llama.cpp: -cnv]
    #[arg(long, overrides_with = "no_conversation", conflicts_with_all = ["json", "bench", "no_display_prompt"])]
    pub conversation: bool,

    /// No conversation, which is the default
    #[arg(long, overrides_with = "conversation")]
    pub no_conversation: bool,

    #[command(flatten)]
    pub chat: ConversationArgs,

    /// Print the answer without the prompt before it
    #[arg(long)]
    pub no_display_prompt: bool,

    /// Print one JSON object instead of the text
    #[arg(long)]
    pub json: bool,

    /// Run the prompt on the CPU and on the GPU (with -ngl, that many layers of it) and print a table of both
    #[arg(long)]
    pub bench: bool,

    #[command(flatten)]
    pub engine: EngineArgs,

    #[command(flatten)]
    pub sample: SampleArgs,
}

/// How a conversation is held.
#[derive(Args, Debug)]
#[command(next_help_heading = "Conversation")]
pub struct ConversationArgs {
    /// What the model is told before the first question [llama.cpp: -sys]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub system_prompt: Option<String>,

    /// Instead of the model's own: bitnet, llama3, falcon3, chatml, qwen3, or a file with a Jinja template
    #[arg(long, visible_alias = "chat-template-file", value_name = "NAME|FILE")]
    pub chat_template: Option<String>,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: bitnet-gpu chat -m model.gguf -sys \"Be brief.\"")]
pub struct ChatArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// Most tokens of an answer; -1 = until the model ends or the context is full
    #[arg(
        short,
        long,
        visible_alias = "predict",
        value_name = "N",
        allow_negative_numbers = true,
        env = "LLAMA_ARG_N_PREDICT"
    )]
    pub n_predict: Option<i64>,

    /// End answers before this text; can be given several times
    #[arg(short = 'r', long, visible_alias = "reverse-prompt", value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,

    /// Go on where the model would end
    #[arg(long)]
    pub ignore_eos: bool,

    /// Take \n, \t, \" and the like in the system prompt and in stop texts literally
    #[arg(long)]
    pub no_escape: bool,

    #[command(flatten)]
    pub chat: ConversationArgs,

    #[command(flatten)]
    pub engine: EngineArgs,

    #[command(flatten)]
    pub sample: SampleArgs,
}

#[derive(Args, Debug)]
pub struct TokenizeArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// The text. Without -p and -f it is read from standard input, unless that is a terminal
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "file")]
    pub prompt: Option<String>,

    /// Read the text from a file, every byte of it
    #[arg(short, long, value_name = "FILE", allow_hyphen_values = true)]
    pub file: Option<PathBuf>,

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
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
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

#[derive(Args, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Args, Debug)]
pub struct ConvertArgs {
    /// The directory that holds config.json and model.safetensors, or a GGUF file
    #[arg(value_name = "SRC")]
    pub src: PathBuf,

    /// The file to write [default for a directory: ggml-model-TYPE.gguf in it]
    #[arg(short, long, visible_alias = "outfile", value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Type of the ternary matrices [default: i2_s for a directory, as they are for a file]
    #[arg(long = "type", visible_alias = "outtype", value_enum, value_name = "TYPE")]
    pub ty: Option<TernaryChoice>,

    /// Type of the embedding table and the head [default: f16 for a directory, keep for a file]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub head: Option<HeadChoice>,

    /// How the I2_S matrices of the file are packed, which it does not say: p64 if bitnet.cpp made it on ARM
    #[arg(long, value_enum, default_value = "p128", value_name = "PACKING")]
    pub i2s_layout: I2sLayout,

    /// Let f16 scales stand for f32 ones that they are not; else a conversion that changes a weight is refused
    #[arg(long)]
    pub lossy: bool,

    /// Show what would be written, and its size
    #[arg(long)]
    pub dry_run: bool,

    /// The model's name in the file [default: what config.json or the file says]
    #[arg(long, visible_alias = "model-name", value_name = "NAME")]
    pub name: Option<String>,

    /// Overwrite the file if it exists
    #[arg(long)]
    pub force: bool,

    /// Round weights to ternary even where nothing says that the model was trained for it
    #[arg(long)]
    pub ternarise: bool,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TernaryChoice {
    #[value(name = "i2_s")]
    I2S,
    #[value(name = "tl1")]
    TL1,
    #[value(name = "tl2")]
    TL2,
    #[value(name = "tq1_0")]
    TQ1_0,
    #[value(name = "tq2_0")]
    TQ2_0,
    #[value(name = "q2_0")]
    Q2_0,
}

impl From<TernaryChoice> for TernaryType {
    fn from(ty: TernaryChoice) -> Self {
        match ty {
            TernaryChoice::I2S => Self::I2S,
            TernaryChoice::TL1 => Self::TL1,
            TernaryChoice::TL2 => Self::TL2,
            TernaryChoice::TQ1_0 => Self::TQ1_0,
            TernaryChoice::TQ2_0 => Self::TQ2_0,
            TernaryChoice::Q2_0 => Self::Q2_0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HeadChoice {
    F16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q6_k")]
    Q6K,
    Keep,
}

impl From<HeadChoice> for Head {
    fn from(head: HeadChoice) -> Self {
        match head {
            HeadChoice::F16 => Self::F16,
            HeadChoice::Q8_0 => Self::Q8_0,
            HeadChoice::Q6K => Self::Q6K,
            HeadChoice::Keep => Self::Keep,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum I2sLayout {
    /// Blocks of 128 weights: every published file
    P128,
    /// Blocks of 64: bitnet.cpp on ARM since November 2025
    P64,
    /// Four rows in a byte: bitnet.cpp built without ACT_PARALLEL
    R4,
    /// Four weights in order: a snapshot of bitnet.cpp of July 2026
    Seq,
}

impl From<I2sLayout> for I2sPacking {
    fn from(layout: I2sLayout) -> Self {
        match layout {
            I2sLayout::P128 => Self::P128,
            I2sLayout::P64 => Self::P64,
            I2sLayout::R4 => Self::R4,
            I2sLayout::Seq => Self::Seq,
        }
    }
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("shape").required(true).args(["size", "like", "config"]))]
pub struct DummyArgs {
    /// About that many parameters: 125M, 350M, 1B, 1.5B, 2.7B, 3.8B, 7B, 13B, 30B, 70B, 100B
    #[arg(long, visible_alias = "model-size", value_name = "SIZE")]
    pub size: Option<String>,

    /// The shape of a published model: 2b-4t, bitnet-large, bitnet-3b, llama3-8b, falcon3-1b (3b, 7b, 10b)
    #[arg(long, value_name = "MODEL")]
    pub like: Option<String>,

    /// The shape that a Hugging Face config.json describes
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The file to write
    #[arg(short, long, visible_alias = "outfile", value_name = "FILE")]
    pub output: PathBuf,

    /// Type of the embedding table and the head
    #[arg(long, value_enum, value_name = "TYPE", default_value = "f16")]
    pub head: DummyHead,

    /// Chooses the weights
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Overwrite the file if it exists
    #[arg(long)]
    pub force: bool,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DummyHead {
    F16,
    #[value(name = "q8_0")]
    Q8_0,
}

impl From<DummyHead> for HeadType {
    fn from(head: DummyHead) -> Self {
        match head {
            DummyHead::F16 => Self::F16,
            DummyHead::Q8_0 => Self::Q8_0,
        }
    }
}
