//! The tokenizer's files -> metadata pairs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    bytes::Bytes,
    error::{Error, Result},
    gguf::Value,
    tokenizer::{JsonOptions, to_gguf},
};

/// Facts about text in the directory.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// `tokenizer.*` in the order they are written.
    pub pairs: Vec<(String, Value)>,
    pub warnings: Vec<String>,
    /// The files read.
    pub files: Vec<PathBuf>,
}

/// Reads what there is; a model without a tokenizer runs on token ids.
pub(super) fn read(dir: &Path, vocab: usize) -> Result<Tokens> {
    let mut tokens = Tokens::default();
    let Some(json) = tokens.file(dir, "tokenizer.json")? else {
        tokens.warnings.push(if dir.join("tokenizer.model").exists() {
            "there is no tokenizer.json, and tokenizer.model is not read (loading and saving it with transformers' \
             AutoTokenizer makes the one from the other): the model takes token ids only"
                .to_owned()
        } else {
            "there is no tokenizer.json: the model takes token ids only".to_owned()
        });
        return Ok(tokens);
    };
    let config = tokens.file(dir, "tokenizer_config.json")?;
    let generation = tokens.file(dir, "generation_config.json")?;
    // transformers takes BOS and EOS from config.json where there is no generation_config.json.
    let model = if generation.is_none() { tokens.file(dir, "config.json")? } else { None };
    let options = JsonOptions { config: config.as_deref(), generation: generation.as_deref(), model: model.as_deref() };
    tokens.pairs = to_gguf(&json, &options, vocab)?;
    // Newer repositories keep the chat template in a file of its own, which wins, as in transformers.
    if let Some(template) = tokens.file(dir, "chat_template.jinja")? {
        let path = dir.join("chat_template.jinja").display().to_string();
        let template = String::from_utf8(template.to_vec())
            .map_err(|e| Error::malformed("chat template", "UTF-8 text", e).in_file(path))?;
        tokens.pairs.push(("tokenizer.chat_template".into(), Value::String(template)));
    }
    Ok(tokens)
}

impl Tokens {
    fn file(&mut self, dir: &Path, name: &str) -> Result<Option<Bytes>> {
        let path = dir.join(name);
        if !fs::exists(&path).map_err(|e| Error::io("open", &path, e))? {
            return Ok(None);
        }
        let bytes = Bytes::map(&path)?;
        self.files.push(path);
        Ok(Some(bytes))
    }
}
