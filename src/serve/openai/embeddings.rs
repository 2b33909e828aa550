//! `/v1/embeddings`, and the forms of llama.cpp and ollama.

use serde_json::{Value, json};

use super::{
    super::{
        error::{ApiError, ApiResult},
        fields::{Fields, wrong_type},
        model::Served,
    },
    completions::token,
};

/// Texts of a request at most.
const MOST_TEXTS: usize = 2048;

/// A request for embeddings.
pub struct Asked {
    /// Token ids of each text.
    pub texts: Vec<Vec<u32>>,
    base64: bool,
    dimensions: Option<usize>,
}

/// Reads a request whose texts are in `field`. Where `cuts`, long texts are cut unless the request says otherwise;
/// else they are refused.
pub fn read(model: &Served, fields: Fields<'_>, field: &str, cuts: bool) -> ApiResult<Asked> {
    if model.pooling.is_none() {
        return Err(ApiError::not_supported("this model was made to write text: it gives no embeddings"));
    }
    let input = fields.get(field).ok_or_else(|| ApiError::bad_field(field, format!("'{field}' is required")))?;
    let one = |text: &Value| -> ApiResult<Vec<u32>> {
        match text {
            Value::String(text) if text.is_empty() => Ok(Vec::new()),
            Value::String(text) => model.encode(text, true),
            Value::Array(ids) => ids.iter().map(|id| token(id, model, field)).collect(),
            other => Err(wrong_type(field, "a string, token ids, or a list of either", other)),
        }
    };
    let mut texts = match input {
        Value::Array(parts) if !parts.iter().any(Value::is_number) => {
            parts.iter().map(one).collect::<ApiResult<Vec<_>>>()?
        }
        text => vec![one(text)?],
    };
    if texts.is_empty() || texts.len() > MOST_TEXTS || texts.iter().any(Vec::is_empty) {
        let message = format!("Field '{field}': from 1 to {MOST_TEXTS} texts, none empty");
        return Err(ApiError::bad_field(field, message));
    }
    let cuts = cuts && fields.bool("truncate")?.unwrap_or(true);
    for text in &mut texts {
        if text.len() > model.context_tokens && !cuts {
            return Err(ApiError::context_exceeded(field, text.len(), model.context_tokens));
        }
        text.truncate(model.context_tokens);
    }
    let base64 = match fields.text("encoding_format")? {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => {
            return Err(ApiError::bad_field("encoding_format", "Field 'encoding_format': \"float\" or \"base64\""));
        }
    };
    let dimensions = match fields.get("dimensions") {
        None => None,
        Some(value) => match value.as_u64() {
            Some(count @ 1..) if count <= model.facts.dim as u64 => Some(count as usize),
            _ => {
                let message = format!("Field 'dimensions': from 1 to {}", model.facts.dim);
                return Err(ApiError::bad_field("dimensions", message));
            }
        },
    };
    Ok(Asked { texts, base64, dimensions })
}

impl Asked {
    fn tokens(&self) -> usize {
        self.texts.iter().map(Vec::len).sum()
    }

    /// OpenAI's answer.
    pub fn openai(&self, model: &Served, vectors: &[Vec<f32>]) -> Value {
        let data = vectors.iter().enumerate().map(|(index, vector)| {
            let vector = shortened(vector, self.dimensions);
            let embedding = if self.base64 { json!(base64(&vector)) } else { json!(vector) };
            json!({ "object": "embedding", "index": index, "embedding": embedding })
        });
        json!({
            "object": "list",
            "data": data.collect::<Vec<_>>(),
            "model": model.name,
            "usage": { "prompt_tokens": self.tokens(), "total_tokens": self.tokens() },
        })
    }

    /// llama.cpp's answer.
    pub fn llama(&self, _model: &Served, vectors: &[Vec<f32>]) -> Value {
        vectors.iter().enumerate().map(|(index, vector)| json!({ "index": index, "embedding": [vector] })).collect()
    }

    /// ollama's answer.
    pub fn ollama(&self, model: &Served, vectors: &[Vec<f32>]) -> Value {
        json!({
            "model": model.name,
            "embeddings": vectors.iter().map(|vector| shortened(vector, self.dimensions)).collect::<Vec<_>>(),
            "total_duration": 0,
            "load_duration": 0,
            "prompt_eval_count": self.tokens(),
        })
    }

    /// ollama's older answer, of one text.
    pub fn ollama_one(&self, _model: &Served, vectors: &[Vec<f32>]) -> Value {
        json!({ "embedding": vectors.first() })
    }
}

/// The first components, brought to length 1 again.
fn shortened(vector: &[f32], dimensions: Option<usize>) -> Vec<f32> {
    let Some(count) = dimensions else { return vector.to_vec() };
    let first = &vector[..count.min(vector.len())];
    let length = first.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    first.iter().map(|x| x / length).collect()
}

/// Base64 of little-endian floats, which is what OpenAI's client asks for.
fn base64(vector: &[f32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let known = digit <= three.len();
            text.push(if known { char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against Python's base64.b64encode(struct.pack("<...f", ...)).
    #[test]
    fn floats_in_base64() {
        assert_eq!(base64(&[]), "");
        assert_eq!(base64(&[1.0]), "AACAPw==");
        assert_eq!(base64(&[1.0, -2.5]), "AACAPwAAIMA=");
        assert_eq!(base64(&[1.0, -2.5, 0.1]), "AACAPwAAIMDNzMw9");
    }

    #[test]
    fn shortened_vectors_have_length_1() {
        assert_eq!(shortened(&[3.0, 4.0, 12.0], Some(2)), [0.6, 0.8]);
        assert_eq!(shortened(&[3.0, 4.0], None), [3.0, 4.0]);
    }
}
