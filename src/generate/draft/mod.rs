//! Guesses of what comes next. From the text so far: where the last tokens have occurred before, the answer may go on as
//! the text did there (prompt lookup decoding, Saxena 2023). From the model's block of multi-token prediction, where it has
//! one. Checking a guess costs one pass over the weights for several tokens, and never changes the text.

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
    sources: [bool; 2],
    /// By [`Source`]: what they cost and gain differs.
    policies: [Policy; 2],
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

/// Where a guess is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Text,
    Mtp,
}

/// A guess.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Draft {
    /// The tokens, at least one.
    pub ids: Vec<u32>,
    pub source: Source,
    /// How many tokens before it occurred before, in the text.
    pub matched: usize,
}

/// Proposal for a guess.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Proposal {
    Draft(Draft),
    /// So many tokens, to be asked of the model's block.
    AskMtp(usize),
}

impl Drafter {
    /// At most `limit` tokens a draft, always; `None` decides by what drafts cost and gain. They are from the text, and from
    /// the model's block of multi-token prediction where that is loaded.
    pub fn new(limit: Option<usize>) -> Self {
        let policies = [Policy::of_text(), Policy::of_mtp()];
        Self { limit, sources: [true; 2], policies, trust: Trust::Untested(0), text: Vec::new() }
    }

    /// Drafts from some of the sources alone.
    #[must_use]
    pub fn from_sources(self, text: bool, mtp: bool) -> Self {
        Self { sources: [text, mtp], ..self }
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

    /// A draft of at most `most` tokens, or of `most_mtp` by the model's block; `None` where nothing speaks for a guess, or
    /// guesses do not pay.
    pub(super) fn draft(&mut self, most: usize, most_mtp: usize, end_ids: &[u32]) -> Option<Proposal> {
        let most = most.min(self.limit.unwrap_or(usize::MAX));
        let [from_text, from_mtp] = self.sources;
        let most_mtp = if from_mtp { most_mtp.min(most) } else { 0 };
        if most == 0 || self.trust == Trust::Unsound {
            return None;
        }
        let mut draft = lookup(&self.text, most).filter(|_| from_text);
        if let Some(draft) = &mut draft {
            cut_end(&mut draft.ids, end_ids);
        }
        let mut draft = draft.filter(|draft| !draft.ids.is_empty());
        if self.limit.is_some() {
            let of_mtp = (most_mtp > 0).then_some(Proposal::AskMtp(most_mtp));
            return draft.map(Proposal::Draft).or(of_mtp);
        }
        let [text, mtp] = &mut self.policies;
        let of_text = draft.as_ref().and_then(|draft| text.choose(draft.matched, draft.ids.len()));
        let of_mtp = if most_mtp > 0 { mtp.choose(0, most_mtp) } else { None };
        match (of_text, of_mtp, &mut draft) {
            (Some(choice), of_mtp, Some(draft)) if of_mtp.is_none_or(|other| other.rate <= choice.rate) => {
                draft.ids.truncate(choice.tokens);
            }
            (_, Some(choice), _) => return Some(Proposal::AskMtp(choice.tokens)),
            _ => return None,
        }
        draft.map(Proposal::Draft)
    }

    /// The draft that the model's block gave; `None` where it gave nothing, or the end of the text.
    pub(super) fn draft_of(&mut self, ids: &[u32], end_ids: &[u32]) -> Option<Draft> {
        let mut draft = Draft { ids: ids.to_vec(), source: Source::Mtp, matched: 0 };
        cut_end(&mut draft.ids, end_ids);
        if draft.ids.is_empty() {
            self.policies[Source::Mtp as usize].outcome(0, 1, 0);
            return None;
        }
        Some(draft)
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
        self.policies.iter_mut().for_each(|policy| policy.timed_pass(1, seconds));
    }

    /// Making a draft, a pass over a token and the draft, and taking back what was wrong took so long.
    pub(super) fn timed_pass(&mut self, source: Source, drafted: usize, seconds: f64) {
        self.policies[source as usize].timed_pass(1 + drafted, seconds);
    }

    /// The first `accepted` tokens of a draft were right, and the next one, if there was one, was not.
    pub(super) fn outcome(&mut self, draft: &Draft, accepted: usize) {
        self.policies[draft.source as usize].outcome(draft.matched, draft.ids.len(), accepted);
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
    Some(Draft { ids, source: Source::Text, matched })
}

/// Cuts what comes after an end: it is another text.
fn cut_end(ids: &mut Vec<u32>, end_ids: &[u32]) {
    let end = ids.iter().position(|id| end_ids.contains(id)).unwrap_or(ids.len());
    ids.truncate(end);
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
        let mut ids = |most, end: &[u32]| match drafter.draft(most, 0, end) {
            Some(Proposal::Draft(draft)) => draft.ids,
            None => Vec::new(),
            Some(Proposal::AskMtp(_)) => panic!("nothing to ask"),
        };
        assert_eq!(ids(9, &[]), [3, 4, 5]);
        assert_eq!(ids(2, &[]), [3, 4]);
        assert_eq!(ids(9, &[4]), [3]);
        assert_eq!([ids(9, &[3]), ids(0, &[])], [[]; 2] as [[u32; 0]; 2]);
        assert_eq!(Drafter::new(Some(0)).draft(9, 4, &[]), None);
    }

    #[test]
    fn the_model_is_asked_where_the_text_says_nothing() {
        let mut drafter = Drafter::new(Some(3));
        drafter.begin(&[1, 2, 3, 4, 5, 1, 2]);
        let is_text = |proposal| matches!(proposal, Some(Proposal::Draft(Draft { source: Source::Text, .. })));
        assert!(is_text(drafter.draft(9, 4, &[])));
        assert_eq!(drafter.clone().from_sources(false, true).draft(9, 4, &[]), Some(Proposal::AskMtp(3)));
        assert_eq!(drafter.clone().from_sources(false, true).draft(9, 2, &[]), Some(Proposal::AskMtp(2)));
        assert_eq!(drafter.clone().from_sources(false, true).draft(1, 4, &[]), Some(Proposal::AskMtp(1)));
        assert_eq!(drafter.clone().from_sources(true, false).draft(9, 4, &[3]), None);
        assert_eq!(drafter.draft(9, 4, &[3]), Some(Proposal::AskMtp(3)));
        let mut ids = |ids: &[u32], end: &[u32]| drafter.draft_of(ids, end).map(|draft| draft.ids);
        assert_eq!(ids(&[7, 8, 9], &[9]), Some(vec![7, 8]));
        assert_eq!([ids(&[9, 8], &[9]), ids(&[], &[])], [None, None]);
    }

    #[test]
    fn the_source_that_gains_more_is_asked() {
        let mut drafter = Drafter::new(None);
        drafter.begin(&[1, 2, 3, 4, 5, 1, 2]);
        assert_eq!(drafter.draft(9, 4, &[]), None, "before a step is timed");
        drafter.timed_step(0.01);
        let of_mtp = Draft { ids: vec![5, 6], source: Source::Mtp, matched: 0 };
        for _ in 0..20 {
            drafter.outcome(&of_mtp, 2);
        }
        assert!(matches!(drafter.draft(9, 4, &[]), Some(Proposal::AskMtp(4))));
        for _ in 0..20 {
            drafter.outcome(&of_mtp, 0);
        }
        assert!(matches!(drafter.draft(9, 4, &[]), Some(Proposal::Draft(_))));
        // What the block costs is no cost of a guess from the text.
        for _ in 0..20 {
            drafter.outcome(&of_mtp, 2);
            drafter.timed_pass(Source::Mtp, 2, 1.0);
        }
        assert!(matches!(drafter.draft(9, 4, &[]), Some(Proposal::Draft(_))));
        drafter.begin(&[1]);
        assert_eq!(drafter.draft(9, 4, &[]), None);
    }

    #[test]
    fn a_backend_that_gives_other_numbers_gets_no_drafts() {
        let mut drafter = Drafter::new(Some(3));
        drafter.begin(&[1, 2, 3, 1, 2]);
        drafter.compared(1, true);
        assert!(!drafter.is_trusted() && drafter.draft(9, 0, &[]).is_some());
        drafter.compared(1, true);
        assert!(drafter.is_trusted());
        drafter.compared(1, false);
        assert!(!drafter.is_trusted() && drafter.draft(9, 0, &[]).is_none());
    }
}
