//! DRY ("don't repeat yourself"): an id that would go on with a sequence which was there before is lowered, the more the
//! longer the sequence is. Proposed by p-e-w in text-generation-webui's pull request 5677; numbers and breakers mean what they
//! mean to llama.cpp.

use std::collections::VecDeque;

use crate::{
    error::Result,
    tokenizer::{EncodeOptions, Tokenizer},
};

/// Bytes of a breaker that count, and tokens of what follows its first one.
const MOST_BREAKER_BYTES: usize = 40;
const MOST_TAIL: usize = 20;

/// Penalties beyond this are all the same: no logit is near it.
const MOST_PENALTY: f32 = 1e30;

/// How sequences that come again are made less probable.
#[derive(Clone, Debug, PartialEq)]
pub struct Dry {
    /// Taken from the logit of an id that would make a repetition one longer than allowed; 0 does nothing.
    pub multiplier: f32,
    /// Factor for each id that the repetition is longer, at least 1.
    pub base: f32,
    /// Ids that may come again without a penalty.
    pub allowed_length: usize,
    /// Ids that are looked through for repetitions, prompt included; `None` = the whole context.
    pub last_n: Option<usize>,
    /// Where repetitions begin anew; see [`breakers`](Self::breakers).
    pub breakers: Vec<Breaker>,
}

/// Ids that end a repetition: one whose text has the end of the breaker in it, or the first of several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Breaker {
    /// The first id.
    pub head: u32,
    /// Ids that have to follow.
    pub tail: Vec<u32>,
}

impl Default for Dry {
    fn default() -> Self {
        Self { multiplier: 0.0, base: 1.75, allowed_length: 2, last_n: Some(64), breakers: Vec::new() }
    }
}

impl Dry {
    /// Texts that llama.cpp takes for breakers where none are given.
    pub const BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

    /// The ids that `texts` stand for: each that has one of them in its text, and each that ends with a part of one, with
    /// the ids of the rest. A pass over the vocabulary for each text; empty ones do nothing.
    ///
    /// # Errors
    /// If the rest of a text cannot be tokenized.
    pub fn breakers<T: AsRef<str>>(texts: &[T], tokenizer: &Tokenizer) -> Result<Vec<Breaker>> {
        let mut found = Vec::new();
        for text in texts {
            let text = text.as_ref();
            let text = &text[..text.floor_char_boundary(MOST_BREAKER_BYTES)];
            if text.is_empty() {
                continue;
            }
            for head in 0..tokenizer.vocab_size() as u32 {
                let word = tokenizer.token_bytes(head);
                if word.windows(text.len()).any(|part| part == text.as_bytes()) {
                    found.push(Breaker { head, tail: Vec::new() });
                    continue;
                }
                let starts = (1..text.len()).filter(|&len| text.is_char_boundary(len));
                for len in starts.filter(|&len| word.ends_with(&text.as_bytes()[..len])) {
                    let options = EncodeOptions { add_special: false, parse_special: false };
                    let mut tail = tokenizer.encode(&text[len..], &options)?;
                    tail.truncate(MOST_TAIL);
                    found.push(Breaker { head, tail });
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    pub(super) fn is_on(&self) -> bool {
        self.multiplier > 0.0 && self.last_n != Some(0)
    }

    /// The amount taken off the logit of an id that goes on with `len` repeated ids.
    pub(super) fn penalty(&self, len: usize) -> f32 {
        let exponent = len.saturating_sub(self.allowed_length).min(i32::MAX as usize) as i32;
        (self.multiplier * self.base.powi(exponent)).min(MOST_PENALTY)
    }

    fn breakers_at(&self, head: u32) -> &[Breaker] {
        let start = self.breakers.partition_point(|breaker| breaker.head < head);
        let end = self.breakers.partition_point(|breaker| breaker.head <= head);
        &self.breakers[start..end]
    }

    /// Ids since the last breaker, at most all. `recent` has the newest first.
    fn since_breaker(&self, recent: &VecDeque<u32>) -> usize {
        let breaker_from = |at: usize| {
            let follows = |tail: &[u32]| tail.len() <= at && (1..).zip(tail).all(|(back, &id)| recent[at - back] == id);
            let tails = self.breakers_at(recent[at]).iter().map(|breaker| &breaker.tail[..]);
            tails.filter(|tail| follows(tail)).map(<[u32]>::len).max()
        };
        (0..recent.len()).find_map(|at| breaker_from(at).map(|tail| at - tail)).unwrap_or(recent.len())
    }
}

/// The ids lately seen and what would repeat them. Allocates nothing once its buffers have grown.
#[derive(Clone, Debug, Default)]
pub(super) struct Repetitions {
    /// The newest first.
    recent: VecDeque<u32>,
    /// For each of them, how many ids up to the one behind it are the newest ones again.
    lengths: Vec<usize>,
    /// Ids that would go on with a repetition, and its length; ascending, each once.
    found: Vec<(u32, usize)>,
}

impl Repetitions {
    pub fn clear(&mut self) {
        self.recent.clear();
    }

    /// Ids that are looked at: no more than those are lowered.
    pub fn len(&self) -> usize {
        self.recent.len()
    }

    pub fn accept(&mut self, id: u32, most: usize) {
        if self.recent.len() >= most {
            self.recent.truncate(most.saturating_sub(1));
        }
        if most > 0 {
            self.recent.push_front(id);
        }
    }

    /// The ids that would repeat more than is allowed, with how much of it is there.
    pub fn find(&mut self, dry: &Dry) -> &[(u32, usize)] {
        self.found.clear();
        let most = dry.since_breaker(&self.recent);
        if self.recent.len() <= dry.allowed_length || most < dry.allowed_length {
            return &self.found;
        }
        self.measure();
        for at in 1..self.recent.len() {
            let (len, next) = (self.lengths[at].min(most), self.recent[at - 1]);
            let is_breaker = dry.breakers_at(next).first().is_some_and(|breaker| breaker.tail.is_empty());
            if len >= dry.allowed_length && !is_breaker {
                self.found.push((next, len));
            }
        }
        // The longest of each id stands first.
        self.found.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        self.found.dedup_by_key(|&mut (id, _)| id);
        &self.found
    }

    /// Sets `lengths`: how far the ids from each place on are those from the newest one on. In linear time, as what was
    /// compared is known from the place that it equals (the Z function).
    fn measure(&mut self) {
        let Self { recent, lengths, .. } = self;
        lengths.clear();
        lengths.resize(recent.len(), 0);
        let (mut known_from, mut known_to) = (0, 0);
        for at in 1..recent.len() {
            let mut len = if at < known_to { lengths[at - known_from].min(known_to - at) } else { 0 };
            while at + len < recent.len() && recent[at + len] == recent[len] {
                len += 1;
            }
            if at + len > known_to {
                (known_from, known_to) = (at, at + len);
            }
            lengths[at] = len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::sampler::uniform;

    fn found(text: &[u32], dry: &Dry) -> Vec<(u32, usize)> {
        let mut repetitions = Repetitions::default();
        text.iter().for_each(|&id| repetitions.accept(id, dry.last_n.unwrap_or(usize::MAX)));
        repetitions.find(dry).to_vec()
    }

    fn single(heads: &[u32]) -> Vec<Breaker> {
        heads.iter().map(|&head| Breaker { head, tail: Vec::new() }).collect()
    }

    // Worked out by hand: the text ends with 1 2 3, which came before 3, and 2 3 came before 9.
    #[test]
    fn ids_that_would_go_on_are_found_with_what_they_repeat() {
        let text = [1, 2, 3, 3, 2, 3, 9, 1, 2, 3];
        let dry = Dry { multiplier: 1.0, ..Dry::default() };
        assert_eq!(found(&text, &dry), [(3, 3), (9, 2)]);
        assert_eq!(found(&text, &Dry { allowed_length: 3, ..dry.clone() }), [(3, 3)]);
        assert_eq!(found(&text, &Dry { last_n: Some(6), ..dry.clone() }), [(9, 2)]);
        // A breaker inside of the repetition shortens it, and is never lowered itself.
        assert_eq!(found(&text, &Dry { breakers: single(&[1]), ..dry.clone() }), [(3, 2), (9, 2)]);
        assert_eq!(found(&text, &Dry { breakers: single(&[2]), ..dry.clone() }), []);
        assert_eq!(found(&text, &Dry { breakers: single(&[9]), ..dry.clone() }), [(3, 3)]);
        // One of two ids counts where both stand, and begins behind the second.
        let pair = |tail: u32| vec![Breaker { head: 1, tail: vec![tail] }];
        assert_eq!(found(&text, &Dry { breakers: pair(3), ..dry.clone() }), [(3, 3), (9, 2)]);
        assert_eq!(found(&text, &Dry { breakers: pair(2), ..dry }), []);
    }

    #[test]
    fn lengths_are_those_of_plain_comparison() {
        for seed in 0..200 {
            let text: Vec<u32> = (0..40).map(|at| (uniform(seed, at) * 3.0) as u32).collect();
            let mut repetitions = Repetitions::default();
            text.iter().for_each(|&id| repetitions.accept(id, 30));
            repetitions.measure();
            let newest: Vec<u32> = text.iter().rev().take(30).copied().collect();
            for at in 1..30 {
                let expected = newest[at..].iter().zip(&newest).take_while(|(a, b)| a == b).count();
                assert_eq!(repetitions.lengths[at], expected, "{newest:?} from {at}");
            }
        }
    }

    #[test]
    fn penalties_grow_with_each_id() {
        let dry = Dry { multiplier: 0.5, base: 2.0, allowed_length: 2, ..Dry::default() };
        assert_eq!([2, 3, 5].map(|len| dry.penalty(len)), [0.5, 1.0, 4.0]);
        assert_eq!(dry.penalty(100_000), MOST_PENALTY);
    }
}
