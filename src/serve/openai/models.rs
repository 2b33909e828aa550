//! `/v1/models`.

use serde_json::{Value, json};

use super::super::{
    error::{ApiError, ApiResult},
    model::Served,
};

/// All models; for clients of ollama a second list.
pub fn list(model: &Served) -> Value {
    json!({
        "object": "list",
        "data": [entry(model)],
        "models": [{ "name": model.name, "model": model.name, "type": "model", "capabilities": ["completion"] }],
    })
}

/// The model of this name.
pub fn one(model: &Served, name: &str) -> ApiResult<Value> {
    if model.is_called(name) { Ok(entry(model)) } else { Err(ApiError::no_model(name)) }
}

fn entry(model: &Served) -> Value {
    json!({
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "bitnet-gpu",
        "aliases": model.aliases,
        "tags": [],
        "meta": {
            "n_ctx": model.context_tokens,
            "n_ctx_train": model.facts.trained_context,
            "n_vocab": model.facts.vocab,
            "n_embd": model.facts.dim,
            "n_params": model.facts.parameters,
            "size": model.facts.bytes,
        },
    })
}
