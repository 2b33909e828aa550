//! Perplexity of a text: exp of the mean negative log-likelihood of its tokens, as llama.cpp's
//! `llama-perplexity` defines it.
//!
//! The ids of the whole text are cut into chunks of `context` tokens; an incomplete last chunk is dropped.
//! Each chunk is run on its own with its first token replaced by BOS (where the model uses one), and the
//! tokens of its second half are scored, so that each has at least half a context before it.

use crate::{
    error::{Error, Result},
    session::{Runtime, Sequence, Session},
};

/// The likelihood of the tokens scored so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Likelihood {
    tokens: usize,
    sum: f64,
    sum_of_squares: f64,
}

impl Likelihood {
    /// Tokens scored.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Mean negative log-likelihood in nats; NaN before the first token.
    pub fn mean_nll(&self) -> f64 {
        self.sum / self.tokens as f64
    }

    /// exp of the mean.
    pub fn perplexity(&self) -> f64 {
        self.mean_nll().exp()
    }

    /// One standard error of [`perplexity`](Self::perplexity), taking the tokens as independent; NaN below 2 tokens.
    pub fn standard_error(&self) -> f64 {
        let mean = self.mean_nll();
        let variance = (self.sum_of_squares / self.tokens as f64 - mean * mean).max(0.0);
        (variance / (self.tokens as f64 - 1.0)).sqrt() * self.perplexity()
    }

    fn add(&mut self, nll: f64) {
        self.tokens += 1;
        self.sum += nll;
        self.sum_of_squares += nll * nll;
    }
}

/// Scores `ids` in chunks of `context` tokens, at most as many as the session holds. `on_chunk` is told after
/// each chunk how many of how many are done, and the likelihood so far; false from it ends the run, and so does a flag of
/// [`Runtime::cancel_when`](crate::session::Runtime::cancel_when), without the chunk at hand.
///
/// # Errors
/// When there is no complete chunk, or `context` is below 4 or above the session's.
pub fn perplexity(
    session: &mut Session,
    ids: &[u32],
    context: usize,
    bos: Option<u32>,
    on_chunk: impl FnMut(usize, usize, &Likelihood) -> bool,
) -> Result<Likelihood> {
    let most = session.context_tokens();
    let of_chunk = |chunk: &[u32]| {
        session.truncate(0)?;
        let (runtime, sequence) = session.parts();
        losses(runtime, sequence, chunk)
    };
    perplexity_by(of_chunk, ids, (context, most), bos, on_chunk)
}

/// As [`perplexity`], where each chunk goes to `losses_of`, which gives its [`losses`] from wherever a model is loaded.
/// `context` comes with its upper bound.
///
/// # Errors
/// As of [`perplexity`], and those of `losses_of`.
pub fn perplexity_by(
    mut losses_of: impl FnMut(&[u32]) -> Result<Vec<f64>>,
    ids: &[u32],
    (context, most): (usize, usize),
    bos: Option<u32>,
    mut on_chunk: impl FnMut(usize, usize, &Likelihood) -> bool,
) -> Result<Likelihood> {
    if context < 4 || context > most {
        let expected = format!("4 to {most} tokens");
        return Err(Error::argument("the context of a chunk", expected, context));
    }
    let chunks = ids.chunks_exact(context);
    let count = chunks.len();
    if count == 0 {
        return Err(Error::malformed("the text", format!("at least {context} tokens, one chunk"), ids.len()));
    }
    let mut likelihood = Likelihood::default();
    let mut chunk = vec![0; context];
    for (index, text) in chunks.enumerate() {
        chunk.copy_from_slice(text);
        if let Some(bos) = bos {
            chunk[0] = bos;
        }
        match losses_of(&chunk) {
            Err(Error::Cancelled) => return Ok(likelihood),
            losses => losses?.into_iter().for_each(|loss| likelihood.add(loss)),
        }
        if !on_chunk(index + 1, count, &likelihood) {
            break;
        }
    }
    Ok(likelihood)
}

/// Negative log-likelihoods in nats of the tokens in the second half of a chunk, which `sequence`, empty at first, holds then.
///
/// # Errors
/// As of [`Runtime::score`].
pub fn losses(runtime: &mut Runtime, sequence: &mut Sequence, chunk: &[u32]) -> Result<Vec<f64>> {
    let (mut losses, mut position) = (Vec::with_capacity(chunk.len() / 2), 0);
    runtime.score(sequence, chunk, |logits| {
        // Logits of position i predict token i + 1; the last ones predict nothing that is there.
        if (chunk.len() / 2..chunk.len() - 1).contains(&position) {
            losses.push(negative_log_likelihood(logits, chunk[position + 1] as usize));
        }
        position += 1;
    })?;
    Ok(losses)
}

/// -ln softmax(logits)\[id\], in f64.
pub(crate) fn negative_log_likelihood(logits: &[f32], id: usize) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    sum.ln() - f64::from(logits[id] - max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_distribution_scores_the_log_of_its_size() {
        assert!((negative_log_likelihood(&[3.0; 8], 5) - 8f64.ln()).abs() < 1e-12);
        // softmax(ln 1, ln 3) = 1/4, 3/4
        assert!((negative_log_likelihood(&[0.0, 3f32.ln()], 1) - (4f64 / 3.0).ln()).abs() < 1e-7);
        assert!(negative_log_likelihood(&[1000.0, 0.0], 0).abs() < 1e-12, "no overflow");
    }

    #[test]
    fn mean_and_error_of_two_tokens() {
        let mut likelihood = Likelihood::default();
        likelihood.add(1.0);
        likelihood.add(3.0);
        assert_eq!((likelihood.tokens(), likelihood.mean_nll()), (2, 2.0));
        // Variance (1 + 9) / 2 - 4 = 1, over n - 1 = 1.
        assert!((likelihood.standard_error() - 2f64.exp()).abs() < 1e-12);
    }
}
