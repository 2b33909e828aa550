//! The server.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, ValueEnum, builder::FalseyValueParser};

use super::{EngineArgs, ModelArgs, ReasoningArgs, SampleArgs};
use crate::{error, serve};

#[derive(Args, Debug)]
#[command(after_help = "Example: bitnet-gpu serve -m model.gguf --port 8080")]
pub struct ServeArgs {
    /// The model, as -m; of several, each is loaded when a request names it
    #[arg(value_name = "MODEL")]
    pub words: Vec<PathBuf>,

    /// Offer the models of this folder as well
    ///
    /// GGUF files and Hugging Face directories, each loaded when a request names it.
    #[arg(long, value_name = "FOLDER", env = "LLAMA_ARG_MODELS_DIR")]
    pub models_dir: Option<PathBuf>,

    /// Models loaded at the same time at most; 0 = as many as fit into the memory
    #[arg(long, value_name = "N", default_value_t = 0, env = "LLAMA_ARG_MODELS_MAX")]
    pub models_max: usize,

    /// Time without a request after which one of several models is unloaded, as 5m or 90; -1 = never
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = keep_alive, allow_negative_numbers = true)]
    pub keep_alive: KeepAlive,

    #[command(flatten)]
    pub model: ModelArgs,

    /// Addresses to listen on; 0.0.0.0 = all of this machine
    ///
    /// A path that ends in .sock is a Unix socket.
    #[arg(
        long,
        value_name = "ADDRESS[,ADDRESS]",
        value_delimiter = ',',
        default_value = "127.0.0.1",
        env = "LLAMA_ARG_HOST"
    )]
    pub host: Vec<String>,

    /// Port to listen on; 0 = any free one, which is printed
    #[arg(long, value_name = "PORT", default_value_t = 8080, env = "LLAMA_ARG_PORT")]
    pub port: u16,

    /// Requests answered side by side, each with a context of its own (-c); more wait [llama.cpp: -np]
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4,
        value_parser = clap::value_parser!(u16).range(1..=256),
        env = "LLAMA_ARG_N_PARALLEL"
    )]
    pub parallel: u16,

    /// Name of the model in answers, and more names that it goes by
    #[arg(short, long, value_name = "NAME[,NAME]", value_delimiter = ',', env = "LLAMA_ARG_ALIAS")]
    pub alias: Vec<String>,

    /// Words about the model that /v1/models shows
    #[arg(long, value_name = "TAG[,TAG]", value_delimiter = ',', env = "LLAMA_ARG_TAGS")]
    pub tags: Vec<String>,

    /// Refuse requests that name another model
    #[arg(long)]
    pub strict_model: bool,

    /// Key of which requests must show one
    #[arg(long, value_name = "KEY[,KEY]", value_delimiter = ',', env = "LLAMA_API_KEY", hide_env_values = true)]
    pub api_key: Vec<String>,

    /// File with a key in each line
    #[arg(long, value_name = "FILE", env = "LLAMA_ARG_API_KEY_FILE")]
    pub api_key_file: Option<PathBuf>,

    /// Web pages that may use the server: origins, "localhost" or "*" [default: pages of this machine; with a key, all]
    #[arg(long, value_name = "ORIGIN[,ORIGIN]", value_delimiter = ',', env = "LLAMA_ARG_CORS_ORIGINS")]
    pub cors_origins: Vec<String>,

    /// Most tokens of an answer where a request has no limit; -1 = half of the context
    #[arg(
        short,
        long,
        visible_alias = "predict",
        value_name = "N",
        default_value_t = -1,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_N_PREDICT"
    )]
    pub n_predict: i64,

    /// Main memory for the beginnings of conversations that had to give way to others, in MiB; 0 = none, -1 = no bound
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 2048,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..=i64::from(u32::MAX)),
        env = "LLAMA_ARG_CACHE_RAM"
    )]
    pub cache_ram: i64,

    /// Requests that wait at most; more are told to come again
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_queue: usize,

    /// Answer /metrics
    #[arg(long, env = "LLAMA_ARG_ENDPOINT_METRICS", value_parser = FalseyValueParser::new())]
    pub metrics: bool,

    /// Folder for what slots hold: POST /slots/0?action=save and restore write and read files there
    #[arg(long, value_name = "FOLDER", env = "LLAMA_ARG_SLOT_SAVE_PATH")]
    pub slot_save_path: Option<PathBuf>,

    /// Answer /slots, which is the default
    #[arg(long, overrides_with = "no_slots")]
    pub slots: bool,

    /// Do not answer /slots
    #[arg(long, overrides_with = "slots")]
    pub no_slots: bool,

    /// Seconds of silence after which a stream sends a comment that keeps it open; 0 or -1 = never
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 30,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..=3600),
        env = "LLAMA_ARG_SSE_PING_INTERVAL"
    )]
    pub sse_ping_interval: i64,

    /// Instead of the model's own: bitnet, llama3, falcon3, chatml, qwen3, or a file with a Jinja template
    #[arg(long, visible_alias = "chat-template-file", value_name = "NAME|FILE", env = "LLAMA_ARG_CHAT_TEMPLATE")]
    pub chat_template: Option<String>,

    /// Variables for the chat template where a request does not set them: a JSON object
    #[arg(long, value_name = "JSON", env = "LLAMA_CHAT_TEMPLATE_KWARGS")]
    pub chat_template_kwargs: Option<String>,

    /// No chat page at /
    #[arg(long, visible_alias = "no-webui")]
    pub no_ui: bool,

    #[command(flatten)]
    pub reasoning: ReasoningArgs,

    /// Thoughts between `<think>` marks: apart from the answer, or part of it
    #[arg(long, value_enum, default_value = "auto", env = "LLAMA_ARG_THINK")]
    pub reasoning_format: ReasoningFormatChoice,

    /// Templates are Jinja always; for scripts that say so
    #[arg(long, hide = true, action = ArgAction::SetTrue)]
    pub jinja: bool,

    #[command(flatten)]
    pub engine: EngineArgs,

    #[command(flatten)]
    pub sample: SampleArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReasoningFormatChoice {
    /// Apart, as reasoning_content
    #[value(alias = "deepseek")]
    Auto,
    /// Part of the answer
    None,
}

/// `None` inside: for ever.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive(pub Option<Duration>);

fn keep_alive(text: &str) -> Result<KeepAlive, String> {
    let seconds = serve::seconds(text).ok_or_else(|| "expected a time like 5m, 1h30m or 90, or -1".to_owned())?;
    Ok(KeepAlive(Duration::try_from_secs_f64(seconds).ok()))
}

impl ServeArgs {
    /// Lets models that are named without a flag win over one of the environment.
    ///
    /// # Errors
    /// If a flag names one as well.
    pub fn settle(&mut self, model_of_environment: bool) -> error::Result<()> {
        let first = if self.words.is_empty() { None } else { Some(self.words.remove(0)) };
        self.model.take_word(first, model_of_environment)
    }

    /// The limit of answers without one.
    pub fn max_tokens(&self) -> Option<NonZeroUsize> {
        usize::try_from(self.n_predict).ok().and_then(NonZeroUsize::new)
    }
}
