//! Pooling, which makes one vector of a text's many: the files of sentence-transformers, and the token that ends a
//! text.

use std::path::{Component, Path, PathBuf};

use serde_json::Value as Json;

use super::json::{Object, read_json};
use crate::{
    error::{Error, Result, shown},
    generate::Prompts,
    gguf::{Array, Metadata, Value},
    model::{Config, Family},
};

/// `pooling_type` of llama.cpp.
const MEAN: u32 = 1;
const LAST: u32 = 3;

/// The token that Qwen's embedding models put after each text.
const QWEN_END: &str = "<|endoftext|>";

/// Whether the model was made for embeddings, as BitNet's are.
pub(super) fn is_embedder(model: &Config) -> bool {
    model.input_norms.is_some_and(|norms| norms.embedder)
}

/// Whether the directory is one of sentence-transformers.
pub(super) fn is_there(dir: &Path) -> bool {
    dir.join("modules.json").exists()
}

/// The pooling that `modules.json` names; without one the last token, which BitNet's embedding models are trained with.
/// `files` gets those read.
///
/// # Errors
/// If a module does what this program does not, or a file is damaged.
pub(super) fn read(dir: &Path, files: &mut Vec<PathBuf>, warnings: &mut Vec<String>) -> Result<u32> {
    let list = dir.join("modules.json");
    let Some(modules) = read_json(&list)? else { return Ok(LAST) };
    files.push(list.clone());
    let kinds = modules.as_array().into_iter().flatten().filter_map(|module| module["type"].as_str());
    let kinds: Vec<&str> = kinds.filter_map(|kind| kind.rsplit('.').next()).collect();
    if let Some(kind) = kinds.iter().find(|kind| !matches!(**kind, "Transformer" | "Pooling" | "Normalize")) {
        let error =
            Error::unsupported(format!("the module {}", shown(kind)), "only Transformer, Pooling and Normalize are");
        return Err(error.in_file(list.display().to_string()));
    }
    if !kinds.contains(&"Normalize") {
        warnings.push("modules.json has no Normalize: vectors have length 1 here all the same".to_owned());
    }
    let is_pooling = |module: &&Json| module["type"].as_str().is_some_and(|kind| kind.ends_with("Pooling"));
    let Some(module) = modules.as_array().and_then(|modules| modules.iter().find(is_pooling)) else { return Ok(LAST) };
    let folder = module["path"].as_str().unwrap_or_default();
    let mut parts = Path::new(folder).components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) || folder.contains(['\\', ':']) {
        let found = format!("\"{}\"", shown(folder));
        let error = Error::malformed("path of the pooling module", "the name of a folder beside the file", found);
        return Err(error.in_file(list.display().to_string()));
    }
    let path = dir.join(folder).join("config.json");
    let json = read_json(&path)?
        .ok_or_else(|| Error::missing(path.display().to_string(), "the pooling that modules.json names"))?;
    files.push(path.clone());
    let of_config = || -> Result<u32> {
        let config = Object::top(&json)?;
        for (key, kind) in [("pooling_mode_mean_tokens", MEAN), ("pooling_mode_lasttoken", LAST)] {
            if config.bool(key)? == Some(true) {
                return Ok(kind);
            }
        }
        for key in ["cls_token", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens"] {
            let key = format!("pooling_mode_{key}");
            if config.bool(&key)? == Some(true) {
                return Err(Error::unsupported(config.key(&key), "only the last token and the mean are"));
            }
        }
        match config.str("pooling_mode")? {
            Some("mean") => Ok(MEAN),
            None | Some("lasttoken") => Ok(LAST),
            Some(other) => {
                let thing = format!("{} {}", config.key("pooling_mode"), shown(other));
                Err(Error::unsupported(thing, "only lasttoken and mean are"))
            }
        }
    };
    of_config().map_err(|e| e.in_file(path.display().to_string()))
}

/// Texts to put before others, by name, of `config_sentence_transformers.json`.
pub(super) fn prompts(dir: &Path, files: &mut Vec<PathBuf>, metadata: &mut Metadata) -> Result<()> {
    let path = dir.join("config_sentence_transformers.json");
    let Some(json) = read_json(&path)? else { return Ok(()) };
    let of_config = || -> Result<_> {
        let top = Object::top(&json)?;
        let prompts = top.object("prompts")?.map(|prompts| prompts.strings_by_key()).transpose()?.unwrap_or_default();
        Ok((prompts, top.str("default_prompt_name")?))
    };
    let (prompts, usual) = of_config().map_err(|e: Error| e.in_file(path.display().to_string()))?;
    Prompts {
        named: prompts.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect(),
        usual: usual.map(str::to_owned),
    }
    .write(metadata);
    files.push(path);
    Ok(())
}

/// Has Qwen's tokenizer end each text with the token whose vector is taken: its files name another one, which ends an
/// answer (bitnet.cpp's `convert-bitnet-embedding-to-gguf.py` does so as well).
pub(super) fn end_texts(model: &Config, metadata: &mut Metadata) -> Result<()> {
    let tokens = match metadata.get("tokenizer.ggml.tokens") {
        Some(Value::Array(Array::String(tokens))) if model.family == Family::Qwen3 && is_embedder(model) => tokens,
        _ => return Ok(()),
    };
    if let Some(id) = tokens.iter().position(|token| token == QWEN_END) {
        metadata.set("tokenizer.ggml.eos_token_id", Value::U32(id as u32));
        metadata.set("tokenizer.ggml.add_eos_token", Value::Bool(true));
    }
    Ok(())
}
