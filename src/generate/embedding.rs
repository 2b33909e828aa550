//! The vector of a text: the residual stream behind the last block, normed, pooled and brought to length 1.
//!
//! The session's plan has no head: its last segment hands the stream over, on whatever backend it ran.

use crate::{
    error::{Error, Result},
    gguf::Metadata,
    model::{Config, Model},
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
    /// That of a model made for embeddings; `None` for one that writes text.
    ///
    /// # Errors
    /// If the file states it in another type.
    pub fn stated(config: &Config, metadata: &Metadata) -> Result<Option<Self>> {
        let stated = metadata.uint(&format!("{}.pooling_type", config.arch))?;
        Ok(match stated {
            // The converter of BitNet's embedding models writes the mean, and they were trained with the last token.
            _ if config.family.has_input_norms() => Some(Self::Last),
            Some(POOLING_MEAN) => Some(Self::Mean),
            Some(POOLING_LAST) => Some(Self::Last),
            _ => None,
        })
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
            add_normed(&mut pooled, stream, &model.weights.output_norm, model.config.rms_eps);
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
