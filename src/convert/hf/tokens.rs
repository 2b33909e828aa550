//! The tokenizer's files -> metadata pairs.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::{
    bytes::Bytes,
    error::{Error, Result, shown},
    gguf::{Array, Value},
    tokenizer::{JsonOptions, templates_to_gguf, to_gguf},
};

use super::sentencepiece::{self, Beside};

const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

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
    let json = tokens.file(dir, "tokenizer.json")?;
    if let Some(json) = &json {
        check_lfs(json, &dir.join("tokenizer.json"))?;
    }
    let Some(json) = json else {
        match tokens.file(dir, "tokenizer.model")? {
            Some(model) => tokens.sentence_piece(dir, &model, vocab)?,
            None => tokens.warnings.push("there is no tokenizer.json: the model takes token ids only".to_owned()),
        }
        tokens.template_files(dir)?;
        return Ok(tokens);
    };
    let config = tokens.file(dir, "tokenizer_config.json")?;
    let generation = tokens.file(dir, "generation_config.json")?;
    // transformers takes BOS and EOS from config.json where there is no generation_config.json.
    let model = if generation.is_none() { tokens.file(dir, "config.json")? } else { None };
    let options = JsonOptions { config: config.as_deref(), generation: generation.as_deref(), model: model.as_deref() };
    tokens.pairs = to_gguf(&json, &options, vocab)?;
    tokens.template_files(dir)?;
    Ok(tokens)
}

/// A file that git would fetch, named as what it is.
fn check_lfs(bytes: &[u8], path: &Path) -> Result<()> {
    if bytes.starts_with(b"version https://git-lfs") {
        let found = "a Git LFS pointer: `git lfs pull`, or another download, brings the file itself";
        return Err(Error::malformed("file", "the tokenizer", found).in_file(path.display().to_string()));
    }
    Ok(())
}

/// Puts the pairs of named templates into others: lists of names are joined, and a template takes the place of one of its name.
fn add_named(pairs: &mut Vec<(String, Value)>, more: Vec<(String, Value)>) {
    for (key, value) in more {
        match (pairs.iter_mut().find(|(known, _)| *known == key), value) {
            (Some((_, Value::Array(Array::String(names)))), Value::Array(Array::String(new))) => {
                names.extend(new.into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>());
            }
            (Some((_, known)), value) => *known = value,
            (None, value) => pairs.push((key, value)),
        }
    }
}

impl Tokens {
    /// The pairs of SentencePiece's own file and of those beside it.
    fn sentence_piece(&mut self, dir: &Path, model: &[u8], vocab: usize) -> Result<()> {
        let path = dir.join("tokenizer.model");
        check_lfs(model, &path)?;
        let mut json = |name: &str| -> Result<serde_json::Value> {
            let Some(bytes) = self.file(dir, name)? else { return Ok(serde_json::Value::Null) };
            serde_json::from_slice(&bytes).map_err(|e| {
                Error::malformed("file", "JSON", shown(&e.to_string())).in_file(dir.join(name).display().to_string())
            })
        };
        let beside = Beside { config: json("tokenizer_config.json")?, added: json("added_tokens.json")? };
        let (pairs, warnings) =
            sentencepiece::read(model, &beside, vocab).map_err(|e| e.in_file(path.display().to_string()))?;
        self.pairs = pairs;
        self.pairs.extend(templates_to_gguf(&beside.config["chat_template"]));
        self.warnings.extend(warnings);
        Ok(())
    }

    /// Chat templates in files of their own.
    fn template_files(&mut self, dir: &Path) -> Result<()> {
        // Newer repositories keep the chat template in a file of its own, which wins, as in transformers; an older form of that
        // file holds where there is no other.
        if !self.pairs.iter().any(|(key, _)| key == CHAT_TEMPLATE)
            && let Some(json) = self.file(dir, "chat_template.json")?
        {
            let path = dir.join("chat_template.json").display().to_string();
            let json: serde_json::Value = serde_json::from_slice(&json)
                .map_err(|e| Error::malformed("chat template", "JSON", shown(&e.to_string())).in_file(path))?;
            if let Some(source) = json["chat_template"].as_str() {
                self.pairs.push((CHAT_TEMPLATE.into(), Value::String(source.to_owned())));
            }
        }
        if let Some(template) = self.file(dir, "chat_template.jinja")? {
            let path = dir.join("chat_template.jinja").display().to_string();
            let template = String::from_utf8(template.to_vec())
                .map_err(|e| Error::malformed("chat template", "UTF-8 text", e).in_file(path))?;
            self.pairs.retain(|(key, _)| key != CHAT_TEMPLATE);
            self.pairs.push((CHAT_TEMPLATE.into(), Value::String(template)));
        }
        self.named_template_files(&dir.join("additional_chat_templates"))
    }

    /// Templates by name in a folder of their own, which go before those of `tokenizer_config.json`.
    fn named_template_files(&mut self, folder: &Path) -> Result<()> {
        if !folder.is_dir() {
            return Ok(());
        }
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.map_err(|e| Error::io("read", folder, e))?;
        let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
        paths.retain(|path| path.is_file() && path.extension().is_some_and(|end| end == "jinja"));
        paths.sort();
        let mut list = Vec::new();
        for path in paths {
            let Some(name) = path.file_stem().and_then(OsStr::to_str).map(str::to_owned) else { continue };
            let source = String::from_utf8(Bytes::map(&path)?.to_vec());
            let source = source
                .map_err(|e| Error::malformed("chat template", "UTF-8 text", e).in_file(path.display().to_string()))?;
            list.push(json!({"name": name, "template": source}));
            self.files.push(path);
        }
        add_named(&mut self.pairs, templates_to_gguf(&list.into()));
        Ok(())
    }

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
