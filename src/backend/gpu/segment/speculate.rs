//! The step after the one at hand: begun, taken up, or forgotten.

use std::time::Instant;

use super::{
    ahead::{Ahead, Stage},
    flight::Begun,
    loaded::GpuSegment,
    part::Part,
    rows::{Gets, StepRow},
};
use crate::{backend::gpu::lower::select::Choice, error::Result};

impl GpuSegment {
    /// The step that was begun ahead, where it is this one.
    pub fn take_ahead(&mut self, row: &StepRow, part: &Part, follows: bool) -> Result<Option<Begun>> {
        let ahead = self.ahead.take_if(|ahead| ahead.serves(row, part, follows));
        let Some(Ahead { stage, .. }) = ahead.filter(|_| self.fault.is_none()) else { return Ok(None) };
        match stage {
            Stage::Submitted(begun) => Ok(Some(begun)),
            Stage::Recorded(recorded, pending) => {
                let ids = [self.flight.ids[0]];
                self.write_tokens(std::slice::from_ref(row), &part.chunk, &ids);
                self.launch(recorded, pending, Instant::now()).map(Some)
            }
        }
    }

    /// Records the step of one token after `row`, and submits it where the caller has `followed` the choices so far. It
    /// leaves the row of the head's input alone that is `busy`.
    pub fn begin_ahead(&mut self, row: &StepRow, busy: Option<usize>, followed: bool) -> Result<()> {
        let row = StepRow { position: row.position + 1, ..row.clone() };
        // A profiler reads its stamps step by step.
        if row.position >= self.sizes.context_tokens || self.recorder.profiler.is_some() || self.fault.is_some() {
            return Ok(());
        }
        let rows = std::slice::from_ref(&row);
        let part = self.chunk_part(rows, 0..1, busy);
        let since = Instant::now();
        let (recorded, pending) = self.record(&part, rows)?;
        let stage = if followed && row.gets == Gets::Highest(Choice::Greedy) {
            Stage::Submitted(self.launch(recorded, pending, since)?)
        } else {
            Stage::Recorded(recorded, pending)
        };
        self.ahead = Some(Ahead { row, part, stage });
        Ok(())
    }

    /// Before any other use of the buffers; a failure of the step shows in the next one.
    pub fn forget_ahead(&mut self) -> Result<()> {
        match self.ahead.take() {
            Some(Ahead { stage: Stage::Submitted(begun), .. }) => {
                self.results.wait(&self.gpu, begun.pending, begun.submission, |_| ())
            }
            Some(Ahead { stage: Stage::Recorded(_, pending), .. }) => {
                self.results.release(pending);
                Ok(())
            }
            None => Ok(()),
        }
    }
}
