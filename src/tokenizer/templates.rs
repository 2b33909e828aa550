//! Chat templates that a model comes with: the usual one, and others by name, such as `tool_use`.

use serde_json::Value as Json;

use crate::{
    error::Result,
    gguf::{Array, Metadata, Value},
};

const KEY: &str = "tokenizer.chat_template";
/// Names of the templates besides the usual one; each has a key that ends with its name, as llama.cpp's converter writes it.
const NAMES: &str = "tokenizer.chat_templates";
/// Name of the usual one in a list.
const DEFAULT: &str = "default";

/// Jinja sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Templates {
    /// The one for every conversation that no other is for.
    pub usual: Option<String>,
    /// Others by name.
    pub named: Vec<(String, String)>,
}

impl Templates {
    /// `chat_template` of `tokenizer_config.json`: a text, or a list of names and texts.
    pub fn of_config(value: &Json) -> Self {
        let mut templates = Self { usual: value.as_str().map(str::to_owned), named: Vec::new() };
        for entry in value.as_array().into_iter().flatten() {
            if let (Some(name), Some(source)) = (entry["name"].as_str(), entry["template"].as_str()) {
                templates.set(name, source.to_owned());
            }
        }
        templates
    }

    pub fn of_metadata(metadata: &Metadata) -> Result<Self> {
        let mut templates = Self { usual: metadata.str(KEY)?.map(str::to_owned), named: Vec::new() };
        for name in metadata.strings(NAMES)?.into_iter().flatten() {
            if let Some(source) = metadata.str(&format!("{KEY}.{name}"))? {
                templates.set(name, source.to_owned());
            }
        }
        Ok(templates)
    }

    fn set(&mut self, name: &str, source: String) {
        match name {
            DEFAULT => self.usual = Some(source),
            name => self.named.push((name.to_owned(), source)),
        }
    }

    /// The keys and values of a GGUF file.
    pub fn into_pairs(self) -> Vec<(String, Value)> {
        let mut pairs: Vec<_> = self.usual.into_iter().map(|source| (KEY.to_owned(), Value::String(source))).collect();
        if !self.named.is_empty() {
            let names = self.named.iter().map(|(name, _)| name.clone()).collect();
            pairs.push((NAMES.to_owned(), Value::Array(Array::String(names))));
        }
        let named = self.named.into_iter().map(|(name, source)| (format!("{KEY}.{name}"), Value::String(source)));
        pairs.extend(named);
        pairs
    }
}
