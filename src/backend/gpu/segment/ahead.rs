//! The step of a single token after the one at hand, recorded while that one runs.
//!
//! Where the highest logit is taken and the caller runs what was chosen, it is submitted as well before the result of the
//! current one is waited for: its id is already on the device, and the GPU never idles. A caller that goes on with
//! another token, or stops, only wastes that step: what it cached lies behind the tokens cached so far, and is
//! overwritten.

use super::{flight::Begun, part::Part, rows::StepRow};
use crate::backend::{SlotId, gpu::buffers::readback::Pending, gpu::record::encode::Recorded};

/// A step that nobody has asked for yet.
pub struct RecordedStep {
    pub row: StepRow,
    pub part: Part,
    pub stage: Stage,
}

pub enum Stage {
    /// Its token is still to be written.
    Recorded(Recorded, Pending),
    /// With the id that the step before chose.
    Submitted(Begun),
}

/// State the last step has left on the device to go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub slot: SlotId,
    pub position: usize,
    pub id: u32,
}

impl RecordedStep {
    /// Whether it is what a step of `row` records, or with `follows` has begun.
    pub fn serves(&self, row: &StepRow, part: &Part, follows: bool) -> bool {
        match self.stage {
            Stage::Recorded(..) => self.part == *part,
            Stage::Submitted(_) => self.row == *row && self.part == *part && follows,
        }
    }
}
