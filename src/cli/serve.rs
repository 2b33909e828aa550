//! `serve`: the HTTP server.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use super::{
    args::{ReasoningFormatChoice, ServeArgs},
    chat, output, source,
};
use crate::{
    engine::{Engine, EngineOptions},
    error::{Error, Result},
    serve::{self, Log, ServeOptions},
};

/// Tokens of each conversation where no context is asked for. Clients send instructions and earlier turns along, so a
/// model that was trained for less gets as many.
const DEFAULT_CONTEXT: usize = 4096;

pub fn run(args: &ServeArgs) -> Result<()> {
    let source = source::open(&args.model)?;
    let model = source.model()?;
    let tokenizer = source.tokenizer()?;
    let template = chat::template(args.chat_template.as_deref(), tokenizer, source.name())?;
    let mut options = EngineOptions::from(&args.engine);
    options.sequences = args.parallel.into();
    options.context_tokens = options.context_tokens.or(Some(DEFAULT_CONTEXT));
    let mut wishes = ServeOptions::default();
    wishes.host.clone_from(&args.host);
    wishes.port = args.port;
    wishes.names = args.alias.clone();
    if wishes.names.is_empty() && args.model.model.is_none() {
        wishes.names.push("stories".into());
    }
    wishes.strict_model = args.strict_model;
    wishes.keys = keys(args)?;
    wishes.cors_origins = args.cors_origins.clone();
    wishes.sample = args.sample.options(source.recommended(), model.config.vocab)?;
    wishes.max_tokens = args.max_tokens();
    wishes.prefix_bytes = (args.cache_ram as usize) << 20;
    wishes.queue = args.max_queue;
    wishes.metrics = args.metrics;
    wishes.slots = !args.no_slots;
    wishes.ping = Duration::from_secs(args.sse_ping_interval);
    wishes.reasoning = args.reasoning_format == ReasoningFormatChoice::Auto;
    serve::run(wishes, &source, Engine::new(&source, options), template, Arc::new(Terminal))
}

/// The keys of the flag and of the file.
fn keys(args: &ServeArgs) -> Result<Vec<String>> {
    let mut keys = args.api_key.clone();
    if let Some(file) = &args.api_key_file {
        let text = fs::read_to_string(file).map_err(|error| Error::io("read", file, error))?;
        keys.extend(text.lines().map(|line| line.trim().to_owned()));
    }
    keys.retain(|key| !key.is_empty());
    if keys.is_empty() && args.api_key_file.is_some() {
        return Err(Error::Usage("--api-key-file has no key in it".into()));
    }
    Ok(keys)
}

/// The address on standard output, for scripts; the rest on standard error.
struct Terminal;

impl Log for Terminal {
    fn listening(&self, at: SocketAddr) {
        // Nobody may be reading.
        let _ = output::print(&format!("listening on http://{at}\n"));
    }

    fn ready(&self, summary: &str) {
        output::note(format_args!("serving {summary}"));
    }

    fn request(&self, line: &str) {
        output::note(line);
    }
}
