//! The tokenizer's files -> metadata pairs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value as Json;

use super::json::{Object, read_json};
use crate::{
    error::{Error, Result, shown},
    gguf::{Array, Value},
};

/// What the directory says about text.
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
    let settings = tokens.json(dir, "tokenizer_config.json")?;
    tokens.chat_template(dir, settings.as_ref())?;
    let _ = vocab;
    Ok(tokens)
}

impl Tokens {
    fn json(&mut self, dir: &Path, name: &str) -> Result<Option<Json>> {
        let path = dir.join(name);
        let json = read_json(&path)?;
        if json.is_some() {
            self.files.push(path);
        }
        Ok(json)
    }

    /// `chat_template.jinja` wins over `tokenizer_config.json`, as in transformers.
    fn chat_template(&mut self, dir: &Path, settings: Option<&Json>) -> Result<()> {
        const KEY: &str = "tokenizer.chat_template";
        let path = dir.join("chat_template.jinja");
        if path.exists() {
            let template = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
            self.pairs.push((KEY.into(), Value::String(template)));
            self.files.push(path);
            return Ok(());
        }
        let Some(settings) = settings else { return Ok(()) };
        let in_file = |e: Error| e.in_file(dir.join("tokenizer_config.json").display().to_string());
        let templates = templates(&Object::top(settings).map_err(in_file)?).map_err(in_file)?;
        let only = templates.len() == 1;
        let mut others = Vec::new();
        for (name, template) in templates {
            let template = Value::String(template.to_owned());
            if only || name == "default" {
                self.pairs.push((KEY.into(), template));
            } else {
                self.pairs.push((format!("{KEY}.{name}"), template));
                others.push(name.to_owned());
            }
        }
        if !others.is_empty() {
            self.pairs.push(("tokenizer.chat_templates".into(), Value::Array(Array::String(others))));
        }
        Ok(())
    }
}

/// The chat templates of `tokenizer_config.json`: one string, or a list of named ones.
fn templates<'a>(settings: &Object<'a>) -> Result<Vec<(&'a str, &'a str)>> {
    const KEY: &str = "chat_template";
    let list = match settings.get(KEY) {
        None => return Ok(Vec::new()),
        Some(Json::String(template)) => return Ok(vec![("default", template)]),
        Some(Json::Array(list)) => list,
        Some(_) => return Err(Error::malformed(settings.key(KEY), "a string or a list of named templates", "neither")),
    };
    let mut named = Vec::new();
    for entry in list {
        let text = |key: &str| entry.get(key).and_then(Json::as_str);
        let (Some(name), Some(template)) = (text("name"), text("template")) else {
            return Err(Error::malformed(settings.key(KEY), "a name and a template in each entry", "an entry without"));
        };
        // The name becomes part of a metadata key.
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(Error::malformed(settings.key(KEY), "names of letters, digits and _", shown(name)));
        }
        named.push((name, template));
    }
    Ok(named)
}
