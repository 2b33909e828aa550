//! Lists of the version, the models and those that are loaded.

use serde_json::{Value, json};

use super::{super::model::Served, time::rfc3339};

/// `/api/version`: clients compare it with the versions of ollama that brought a feature.
pub fn version() -> Value {
    json!({ "version": "0.12.0" })
}

/// `/api/tags`.
pub fn tags(model: &Served) -> Value {
    json!({ "models": [entry(model)] })
}

/// `/api/ps`.
pub fn processes(model: &Served) -> Value {
    let mut entry = entry(model);
    entry["expires_at"] = json!("2318-04-12T00:00:00Z");
    entry["size_vram"] = json!(0);
    entry["context_length"] = json!(model.context_tokens);
    json!({ "models": [entry] })
}

/// `/api/show`.
pub fn show(model: &Served) -> Value {
    let facts = &model.facts;
    let mut capabilities = vec!["completion"];
    if model.template.knows_tools() {
        capabilities.push("tools");
    }
    json!({
        "modelfile": "",
        "parameters": "",
        "template": model.template.source().unwrap_or_default(),
        "details": details(model),
        "model_info": {
            "general.architecture": model.architecture,
            "general.parameter_count": facts.parameters,
            format!("{}.context_length", model.architecture): facts.trained_context,
            format!("{}.embedding_length", model.architecture): facts.dim,
        },
        "capabilities": capabilities,
        "modified_at": rfc3339(model.created),
    })
}

fn entry(model: &Served) -> Value {
    json!({
        "name": model.name,
        "model": model.name,
        "modified_at": rfc3339(model.created),
        "size": model.facts.bytes,
        "digest": digest(&model.name),
        "details": details(model),
    })
}

fn details(model: &Served) -> Value {
    let millions = model.facts.parameters as f64 / 1e6;
    let size = if millions < 1000.0 { format!("{millions:.1}M") } else { format!("{:.1}B", millions / 1e3) };
    json!({
        "parent_model": "",
        "format": "gguf",
        "family": model.architecture,
        "families": [model.architecture],
        "parameter_size": size,
        "quantization_level": "ternary",
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
