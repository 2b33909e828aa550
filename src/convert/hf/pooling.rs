//! Pooling, which makes one vector of a text's many: the files of sentence-transformers, and the token that ends a
//! text.

use std::path::{Component, Path, PathBuf};

use serde_json::Value as Json;

use super::json::{Object, read_json};
use crate::{
    error::{Error, Result, shown},
    gguf::{Array, Metadata, Value},
    model::{Config, Family},
};

/// `pooling_type` of llama.cpp.
const MEAN: u32 = 1;
const LAST: u32 = 3;

/// The token that Qwen's embedding models put after each text.
const QWEN_END: &str = "<|endoftext|>";

/// The pooling that `modules.json` names; without one the last token, which BitNet's embedding models are trained with.
/// `files` gets those read.
pub(super) fn read(dir: &Path, files: &mut Vec<PathBuf>) -> Result<u32> {
    let list = dir.join("modules.json");
    let Some(modules) = read_json(&list)? else { return Ok(LAST) };
    files.push(list.clone());
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
    let Some(json) = read_json(&path)? else { return Ok(LAST) };
    files.push(path.clone());
    let of_config = || -> Result<u32> {
        let config = Object::top(&json)?;
        for (key, kind) in [("pooling_mode_mean_tokens", MEAN), ("pooling_mode_lasttoken", LAST)] {
            if config.bool(key)? == Some(true) {
                return Ok(kind);
            }
        }
        if config.bool("pooling_mode_cls_token")? == Some(true) {
            let reason = "the first token sees nothing of the text behind it: only the last token and the mean are";
            return Err(Error::unsupported(config.key("pooling_mode_cls_token"), reason));
        }
        Ok(LAST)
    };
    of_config().map_err(|e| e.in_file(path.display().to_string()))
}

/// Has Qwen's tokenizer end each text with the token whose vector is taken: its files name another one, which ends an
/// answer (bitnet.cpp's `convert-bitnet-embedding-to-gguf.py` does so as well).
pub(super) fn end_texts(model: &Config, metadata: &mut Metadata) -> Result<()> {
    let tokens = match metadata.get("tokenizer.ggml.tokens") {
        Some(Value::Array(Array::String(tokens))) if model.family == Family::Qwen3InputNorms => tokens,
        _ => return Ok(()),
    };
    if let Some(id) = tokens.iter().position(|token| token == QWEN_END) {
        metadata.set("tokenizer.ggml.eos_token_id", Value::U32(id as u32));
        metadata.set("tokenizer.ggml.add_eos_token", Value::Bool(true));
    }
    Ok(())
}
