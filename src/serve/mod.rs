//! The HTTP server: the APIs of OpenAI, llama.cpp, ollama and Anthropic on an engine that answers many requests side by side.
//!
//! In: models (`offer`) and [`ServeOptions`]. A few threads speak HTTP and prepare requests (`router`, `request`): they
//! check fields, write and tokenize prompts and compile grammars. Each loaded model (`models`, `host`) has a thread that owns it (`engine`). Requests go to it
//! over a channel; what it answers comes back over a bounded channel for each request (`answer`), is taken apart into
//! text, thoughts and calls (`text`) and written in the words of an API (`openai`, `llama`, `ollama`, `anthropic`). A program that has
//! the model in its own process asks the same routes without a network (`local`).

mod about;

mod answer;

mod app;

mod anthropic;

mod beside;

mod body;

mod clock;

mod connection;

mod embedding;

mod engine;

mod error;

mod fields;

mod grammars;

mod guard;

mod host;

mod ids;

mod job;

mod late;

mod line;

mod listener;

mod llama;

mod local;

mod metrics;

mod model;

mod models;

mod network;

mod offer;

mod ollama;

mod openai;

mod page;

mod queue;

mod request;

mod respond;

mod router;

mod samplers;

mod slots;

mod text;

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

pub use self::local::{Lent, Local, Pending};
pub use self::offer::{Catalogue, Offer, Open, Opened, short_name};
use crate::{chat::Variables, error::Result};

/// Seconds of a duration such as `5m`, `1h30m` or `90`; negative: for ever.
pub use self::models::seconds;

/// Options of the server. Change the fields of [`ServeOptions::default`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeOptions {
    /// Names and addresses to listen on, and paths of Unix sockets, which end in `.sock`.
    pub hosts: Vec<String>,
    /// Port of all of them; 0: any free one.
    pub port: u16,
    /// Names of the only model; the first one is what answers carry. Empty: a name made of the file's.
    pub names: Vec<String>,
    /// Words about the only model, for lists.
    pub tags: Vec<String>,
    /// Refuse requests for a model of another name.
    pub strict_model: bool,
    /// Keys of which requests must show one; empty: none.
    pub keys: Vec<String>,
    /// Origins of web pages that may use the server; `*`: all. Empty: pages of this machine, or all where there is a key.
    pub cors_origins: Vec<String>,
    /// Most tokens of an answer where a request has no limit; `None`: half as many as the context holds. A request for -1
    /// has none.
    pub max_tokens: Option<NonZeroUsize>,
    /// Bytes of main memory for the beginnings of conversations that had to give way.
    pub prefix_bytes: usize,
    /// Requests that wait for a place at most.
    pub queue: usize,
    /// Bytes of a request's body at most.
    pub body_bytes: usize,
    /// Time after which a silent stream sends a comment.
    pub ping: Duration,
    /// Time that running answers get when the server is asked to end.
    pub grace: Duration,
    /// Whether `/metrics` answers.
    pub metrics: bool,
    /// Folder for what slots hold, where it may be saved.
    pub slot_folder: Option<PathBuf>,
    /// Whether `/slots` answers.
    pub slots: bool,
    /// Whether thoughts are told apart from the answer where a request does not say so.
    pub reasoning: bool,
    /// Tokens of a thought at most where a request does not say; `None`: no limit.
    pub thought_tokens: Option<usize>,
    /// Variables of the chat template where a request does not set them.
    pub template_variables: Variables,
    /// Whether `/` has the chat page.
    pub page: bool,
    /// Whether answers tell the prompt and the options behind them where a request does not say.
    pub verbose: bool,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            hosts: vec!["127.0.0.1".into()],
            port: 8080,
            names: Vec::new(),
            tags: Vec::new(),
            strict_model: false,
            keys: Vec::new(),
            cors_origins: Vec::new(),
            max_tokens: None,
            prefix_bytes: 0,
            queue: 512,
            body_bytes: 32 << 20,
            ping: Duration::from_secs(30),
            grace: Duration::from_secs(5),
            metrics: false,
            slot_folder: None,
            slots: true,
            reasoning: true,
            thought_tokens: None,
            template_variables: Variables::default(),
            page: true,
            verbose: false,
        }
    }
}

/// Is told what the server does. Calls come from any of its threads.
pub trait Log: Send + Sync {
    /// It listens at this URL; the only model is still being loaded.
    fn listening(&self, at: &str);
    /// A model is loaded.
    fn ready(&self, summary: &str);
    /// A request has ended, or a model was unloaded: one line, without any text of a request.
    fn request(&self, line: &str);
}

/// Serves the models of `offer` until the process is asked to end.
///
/// # Errors
/// If the address cannot be listened on, or the only model cannot be loaded.
pub fn run(options: ServeOptions, offer: Offer, log: Arc<dyn Log>) -> Result<()> {
    network::run(options, offer, log)
}
