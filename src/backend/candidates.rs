//! The highest logits of a step, for backends that need not hand over all of them.

use std::cmp::Ordering;

/// A token and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Below the vocabulary size.
    pub id: u32,
    /// A finite number.
    pub logit: f32,
}

impl Scored {
    /// Highest logit first, lowest id first among equals: a total order, as logits are finite. Zero and minus zero
    /// are equal.
    pub fn by_rank(&self, other: &Self) -> Ordering {
        other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal).then(self.id.cmp(&other.id))
    }
}

/// A backend's knowledge of the logits that are not among its [`Candidates`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Rest {
    /// There are none: the candidates are the whole vocabulary.
    #[default]
    None,
    /// Each ranks behind the last candidate.
    Lower,
    /// Each ranks behind the last candidate, and this is ln(sum of e^logit) over the whole vocabulary, candidates
    /// included, within 1e-4.
    Summed {
        /// The logarithm of the sum.
        log_sum_exp: f32,
    },
}

/// The highest logits of one token, answering [`super::Want::Top`], or of several, answering [`super::Want::Each`]. Reused
/// from step to step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidates {
    /// In the order of [`Scored::by_rank`]: exactly the first of a full sort of all logits, with the same values.
    pub top: Vec<Scored>,
    /// The others.
    pub rest: Rest,
}
