//! Steps of a single token whose result is a choice of ids: the next one is recorded while the current one runs.
//!
//! Where the highest logit is taken and the caller runs what was chosen, the next step is submitted as well before the
//! result of the current one is waited for: its id is already on the device, and the GPU never idles. A caller that
//! goes on with another token, or stops, only wastes that step: what it cached lies behind the tokens cached so far,
//! and is overwritten.

use crate::backend::gpu::{buffers::readback::Pending, lower::select::Choice, record::encode::Recorded};

/// A step that nobody has asked for yet.
pub struct Ahead {
    pub position: usize,
    pub choice: Choice,
    pub pending: Pending,
    pub stage: Stage,
}

pub enum Stage {
    /// Its id is still to be written.
    Recorded(Recorded),
    /// With the id that the step before chose.
    Submitted(wgpu::SubmissionIndex),
}

impl Ahead {
    pub fn serves(&self, position: usize, choice: Choice, follows: bool) -> bool {
        let submitted = matches!(self.stage, Stage::Submitted(_));
        (self.position, self.choice) == (position, choice) && (follows || !submitted)
    }
}
