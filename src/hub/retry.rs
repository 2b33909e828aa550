//! Requests that fail, and whether it helps to ask again.

use std::{thread, time::Duration};

use crate::error::{Error, Result};

/// Requests in a row without any success.
const ATTEMPTS: u32 = 4;

/// Before the first repetition; doubled for each further one.
const PAUSE: Duration = Duration::from_millis(250);

/// The longest pause that a server may ask for; where it asks for more, the error says so at once.
pub(super) const LONGEST: Duration = Duration::from_secs(60);

/// A request without an answer that serves.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: Error,
    pub again: Again,
}

/// When to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// The answer would be the same.
    Never,
    Soon,
    /// As the server asks (`Retry-After`).
    After(Duration),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, again: Again::Never }
    }
}

/// Counts failures in a row.
#[derive(Default)]
pub(super) struct Patience {
    failures: u32,
}

impl Patience {
    /// Something came.
    pub fn renew(&mut self) {
        self.failures = 0;
    }

    /// The time to wait before the next attempt; the error where there is to be none.
    pub fn pause(&mut self, failure: &Failure) -> Option<Duration> {
        let pause = match failure.again {
            Again::Never => return None,
            Again::Soon => PAUSE * 2u32.pow(self.failures),
            Again::After(pause) if pause > LONGEST => return None,
            Again::After(pause) => pause,
        };
        self.failures += 1;
        (self.failures < ATTEMPTS).then_some(pause)
    }
}

/// Asks until there is an answer, or no hope of one.
pub(super) fn retried<T>(mut ask: impl FnMut() -> Result<T, Failure>) -> Result<T> {
    let mut patience = Patience::default();
    loop {
        let failure = match ask() {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let Some(pause) = patience.pause(&failure) else { return Err(failure.error) };
        log::info!("{}; trying again", failure.error);
        thread::sleep(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(again: Again) -> Failure {
        Failure { error: Error::missing("answer", ""), again }
    }

    #[test]
    fn pauses_grow_and_end() {
        let mut patience = Patience::default();
        let mut pauses = || -> Vec<u128> {
            let all = std::iter::from_fn(|| patience.pause(&failure(Again::Soon)));
            let found = all.map(|pause| pause.as_millis()).collect();
            patience.renew();
            found
        };
        assert_eq!(pauses(), [250, 500, 1000]);
        assert_eq!(pauses(), [250, 500, 1000]);
        assert_eq!(patience.pause(&failure(Again::Never)), None);
        let five = Duration::from_secs(5);
        assert_eq!(patience.pause(&failure(Again::After(five))), Some(five));
        assert_eq!(patience.pause(&failure(Again::After(LONGEST + five))), None);
    }

    #[test]
    fn an_answer_ends_it_and_so_does_a_refusal() {
        let mut asked = 0;
        let answer = retried(|| {
            asked += 1;
            if asked == 2 { Ok(asked) } else { Err(failure(Again::After(Duration::ZERO))) }
        });
        assert_eq!(answer.unwrap(), 2);
        let mut asked = 0;
        let refused: Result<()> = retried(|| {
            asked += 1;
            Err(failure(Again::Never))
        });
        assert!(refused.is_err() && asked == 1);
    }
}
