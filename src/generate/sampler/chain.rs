//! The stages between the logits and the draw, on candidates in rank order. The first one always stays.

use super::Mirostat;
use crate::backend::Scored;

/// An id in the running.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightedId {
    pub scored: Scored,
    /// e^(logit - highest), set by [`weigh`].
    pub weight: f32,
}

impl WeightedId {
    pub fn new(id: u32, logit: f32) -> Self {
        Self { scored: Scored { id, logit }, weight: 0.0 }
    }
}

/// Fills `candidates` with the highest `k` (at least 1) of `logits`, in rank order.
pub(super) fn rank(candidates: &mut Vec<WeightedId>, logits: &[f32], k: usize) {
    let by_rank = |a: &WeightedId, b: &WeightedId| a.scored.by_rank(&b.scored);
    let k = k.min(logits.len());
    // One pass keeps up to `room` candidates above a rising threshold, so that a vocabulary of 128 K is
    // neither copied nor sorted for a k of 40. The factor trades memory for fewer selections.
    let room = (4 * k).max(256).min(logits.len());
    candidates.clear();
    candidates.reserve(room);
    let mut threshold = f32::NEG_INFINITY;
    for (id, &logit) in logits.iter().enumerate() {
        // Not `>=`: ids come in rising order, so one equal to the k-th ranks behind it.
        if logit > threshold {
            if candidates.len() == room {
                candidates.select_nth_unstable_by(k - 1, by_rank);
                candidates.truncate(k);
                threshold = candidates[k - 1].scored.logit;
                if logit <= threshold {
                    continue;
                }
            }
            candidates.push(WeightedId::new(id as u32, logit));
        }
    }
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, by_rank);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(by_rank);
}

/// Sets the weights at `temperature` and returns their sum. What has none cannot be drawn and goes.
pub(super) fn weigh(candidates: &mut Vec<WeightedId>, temperature: f32) -> f64 {
    let highest = candidates[0].scored.logit;
    let mut sum = 0.0;
    for c in candidates.iter_mut() {
        c.weight = ((c.scored.logit - highest) / temperature).exp();
        sum += f64::from(c.weight);
    }
    // The lowest weights are the last; the first is 1.
    let kept = candidates.partition_point(|c| c.weight > 0.0);
    candidates.truncate(kept);
    sum
}

/// Keeps the ids whose surprise -ln p is nearest to the entropy, until they sum to more than `share`. As in
/// llama.cpp the id that reaches it stays. `order` is room to work in.
pub(super) fn keep_typical(candidates: &mut Vec<WeightedId>, sum: f64, share: f32, order: &mut Vec<(f32, u32)>) {
    let surprise = |c: &WeightedId| -(f64::from(c.weight) / sum).ln();
    let entropy: f64 = candidates.iter().map(|c| f64::from(c.weight) / sum * surprise(c)).sum();
    order.clear();
    order.extend(candidates.iter().zip(0..).map(|(c, at)| ((surprise(c) - entropy).abs() as f32, at)));
    order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut reached = 0.0;
    let enough = order.iter().position(|&(_, at)| {
        reached += f64::from(candidates[at as usize].weight) / sum;
        reached > f64::from(share)
    });
    order.truncate(enough.map_or(order.len(), |last| last + 1));
    order.sort_unstable_by_key(|&(_, at)| at);
    for (to, &(_, from)) in order.iter().enumerate() {
        candidates[to] = candidates[from as usize];
    }
    candidates.truncate(order.len());
}

/// How many of the first candidates reach `share` of `sum`; `None` where all together do not.
pub(super) fn reach(candidates: &[WeightedId], sum: f64, share: f32) -> Option<usize> {
    let wanted = f64::from(share) * sum;
    let mut reached = 0.0;
    let last = candidates.iter().position(|c| {
        reached += f64::from(c.weight);
        reached >= wanted
    });
    last.map(|last| last + 1)
}

/// Drops the ids less probable than `share` of the most probable one.
pub(super) fn keep_min_p(candidates: &mut Vec<WeightedId>, share: f32) {
    // The first candidate has weight 1.
    let kept = candidates.iter().take_while(|c| c.weight >= share).count();
    candidates.truncate(kept.max(1));
}

/// The lowest logit within `deviations` standard deviations of the highest one. Ids that must not be chosen, which have
/// the lowest finite number, do not count.
pub(super) fn sigma_bound(logits: &[f32], deviations: f32) -> f32 {
    let possible = || logits.iter().filter(|&&logit| logit > f32::MIN).map(|&logit| f64::from(logit));
    let count = possible().count().max(1) as f64;
    let mean = possible().sum::<f64>() / count;
    let variance = possible().map(|logit| (logit - mean) * (logit - mean)).sum::<f64>() / count;
    let highest = possible().fold(f64::from(f32::MIN), f64::max);
    (highest - f64::from(deviations) * variance.sqrt()) as f32
}

/// Drops the candidates of at least `threshold` of `sum`, but the least probable of them. Weights are those of
/// [`weigh`].
pub(super) fn exclude_top(candidates: &mut Vec<WeightedId>, sum: f64, threshold: f32) {
    let top = candidates.partition_point(|c| f64::from(c.weight) >= f64::from(threshold) * sum);
    candidates.drain(..top.saturating_sub(1));
}

/// Fills `candidates` with the ids of a surprise of at most `bound` bits at `temperature`, in rank order; where even
/// the most probable one is beyond it, with that one.
pub(super) fn rank_unsurprising(candidates: &mut Vec<WeightedId>, logits: &[f32], temperature: f32, bound: f32) {
    let highest = logits.iter().copied().fold(f32::MIN, f32::max);
    let weight = |logit: f32| f64::from(((logit - highest) / temperature).exp());
    let sum: f64 = logits.iter().map(|&l| weight(l)).sum();
    // -log2(weight / sum) <= bound, solved for the weight; that of the most probable one is 1.
    let lowest = (-f64::from(bound)).exp2() * sum;
    candidates.clear();
    let near = logits.iter().zip(0..).filter(|&(&l, _)| weight(l) >= lowest.min(1.0));
    candidates.extend(near.map(|(&l, id)| WeightedId::new(id, l)));
    candidates.sort_unstable_by(|a, b| a.scored.by_rank(&b.scored));
    if lowest > 1.0 {
        candidates.truncate(1);
    }
}

/// The candidate at `u` (0 to below 1) of the sum of all weights: its index.
pub(super) fn draw(candidates: &[WeightedId], sum: f64, u: f32) -> usize {
    let target = f64::from(u) * sum;
    let mut reached = 0.0;
    let found = candidates.iter().position(|c| {
        reached += f64::from(c.weight);
        reached > target
    });
    // Rounding may leave the last sum at the target.
    found.unwrap_or(candidates.len() - 1)
}

impl Mirostat {
    /// Where the bound begins.
    pub(super) fn first_bound(self) -> f32 {
        2.0 * self.entropy
    }

    /// The bound after an id of probability `p` among the ids kept.
    pub(super) fn next_bound(self, bound: f32, p: f64) -> f32 {
        bound - self.learning_rate * (-p.log2() as f32 - self.entropy)
    }
}
