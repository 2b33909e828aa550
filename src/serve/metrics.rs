//! Counters of the server in the text format of Prometheus, with llama.cpp's names and histograms as vLLM has them.

use std::{
    fmt::Write,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::generate::{Finish, Stats};

/// Upper bounds of buckets, in seconds: from a token to a long answer.
const BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

#[derive(Clone, Copy, Default)]
struct Histogram {
    /// The last one is for what is beyond all bounds.
    counts: [u64; BUCKETS.len() + 1],
    sum: f64,
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BUCKETS.iter().position(|&bound| seconds <= bound).unwrap_or(BUCKETS.len());
        self.counts[bucket] += 1;
        self.sum += seconds;
    }

    fn write(&self, name: &str, help: &str, out: &mut String) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut total = 0;
        for (at, count) in self.counts.iter().enumerate() {
            total += count;
            let bound = BUCKETS.get(at).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {total}", self.sum);
    }
}

#[derive(Default)]
struct Counters {
    prompt_tokens: u64,
    cached_tokens: u64,
    prompt_seconds: f64,
    answer_tokens: u64,
    answer_seconds: f64,
    steps: u64,
    busy_slots: u64,
    longest_sequence: usize,
    processing: usize,
    deferred: usize,
    answers: u64,
    cancelled: u64,
    takeovers: u64,
    prefix_queries: u64,
    prefix_hits: u64,
    /// By status.
    errors: std::collections::BTreeMap<u16, u64>,
    first_token: Histogram,
    between_tokens: Histogram,
    whole: Histogram,
    queued: Histogram,
}

/// All counters; the threads of the network read while the engine counts.
#[derive(Default)]
pub struct Metrics(Mutex<Counters>);

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Counters> {
        // A panic elsewhere leaves numbers, which are numbers still.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step of so many answers.
    pub fn stepped(&self, answers: usize) {
        let mut counters = self.lock();
        counters.steps += 1;
        counters.busy_slots += answers as u64;
    }

    /// How many answers are written and how many wait now.
    pub fn load(&self, processing: usize, deferred: usize) {
        let mut counters = self.lock();
        (counters.processing, counters.deferred) = (processing, deferred);
    }

    /// A request has waited so long for a place.
    pub fn began(&self, queued: Duration) {
        self.lock().queued.add(queued);
    }

    pub fn first_token(&self, since_arrival: Duration) {
        self.lock().first_token.add(since_arrival);
    }

    pub fn next_token(&self, since_the_last: Duration) {
        self.lock().between_tokens.add(since_the_last);
    }

    /// An answer has ended or was cancelled.
    pub fn ended(&self, finish: &Finish, stats: &Stats, since_arrival: Duration) {
        let mut counters = self.lock();
        counters.prompt_tokens += stats.computed_tokens() as u64;
        counters.cached_tokens += stats.reused_tokens as u64;
        counters.prompt_seconds += stats.prefill.as_secs_f64();
        counters.answer_tokens += stats.generated_tokens as u64;
        counters.answer_seconds += stats.decode().as_secs_f64();
        let tokens = stats.prompt_tokens + stats.generated_tokens;
        counters.longest_sequence = counters.longest_sequence.max(tokens);
        counters.answers += 1;
        counters.cancelled += u64::from(*finish == Finish::Cancelled);
        counters.prefix_queries += 1;
        counters.prefix_hits += u64::from(stats.reused_tokens > 0);
        counters.whole.add(since_arrival);
    }

    /// A client went away before its request had a place.
    pub fn cancelled_in_queue(&self) {
        self.lock().cancelled += 1;
    }

    pub fn took_over(&self) {
        self.lock().takeovers += 1;
    }

    /// An answer with an error.
    pub fn error(&self, status: u16) {
        *self.lock().errors.entry(status).or_default() += 1;
    }

    /// All of them, as `/metrics` shows them.
    pub fn to_text(&self) -> String {
        let c = self.lock();
        let rate = |count: u64, seconds: f64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let mut out = String::new();
        let mut one = |kind: &str, name: &str, help: &str, value: f64| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        let mut counter = |name: &str, help: &str, value: f64| one("counter", name, help, value);
        counter("llamacpp:prompt_tokens_total", "Number of prompt tokens processed.", c.prompt_tokens as f64);
        counter(
            "llamacpp:prompt_tokens_cached_total",
            "Number of prompt tokens that were held.",
            c.cached_tokens as f64,
        );
        counter("llamacpp:prompt_seconds_total", "Prompt process time", c.prompt_seconds);
        counter("llamacpp:tokens_predicted_total", "Number of generation tokens processed.", c.answer_tokens as f64);
        counter("llamacpp:tokens_predicted_seconds_total", "Predict process time", c.answer_seconds);
        counter("llamacpp:n_decode_total", "Total number of steps.", c.steps as f64);
        counter("llamacpp:n_tokens_max", "Largest observed sequence.", c.longest_sequence as f64);
        // Dashboards for llama.cpp add these up. Answers are written without drafts here.
        counter("llamacpp:spec_decode_num_drafts_total", "Number of drafts.", 0.0);
        counter("llamacpp:spec_decode_num_draft_tokens_total", "Number of drafted tokens.", 0.0);
        counter("llamacpp:spec_decode_num_accepted_tokens_total", "Number of drafted tokens accepted.", 0.0);
        counter("bitnet:answers_total", "Answers that ended or were cancelled.", c.answers as f64);
        counter("bitnet:cancelled_total", "Answers whose client went away.", c.cancelled as f64);
        counter("bitnet:prefix_cache_queries_total", "Prompts looked up among what is held.", c.prefix_queries as f64);
        counter("bitnet:prefix_cache_hits_total", "Prompts of which something was held.", c.prefix_hits as f64);
        counter("bitnet:backend_fallbacks_total", "Failures of a GPU that the CPU took over.", c.takeovers as f64);
        let mut gauge = |name: &str, help: &str, value: f64| one("gauge", name, help, value);
        let prompt_rate = rate(c.prompt_tokens, c.prompt_seconds);
        gauge("llamacpp:prompt_tokens_seconds", "Average prompt throughput in tokens/s.", prompt_rate);
        let answer_rate = rate(c.answer_tokens, c.answer_seconds);
        gauge("llamacpp:predicted_tokens_seconds", "Average generation throughput in tokens/s.", answer_rate);
        gauge("llamacpp:requests_processing", "Number of requests processing.", c.processing as f64);
        gauge("llamacpp:requests_deferred", "Number of requests deferred.", c.deferred as f64);
        let busy = rate(c.busy_slots, c.steps as f64);
        gauge("llamacpp:n_busy_slots_per_decode", "Average number of busy slots per step", busy);
        let _ = writeln!(out, "# HELP bitnet:errors_total Answers with an error.\n# TYPE bitnet:errors_total counter");
        for (status, count) in &c.errors {
            let _ = writeln!(out, "bitnet:errors_total{{status=\"{status}\"}} {count}");
        }
        c.first_token.write("bitnet:time_to_first_token_seconds", "From arrival to the first token.", &mut out);
        c.between_tokens.write("bitnet:inter_token_latency_seconds", "Between tokens of an answer.", &mut out);
        c.whole.write("bitnet:e2e_request_latency_seconds", "From arrival to the end of the answer.", &mut out);
        c.queued.write("bitnet:request_queue_time_seconds", "From arrival to a place.", &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_every_time_has_one() {
        let mut histogram = Histogram::default();
        for milliseconds in [1, 5, 6, 700_000] {
            histogram.add(Duration::from_millis(milliseconds));
        }
        let mut out = String::new();
        histogram.write("x", "help", &mut out);
        assert!(out.contains("x_bucket{le=\"0.005\"} 2\nx_bucket{le=\"0.01\"} 3\n"), "{out}");
        assert!(
            out.contains("x_bucket{le=\"60\"} 3\nx_bucket{le=\"+Inf\"} 4\n") && out.ends_with("x_count 4\n"),
            "{out}"
        );
    }
}
