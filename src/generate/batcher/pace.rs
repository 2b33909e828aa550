//! How many tokens of a prompt a step reads: few enough that answers beside it keep their pace.

use std::time::Duration;

/// Time of a step, in seconds, while others are being answered; twice that where as many wait with a prompt, and so on.
const BESIDE_ANSWERS: f64 = 0.050;

/// Most time of such a step, however many wait: longer gaps in a text are seen.
const MOST_BESIDE: f64 = 0.120;

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

    /// Tokens of prompts that the next step should read, where `waiting` have prompts and `answers` are being written.
    pub fn prompt_tokens(&self, waiting: usize, answers: usize) -> usize {
        match self.prompt_token {
            None => UNMEASURED,
            Some(token) if answers > 0 => {
                let time = (BESIDE_ANSWERS * (1.0 + waiting as f64 / answers as f64)).min(MOST_BESIDE);
                ((time - self.answers.unwrap_or(0.0)) / token).round().max(0.0) as usize
            }
            Some(token) => ((ALONE / token) as usize).max(LEAST_ALONE),
        }
    }
}

/// A piece of a prompt with `left` tokens to read, of about `wanted`: all that is left, or more than `exact_tokens` with more than that left over. Up to
/// `exact_tokens` run in other kernels than more, whose results differ in the last bit; so where a prompt is cut does not
/// change the answer.
pub(super) fn whole_piece(left: usize, wanted: usize, exact_tokens: usize, batch_tokens: usize) -> usize {
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

    #[test]
    fn pieces_shrink_beside_answers_and_grow_alone() {
        let mut pace = Pace::default();
        assert_eq!(pace.prompt_tokens(1, 4), UNMEASURED);
        pace.ran(4, 0, Duration::from_millis(20));
        pace.ran(0, 100, Duration::from_millis(100));
        // At 1 ms a token, behind 20 ms of the answers.
        assert_eq!(pace.prompt_tokens(1, 5), 40);
        assert_eq!(pace.prompt_tokens(2, 2), 80);
        assert_eq!(pace.prompt_tokens(50, 1), 100);
        assert_eq!(pace.prompt_tokens(1, 0), 200);
        pace.ran(4, 0, Duration::from_secs(10));
        let wanted = pace.prompt_tokens(1, 4);
        assert_eq!(whole_piece(1000, wanted, 8, 512), 9, "there is progress in every step");
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
