//! Steps: submitted, and looked after part by part until they are done.

use std::{
    ops::Range,
    sync::atomic::Ordering,
    task::Poll,
    time::{Duration, Instant},
};

use super::{
    ahead::Chosen,
    flight::Begun,
    held::Place,
    loaded::GpuSegment,
    part::{HeadPart, List, Part},
    record::is_bulk,
    rows::{self, Gets, Output, StepRow},
};
use crate::{
    backend::{
        Activations, Batch, RowOutput,
        gpu::{
            buffers::readback::Pending,
            device::{Fault, Gpu},
            kernels::params::Dynamic,
            lower::{lowering::damaged_place, screen::Screen, select::Selection},
            record::{
                encode::{Recorded, StepParams},
                proof::proven,
            },
        },
    },
    error::{Error, Result},
};

impl GpuSegment {
    /// Starts a step, and where that pays the one after it.
    pub fn submit(&mut self, batch: &Batch, input: &Activations) -> Result<()> {
        self.abandon()?;
        self.fault = batch.rows.iter().find_map(|row| self.gpu.fault_in(&row.positions, self.bytes));
        match self.fault {
            Some(Fault::Lost(_)) => self.gpu.destroyer()(),
            Some(Fault::OutOfMemory(_)) => self.gpu.report_out_of_memory(),
            _ => {}
        }
        self.gpu.check("running an earlier step")?;
        self.check(batch, input)?;
        let mut step_rows = std::mem::take(&mut self.flight.rows);
        step_rows.clear();
        let (vocab, has_screen) = (self.model.config.vocab, self.has_screen());
        step_rows.extend(rows::rows(batch, |count| Selection::of(count, vocab, has_screen)));
        let begun = self.begin(batch.tokens(), &step_rows, input);
        self.flight.rows = step_rows;
        begun
    }

    fn has_screen(&self) -> bool {
        self.lists.head.as_ref().is_some_and(|head| head.screen.is_some())
    }

    fn begin(&mut self, tokens: usize, step_rows: &[StepRow], input: &Activations) -> Result<()> {
        let flight = &mut self.flight;
        flight.tokens = tokens;
        flight.in_tiles = tokens > self.shape.small_batch && !self.lists.prefill.is_empty();
        flight.logits.clear();
        flight.outputs.resize_with(step_rows.len(), Default::default);
        flight.outputs.iter_mut().for_each(RowOutput::clear);
        flight.ids.clear();
        flight.hidden.clear();
        if self.segment.embed {
            flight.ids.extend_from_slice(&input.ids);
        } else {
            flight.hidden.extend_from_slice(&input.hidden);
        }
        if !self.segment.head {
            flight.hidden.resize(tokens * self.model.config.dim, 0.0);
        }
        let chunk = self.chunk(step_rows, 0);
        let part = self.chunk_part(step_rows, chunk, None);
        for row in step_rows {
            // What is held of them belongs to an earlier step; what others hold is moved out of the way as it is met.
            self.held.set(row.slot, None);
            self.lengths.begin(row.slot, row.position);
        }
        let chosen = self.chosen.take();
        let single = single(step_rows, &part).filter(|_| self.segment.embed);
        let Some(row) = single else { return self.begin_part(step_rows, part) };
        let follows = chosen == Some(Chosen { slot: row.slot, position: row.position, id: input.ids[0] });
        let busy = part.head.as_ref().map(|head| head.normed);
        match self.take_ahead(row, &part, follows)? {
            Some(begun) => self.flight.part = Some((part, begun)),
            None => self.begin_part(step_rows, part)?,
        }
        self.begin_ahead(row, busy, follows)
    }

    /// Whether the step can run: kernels are not bounds-checked.
    fn check(&self, batch: &Batch, input: &Activations) -> Result<()> {
        let config = &self.model.config;
        let tokens = batch.tokens();
        for (number, row) in batch.rows.iter().enumerate() {
            let slots = self.sizes.sequences;
            if row.slot.index() >= slots {
                return Err(Error::malformed("the slot of a row", format!("below {slots}"), row.slot.index()));
            }
            if batch.rows[..number].iter().any(|other| other.slot == row.slot) {
                return Err(Error::malformed("the rows of a step", "one a slot", format!("two of {}", row.slot.0)));
            }
            if row.positions.end > self.sizes.context_tokens {
                return Err(Error::ContextFull { needed: row.positions.end, context: self.sizes.context_tokens });
            }
        }
        let most = if batch.rows.len() > 1 { self.shape.small_batch } else { self.sizes.batch_tokens };
        if tokens == 0 || tokens > most || batch.rows.iter().any(|row| row.positions.is_empty()) {
            return Err(Error::malformed("the step", format!("1 to {most} tokens, some of each row"), tokens));
        }
        for row in &batch.rows {
            if !self.lengths.can_begin(row.slot, row.positions.start) {
                let found = format!("position {}", row.positions.start);
                return Err(Error::malformed("the step", self.lengths.beginnings(row.slot), found));
            }
        }
        if !self.segment.embed {
            let (expected, found) = (tokens * config.dim, input.hidden.len());
            return if found == expected { Ok(()) } else { Err(Error::malformed("hidden states", expected, found)) };
        }
        if input.ids.len() != tokens {
            return Err(Error::malformed("token ids", tokens, input.ids.len()));
        }
        match input.ids.iter().find(|&&id| id as usize >= config.vocab) {
            Some(id) => Err(Error::malformed("a token id", format!("below {}", config.vocab), id)),
            None => Ok(()),
        }
    }

    /// The tokens from `first` on that are computed together.
    fn chunk(&self, step_rows: &[StepRow], first: usize) -> Range<usize> {
        let left = self.flight.tokens - first;
        let [row] = step_rows else { return first..self.flight.tokens };
        let start = row.position + first;
        first..first + self.shape.chunk(&self.model.config, start, left, self.pace.submit_macs())
    }

    /// The part that runs the layers for a chunk. A row of `normed` that is `busy` is left alone.
    pub fn chunk_part(&self, step_rows: &[StepRow], chunk: Range<usize>, busy: Option<usize>) -> Part {
        let here = || step_rows.iter().filter(|row| row.tokens.start < chunk.end && row.tokens.end > chunk.start);
        let ends = || here().map(|row| row.end_position(chunk.end));
        let splits = ends().max().unwrap_or(1).div_ceil(self.shape.split_keys).clamp(1, self.shape.max_splits);
        let windows = here().fold(0, |windows, row| windows | 1 << (row.slot.index() / self.shape.window_slots));
        let params = StepParams {
            dynamic: Dynamic { tokens: chunk.len() as u32, normed: 0, splits: splits as u32, first: 0 },
            windows,
            positions: if self.recorder.profiler.is_some() { ends().sum::<usize>() as u64 } else { 0 },
        };
        let list = match chunk.len() {
            _ if self.flight.in_tiles => List::Prefill,
            1 => List::Decode,
            _ => List::Few,
        };
        let head = self.head_part(step_rows, &chunk, chunk.start, busy);
        Part { chunk, layers: Some(list), params, head }
    }

    /// As many logits of a chunk from token `first` on as are computed together.
    fn head_part(
        &self,
        step_rows: &[StepRow],
        chunk: &Range<usize>,
        first: usize,
        busy: Option<usize>,
    ) -> Option<HeadPart> {
        self.lists.head.as_ref()?;
        let wanted = rows::head_tokens(step_rows, chunk);
        let start = wanted.start.max(first);
        let tokens = start..wanted.end.min(start + self.shape.logit_rows);
        if tokens.is_empty() {
            return None;
        }
        let (choice, some) = rows::choice(step_rows, &tokens);
        let screened = some && self.has_screen() && choice.is_some_and(Screen::serves);
        let normed = match step_rows {
            [row] if chunk.len() == 1 && choice.is_some() => {
                let held = match self.held.get(row.slot) {
                    Some(Place::Own(row)) => Some(row),
                    _ => None,
                };
                self.held.own_row(row.slot, busy.or(held))
            }
            _ => 0,
        };
        Some(HeadPart { tokens, normed, choice, screened })
    }

    fn begin_part(&mut self, step_rows: &[StepRow], part: Part) -> Result<()> {
        self.forget_ahead()?;
        if part.layers.is_some() {
            let ids = std::mem::take(&mut self.flight.ids);
            self.write_tokens(step_rows, &part.chunk, &ids);
            self.flight.ids = ids;
            if !self.segment.embed {
                let dim = self.model.config.dim;
                let input = &self.flight.hidden[part.chunk.start * dim..part.chunk.end * dim];
                self.gpu.queue.write_buffer(&self.activations.hidden, 0, bytemuck::cast_slice(input));
            }
        }
        let since = Instant::now();
        let (recorded, pending) = self.record(&part, step_rows)?;
        let begun = self.launch(recorded, pending, since)?;
        self.flight.part = Some((part, begun));
        Ok(())
    }

    /// Submits what was recorded.
    pub fn launch(&mut self, recorded: Recorded, pending: Pending, since: Instant) -> Result<Begun> {
        let number = self.proof.launch(&self.gpu, matches!(self.fault, Some(Fault::Dropped(_))));
        let submission = self.recorder.submit(&self.gpu, recorded, &self.uniforms)?;
        Ok(Begun { submission, pending, since, number })
    }

    /// Looks whether the step is done, and begins its next part where one is; `out` gets the results of the whole.
    pub fn poll(&mut self, out: &mut Activations) -> Poll<Result<()>> {
        loop {
            let Some((part, begun)) = self.flight.part.take() else {
                return Poll::Ready(Err(Error::missing("a step under way", "the segment")));
            };
            if let Err(error) = self.gpu.poll(begun.since) {
                return Poll::Ready(Err(error));
            }
            let rows = std::mem::take(&mut self.flight.rows);
            let ready = self.readback(&part, &rows).is_ready(&begun.pending);
            self.flight.rows = rows;
            if !ready {
                self.flight.part = Some((part, begun));
                return Poll::Pending;
            }
            match self.finish_part(part, begun) {
                Ok(true) => {}
                Ok(false) => {
                    self.hand_over(out);
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// As [`poll`](Self::poll), but waits.
    pub fn wait(&mut self, out: &mut Activations) -> Result<()> {
        self.drain()?;
        self.hand_over(out);
        Ok(())
    }

    /// Ends a step that nobody has waited for.
    pub fn abandon(&mut self) -> Result<()> {
        if self.flight.part.is_some() { self.drain() } else { Ok(()) }
    }

    fn drain(&mut self) -> Result<()> {
        loop {
            let (part, begun) =
                self.flight.part.take().ok_or_else(|| Error::missing("a step under way", "the segment"))?;
            if let Some(Fault::Silence(_)) = self.fault {
                self.gpu.wait_for(begun.submission.clone(), Duration::ZERO)?;
            }
            self.gpu.wait(begun.submission.clone())?;
            if !self.finish_part(part, begun)? {
                return Ok(());
            }
        }
    }

    /// Takes the results of a part that is done. True when another one has begun.
    fn finish_part(&mut self, part: Part, begun: Begun) -> Result<bool> {
        let step_rows = std::mem::take(&mut self.flight.rows);
        let done = self.read_part(&step_rows, &part, begun).and_then(|()| self.begin_next(&step_rows, &part));
        self.flight.rows = step_rows;
        done
    }

    fn begin_next(&mut self, step_rows: &[StepRow], part: &Part) -> Result<bool> {
        let first = part.head.as_ref().map_or(part.chunk.end, |head| head.tokens.end);
        if let Some(head) = self.head_part(step_rows, &part.chunk, first, None) {
            self.go_on()?;
            self.begin_part(step_rows, Part { layers: None, head: Some(head), ..part.clone() })?;
            return Ok(true);
        }
        if part.chunk.end < self.flight.tokens {
            self.go_on()?;
            let chunk = self.chunk(step_rows, part.chunk.end);
            let part = self.chunk_part(step_rows, chunk, None);
            self.begin_part(step_rows, part)?;
            return Ok(true);
        }
        for row in step_rows {
            self.lengths.set(row.slot, row.end_position(row.tokens.end));
        }
        if let ([row], [output]) = (step_rows, &self.flight.outputs[..])
            && row.gets == Gets::Highest(Selection::Greedy)
            && let Some(best) = output.candidates.top.first()
        {
            let position = row.end_position(row.tokens.end);
            self.chosen = Some(Chosen { slot: row.slot, position, id: best.id });
        }
        Ok(false)
    }

    /// Whether the caller still wants what is left of the step.
    fn go_on(&self) -> Result<()> {
        match &self.cancel {
            Some(raised) if raised.load(Ordering::Relaxed) => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }

    fn read_part(&mut self, step_rows: &[StepRow], part: &Part, begun: Begun) -> Result<()> {
        let Self { results, bulk, lists, flight, model, segment, readback_bytes, .. } = self;
        let readback = if is_bulk(part, step_rows, segment.head) { bulk } else { results };
        let damage = readback.read(begun.pending, |bytes| {
            *readback_bytes += bytes.len() as u64;
            let results = proven(bytes, begun.number)?;
            Ok::<_, Error>(flight.take_results(results, lists.head.as_ref(), &model.config, (step_rows, part)))
        })??;
        self.release_wasted()?;
        check_damage(&self.gpu, damage, self.model.config.layers)?;
        for output in part.head.iter().flat_map(|head| rows::outputs(step_rows, &head.tokens)) {
            let (Output::Highest { row, token, .. }, Some(head)) = (output, &part.head) else { continue };
            let at = head.normed + token - head.tokens.start;
            let place = if head.normed < self.shape.logit_rows { Place::Shared(at) } else { Place::Own(at) };
            self.held.set(step_rows[row].slot, Some(place));
        }
        // The kernels of few tokens are bound by memory, and say nothing about multiply-adds.
        if part.layers == Some(List::Prefill) && self.recorder.profiler.is_none() {
            let config = &self.model.config;
            let head = (part.head.as_ref().map_or(0, |head| head.tokens.len()) * config.vocab * config.dim) as u64;
            let layers = self.layer_macs(List::Prefill, part, step_rows) * self.segment.layers.len() as u64;
            self.pace.observe(layers + head, begun.since.elapsed());
        }
        Ok(())
    }

    fn hand_over(&mut self, out: &mut Activations) {
        if self.segment.head {
            std::mem::swap(&mut out.logits, &mut self.flight.logits);
            std::mem::swap(&mut out.rows, &mut self.flight.outputs);
        } else {
            std::mem::swap(&mut out.hidden, &mut self.flight.hidden);
        }
    }
}

/// The row of a step of a single token that chooses.
fn single<'a>(step_rows: &'a [StepRow], part: &Part) -> Option<&'a StepRow> {
    let [row] = step_rows else { return None };
    (row.tokens.len() == 1 && part.head.as_ref().is_some_and(|head| head.choice.is_some())).then_some(row)
}

/// That no kernel has noted a number that is not finite.
pub fn check_damage(gpu: &Gpu, damage: u32, layers: usize) -> Result<()> {
    match damaged_place(damage, layers) {
        Some(place) => Err(Error::NotFinite { place, backend: format!("the GPU ({})", gpu.caps().name) }),
        None => Ok(()),
    }
}
