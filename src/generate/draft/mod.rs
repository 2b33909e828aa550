//! Guesses of what comes next, taken from the text so far: where the last tokens have occurred before, the answer may
//! go on as the text did there (prompt lookup decoding, Saxena 2023). Checking a guess costs one pass over the weights
//! for several tokens, and never changes the text.

mod policy;

use self::policy::Policy;

/// Fewest tokens that have to occur twice before a guess is made of them.
const LEAST_MATCH: usize = 2;

/// Longer repeats are as good as this.
const MOST_MATCH: usize = 32;

/// Rows of logits of passes that have to equal those of single steps, bit for bit, before passes are trusted.
const ROWS_TO_TRUST: usize = 2;

/// Makes drafts and learns whether they pay. One serves all answers of a session.
#[derive(Clone, Debug)]
pub struct Drafter {
    limit: Option<usize>,
    policy: Policy,
    trust: Trust,
    text: Vec<u32>,
}

/// Whether a pass over several tokens gives what single steps give. Backends promise it; on a GPU compilers have a say,
/// too, so the first pass is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// So many rows were equal.
    Untested(usize),
    Sound,
    Unsound,
}

/// A guess.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Draft {
    /// The tokens, at least one.
    pub ids: Vec<u32>,
    /// How many tokens before it occurred before.
    pub matched: usize,
}

impl Drafter {
    /// At most `limit` tokens a draft, always; `None` decides by what drafts cost and gain.
    pub fn new(limit: Option<usize>) -> Self {
        Self { limit, policy: Policy::default(), trust: Trust::Untested(0), text: Vec::new() }
    }

    /// A new answer, to this text.
    pub(super) fn begin(&mut self, prompt: &[u32]) {
        self.text.clear();
        self.text.extend_from_slice(prompt);
    }

    /// The text goes on.
    pub(super) fn push(&mut self, id: u32) {
        self.text.push(id);
    }

    /// A draft of at most `most` tokens; `None` where nothing speaks for a guess, or guesses do not pay.
    pub(super) fn draft(&mut self, most: usize, end_ids: &[u32]) -> Option<Draft> {
        let most = most.min(self.limit.unwrap_or(usize::MAX));
        if most == 0 || self.trust == Trust::Unsound {
            return None;
        }
        let mut draft = lookup(&self.text, most)?;
        // What comes after an end is another text.
        let end = draft.ids.iter().position(|id| end_ids.contains(id)).unwrap_or(draft.ids.len());
        draft.ids.truncate(end);
        if self.limit.is_none() {
            draft.ids.truncate(self.policy.choose(draft.matched, draft.ids.len()));
        }
        (!draft.ids.is_empty()).then_some(draft)
    }

    /// False until a pass has been compared with single steps.
    pub(super) fn is_trusted(&self) -> bool {
        self.trust == Trust::Sound
    }

    /// The outcome of comparing `rows` rows of logits.
    pub(super) fn compared(&mut self, rows: usize, equal: bool) {
        if !equal {
            log::info!("no drafts: this backend gives other numbers for several tokens than for one");
            self.trust = Trust::Unsound;
        } else if let Trust::Untested(before) = self.trust {
            let equal = before + rows;
            self.trust = if equal >= ROWS_TO_TRUST { Trust::Sound } else { Trust::Untested(equal) };
        }
    }

    /// A step of one token took so long.
    pub(super) fn timed_step(&mut self, seconds: f64) {
        self.policy.timed_pass(1, seconds);
    }

    /// A pass over a token and its draft of `drafted` took so long.
    pub(super) fn timed_pass(&mut self, drafted: usize, seconds: f64) {
        self.policy.timed_pass(1 + drafted, seconds);
    }

    /// The first `accepted` tokens of a draft were right, and the next one, if there was one, was not.
    pub(super) fn outcome(&mut self, draft: &Draft, accepted: usize) {
        self.policy.outcome(draft.matched, draft.ids.len(), accepted);
    }
}

/// The longest end of `text` that has occurred before, of equals the latest, and the `most` tokens that followed it.
/// Where the text ends before that many, it is as if it went on in the same way.
fn lookup(text: &[u32], most: usize) -> Option<Draft> {
    let common = |end: usize| {
        let pairs = text[..end].iter().rev().zip(text.iter().rev());
        pairs.take(MOST_MATCH).take_while(|(a, b)| a == b).count()
    };
    let mut best = (0, 0);
    for end in (1..text.len()).rev() {
        let matched = common(end);
        if matched > best.0 {
            best = (matched, end);
            if matched == MOST_MATCH {
                break;
            }
        }
    }
    let (matched, end) = best;
    if matched < LEAST_MATCH {
        return None;
    }
    let period = text.len() - end;
    let ids = (0..most).map(|i| text[end + i % period]).collect();
    Some(Draft { ids, matched })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_and_latest_repeat_is_found() {
        let draft = |text: &[u32], most| lookup(text, most).map(|draft| (draft.ids, draft.matched));
        assert_eq!(draft(&[1, 2, 3, 4, 1, 2, 3], 2), Some((vec![4, 1], 3)));
        // 2 3 came twice before: last with 9 behind it. 1 2 3 came once, with 4 behind it.
        assert_eq!(draft(&[1, 2, 3, 4, 5, 2, 3, 9, 6, 2, 3], 1), Some((vec![9], 2)));
        assert_eq!(draft(&[1, 2, 3, 4, 5, 2, 3, 9, 1, 2, 3], 1), Some((vec![4], 3)));
        // One token is no repeat; nor is an empty text.
        assert_eq!(draft(&[1, 2, 3, 1], 4), None);
        assert_eq!(draft(&[1, 1], 4), None);
        assert_eq!(draft(&[], 4), None);
        // Beyond the end of the text its period goes on.
        assert_eq!(draft(&[7, 8, 7, 8], 5), Some((vec![7, 8, 7, 8, 7], 2)));
        assert_eq!(draft(&[5, 5, 5], 3), Some((vec![5, 5, 5], 2)));
        assert_eq!(draft(&vec![5; 100], 2), Some((vec![5, 5], MOST_MATCH)));
    }

    #[test]
    fn drafts_end_before_an_end_and_at_the_limit() {
        let mut drafter = Drafter::new(Some(3));
        drafter.begin(&[1, 2, 3, 4, 5, 6, 1]);
        drafter.push(2);
        assert_eq!(drafter.draft(9, &[]).unwrap().ids, [3, 4, 5]);
        assert_eq!(drafter.draft(2, &[]).unwrap().ids, [3, 4]);
        assert_eq!(drafter.draft(9, &[4]).unwrap().ids, [3]);
        assert_eq!(drafter.draft(9, &[3]), None);
        assert_eq!(drafter.draft(0, &[]), None);
        assert_eq!(Drafter::new(Some(0)).draft(9, &[]), None);
    }

    #[test]
    fn a_backend_that_gives_other_numbers_gets_no_drafts() {
        let mut drafter = Drafter::new(Some(3));
        drafter.begin(&[1, 2, 3, 1, 2]);
        drafter.compared(1, true);
        assert!(!drafter.is_trusted() && drafter.draft(9, &[]).is_some());
        drafter.compared(1, true);
        assert!(drafter.is_trusted());
        drafter.compared(1, false);
        assert!(!drafter.is_trusted() && drafter.draft(9, &[]).is_none());
    }
}
