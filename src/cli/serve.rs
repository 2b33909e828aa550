//! `serve`: the HTTP server.

use std::{collections::BTreeSet, fs, num::NonZeroUsize, path::Path, sync::Arc, time::Duration};

use super::{
    args::{ModelArgs, ReasoningFormatChoice, SampleArgs, ServeArgs},
    chat::template,
    download::fetched,
    input, interrupt, output, source,
};
use crate::{
    chat::Variables,
    engine::{Engine, EngineOptions, ModelFile},
    error::{Error, Result},
    hub::ModelName,
    serve::{self, Catalogue, Log, Offer, Opened, ServeOptions, short_name},
};

/// Tokens of each conversation where no context is asked for. Clients send instructions and earlier turns along, so a
/// model that was trained for less gets as many.
const DEFAULT_CONTEXT: usize = 4096;

/// Serves. `verbose`: answers tell the prompt and the options behind them.
pub fn run(args: &ServeArgs, verbose: bool) -> Result<()> {
    let offer = offer(args)?;
    let mut wishes = ServeOptions::default();
    wishes.hosts.clone_from(&args.host);
    wishes.port = args.port;
    wishes.names = args.alias.clone();
    wishes.tags = args.tags.clone();
    if wishes.names.is_empty() && args.model.model.is_none() && matches!(offer, Offer::One(_)) {
        wishes.names.push("stories".into());
    }
    wishes.strict_model = args.strict_model;
    wishes.keys = keys(args)?;
    wishes.cors_origins = args.cors_origins.clone();
    wishes.max_tokens = args.max_tokens();
    let mib = usize::try_from(args.cache_ram);
    wishes.prefix_bytes = mib.map_or(usize::MAX, |mib| mib.saturating_mul(1 << 20));
    wishes.queue = args.max_queue;
    wishes.metrics = args.metrics;
    wishes.slots = !args.no_slots;
    wishes.slot_folder = args.slot_save_path.clone();
    if let Some(folder) = &args.slot_save_path {
        fs::read_dir(folder).map_err(|error| Error::io("read", folder, error))?;
    }
    let never = u64::from(u32::MAX);
    wishes.ping = Duration::from_secs(u64::try_from(args.sse_ping_interval).ok().filter(|&s| s > 0).unwrap_or(never));
    wishes.reasoning = args.reasoning_format == ReasoningFormatChoice::Auto;
    wishes.thought_tokens = args.reasoning.max_tokens();
    wishes.template_variables = template_variables(args)?;
    wishes.page = !args.no_ui;
    wishes.verbose = verbose;
    serve::run(wishes, offer, Arc::new(Terminal))
}

/// Variables of the chat template. A template that can ask for thoughts does, as in llama.cpp's server, unless it is told not
/// to; some would not by themselves.
fn template_variables(args: &ServeArgs) -> Result<Variables> {
    let mut variables =
        args.chat_template_kwargs.as_deref().map_or_else(|| Ok(Variables::default()), Variables::from_json)?;
    let wanted = args.reasoning.wanted();
    if wanted.is_some() || variables.reasoning().is_none() {
        variables.set_reasoning(Some(wanted.unwrap_or(true)));
    }
    Ok(variables)
}

/// One model, which is loaded at once, or several for when they are asked for.
fn offer(args: &ServeArgs) -> Result<Offer> {
    let opener = Opener::of(args);
    if args.models_dir.is_none() && args.words.is_empty() {
        let opened = opener.opened(source::open(&args.model)?)?;
        return Ok(Offer::One(Box::new(opened)));
    }
    if !args.alias.is_empty() {
        return Err(Error::Usage("--alias names one model; several have the names of their files".into()));
    }
    let mut models = Vec::new();
    let mut names = BTreeSet::new();
    for place in args.model.model.iter().chain(&args.words) {
        let name = match place.to_str().filter(|_| !place.exists()).map(ModelName::parse) {
            Some(Ok(name)) => name.to_string(),
            _ => short_name(&place.display().to_string()),
        };
        if !names.insert(name.clone()) {
            return Err(Error::Usage(format!("two of the models have the name {name}")));
        }
        let path = fetched(place)?.into_owned();
        // A mistyped path is said now, not at the first request.
        fs::metadata(&path).map_err(|error| Error::io("open", &path, error))?;
        models.push((name, path));
    }
    if let Some(folder) = &args.models_dir {
        fs::read_dir(folder).map_err(|error| Error::io("read", folder, error))?;
    }
    Ok(Offer::Several(Catalogue {
        models,
        folder: args.models_dir.clone(),
        open: Box::new(move |path| opener.open(path)),
        keep_alive: args.keep_alive.0,
        most_loaded: NonZeroUsize::new(args.models_max),
    }))
}

/// The flags by which models are opened.
struct Opener {
    model: ModelArgs,
    template: Option<String>,
    options: EngineOptions,
    sample: SampleArgs,
}

impl Opener {
    fn of(args: &ServeArgs) -> Self {
        let mut options = EngineOptions::from(&args.engine);
        options.sequences = args.parallel.into();
        options.context_tokens = options.context_tokens.or(Some(DEFAULT_CONTEXT));
        let model = ModelArgs { model: None, ..args.model };
        Self { model, template: args.chat_template.clone(), options, sample: args.sample.clone() }
    }

    fn open(&self, path: &Path) -> Result<Opened> {
        self.opened(source::open_path(path, &self.model)?)
    }

    fn opened(&self, file: ModelFile) -> Result<Opened> {
        let template = template(self.template.as_deref(), file.tokenizer()?, file.name())?;
        let sample = self.sample.options(file.recommended(), file.tokenizer()?, file.model()?.config.vocab)?;
        let engine = Engine::new(&file, self.options.clone());
        Ok(Opened { file, engine, template, sample })
    }
}

/// The keys of the flag and of the file.
fn keys(args: &ServeArgs) -> Result<Vec<String>> {
    let mut keys = args.api_key.clone();
    if let Some(file) = &args.api_key_file {
        let text = input::small_file(file)?;
        keys.extend(text.lines().map(|line| line.trim().to_owned()));
    }
    keys.retain(|key| !key.is_empty());
    // Who asks for a key is not to get a server without one.
    if keys.is_empty() && args.api_key_file.is_some() {
        return Err(Error::Usage("--api-key-file has no key in it".into()));
    }
    if keys.is_empty() && !args.api_key.is_empty() {
        return Err(Error::Usage(
            "--api-key or LLAMA_API_KEY is empty: leave it out for a server without a key".into(),
        ));
    }
    Ok(keys)
}

/// The address on standard output, for scripts; the rest on standard error.
struct Terminal;

impl Log for Terminal {
    fn listening(&self, at: &str) {
        interrupt::leave();
        // Nobody may be reading.
        let _ = output::print(&format!("listening on {at}\n"));
    }

    fn ready(&self, summary: &str) {
        output::note(format_args!("serving {summary}"));
    }

    fn request(&self, line: &str) {
        output::note(line);
    }
}
