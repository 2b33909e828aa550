//! Whether a draft pays, from what passes have cost and drafts have gained so far. Pure numbers.

/// Most tokens of a pass.
const MOST_TOKENS: usize = 16;

/// Longer repeats are more often right: up to 3 tokens, up to 7, more.
const CLASSES: usize = 3;

/// Share of right tokens taken for granted before any is known, and how many tokens that counts for.
const PRIOR: (f64, f64) = (0.6, 0.5);

/// Weight that older outcomes keep after each draft.
const MEMORY: f64 = 0.7;

/// Weight of the latest time in its average.
const NEWS: f64 = 0.25;

/// Guesses for the extra cost of each drafted token, as a share of a step, before any pass is measured: of one from the
/// text, and of one for which the model's block and the head are read.
const TEXT_COST: f64 = 0.15;
const MTP_COST: f64 = 0.4;

/// A draft has to be better by this factor, as the averages are no more exact.
const MARGIN: f64 = 1.05;

/// Drafts not made before one is tried again: the text may have changed. One bad pass in 64 steps costs 2 %. Each that is
/// wrong again doubles it, up to the second number.
const PATIENCE: usize = 64;
const MOST_PATIENCE: usize = 1024;

#[derive(Clone, Debug)]
pub(super) struct Policy {
    /// [`TEXT_COST`] or [`MTP_COST`].
    first_guess: f64,
    /// Average seconds of a pass by its tokens; 1 is a step without a draft.
    passes: [Option<f64>; MOST_TOKENS + 1],
    /// (right, tried) tokens by class, with fading weights.
    outcomes: [(f64, f64); CLASSES],
    /// Drafts of a class not made since the last one.
    skipped: [usize; CLASSES],
    /// Drafts of a class not made before one is tried.
    patience: [usize; CLASSES],
}

/// Length of a draft.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Choice {
    /// At least one.
    pub tokens: usize,
    /// Tokens a second that are expected of its pass.
    pub rate: f64,
}

fn class(matched: usize) -> usize {
    match matched {
        0..=3 => 0,
        4..=7 => 1,
        _ => 2,
    }
}

impl Policy {
    pub fn of_text() -> Self {
        Self::new(TEXT_COST)
    }

    pub fn of_mtp() -> Self {
        Self::new(MTP_COST)
    }

    fn new(first_guess: f64) -> Self {
        Self {
            first_guess,
            passes: [None; MOST_TOKENS + 1],
            outcomes: [(0.0, 0.0); CLASSES],
            skipped: [0; CLASSES],
            patience: [PATIENCE; CLASSES],
        }
    }

    pub fn timed_pass(&mut self, tokens: usize, seconds: f64) {
        if let Some(average) = self.passes.get_mut(tokens) {
            *average = Some(average.map_or(seconds, |old| old + NEWS * (seconds - old)));
        }
    }

    pub fn outcome(&mut self, matched: usize, drafted: usize, accepted: usize) {
        if accepted > 0 {
            self.patience[class(matched)] = PATIENCE;
        }
        let (right, tried) = &mut self.outcomes[class(matched)];
        *right = MEMORY * *right + accepted as f64;
        // Tokens behind the first wrong one were not tried.
        *tried = MEMORY * *tried + drafted.min(accepted + 1) as f64;
    }

    /// How many of `available` tokens to draft; `None` where a plain step is better, and before one was timed.
    pub fn choose(&mut self, matched: usize, available: usize) -> Option<Choice> {
        let step = self.passes[1]?;
        let class = class(matched);
        let (right, tried) = self.outcomes[class];
        let p = ((right + PRIOR.0 * PRIOR.1) / (tried + PRIOR.1)).clamp(0.0, 1.0);
        let (mut best, mut best_rate) = (0, MARGIN / step);
        let mut tokens = 1.0; // expected of a pass: 1 + p + p^2 + ...
        for drafted in 1..=available.min(MOST_TOKENS - 1) {
            tokens += p.powi(drafted as i32);
            let rate = tokens / self.cost(1 + drafted, step);
            if rate > best_rate {
                (best, best_rate) = (drafted, rate);
            }
        }
        if best > 0 {
            self.skipped[class] = 0;
            return Some(Choice { tokens: best, rate: best_rate });
        }
        self.skipped[class] += 1;
        if self.skipped[class] == self.patience[class] {
            // As if nothing were known.
            self.skipped[class] = 0;
            self.patience[class] = (2 * self.patience[class]).min(MOST_PATIENCE);
            self.outcomes[class] = (0.0, 0.0);
            self.passes[2..].fill(None);
        }
        None
    }

    /// Seconds of a pass: measured, or on the line from a step through the measured pass nearest in length.
    fn cost(&self, tokens: usize, step: f64) -> f64 {
        if let Some(seconds) = self.passes[tokens] {
            return seconds.max(step);
        }
        let measured = (2..=MOST_TOKENS).filter_map(|n| Some((n, self.passes[n]?)));
        let nearest = measured.min_by_key(|&(n, _)| n.abs_diff(tokens));
        let extra = nearest.map_or(self.first_guess * step, |(n, seconds)| (seconds - step).max(0.0) / (n - 1) as f64);
        step + extra * (tokens - 1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which each drafted token costs `extra` of a step.
    fn measured(extra: f64) -> Policy {
        let mut policy = Policy::of_text();
        for tokens in 1..=8 {
            policy.timed_pass(tokens, 0.01 * (1.0 + extra * (tokens - 1) as f64));
        }
        policy
    }

    /// Tokens that are drafted; 0 for none.
    fn tokens(policy: &mut Policy, matched: usize, available: usize) -> usize {
        policy.choose(matched, available).map_or(0, |choice| choice.tokens)
    }

    #[test]
    fn nothing_is_drafted_before_a_step_was_timed() {
        assert_eq!(tokens(&mut Policy::of_text(), 20, 7), 0);
        let mut policy = Policy::of_text();
        policy.timed_pass(1, 0.01);
        assert!(tokens(&mut policy, 20, 7) > 0);
    }

    #[test]
    fn right_drafts_grow_and_wrong_ones_end() {
        let mut policy = measured(0.1);
        for _ in 0..20 {
            policy.outcome(10, 7, 7);
        }
        assert_eq!(tokens(&mut policy, 10, 7), 7);
        assert_eq!(tokens(&mut policy, 10, 3), 3);
        for _ in 0..20 {
            policy.outcome(10, 7, 0);
        }
        assert_eq!(tokens(&mut policy, 10, 7), 0);
        // Other repeats are another matter.
        assert!(tokens(&mut policy, 2, 7) > 0);
    }

    #[test]
    fn drafts_that_cost_a_step_each_never_pay() {
        let mut policy = measured(1.0);
        for _ in 0..20 {
            policy.outcome(10, 7, 7);
        }
        // Even if all were right, n tokens for n steps are no gain.
        assert_eq!(tokens(&mut policy, 10, 7), 0);
        // At half a step each, long right drafts pay: 8 tokens for 4.5 steps.
        let mut policy = measured(0.5);
        for _ in 0..20 {
            policy.outcome(10, 7, 7);
        }
        assert_eq!(tokens(&mut policy, 10, 7), 7);
    }

    #[test]
    fn the_length_is_the_best_for_the_share_of_right_tokens() {
        // Half of the tokens right, each costs 0.3: 1.5/1.3 < 1.75/1.6 is false, so one token is best.
        let mut policy = measured(0.3);
        for _ in 0..100 {
            policy.outcome(10, 2, 1);
        }
        assert_eq!(tokens(&mut policy, 10, 7), 1);
        // At 0.1: 1.5/1.1, 1.75/1.2, 1.875/1.3, ...: two.
        let mut policy = measured(0.1);
        for _ in 0..100 {
            policy.outcome(10, 2, 1);
        }
        assert_eq!(tokens(&mut policy, 10, 7), 2);
    }

    #[test]
    fn after_some_time_drafts_are_tried_again() {
        let mut policy = measured(0.1);
        for _ in 0..20 {
            policy.outcome(2, 7, 0);
        }
        let tries: Vec<usize> = (0..200).map(|_| tokens(&mut policy, 2, 7)).collect();
        let first = tries.iter().position(|&n| n > 0).unwrap();
        assert_eq!(first, PATIENCE);
        // Wrong again and again, they are tried more and more rarely; one that is right brings them back.
        let mut policy = measured(0.1);
        let mut tries = Vec::new();
        for step in 0..6000 {
            if tokens(&mut policy, 2, 7) > 0 {
                tries.push(step);
                for tokens in 2..=8 {
                    policy.timed_pass(tokens, 0.01 * (1.0 + 0.1 * (tokens - 1) as f64));
                }
                (0..20).for_each(|_| policy.outcome(2, 7, 0));
            }
        }
        let gaps: Vec<usize> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.windows(2).all(|pair| pair[0] <= pair[1]), "{gaps:?}");
        assert_eq!((gaps[0], *gaps.last().unwrap()), (PATIENCE + 1, MOST_PATIENCE + 1), "{gaps:?}");
        policy.outcome(2, 7, 7);
        assert_eq!(policy.patience[class(2)], PATIENCE);
    }

    #[test]
    fn the_first_draft_of_the_model_is_short() {
        let mut policy = Policy::of_mtp();
        policy.timed_pass(1, 0.01);
        assert_eq!(tokens(&mut policy, 0, 4), 1);
        policy.timed_pass(2, 0.012);
        policy.outcome(0, 1, 1);
        assert_eq!(tokens(&mut policy, 0, 4), 4);
    }

    #[test]
    fn unmeasured_passes_lie_on_the_line_of_the_nearest() {
        let mut policy = Policy::of_text();
        policy.timed_pass(1, 1.0);
        policy.timed_pass(3, 2.0);
        assert_eq!(policy.cost(5, 1.0), 3.0);
        assert_eq!(policy.cost(2, 1.0), 1.5);
        // An average: a quarter of the way to the news.
        policy.timed_pass(3, 4.0);
        assert_eq!(policy.cost(3, 1.0), 2.5);
        policy.timed_pass(99, 1.0);
    }
}
