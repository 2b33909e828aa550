//! The vector of a text: the residual stream behind the last block, normed, pooled and brought to length 1.
//!
//! The session's plan has no head: its last segment hands the stream over, on whatever backend it ran.

use crate::{
    error::{Error, Result, shown},
    gguf::Metadata,
    model::{Config, Model, Norm},
    session::Session,
};

/// How the tokens of a text become one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The last token, which has seen all others.
    #[default]
    Last,
    /// The mean of all tokens.
    Mean,
}

/// `pooling_type` of llama.cpp.
const POOLING_MEAN: u64 = 1;
const POOLING_LAST: u64 = 3;

impl Pooling {
    /// `pooling_type` as the files of sentence-transformers say it; a key of our own, as that of llama.cpp is not always
    /// meant.
    pub(crate) const OWN_KEY: &'static str = "sentence_transformers.pooling_type";

    /// That of a model made for embeddings; `None` for one that writes text.
    ///
    /// # Errors
    /// If the file states one that is not known, or in another type.
    pub fn stated(config: &Config, metadata: &Metadata) -> Result<Option<Self>> {
        let key = format!("{}.pooling_type", config.arch);
        let stated = match metadata.uint(Self::OWN_KEY)? {
            // The converter of BitNet's embedding models writes the mean, and they were trained with the last token.
            None if config.input_norms.is_some_and(|norms| norms.embedder) => Some(POOLING_LAST),
            None => metadata.uint(&key)?,
            own => own,
        };
        match stated {
            None | Some(0) => Ok(None),
            Some(POOLING_MEAN) => Ok(Some(Self::Mean)),
            Some(POOLING_LAST) => Ok(Some(Self::Last)),
            Some(other) => {
                let name = if other == 2 { " (CLS)" } else { "" };
                Err(Error::unsupported(format!("key {key} = {other}{name}"), "only mean (1) and last (3) are"))
            }
        }
    }
}

/// Texts that a model was trained to find before others, such as an instruction before questions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompts {
    /// By name.
    pub named: Vec<(String, String)>,
    /// The name of the one that is taken where none is asked for.
    pub usual: Option<String>,
}

impl Prompts {
    const NAMES: &'static str = "sentence_transformers.prompts";
    const USUAL: &'static str = "sentence_transformers.default_prompt";

    /// Those that a converted directory of sentence-transformers has.
    ///
    /// # Errors
    /// If a key has another type.
    pub fn stated(metadata: &Metadata) -> Result<Self> {
        let mut named = Vec::new();
        for name in metadata.strings(Self::NAMES)?.into_iter().flatten() {
            let text = metadata.str(&format!("{}.{name}", Self::NAMES))?.unwrap_or_default();
            named.push((name.clone(), text.to_owned()));
        }
        Ok(Self { named, usual: metadata.str(Self::USUAL)?.map(str::to_owned) })
    }

    /// The text of this name, or the usual one.
    ///
    /// # Errors
    /// If there is none of this name; names those there are.
    pub fn text(&self, name: Option<&str>) -> Result<&str> {
        let Some(wanted) = name.or(self.usual.as_deref()) else { return Ok("") };
        let found = self.named.iter().find(|(name, _)| name == wanted);
        found.map(|(_, text)| text.as_str()).ok_or_else(|| {
            let names: Vec<_> = self.named.iter().map(|(name, _)| shown(name)).collect();
            let expected = if names.is_empty() { "no name, as the model has none".into() } else { names.join(", ") };
            Error::malformed("name of the prompt", expected, shown(wanted))
        })
    }

    /// Puts them into metadata.
    #[cfg(feature = "convert")]
    pub(crate) fn write(&self, metadata: &mut Metadata) {
        use crate::gguf::{Array, Value};

        let names = self.named.iter().map(|(name, _)| name.clone()).collect();
        metadata.set(Self::NAMES, Value::Array(Array::String(names)));
        for (name, text) in &self.named {
            metadata.set(format!("{}.{name}", Self::NAMES), Value::String(text.clone()));
        }
        if let Some(usual) = &self.usual {
            metadata.set(Self::USUAL, Value::String(usual.clone()));
        }
    }
}

/// The embedding of a text given as ids; (dim), of length 1.
///
/// # Errors
/// If the text is empty or too long, or a backend fails.
pub fn embedding(session: &mut Session, model: &Model, ids: &[u32], pooling: Pooling) -> Result<Vec<f32>> {
    session.truncate(0)?;
    let mut pooled = vec![0.0; model.config.dim];
    let mut position = 0;
    session.hidden(ids, |stream| {
        position += 1;
        if pooling == Pooling::Mean || position == ids.len() {
            add_normed(&mut pooled, stream, &model.weights.output_norm, model.config.eps(Norm::Output));
        }
    })?;
    // The mean needs no division, as the length is set to 1 anyway.
    let length = pooled.iter().map(|x| x * x).sum::<f64>().sqrt();
    if !(length.is_normal() && length > 0.0) {
        return Err(Error::malformed("the embedding", "a vector with a length", length));
    }
    Ok(pooled.iter().map(|x| (x / length) as f32).collect())
}

/// sum += x / sqrt(mean(x^2) + eps) * weight
fn add_normed(sum: &mut [f64], x: &[f32], weight: &[f32], eps: f32) {
    let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (mean + f64::from(eps)).sqrt();
    for ((sum, &x), &weight) in sum.iter_mut().zip(x).zip(weight) {
        *sum += f64::from(x) * factor * f64::from(weight);
    }
}
