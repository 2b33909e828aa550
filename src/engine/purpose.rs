//! Purpose of a session: the one place that decides about the head, its quantized copy and how many candidates a step
//! asks for.

use crate::generate::SampleOptions;

/// Use that is made of a model's results.
#[derive(Clone, Copy, Debug)]
pub enum Purpose<'a> {
    /// Tokens are chosen with these options.
    Sample(&'a SampleOptions),
    /// All logits are looked at: perplexity, grammars.
    Logits,
    /// The residual stream behind the last block is taken, without logits: embeddings.
    Hidden,
}

/// Needs of a [`Purpose`] from a loaded model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The output head.
    pub head: bool,
    /// Most candidates that a step asks for in place of all logits; 0: all logits.
    pub most_top: usize,
}

impl Purpose<'_> {
    /// Needs from the model with a context of so many tokens.
    #[doc(hidden)]
    pub fn needs(&self, context_tokens: usize) -> Needs {
        match self {
            Self::Sample(options) => Needs { head: true, most_top: options.most_top(context_tokens) },
            Self::Logits => Needs { head: true, most_top: 0 },
            Self::Hidden => Needs { head: false, most_top: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn most_top(change: impl FnOnce(&mut SampleOptions)) -> usize {
        let mut options = SampleOptions::default();
        change(&mut options);
        Purpose::Sample(&options).needs(4096).most_top
    }

    #[test]
    fn candidates_are_asked_for_where_a_draw_can_do_with_them() {
        assert_eq!(most_top(|_| {}), 40);
        assert_eq!(most_top(|o| o.temperature = 0.0), 1);
        assert_eq!(most_top(|o| o.top_k = 0), 0, "top-p alone takes a sum over the vocabulary");
        assert_eq!(most_top(|o| o.mirostat = Some(Default::default())), 0);
        assert_eq!(most_top(|o| o.logit_bias = vec![(7, 1.0)]), 0, "an id that is raised may come from anywhere");
        assert_eq!(most_top(|o| o.logit_bias = vec![(7, -1.0), (8, -2.0)]), 42);
        assert_eq!(most_top(|o| o.repeat_penalty = 1.1), 104, "each of the last 64 ids may be lowered");
        assert_eq!(
            most_top(|o| {
                o.repeat_penalty = 1.1;
                o.repeat_last_n = None;
            }),
            40 + 4096
        );
    }

    #[test]
    fn other_purposes_need_all_logits_or_none() {
        assert_eq!(Purpose::Logits.needs(16), Needs { head: true, most_top: 0 });
        assert_eq!(Purpose::Hidden.needs(16), Needs { head: false, most_top: 0 });
    }
}
