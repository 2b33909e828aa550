//! Logits in, one id out. The stages and their order are llama.cpp's default chain: logit bias, penalties, DRY,
//! top-n-sigma, top-k, typical-p, top-p, min-p, XTC, temperature, draw.

mod chain;

mod dry;

mod options;

mod recommended;

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
};

pub use dry::{Breaker, Dry};
pub use options::{Mirostat, SampleOptions, Xtc};
pub use recommended::Recommended;

use self::{chain::WeightedId, dry::Repetitions};
use super::Logprobs;
use crate::{
    backend::{Candidates, Limits, Rest, Want},
    error::{Error, Result},
};

/// Candidates to ask for at most where top-p alone decides: more are seldom within its share.
const ENOUGH: usize = 256;

/// The backend in errors about logits, as the sampler does not know it.
pub(super) const UNNAMED: &str = "an unnamed backend";

/// How many of the highest logits a draw can do with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needed {
    /// So many.
    Top(usize),
    /// Some, and the sum over the vocabulary.
    Summed,
}

/// Changes a seed for the numbers that decide about XTC, so that they say nothing about the draw.
const XTC_SEED: u32 = 0x5743_5458;

/// Most error of [`Rest::Summed`], as a share of the sum, with room to spare.
const SUM_ERROR: f64 = 2e-4;

/// The random number of a draw, in \[0, 1): a pure function of seed and position, in 32-bit integers only,
/// so that a shader can compute the same one.
///
/// `h = mix(mix(seed ^ 0x9E3779B9) ^ position)`, of which the upper 24 bits count; `mix` is the 32-bit
/// finaliser of MurmurHash3 (Appleby, public domain).
pub fn uniform(seed: u32, position: u32) -> f32 {
    let h = mix(mix(seed ^ 0x9E37_79B9) ^ position);
    (h >> 8) as f32 * (1.0 / 16_777_216.0)
}

fn mix(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85EB_CA6B);
    h ^= h >> 13;
    h = h.wrapping_mul(0xC2B2_AE35);
    h ^ (h >> 16)
}

/// Turns logits into ids. Allocates nothing after the first id, unless the vocabulary grows.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SampleOptions,
    seed: u32,
    banned: Vec<u32>,
    /// The only ids that may be chosen, a bit each; empty = all.
    allowed: Vec<u32>,
    window: VecDeque<u32>, // newest last
    window_limit: usize,
    repetitions: Repetitions,
    /// Ids that are looked through for repetitions at most; 0: none.
    repetition_limit: usize,
    /// Ids whose logits change, with how often the window has each; ascending. Made anew for each id.
    changes: Vec<Change>,
    candidates: Vec<WeightedId>,
    order: Vec<(f32, u32)>,
    /// Mirostat's bound for the surprise of the next id, in bits.
    bound: f32,
}

/// Something that changes the logit of an id.
#[derive(Clone, Copy, Debug)]
struct Change {
    id: u32,
    bias: f32,
    occurrences: u32,
    /// The amount that DRY takes off the logit.
    repetition: f32,
}

impl Default for Sampler {
    /// Takes the highest logit.
    fn default() -> Self {
        Self::unchecked(SampleOptions::greedy(), 0)
    }
}

impl Sampler {
    /// Checks the options; `context_tokens` is the meaning of `repeat_last_n: None`.
    pub fn new(options: SampleOptions, context_tokens: usize) -> Result<Self> {
        options.validate()?;
        Ok(Self::unchecked(options, context_tokens))
    }

    fn unchecked(options: SampleOptions, context_tokens: usize) -> Self {
        // The standard library seeds its hasher from the operating system: randomness without a dependency.
        let seed = options.seed.unwrap_or_else(|| (RandomState::new().hash_one(0u8) >> 32) as u32);
        let window_limit = if options.penalises() { options.repeat_last_n.unwrap_or(context_tokens) } else { 0 };
        let dry_limit = if options.dry.is_on() { options.dry.last_n.unwrap_or(context_tokens) } else { 0 };
        Self {
            seed,
            repetitions: Repetitions::default(),
            repetition_limit: dry_limit,
            banned: Vec::new(),
            allowed: Vec::new(),
            window: VecDeque::with_capacity(window_limit.min(context_tokens)),
            window_limit,
            changes: Vec::new(),
            candidates: Vec::new(),
            order: Vec::new(),
            bound: options.mirostat.map_or(0.0, Mirostat::first_bound),
            options,
        }
    }

    /// The seed in use: the one given, or the one drawn.
    pub fn seed(&self) -> u32 {
        self.seed
    }

    /// True when the draw is no draw: the seed has no influence.
    pub fn is_greedy(&self) -> bool {
        self.options.temperature <= 0.0
    }

    /// These ids, and no others, are never chosen, unless there is nothing else.
    pub fn ban(&mut self, ids: &[u32]) {
        self.banned.clear();
        self.banned.extend_from_slice(ids);
    }

    /// From the next draw on only the ids whose bit is set may be chosen; `None` allows all again.
    pub fn restrict(&mut self, allowed: Option<&[u32]>) {
        self.allowed.clear();
        self.allowed.extend_from_slice(allowed.unwrap_or_default());
    }

    /// Forgets the window and fills it again with the end of `history`; forgets what else earlier draws left.
    pub fn reset(&mut self, history: &[u32]) {
        self.bound = self.options.mirostat.map_or(0.0, Mirostat::first_bound);
        self.window.clear();
        self.repetitions.clear();
        let limit = self.window_limit.max(self.repetition_limit);
        for &id in &history[history.len().saturating_sub(limit)..] {
            self.accept(id);
        }
    }

    /// Puts an id of the prompt or of the answer into the window of the penalties.
    pub fn accept(&mut self, id: u32) {
        self.repetitions.accept(id, self.repetition_limit);
        if self.window_limit == 0 {
            return;
        }
        if self.window.len() == self.window_limit {
            self.window.pop_front();
        }
        self.window.push_back(id);
    }

    /// How many of the highest logits the next draw can do with; `None` where it needs all.
    #[doc(hidden)]
    pub fn needed(&self) -> Option<Needed> {
        let o = &self.options;
        if !self.allowed.is_empty() || o.may_raise() || (!self.is_greedy() && o.takes_all()) {
            return None;
        }
        // An id that is lowered may fall behind the last of the top: one more for each.
        let lowered = self.window.len() + self.repetitions.len() + self.banned.len() + o.logit_bias.len();
        match (self.is_greedy(), o.top_k) {
            (true, _) => Some(Needed::Top(1 + lowered)),
            (false, 0) if lowered == 0 && o.typical_p >= 1.0 && o.top_p < 1.0 => Some(Needed::Summed),
            (false, 0) => None,
            (false, k) => Some(Needed::Top(k + lowered)),
        }
    }

    /// The logits to ask backends with these limits for: the highest few where [`sample_top`](Self::sample_top) can do
    /// with them.
    pub fn want(&self, limits: &Limits) -> Want {
        match self.needed() {
            Some(Needed::Top(count)) if count <= limits.most_top => Want::Top(count),
            Some(Needed::Summed) if limits.most_summed > 0 => Want::Top(limits.most_summed.min(ENOUGH)),
            _ => Want::Last,
        }
    }

    /// Chooses the id for `position` (its index in prompt + answer). Changes `logits` (bias, penalties) and does
    /// not [`accept`](Self::accept) the id. A logit that is NaN or infinite is an error; the lowest finite number
    /// is that of an id which must not be chosen.
    pub fn sample(&mut self, logits: &mut [f32], position: usize) -> Result<u32> {
        if logits.is_empty() {
            return Err(Error::argument("logits", "one for each token of the vocabulary", "none"));
        }
        if let Some(bad) = first_not_finite(logits) {
            let place = format!("the logit of token {bad}");
            return Err(Error::NotFinite { place, backend: UNNAMED.into() });
        }
        self.collect_changes();
        for change in &self.changes {
            if let Some(logit) = logits.get_mut(change.id as usize) {
                *logit = change.apply(*logit, &self.options);
            }
        }
        for &id in &self.banned {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = f32::MIN;
            }
        }
        if !self.allowed.is_empty() {
            for (word, logits) in logits.chunks_mut(32).enumerate() {
                let allowed = self.allowed.get(word).copied().unwrap_or(0);
                let forbidden = (0..32).zip(logits).filter(|&(bit, _)| allowed >> bit & 1 == 0);
                forbidden.for_each(|(_, logit)| *logit = f32::MIN);
            }
            if logits.iter().all(|&logit| logit == f32::MIN) {
                return Err(Error::unsupported("the grammar", "it allows no token here"));
            }
        }
        if self.is_greedy() {
            let id = argmax(logits);
            self.candidates.clear();
            self.candidates.push(WeightedId::new(id, logits[id as usize]));
            return Ok(id);
        }
        if let Some(mirostat) = self.options.mirostat {
            chain::rank_unsurprising(&mut self.candidates, logits, self.options.temperature, self.bound);
            return Ok(self.draw_and_learn(mirostat, position));
        }
        let k = if self.options.top_k == 0 { logits.len() } else { self.options.top_k };
        chain::rank(&mut self.candidates, logits, k);
        if self.options.top_n_sigma > 0.0 {
            let bound = chain::sigma_bound(logits, self.options.top_n_sigma);
            let kept = self.candidates.partition_point(|c| c.scored.logit >= bound);
            self.candidates.truncate(kept.max(1));
        }
        Ok(self.cut_and_draw(position))
    }

    /// Probabilities in the draw of the last [`sample`](Self::sample): those of its id and of the `top` most probable ids
    /// that bias, penalties, cuts and temperature left. An id that was not drawn was certain.
    pub fn logprobs(&self, id: u32, top: usize) -> Logprobs {
        let weights = || self.candidates.iter().map(|c| (c.scored.id, f64::from(c.weight)));
        if self.candidates.len() < 2 || weights().all(|(other, _)| other != id) {
            return Logprobs { chosen: 0.0, top: vec![(id, 0.0)] };
        }
        let sum: f64 = weights().map(|(_, weight)| weight).sum();
        let log = |weight: f64| (weight / sum).ln() as f32;
        let chosen = weights().find(|&(other, _)| other == id).map_or(0.0, |(_, weight)| log(weight));
        // In rank order, in which weights do not rise.
        Logprobs { chosen, top: weights().take(top).map(|(id, weight)| (id, log(weight))).collect() }
    }

    /// As [`sample`](Self::sample), with the same result, from the highest logits alone. `None` where the others
    /// might matter: then `sample` has to have all of them.
    pub fn sample_top(&mut self, from: &Candidates, position: usize) -> Result<Option<u32>> {
        let Some(last) = from.top.last() else {
            return Err(Error::argument("candidates", "at least one", "none"));
        };
        if let Some(bad) = from.top.iter().find(|c| !c.logit.is_finite()) {
            let place = format!("the logit of token {}", bad.id);
            return Err(Error::NotFinite { place, backend: UNNAMED.into() });
        }
        let o = &self.options;
        let complete = from.rest == Rest::None;
        if !self.allowed.is_empty() || (!complete && o.may_raise()) || (!self.is_greedy() && o.takes_all()) {
            return Ok(None);
        }
        let touched = self.take_certain(from, last.logit, complete);
        if self.candidates.is_empty() {
            return Ok(None);
        }
        if self.is_greedy() {
            return Ok(Some(self.candidates[0].scored.id));
        }
        let k = self.options.top_k;
        if complete || (k > 0 && k <= self.candidates.len()) {
            self.candidates.truncate(if k == 0 { usize::MAX } else { k });
            return Ok(Some(self.cut_and_draw(position)));
        }
        // Without top-k the others count in the sum of top-p. That sum is not exact to the last bit, so the cut has
        // to be the same with a little less and a little more.
        match from.rest {
            Rest::Summed { log_sum_exp } if k == 0 && !touched && self.options.typical_p >= 1.0 => {
                chain::weigh(&mut self.candidates, 1.0);
                let sum = f64::from(log_sum_exp - self.candidates[0].scored.logit).exp();
                let kept = |factor: f64| chain::reach(&self.candidates, factor * sum, self.options.top_p);
                match (kept(1.0 - SUM_ERROR), kept(1.0 + SUM_ERROR)) {
                    (Some(less), Some(more)) if less == more => {
                        self.candidates.truncate(less);
                        Ok(Some(self.draw(position)))
                    }
                    _ => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }

    /// Fills `candidates` with those of `from` that rank before every id outside for certain, as `lowest` is the
    /// logit of the last. True where bias, penalties or bans changed one of `from`.
    fn take_certain(&mut self, from: &Candidates, lowest: f32, complete: bool) -> bool {
        self.collect_changes();
        self.candidates.clear();
        let (mut touched, mut tie) = (false, false);
        for c in &from.top {
            let mut logit = c.logit;
            if let Ok(at) = self.changes.binary_search_by_key(&c.id, |change| change.id) {
                logit = self.changes[at].apply(logit, &self.options);
            }
            if self.banned.contains(&c.id) {
                logit = f32::MIN;
            }
            let changed = logit != c.logit;
            touched |= changed;
            if complete || !changed || logit > lowest {
                self.candidates.push(WeightedId::new(c.id, logit));
            } else {
                tie |= logit == lowest;
            }
        }
        if tie {
            // Which of two equal ones comes first would depend on one that is not here.
            self.candidates.retain(|c| c.scored.logit > lowest);
        }
        self.candidates.sort_unstable_by(|a, b| a.scored.by_rank(&b.scored));
        touched
    }

    /// The bias and the penalties of each id that has some.
    fn collect_changes(&mut self) {
        let Self { changes, window, repetitions, options, .. } = self;
        let none = |id| Change { id, bias: 0.0, occurrences: 0, repetition: 0.0 };
        changes.clear();
        changes.extend(options.logit_bias.iter().map(|&(id, bias)| Change { bias, ..none(id) }));
        changes.extend(window.iter().map(|&id| Change { occurrences: 1, ..none(id) }));
        if options.dry.is_on() {
            let found = repetitions.find(&options.dry).iter();
            changes.extend(found.map(|&(id, len)| Change { repetition: options.dry.penalty(len), ..none(id) }));
        }
        changes.sort_unstable_by_key(|change| change.id);
        changes.dedup_by(|next, first| {
            let same = next.id == first.id;
            if same {
                first.bias += next.bias;
                first.occurrences += next.occurrences;
                first.repetition += next.repetition;
            }
            same
        });
    }

    /// Typical-p, top-p, min-p, temperature and the draw, on the top-k in rank order.
    fn cut_and_draw(&mut self, position: usize) -> u32 {
        let Self { options: o, candidates, order, .. } = self;
        let mut sum = chain::weigh(candidates, 1.0);
        if o.typical_p < 1.0 {
            chain::keep_typical(candidates, sum, o.typical_p, order);
            sum = chain::weigh(candidates, 1.0);
        }
        if o.top_p < 1.0
            && let Some(kept) = chain::reach(candidates, sum, o.top_p)
        {
            candidates.truncate(kept);
        }
        self.draw(position)
    }

    /// Min-p, XTC, temperature and the draw, on candidates with their weights.
    fn draw(&mut self, position: usize) -> u32 {
        chain::keep_min_p(&mut self.candidates, self.options.min_p);
        let Xtc { probability, threshold } = self.options.xtc;
        if probability > 0.0 && uniform(self.seed ^ XTC_SEED, position as u32) < probability {
            let sum = chain::weigh(&mut self.candidates, 1.0);
            chain::exclude_top(&mut self.candidates, sum, threshold);
        }
        let sum = chain::weigh(&mut self.candidates, self.options.temperature);
        // A context has fewer than 2^32 positions; the low bits are all that differs.
        let drawn = chain::draw(&self.candidates, sum, uniform(self.seed, position as u32));
        self.candidates[drawn].scored.id
    }

    fn draw_and_learn(&mut self, mirostat: Mirostat, position: usize) -> u32 {
        let sum = chain::weigh(&mut self.candidates, self.options.temperature);
        let drawn = self.candidates[chain::draw(&self.candidates, sum, uniform(self.seed, position as u32))];
        self.bound = mirostat.next_bound(self.bound, f64::from(drawn.weight) / sum);
        drawn.scored.id
    }
}

impl Change {
    /// Bias first, then the penalties, then DRY. Clamped after each, as extreme ones must not turn a finite logit into an
    /// infinite one or NaN.
    fn apply(&self, logit: f32, o: &SampleOptions) -> f32 {
        let clamp = |logit: f32| logit.clamp(f32::MIN, f32::MAX);
        let logit = clamp(logit + self.bias);
        if self.occurrences == 0 {
            return clamp(logit - self.repetition);
        }
        let scaled = clamp(if logit <= 0.0 { logit * o.repeat_penalty } else { logit / o.repeat_penalty });
        let lowered = clamp(scaled - self.occurrences as f32 * o.frequency_penalty);
        clamp(clamp(lowered - o.presence_penalty) - self.repetition)
    }
}

/// Logits looked at before the next branch, so that the loops over them become vector instructions: check and
/// argmax of 128 256 logits take 14 us that way, not 83 (AMD EPYC, baseline SSE2 code, rustc 1.95 -O).
const CHUNK: usize = 1024;

fn first_not_finite(logits: &[f32]) -> Option<usize> {
    let any = |chunk: &[f32]| chunk.iter().fold(false, |any, l| any | !l.is_finite());
    let start = logits.chunks(CHUNK).position(any)? * CHUNK;
    logits[start..].iter().position(|l| !l.is_finite()).map(|at| start + at)
}

/// The lowest index of the highest value.
fn argmax(logits: &[f32]) -> u32 {
    let highest_of = |chunk: &[f32]| {
        let mut lanes = [f32::MIN; 16];
        let (whole, rest) = chunk.as_chunks::<16>();
        for sixteen in whole {
            for (lane, &l) in lanes.iter_mut().zip(sixteen) {
                *lane = if l > *lane { l } else { *lane };
            }
        }
        lanes.iter().chain(rest).fold(f32::MIN, |a, &b| a.max(b))
    };
    let (mut start, mut highest) = (0, f32::MIN);
    for (at, chunk) in logits.chunks(CHUNK).enumerate() {
        let here = highest_of(chunk);
        if here > highest {
            (start, highest) = (at * CHUNK, here);
        }
    }
    // All logits at the lowest finite number: the first one.
    logits[start..].iter().position(|&l| l == highest).map_or(0, |at| (start + at) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_stay_where_they_are_after_the_first_id() {
        for top_k in [0, 40] {
            let dry = Dry { multiplier: 0.8, allowed_length: 1, ..Dry::default() };
            let options = SampleOptions { top_k, repeat_penalty: 1.1, dry, seed: Some(1), ..SampleOptions::default() };
            let mut sampler = Sampler::new(options, 4096).unwrap();
            sampler.reset(&[7; 100]);
            let mut first = None;
            for position in 0..300 {
                let mut logits: Vec<f32> = (0..5000).map(|i| uniform(position, i) * 20.0 - 10.0).collect();
                let id = sampler.sample(&mut logits, position as usize).unwrap();
                sampler.accept(id);
                let s = &sampler;
                let buffers = (s.candidates.as_ptr(), s.changes.as_ptr(), s.window.capacity());
                assert_eq!(*first.get_or_insert(buffers), buffers);
            }
        }
    }
}
