//! Counts and times of one answer.

use std::time::Duration;

/// Counts and times of an answer. Times are of the engine alone: not of printing between the tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Leading tokens of the prompt that the caches still held: not computed again.
    pub reused_tokens: usize,
    /// Tokens of the prompt that were read so far, with those: all, unless the answer was cancelled before.
    pub read_tokens: usize,
    /// Tokens of the answer, without the end token.
    pub generated_tokens: usize,
    /// Tokens that were guessed and checked.
    pub drafted_tokens: usize,
    /// Those of them that were right.
    pub accepted_tokens: usize,
    /// From the first token of the prompt to its logits, or to the end of an answer cancelled before.
    pub prefill: Duration,
    /// Rows of the output head that decode steps multiplied exactly, where the backend tells; of those that ran a token
    /// alone.
    pub head_rows: usize,
    /// Those steps.
    pub head_steps: usize,
    /// One entry for each decode step: a token through the model, and the sampling of the next. Where a pass checked a
    /// draft, its first step has the time of all.
    pub latencies: Vec<Duration>,
}

impl Stats {
    /// Time of all decode steps.
    pub fn decode(&self) -> Duration {
        self.latencies.iter().sum()
    }

    /// Tokens of the prompt that were computed.
    pub fn computed_tokens(&self) -> usize {
        self.read_tokens.saturating_sub(self.reused_tokens)
    }

    /// Computed prompt tokens per second; `None` before any.
    pub fn prefill_rate(&self) -> Option<f64> {
        rate(self.computed_tokens(), self.prefill)
    }

    /// Decode steps per second; `None` before any. The first token of an answer comes from the prompt's
    /// logits and is no decode step.
    pub fn decode_rate(&self) -> Option<f64> {
        rate(self.latencies.len(), self.decode())
    }

    /// Rows of the output head that a decode step multiplied exactly, on average; `None` before any, and where the
    /// backend does not tell.
    pub fn head_rows_per_step(&self) -> Option<f64> {
        (self.head_rows > 0).then(|| self.head_rows as f64 / self.head_steps as f64)
    }

    /// The latency that a share `q` (0 to 1) of the decode steps does not exceed (nearest rank).
    pub fn latency_quantile(&self, q: f64) -> Option<Duration> {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let rank = (q * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.max(1) - 1).copied()
    }
}

fn rate(count: usize, time: Duration) -> Option<f64> {
    (count > 0 && !time.is_zero()).then(|| count as f64 / time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_quantiles() {
        let ms = Duration::from_millis;
        let stats = Stats {
            prompt_tokens: 20,
            reused_tokens: 2,
            read_tokens: 12,
            generated_tokens: 21,
            drafted_tokens: 0,
            accepted_tokens: 0,
            prefill: ms(50),
            head_rows: 30,
            head_steps: 20,
            latencies: (1..=20).rev().map(ms).collect(),
        };
        assert_eq!(stats.prefill_rate(), Some(200.0));
        assert_eq!(stats.decode(), ms(210));
        assert!((stats.decode_rate().unwrap() - 20.0 / 0.21).abs() < 1e-9);
        assert_eq!(stats.head_rows_per_step(), Some(1.5));
        assert_eq!(stats.latency_quantile(0.5), Some(ms(10)));
        assert_eq!(stats.latency_quantile(0.95), Some(ms(19)));
        assert_eq!(stats.latency_quantile(1.0), Some(ms(20)));
        assert_eq!(stats.latency_quantile(0.0), Some(ms(1)));
    }

    #[test]
    fn nothing_measured_is_none() {
        let stats = Stats::default();
        assert_eq!((stats.prefill_rate(), stats.decode_rate(), stats.latency_quantile(0.5)), (None, None, None));
        assert_eq!(stats.head_rows_per_step(), None);
        assert_eq!(Stats { head_steps: 3, ..stats }.head_rows_per_step(), None, "a backend that does not tell");
    }
}
