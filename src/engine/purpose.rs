//! What a session is for: the one place that decides about the head, its quantized copy and how many candidates a step
//! asks for.

use crate::generate::SampleOptions;

/// What is done with what a model computes.
#[derive(Clone, Copy, Debug)]
pub enum Purpose<'a> {
    /// Tokens are chosen with these options.
    Sample(&'a SampleOptions),
    /// All logits are looked at: perplexity, grammars.
    Logits,
    /// The residual stream behind the last block is taken, without logits: embeddings.
    Hidden,
}

/// What a [`Purpose`] needs of a loaded model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The output head.
    pub head: bool,
    /// Most candidates that a step asks for in place of all logits; 0: all logits.
    pub most_top: usize,
}

impl Purpose<'_> {
    /// What is needed of the model with a context of so many tokens.
    pub fn needs(&self, context_tokens: usize) -> Needs {
        match self {
            Self::Sample(options) => Needs { head: true, most_top: options.most_top(context_tokens) },
            Self::Logits => Needs { head: true, most_top: 0 },
            Self::Hidden => Needs { head: false, most_top: 0 },
        }
    }
}
