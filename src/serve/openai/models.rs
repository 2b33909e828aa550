//! `/v1/models`.

use serde_json::{Value, json};

use super::super::models::Listed;

/// All models; for clients of ollama a second list.
pub fn list(models: &[Listed]) -> Value {
    let short = |model: &Listed| json!({ "name": model.name, "model": model.name, "type": "model", "capabilities": ["completion"] });
    json!({
        "object": "list",
        "data": models.iter().map(entry).collect::<Vec<_>>(),
        "models": models.iter().map(short).collect::<Vec<_>>(),
    })
}

/// One model.
pub fn entry(model: &Listed) -> Value {
    let context = model.served().map(|served| served.context_tokens);
    let meta = model.facts().map(|facts| {
        json!({
            "n_ctx": context,
            "n_ctx_train": facts.trained_context,
            "n_vocab": facts.vocab,
            "n_embd": facts.dim,
            "n_params": facts.parameters,
            "size": facts.bytes,
        })
    });
    // With more names than one, as llama.cpp has it, the first is among them.
    let first = Some(&model.name).filter(|_| !model.aliases.is_empty());
    let aliases: Vec<&String> = first.into_iter().chain(&model.aliases).collect();
    json!({
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "bitnet-gpu",
        "aliases": aliases,
        "tags": model.tags,
        "meta": meta,
        "status": { "value": model.status() },
    })
}
