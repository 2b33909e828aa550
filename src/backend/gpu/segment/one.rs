//! Steps of a single token whose result is a choice of ids.

use std::time::Duration;

use super::{
    ahead::{Ahead, Stage},
    loaded::{Loaded, check_damage, last_word},
};
use crate::{
    backend::{
        Candidates,
        gpu::{
            buffers::readback::Pending,
            device::{Fault, Gpu},
            lower::{screen::Screen, select::Choice},
        },
    },
    error::Result,
};

impl Loaded {
    /// True when the step that is under way has overwritten the logits.
    pub fn is_ahead_submitted(&self) -> bool {
        matches!(&self.ahead, Some(Ahead { stage: Stage::Submitted(_), .. }))
    }

    /// Before any other use of the buffers; a failure of the step shows in the next one.
    pub fn forget_ahead(&mut self, gpu: &Gpu) -> Result<()> {
        self.chosen = None;
        match self.ahead.take() {
            Some(Ahead { pending, stage: Stage::Submitted(submission), .. }) => {
                self.readback.read(gpu, pending, submission, |_| ())
            }
            _ => Ok(()),
        }
    }

    /// Runs the token `id` at `position`, for the best ids after it. Gives the rows of the head computed for them.
    pub fn run_one(
        &mut self,
        gpu: &Gpu,
        (position, id): (usize, u32),
        choice: Choice,
        candidates: &mut Candidates,
    ) -> Result<usize> {
        let follows = self.chosen == Some((position, id));
        let Ahead { pending, stage, .. } = match self.ahead.take() {
            Some(ahead) if ahead.serves(position, choice, follows) && self.fault.is_none() => ahead,
            other => {
                self.ahead = other;
                self.forget_ahead(gpu)?;
                self.record_one(gpu, position, choice)
            }
        };
        let submission = match stage {
            Stage::Submitted(submission) => submission,
            Stage::Recorded(recorded) => {
                gpu.queue.write_buffer(&self.slots.ids, 0, &id.to_le_bytes());
                self.recorder.submit(gpu, recorded, &self.uniforms)?
            }
        };
        self.chosen = None;
        if let Some(Fault::Silence(_)) = self.fault {
            gpu.wait_for(submission.clone(), Duration::ZERO)?;
        }
        self.begin_next(gpu, position + 1, choice, follows)?;
        let head_rows = self.read_one(gpu, (pending, submission), choice, candidates)?;
        self.cached_tokens = position + 1;
        if choice == Choice::Greedy {
            self.chosen = candidates.top.first().map(|best| (position + 1, best.id));
        }
        Ok(head_rows)
    }

    fn screened(&self, choice: Choice) -> Option<&Screen> {
        self.screen.as_ref().filter(|_| Screen::serves(choice))
    }

    /// Records the step at `position`, and submits it where the caller has `followed` the choices so far.
    fn begin_next(&mut self, gpu: &Gpu, position: usize, choice: Choice, followed: bool) -> Result<()> {
        // A profiler reads its stamps step by step.
        if position >= self.sizes.context_tokens || self.recorder.profiler.is_some() || self.fault.is_some() {
            return Ok(());
        }
        let next = self.record_one(gpu, position, choice);
        let stage = match next.stage {
            Stage::Recorded(recorded) if followed && choice == Choice::Greedy => {
                Stage::Submitted(self.recorder.submit(gpu, recorded, &self.uniforms)?)
            }
            stage => stage,
        };
        self.ahead = Some(Ahead { stage, ..next });
        Ok(())
    }

    fn record_one(&mut self, gpu: &Gpu, position: usize, choice: Choice) -> Ahead {
        let dynamic = self.dynamic(position, 1);
        let mut encoder = self.new_step(gpu);
        let Self { recorder, uniforms, .. } = self;
        let select = self.select.iter().flat_map(|select| select.dispatches(choice));
        let layers = self.decode.iter().flatten();
        let screen = self.screen.as_ref().filter(|_| Screen::serves(choice));
        let full = if screen.is_none() { &self.head_one[..] } else { &[] };
        let screened = screen.into_iter().flat_map(|screen| screen.dispatches(choice));
        let all = self.embed.iter().chain(layers).chain(full).chain(screened).chain(select);
        recorder.record(&mut encoder, all, &dynamic, uniforms);
        let sources = self.select.iter().map(|select| select.source(choice));
        let counted = screen.map(|screen| (&screen.state, 4));
        let sources: Vec<_> = std::iter::once((&self.slots.damage, 4)).chain(sources).chain(counted).collect();
        let pending = self.readback.record(&mut encoder, &sources);
        let recorded = recorder.finish(encoder);
        Ahead { position, choice, pending, stage: Stage::Recorded(recorded) }
    }

    fn read_one(
        &mut self,
        gpu: &Gpu,
        (pending, submission): (Pending, wgpu::SubmissionIndex),
        choice: Choice,
        candidates: &mut Candidates,
    ) -> Result<usize> {
        let mut head_rows = self.model.config.vocab;
        let is_screened = self.screened(choice).is_some();
        let damage = self.readback.read(gpu, pending, submission, |bytes| {
            let (damage, results) = bytes.split_at(4);
            if let Some(select) = &self.select {
                select.read(choice, results, candidates);
            }
            if is_screened {
                head_rows = last_word(results) as usize;
            }
            self.readback_bytes += bytes.len() as u64;
            u32::from_le_bytes([damage[0], damage[1], damage[2], damage[3]])
        })?;
        check_damage(gpu, damage, self.model.config.layers)?;
        Ok(head_rows)
    }
}
