//! The commands about models on this machine: `list`, `rm` and `ps`.

use clap::Args;

#[derive(Args, Debug)]
#[command(after_help = "\
The cache is that of huggingface_hub (HF_HUB_CACHE, HF_HOME), which other programs share. TYPE is the type of most of the \
weights; files of any type are listed, also those that this program does not run.")]
pub struct ListArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: bitnet-gpu rm microsoft/BitNet-b1.58-2B-4T-gguf")]
pub struct RmArgs {
    /// The models, as `list` names them: org/name is all of a repository, org/name:FILE one model of it
    #[arg(value_name = "MODEL", required = true)]
    pub names: Vec<String>,

    /// Do not ask; without a terminal nothing is asked
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: bitnet-gpu ps --port 8080")]
pub struct PsArgs {
    /// Address that the server listens on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", env = "LLAMA_ARG_HOST")]
    pub host: String,

    /// Port that it listens on
    #[arg(long, value_name = "PORT", default_value_t = 8080, env = "LLAMA_ARG_PORT")]
    pub port: u16,

    /// Key that it asks for
    #[arg(long, value_name = "KEY", env = "LLAMA_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
