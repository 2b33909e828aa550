//! How many tokens of a prompt a step reads: few enough that answers beside it keep their pace.

use std::time::Duration;

use crate::backend::Limits;

/// Time of a step, in seconds, while others are being answered.
const BESIDE_ANSWERS: f64 = 0.050;

/// Time of a step, in seconds, while prompts alone are read: what a newcomer or a cancellation waits for.
const ALONE: f64 = 0.200;

/// Tokens of a piece while prompts alone are read, at least: below, matrix kernels lose speed.
const LEAST_ALONE: usize = 128;

/// Tokens of the first pieces, before anything was measured.
const UNMEASURED: usize = 32;

/// Weight of the newest measurement in the running means.
const NEWEST: f64 = 0.3;

/// Measured times of steps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// Seconds of a step without prompts.
    answers: Option<f64>,
    /// Seconds of one token of a prompt.
    prompt_token: Option<f64>,
}

impl Pace {
    /// Learns from a step of so many answers and so many tokens of a prompt.
    pub fn ran(&mut self, answers: usize, prompt_tokens: usize, took: Duration) {
        let took = took.as_secs_f64();
        if prompt_tokens == 0 {
            learn(&mut self.answers, took);
        } else {
            let beside = if answers > 0 { self.answers.unwrap_or(0.0) } else { 0.0 };
            // A step never costs nothing; measurements may be noisy.
            learn(&mut self.prompt_token, (took - beside).max(took * 0.1) / prompt_tokens as f64);
        }
    }

    /// Tokens of the next piece of a prompt that has `left` tokens to read, `beside` answers or not.
    pub fn piece(&self, left: usize, beside: bool, limits: &Limits, batch_tokens: usize) -> usize {
        let wanted = match self.prompt_token {
            None => UNMEASURED,
            Some(token) if beside => ((BESIDE_ANSWERS - self.answers.unwrap_or(0.0)) / token).max(0.0) as usize,
            Some(token) => ((ALONE / token) as usize).max(LEAST_ALONE),
        };
        whole_piece(left, wanted.min(batch_tokens), limits.exact_tokens, batch_tokens)
    }
}

/// A piece of about `wanted` tokens: all that is left, or more than `exact_tokens` with more than that left over. Up to
/// `exact_tokens` run in other kernels than more, whose results differ in the last bit; so where a prompt is cut does not
/// change the answer.
fn whole_piece(left: usize, wanted: usize, exact_tokens: usize, batch_tokens: usize) -> usize {
    let least = exact_tokens + 1;
    let piece = wanted.max(least);
    if left <= batch_tokens && (left <= piece || left < 2 * least) {
        return left;
    }
    let piece = piece.min(batch_tokens).min(left.saturating_sub(least)).max(1);
    // A batch too small for two classes of kernels.
    piece.min(left)
}

fn learn(mean: &mut Option<f64>, new: f64) {
    *mean = Some(mean.map_or(new, |mean| mean + NEWEST * (new - mean)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { max_tokens: 512, exact_tokens: 8, most_top: 0, most_each: 0, most_summed: 0, most_drafted: 0 }
    }

    #[test]
    fn pieces_shrink_beside_answers_and_grow_alone() {
        let mut pace = Pace::default();
        assert_eq!(pace.piece(1000, true, &limits(), 512), UNMEASURED);
        pace.ran(4, 0, Duration::from_millis(20));
        pace.ran(0, 100, Duration::from_millis(100));
        // 30 ms are left of 50, at 1 ms a token.
        assert_eq!(pace.piece(1000, true, &limits(), 512), 30);
        assert_eq!(pace.piece(1000, false, &limits(), 512), 200);
        assert_eq!(pace.piece(1000, false, &limits(), 64), 64);
        pace.ran(4, 0, Duration::from_secs(10));
        assert_eq!(pace.piece(1000, true, &limits(), 512), 9, "there is progress in every step");
    }

    #[test]
    fn no_piece_falls_into_the_other_class_of_kernels() {
        for left in 1..200 {
            for wanted in 0..80 {
                let piece = whole_piece(left, wanted, 8, 64);
                assert!((1..=64.min(left)).contains(&piece), "{piece} of {left}");
                let rest = left - piece;
                assert!(piece > 8 || piece == left, "{piece} of {left}");
                assert!(rest == 0 || rest > 8, "{rest} after {piece} of {left}");
            }
        }
        // Where a batch has but one class.
        for left in 1..40 {
            let piece = whole_piece(left, 4, 4, 4);
            assert!((1..=4).contains(&piece) && piece <= left, "{piece} of {left}");
        }
    }
}
