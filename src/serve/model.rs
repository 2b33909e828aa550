//! The model that is served, as the threads that prepare requests need it.

use std::sync::{Arc, OnceLock};

use super::{
    ServeOptions,
    about::Facts,
    error::{ApiError, ApiResult},
    grammars, ids,
    offer::Opened,
};
use crate::{
    chat::Template,
    error::Result,
    generate::{Constraint, Grammar, GrammarVocabulary, Pooling, SampleOptions},
    plan::Segment,
    session::{Runtime, SavedForm},
    tokenizer::{EncodeOptions, Tokenizer},
};

/// A loaded model.
pub struct Served {
    /// Carried by answers.
    pub name: String,
    /// Other names that it goes by.
    pub aliases: Vec<String>,
    /// The path of its file.
    pub path: String,
    /// `general.architecture`.
    pub architecture: String,
    /// How vectors are made, where the model was made for those; it writes no text then.
    pub pooling: Option<Pooling>,
    pub tokenizer: Arc<Tokenizer>,
    pub template: Template,
    /// Options of sampling where a request has none.
    pub sample: SampleOptions,
    /// Tokens of prompt and answer together.
    pub context_tokens: usize,
    /// Answers side by side.
    pub slots: usize,
    /// Where the layers were placed when it was loaded, in their order.
    pub placement: Vec<Placement>,
    pub facts: Facts,
    /// Seconds since 1970.
    pub created: u64,
    /// Shape of what slots hold, for files.
    pub saved_form: SavedForm,
    /// Tells models of one shape apart, where slots are saved; reading the weights for it takes time.
    pub fingerprint: u64,
    grammars: OnceLock<Result<GrammarVocabulary, String>>,
}

/// Layers that run on one backend, in words.
pub struct Placement {
    pub backend: String,
    pub layers: String,
    pub reason: String,
}

impl Placement {
    fn of((segment, backend): (&Segment, &str)) -> Self {
        let (first, last) = (segment.layers.start, segment.layers.end.saturating_sub(1));
        Self {
            backend: backend.to_owned(),
            layers: format!("layers {first} to {last}"),
            reason: segment.reason.clone(),
        }
    }
}

impl Served {
    /// A model that has been loaded, and its names: answers carry the first.
    pub fn new(opened: Opened, names: Vec<String>, runtime: &Runtime, saves_slots: bool) -> Result<Self> {
        let Opened { file, template, sample, .. } = opened;
        let config = &file.model()?.config;
        let mut names = names.into_iter();
        Ok(Self {
            name: names.next().unwrap_or_default(),
            aliases: names.collect(),
            path: file.name().to_owned(),
            architecture: config.arch.clone(),
            pooling: file.pooling()?,
            tokenizer: Arc::clone(file.tokenizer()?),
            template,
            sample,
            context_tokens: runtime.sizes().context_tokens,
            slots: runtime.sizes().sequences,
            placement: runtime.segments().map(Placement::of).collect(),
            facts: Facts::of_model(file.file(), config),
            saved_form: runtime.saved_form(),
            fingerprint: if saves_slots { file.fingerprint() } else { 0 },
            created: ids::now(),
            grammars: OnceLock::new(),
        })
    }

    /// Most tokens of an answer whose request has no limit. Half of the context, so that one that finds no end leaves room
    /// for the next turn.
    pub fn answer_limit(&self, options: &ServeOptions) -> usize {
        options.max_tokens.map_or((self.context_tokens / 2).max(1), Into::into)
    }

    /// True for one of its names.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|alias| alias == name)
    }

    /// The ids of a rendered conversation, with the token that begins a text where the model wants it.
    pub fn encode_chat(&self, text: &str) -> ApiResult<Vec<u32>> {
        let mut ids = self.encode(text, false)?;
        if let Some(bos) = self.tokenizer.bos()
            && self.tokenizer.adds_bos()
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The ids of a text with its markup.
    pub fn encode(&self, text: &str, add_special: bool) -> ApiResult<Vec<u32>> {
        Ok(self.tokenizer.encode(text, &EncodeOptions { add_special, parse_special: true })?)
    }

    /// A grammar for the tokens of this model.
    pub fn constraint(&self, grammar: &Grammar) -> ApiResult<Constraint> {
        grammars::check(grammar)?;
        let made =
            self.grammars.get_or_init(|| GrammarVocabulary::new(&self.tokenizer).map_err(|error| error.to_string()));
        let vocabulary = made.as_ref().map_err(|error| ApiError::not_supported(error.clone()))?;
        let constraint = Constraint::compile(grammar, vocabulary)?;
        // A warning says that something in the schema would not be kept.
        match constraint.warnings().first() {
            Some(warning) => Err(ApiError::bad_request(format!("this cannot be enforced: {warning}"))),
            None => Ok(constraint),
        }
    }
}
