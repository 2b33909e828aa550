//! Probabilities of tokens as the model gives them, before bias, penalties, temperature and cuts.

use crate::backend::Scored;

/// Natural logarithms of a token's probability and of the most probable ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Natural logarithm of the probability of the token.
    pub chosen: f32,
    /// The most probable tokens, in order.
    pub top: Vec<(u32, f32)>,
}

/// The logits of a step before a sampler changes them; reused from step to step.
#[derive(Debug, Default)]
pub(super) struct RawLogprobs {
    logits: Vec<f32>,
    /// ln(sum of e^logit).
    log_sum: f64,
    top: Vec<(u32, f32)>,
}

impl RawLogprobs {
    /// Takes the logits, (vocab), and finds the `top` highest.
    pub fn read(&mut self, logits: &[f32], top: usize) {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        let highest = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
        self.log_sum = highest + logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).sum::<f64>().ln();
        let mut ranked: Vec<Scored> = logits.iter().zip(0..).map(|(&logit, id)| Scored { id, logit }).collect();
        let top = top.min(ranked.len());
        if top > 0 && top < ranked.len() {
            ranked.select_nth_unstable_by(top - 1, Scored::by_rank);
        }
        ranked.truncate(top);
        ranked.sort_unstable_by(Scored::by_rank);
        self.top = ranked.iter().map(|scored| (scored.id, self.logprob(scored.logit))).collect();
    }

    /// Those of the token that was drawn.
    pub fn of(&self, id: u32) -> Logprobs {
        let chosen = self.logits.get(id as usize).map_or(f32::MIN, |&logit| self.logprob(logit));
        Logprobs { chosen, top: self.top.clone() }
    }

    fn logprob(&self, logit: f32) -> f32 {
        // Rounding may lift a certain token above 0.
        (f64::from(logit) - self.log_sum).min(0.0) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_come_in_order() {
        let mut raw = RawLogprobs::default();
        raw.read(&[1.0, 3.0, 2.0, 3.0], 3);
        let of = |id| f64::from(raw.of(id).chosen).exp();
        assert!(((0..4).map(of).sum::<f64>() - 1.0).abs() < 1e-6);
        let expected = 3f64.exp() / (1f64.exp() + 2.0 * 3f64.exp() + 2f64.exp());
        assert!((of(1) - expected).abs() < 1e-6);
        let ids: Vec<u32> = raw.of(0).top.iter().map(|&(id, _)| id).collect();
        assert_eq!(ids, [1, 3, 2], "the lower id first among equals");
        raw.read(&[0.0, 0.0], 20);
        assert_eq!(raw.of(1).top.len(), 2);
        raw.read(&[500.0, -500.0], 0);
        assert_eq!((raw.of(0).chosen, raw.of(0).top.len()), (0.0, 0));
    }
}
