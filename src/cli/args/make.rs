//! The commands that write model files: `pull`, `convert` and `dummy`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::LayoutArgs;
use crate::{
    convert::{Head, TernaryType},
    dummy::HeadType,
};

#[derive(Args, Debug)]
#[command(after_help = "\
Example: bitnet-gpu pull microsoft/BitNet-b1.58-2B-4T-gguf\n\
Files go to the cache of huggingface_hub: HF_HUB_CACHE, HF_HOME. HF_TOKEN opens private models, HF_ENDPOINT names another \
server, and with HF_HUB_OFFLINE=1 nothing is asked for.")]
pub struct PullArgs {
    /// The model, and which of its files where it has several: org/name or org/name:FILE; a part of the file's name
    /// will do
    #[arg(value_name = "MODEL")]
    pub name: String,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct ConvertArgs {
    /// The directory that holds config.json and model.safetensors, or a GGUF file
    #[arg(value_name = "SRC")]
    pub src: PathBuf,

    /// The file to write [default for a directory: ggml-model-TYPE.gguf in it]
    #[arg(short, long, visible_alias = "outfile", value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Type of the ternary matrices [default: of a directory i2_s, or what holds its groups of scales; as they are for a
    /// file]
    #[arg(long = "type", visible_alias = "outtype", value_enum, value_name = "TYPE")]
    pub ty: Option<TernaryChoice>,

    /// Type of the embedding table and the head [default: f16 for a directory, keep for a file]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub head: Option<HeadChoice>,

    #[command(flatten)]
    pub layout: LayoutArgs,

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
    #[value(name = "pq2_0")]
    PQ2_0,
    #[value(name = "ptq1_0")]
    PTQ1_0,
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
            TernaryChoice::PQ2_0 => Self::PQ2_0,
            TernaryChoice::PTQ1_0 => Self::PTQ1_0,
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

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("shape").required(true).args(["size", "like", "config"]))]
pub struct DummyArgs {
    /// About that many parameters: 125M, 350M, 1B, 1.5B, 2.7B, 3.8B, 7B, 13B, 30B, 70B, 100B
    #[arg(long, visible_alias = "model-size", value_name = "SIZE")]
    pub size: Option<String>,

    /// The shape of a published model: 2b-4t, bitnet-large, bitnet-3b, llama3-8b, falcon3-1b (3b, 7b, 10b),
    /// falcon-e-1b (3b), bonsai-27b, bonsai2-27b (9b, 4b)
    #[arg(long, value_name = "MODEL")]
    pub like: Option<String>,

    /// The shape that a Hugging Face config.json describes
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The file to write
    #[arg(short, long, visible_alias = "outfile", value_name = "FILE")]
    pub output: PathBuf,

    /// Type of the ternary matrices; the weights are the same in all
    #[arg(long = "type", visible_alias = "outtype", value_enum, value_name = "TYPE", default_value = "i2_s")]
    pub ty: TernaryChoice,

    /// Type of the embedding table and the head; f16, or the type of the matrices where the published model has that
    #[arg(long, value_enum, value_name = "TYPE")]
    pub head: Option<DummyHead>,

    /// Add a block of multi-token prediction in Q8_0, as hybrid models may have
    #[arg(long)]
    pub mtp: bool,

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
    #[value(name = "q6_k")]
    Q6K,
    #[value(name = "q2_0")]
    Q2_0,
    /// As the matrices
    Same,
}

impl From<DummyHead> for HeadType {
    fn from(head: DummyHead) -> Self {
        match head {
            DummyHead::F16 => Self::F16,
            DummyHead::Q8_0 => Self::Q8_0,
            DummyHead::Q6K => Self::Q6K,
            DummyHead::Q2_0 => Self::Q2_0,
            DummyHead::Same => Self::AsMatrices,
        }
    }
}
