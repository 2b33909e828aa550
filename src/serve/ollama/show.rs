//! Lists of the version, the models and those that are loaded.

use serde_json::{Value, json};

use super::{
    super::{
        ids,
        models::{Listed, Phase},
    },
    time::rfc3339,
};

/// The end of a model that stays, as ollama writes it.
const FOREVER: &str = "2318-04-12T00:00:00Z";

/// `/api/version`: clients compare it with the versions of ollama that brought a feature.
pub fn version() -> Value {
    json!({ "version": "0.12.0" })
}

/// `/api/tags`.
pub fn tags(models: &[Listed]) -> Value {
    json!({ "models": models.iter().map(entry).collect::<Vec<_>>() })
}

/// `/api/ps`.
pub fn processes(models: &[Listed]) -> Value {
    let process = |model: &Listed| {
        let Phase::Loaded { served, left } = &model.phase else { return None };
        let mut entry = entry(model);
        entry["expires_at"] = match left {
            Some(left) => json!(rfc3339(ids::now() + left.as_secs())),
            None => json!(FOREVER),
        };
        entry["size_vram"] = json!(0);
        entry["context_length"] = json!(served.context_tokens);
        Some(entry)
    };
    json!({ "models": models.iter().filter_map(process).collect::<Vec<_>>() })
}

/// `/api/show`.
pub fn show(model: &Listed) -> Value {
    let mut capabilities = vec!["completion"];
    if model.knows_tools() {
        capabilities.push("tools");
    }
    let architecture = model.architecture();
    let mut info = json!({ "general.architecture": architecture, "general.basename": model.name });
    if let Some(facts) = model.facts() {
        info["general.parameter_count"] = json!(facts.parameters);
        info[format!("{architecture}.context_length")] = json!(facts.trained_context);
        info[format!("{architecture}.embedding_length")] = json!(facts.dim);
    }
    json!({
        "modelfile": "",
        "parameters": "",
        "template": model.template().unwrap_or_default(),
        "details": details(model),
        "model_info": info,
        "capabilities": capabilities,
        "modified_at": rfc3339(model.created),
    })
}

fn entry(model: &Listed) -> Value {
    json!({
        "name": model.name,
        "model": model.name,
        "modified_at": rfc3339(model.created),
        "size": model.facts().map_or(0, |facts| facts.bytes),
        "digest": digest(&model.name),
        "details": details(model),
    })
}

fn details(model: &Listed) -> Value {
    let facts = model.facts();
    let millions = facts.map_or(0.0, |facts| facts.parameters as f64 / 1e6);
    let size = if millions < 1000.0 { format!("{millions:.1}M") } else { format!("{:.1}B", millions / 1e3) };
    json!({
        "parent_model": "",
        "format": "gguf",
        "family": model.architecture(),
        "families": [model.architecture()],
        "parameter_size": size,
        "quantization_level": facts.map_or("unknown", |facts| facts.weights),
    })
}

/// 64 digits that stand for a name: clients tell models apart by them.
fn digest(name: &str) -> String {
    // FNV-1a, once for each quarter.
    let hash = |quarter: u64| {
        name.bytes().fold(0xcbf2_9ce4_8422_2325 ^ quarter, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
    };
    (0..4).map(|quarter| format!("{:016x}", hash(quarter))).collect()
}
