//! Facts about a model file: from its header, without loading it.

use std::path::Path;

use crate::{gguf::File, model::Config};

/// Description of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct About {
    /// `general.architecture`.
    pub architecture: String,
    /// The chat template that its file has.
    pub template: Option<String>,
    pub facts: Facts,
}

/// Numbers about a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub trained_context: usize,
    pub vocab: usize,
    pub dim: usize,
    pub parameters: u64,
    pub bytes: u64,
    /// The type of most of its weights, in the format's words.
    pub weights: &'static str,
}

impl About {
    /// Facts of a GGUF file; `None` for a directory, and for what cannot be read.
    pub fn of_path(path: &Path) -> Option<Self> {
        let file = path.is_file().then(|| File::open(path).ok()).flatten()?;
        let metadata = file.metadata();
        let architecture = metadata.str("general.architecture").ok().flatten().unwrap_or_default().to_owned();
        let number = |key: &str| {
            let found = metadata.uint(&format!("{architecture}.{key}")).ok().flatten();
            found.and_then(|number| usize::try_from(number).ok()).unwrap_or(0)
        };
        let vocab = metadata.strings("tokenizer.ggml.tokens").ok().flatten().map_or(0, <[String]>::len);
        let facts = Facts::of(&file, number("context_length"), vocab, number("embedding_length"));
        let template = metadata.str("tokenizer.chat_template").ok().flatten().map(str::to_owned);
        Some(Self { architecture, template, facts })
    }
}

impl Facts {
    /// Facts of a model that runs.
    pub fn of_model(file: &File, config: &Config) -> Self {
        Self::of(file, config.context, config.vocab, config.dim)
    }

    fn of(file: &File, trained_context: usize, vocab: usize, dim: usize) -> Self {
        let tensors = file.tensors();
        Self {
            trained_context,
            vocab,
            dim,
            parameters: tensors.iter().map(|tensor| tensor.elements()).fold(0, u64::saturating_add),
            bytes: tensors.iter().map(|tensor| tensor.len_bytes).sum(),
            weights: file.main_type().map_or("none", |ty| ty.name()),
        }
    }
}
