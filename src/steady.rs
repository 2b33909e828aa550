//! Measurements that can be relied on: repeated until they agree.
//!
//! In: a function that measures a list of times. Out: the shortest of each, and whether a second round came near it.
//! Whatever else the machine does makes a time longer and none shorter, so that the shortest is the least disturbed one; where
//! no other round came near, it may be of luck, and nothing is to be kept by it.

use std::{ops::RangeInclusive, time::Duration};

use crate::error::Result;

/// Rounds of measuring: one alone tells nothing of itself, and on a busy machine more do not help.
const ROUNDS: RangeInclusive<usize> = 2..=6;

/// Most rounds there are, for who has to provide for them.
pub const MOST_ROUNDS: usize = *ROUNDS.end();

/// Two times agree if the longer one is at most so many times the shorter. Medians of few steps differ by some percent on a
/// machine that does nothing else.
const NEAR: f64 = 1.1;

/// What was measured, and whether rounds agreed about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steady<T> {
    pub value: T,
    pub agreed: bool,
}

impl<T> Steady<T> {
    /// The same of something made of it.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Steady<U> {
        Steady { value: make(self.value), agreed: self.agreed }
    }
}

/// The shortest times of a list that `measure` measures, each round all of them anew.
///
/// # Errors
/// Those of `measure`.
pub fn shortest(mut measure: impl FnMut() -> Result<Vec<Duration>>) -> Result<Steady<Vec<Duration>>> {
    // Of each the shortest and the next.
    let mut best = Vec::new();
    for round in 1..=MOST_ROUNDS {
        let times = measure()?;
        best.resize(times.len(), (Duration::MAX, Duration::MAX));
        for ((first, second), time) in best.iter_mut().zip(times) {
            *second = time.max(*first).min(*second);
            *first = time.min(*first);
        }
        if round >= *ROUNDS.start() && agree(&best) {
            break;
        }
    }
    Ok(Steady { agreed: agree(&best), value: best.into_iter().map(|(first, _)| first).collect() })
}

fn agree(best: &[(Duration, Duration)]) -> bool {
    best.iter().all(|(first, second)| second.as_secs_f64() <= NEAR * first.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of microseconds, the last one again and again; with how many of them were measured.
    fn measured(rounds: &[&[u64]]) -> (Steady<Vec<u64>>, usize) {
        let mut count = 0;
        let found = shortest(|| {
            let round = rounds[count.min(rounds.len() - 1)];
            count += 1;
            Ok(round.iter().map(|&us| Duration::from_micros(us)).collect())
        });
        let micros = |times: Vec<Duration>| times.iter().map(|time| time.as_micros() as u64).collect();
        (found.unwrap().map(micros), count)
    }

    #[test]
    fn two_rounds_that_agree_are_enough() {
        assert_eq!(measured(&[&[100, 2000], &[105, 1900]]), (Steady { value: vec![100, 1900], agreed: true }, 2));
    }

    #[test]
    fn a_disturbed_round_is_made_up_for() {
        let rounds: [&[u64]; 4] = [&[300, 40], &[100, 90], &[180, 41], &[101, 70]];
        assert_eq!(measured(&rounds), (Steady { value: vec![100, 40], agreed: true }, 4));
        // Of either the two shortest count, whichever rounds they are of.
        assert_eq!(measured(&[&[100], &[200], &[190], &[109]]).1, 4);
    }

    #[test]
    fn rounds_that_never_agree_say_so() {
        let rounds: [&[u64]; 6] = [&[100, 50], &[200, 50], &[120, 50], &[400, 50], &[130, 50], &[900, 50]];
        assert_eq!(measured(&rounds), (Steady { value: vec![100, 50], agreed: false }, MOST_ROUNDS));
        // One that is shorter than all others by far is as doubtful.
        let rounds: [&[u64]; 6] = [&[100], &[200], &[190], &[195], &[205], &[198]];
        assert_eq!(measured(&rounds).0, Steady { value: vec![100], agreed: false });
    }
}
