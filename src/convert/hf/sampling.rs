//! `generation_config.json` -> `general.sampling.*`, by the names that llama.cpp's converter gives them.

use std::path::{Path, PathBuf};

use super::json::{Object, read_json};
use crate::{
    error::{Error, Result},
    gguf::Value,
};

/// The pairs, where the file is there and does not ask for greedy decoding, in which its other values mean nothing. What
/// they are worth is looked at when the model runs.
pub(super) fn read(dir: &Path, files: &mut Vec<PathBuf>) -> Result<Vec<(String, Value)>> {
    let path = dir.join("generation_config.json");
    let Some(json) = read_json(&path)? else { return Ok(Vec::new()) };
    let pairs = pairs(&json).map_err(|e: Error| e.in_file(path.display().to_string()))?;
    if !pairs.is_empty() {
        files.push(path);
    }
    Ok(pairs)
}

fn pairs(json: &serde_json::Value) -> Result<Vec<(String, Value)>> {
    let top = Object::top(json)?;
    if top.get("do_sample") == Some(&false.into()) {
        return Ok(Vec::new());
    }
    let mut pairs = Vec::new();
    let mut push = |name: &str, value: Option<Value>| {
        pairs.extend(value.map(|value| (format!("general.sampling.{name}"), value)));
    };
    let float = |key: &str| top.float(key).map(|value| value.map(|value| Value::F32(value as f32)));
    push("temp", float("temperature")?);
    push("top_k", top.uint("top_k")?.map(|k| Value::I32(i32::try_from(k).unwrap_or(i32::MAX))));
    push("top_p", float("top_p")?);
    push("min_p", float("min_p")?);
    push("penalty_repeat", float("repetition_penalty")?);
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_generation_config_says_about_sampling() {
        let given =
            json!({"do_sample": true, "temperature": 1, "top_k": 20, "top_p": 0.5, "repetition_penalty": null, "x": 1});
        let expected = [("temp", Value::F32(1.0)), ("top_k", Value::I32(20)), ("top_p", Value::F32(0.5))];
        assert_eq!(pairs(&given).unwrap(), expected.map(|(name, value)| (format!("general.sampling.{name}"), value)));
        assert_eq!(pairs(&json!({"do_sample": false, "temperature": 0.6})).unwrap(), []);
        let error = pairs(&json!({"temperature": "warm"})).unwrap_err().to_string();
        assert!(error.contains("key temperature: expected a number"), "{error}");
        assert!(pairs(&json!({"top_k": -1})).is_err() && pairs(&json!([])).is_err());
    }
}
