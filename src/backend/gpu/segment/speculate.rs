//! The step after the one at hand: begun, taken up, or forgotten.

use std::time::Instant;

use super::{
    ahead::{RecordedStep, Stage},
    flight::Begun,
    loaded::GpuSegment,
    part::Part,
    rows::{Gets, StepRow},
};
use crate::{backend::gpu::lower::select::Selection, error::Result};

impl GpuSegment {
    /// The step that was begun ahead, where it is this one.
    pub fn take_ahead(&mut self, row: &StepRow, part: &Part, follows: bool) -> Result<Option<Begun>> {
        let sound = self.fault.is_none();
        let ahead = self.ahead.take_if(|ahead| sound && ahead.serves(row, part, follows));
        let Some(RecordedStep { stage, .. }) = ahead else { return Ok(None) };
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
    /// leaves the row of the head's input alone that is `busy`. A recurrent state cannot forget a token, so where there is
    /// one the step is recorded only.
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
        let followed = followed && !self.lengths.has_recurrent;
        let stage = if followed && row.gets == Gets::Highest(Selection::Greedy) {
            Stage::Submitted(self.launch(recorded, pending, since)?)
        } else {
            Stage::Recorded(recorded, pending)
        };
        self.ahead = Some(RecordedStep { row, part, stage });
        Ok(())
    }

    /// Before any other use of the buffers. What is submitted already is done before anything that follows; a failure of
    /// it shows there.
    pub fn forget_ahead(&mut self) -> Result<()> {
        match self.ahead.take() {
            Some(RecordedStep { stage: Stage::Submitted(begun), .. }) => {
                if let Some(older) = self.wasted.replace(begun) {
                    self.results.wait(&self.gpu, older.pending, older.submission, |_| ())?;
                }
                Ok(())
            }
            Some(RecordedStep { stage: Stage::Recorded(_, pending), .. }) => {
                self.results.release(pending);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Frees the staging buffer of a step that was begun in vain, once a later one is done.
    pub fn release_wasted(&mut self) -> Result<()> {
        self.wasted.take().map_or(Ok(()), |begun| self.results.read(begun.pending, |_| ()))
    }
}
