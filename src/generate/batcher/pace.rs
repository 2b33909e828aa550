//! How many tokens of a prompt a step reads: few enough that answers beside it keep their pace.

use std::time::Duration;

/// Time of a step, in seconds, while others are being answered; twice that where as many wait with a prompt, and so on.
const BESIDE_ANSWERS: f64 = 0.050;

/// Most time of such a step, however many wait: longer gaps in a text are seen.
const MOST_BESIDE: f64 = 0.080;

/// Time of a step, in seconds, while prompts alone are read: what a newcomer or a cancellation waits for.
const ALONE: f64 = 0.200;

/// Tokens of a piece while prompts alone are read, at least: below, matrix kernels lose speed.
const LEAST_ALONE: usize = 128;

/// Tokens of the first piece alone, before anything was measured.
const UNMEASURED_ALONE: usize = 32;

/// Tokens of the first piece beside answers: a slow machine must not hold them up.
const UNMEASURED_BESIDE: usize = 4;

/// Weight of the newest measurement in the running means.
const NEWEST: f64 = 0.3;

/// Measured times of steps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// Seconds of a step without prompts.
    answers: Option<f64>,
    /// Seconds of one token of a prompt in the small pieces beside answers.
    beside: Option<f64>,
    /// Seconds of one token of a prompt in larger pieces, which share more.
    alone: Option<f64>,
}

impl Pace {
    /// Learns from a step of so many answers and so many tokens of a prompt.
    pub fn ran(&mut self, answers: usize, prompt_tokens: usize, took: Duration) {
        let took = took.as_secs_f64();
        match (answers, prompt_tokens) {
            (_, 0) => learn(&mut self.answers, took),
            (0, tokens) => learn(&mut self.alone, took / tokens as f64),
            // A piece never costs nothing; measurements may be noisy.
            (_, tokens) => {
                let of_piece = (took - self.answers.unwrap_or(0.0)).max(took * 0.1);
                learn(&mut self.beside, of_piece / tokens as f64);
            }
        }
    }

    /// Tokens of prompts that the next step should read, where `waiting` have prompts and `answers` are being written.
    pub fn prompt_tokens(&self, waiting: usize, answers: usize) -> usize {
        if answers == 0 {
            return self.alone.map_or(UNMEASURED_ALONE, |token| ((ALONE / token) as usize).max(LEAST_ALONE));
        }
        let Some(token) = self.beside else { return UNMEASURED_BESIDE };
        let time = (BESIDE_ANSWERS * (1.0 + waiting as f64 / answers as f64)).min(MOST_BESIDE);
        let of_answers = self.answers.unwrap_or(0.0);
        // Where answers alone take as long, prompts have as much again: they must end as well.
        ((time - of_answers).max(of_answers) / token).round() as usize
    }
}

/// A piece of a prompt with `left` tokens to read, of about `wanted`. The pieces are even: none has fewer than `least`, which
/// might change the answer, and none at the end has to be much longer than wanted.
pub(super) fn whole_piece(left: usize, wanted: usize, least: usize, batch_tokens: usize) -> usize {
    let wanted = wanted.max(least).min(batch_tokens);
    let pieces = left.div_ceil(wanted).min(left / least).max(1);
    left.div_ceil(pieces).min(batch_tokens)
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
        assert_eq!(pace.prompt_tokens(1, 4), UNMEASURED_BESIDE);
        assert_eq!(pace.prompt_tokens(1, 0), UNMEASURED_ALONE);
        pace.ran(0, 100, Duration::from_millis(50));
        assert_eq!(pace.prompt_tokens(1, 0), 400);
        assert_eq!(pace.prompt_tokens(1, 4), UNMEASURED_BESIDE, "small pieces cost more a token");
        pace.ran(4, 0, Duration::from_millis(20));
        pace.ran(4, 10, Duration::from_millis(30));
        // At 1 ms a token, behind 20 ms of the answers.
        assert_eq!(pace.prompt_tokens(1, 5), 40);
        assert_eq!(pace.prompt_tokens(2, 2), 60);
        assert_eq!(pace.prompt_tokens(50, 1), 60);
    }

    #[test]
    fn slow_answers_leave_prompts_their_share() {
        let mut pace = Pace::default();
        pace.ran(1, 0, Duration::from_millis(400));
        pace.ran(1, 4, Duration::from_millis(480));
        assert_eq!(pace.prompt_tokens(1, 1), 20);
    }

    #[test]
    fn pieces_are_even_and_none_is_too_short() {
        for left in 1..300 {
            for wanted in 0..80 {
                for least in [1, 9] {
                    let piece = whole_piece(left, wanted, least, 64);
                    let rest = left - piece;
                    let what = format!("{piece} of {left}, {wanted} wanted");
                    assert!((1..=64).contains(&piece), "{what}");
                    assert!(piece >= least || piece == left, "{what}");
                    assert!(rest == 0 || rest >= least, "{what}");
                    assert!(piece <= wanted.max(least) || piece < 2 * least, "{what}");
                }
            }
        }
        assert_eq!(whole_piece(1000, 0, 9, 512), 10, "there is progress in every step");
        assert_eq!(whole_piece(26, 9, 9, 64), 13, "not 9 and 17");
        // Where a batch is smaller than a piece has to be.
        assert_eq!(whole_piece(40, 20, 9, 4), 4);
    }
}
