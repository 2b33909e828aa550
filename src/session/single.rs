//! A loaded model: runs tokens through the segments of its plan and knows what their caches hold.

use std::sync::Arc;

use crate::{
    backend::{Activations, Backend, CacheRows, Candidates, SegmentId, Wanted},
    error::{Error, Result},
    model::Model,
    plan::{BackendKind, Plan, Segment, Sizes},
};

/// Loads what is to go on where a GPU failed: all layers on backends that cannot fail that way. It is given the
/// error and the number of tokens run so far.
pub type Standby = Box<dyn FnOnce(&Error, usize) -> Result<Session>>;

/// That a GPU failed in the middle, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// Tokens that had been run; they were run again.
    pub tokens: usize,
    /// The error.
    pub reason: String,
}

/// One sequence of tokens on the backends of a plan.
pub struct Session {
    backends: Vec<Box<dyn Backend>>,
    segments: Vec<Loaded>,
    decode: Phase,
    prefill: Option<Phase>,
    sizes: Sizes,
    vocab: usize,
    tokens: Vec<u32>, // what the caches hold
    activations: Activations,
    moved: CacheRows,
    /// The one that computes, or was the last to.
    current: usize,
    standby: Option<Standby>,
    takeover: Option<Takeover>,
}

/// The segments that run a kind of step.
struct Phase {
    segments: Vec<usize>,
    /// Leading positions whose keys and values the caches of these segments hold.
    filled: usize,
}

struct Loaded {
    segment: Segment,
    backend: usize, // index into `backends`
    id: SegmentId,
}

impl Session {
    /// Loads every segment of `plan` on its backend. `progress` is told the bytes of weights finished
    /// since the last call.
    pub fn load(
        model: &Arc<Model>,
        plan: &Plan,
        backends: Vec<(BackendKind, Box<dyn Backend>)>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let (kinds, mut backends): (Vec<_>, Vec<_>) = backends.into_iter().unzip();
        let mut segments: Vec<Loaded> = Vec::new();
        let mut phase = |plan_of_phase: &[Segment]| -> Result<Phase> {
            let mut indices = Vec::with_capacity(plan_of_phase.len());
            for segment in plan_of_phase {
                let same = |loaded: &Loaded| {
                    loaded.segment.layers == segment.layers && loaded.segment.backend == segment.backend
                };
                if let Some(index) = segments.iter().position(same) {
                    indices.push(index);
                    continue;
                }
                let at = kinds.iter().position(|&kind| kind == segment.backend).ok_or_else(|| {
                    Error::missing(format!("the {} backend", segment.backend), format!("layers {:?}", segment.layers))
                })?;
                let id = backends[at].load(model, segment, &plan.sizes, progress)?;
                indices.push(segments.len());
                segments.push(Loaded { segment: segment.clone(), backend: at, id });
            }
            Ok(Phase { segments: indices, filled: 0 })
        };
        let decode = phase(&plan.segments)?;
        let prefill = plan.prefill.as_deref().map(phase).transpose()?;
        Ok(Self {
            backends,
            segments,
            decode,
            prefill,
            sizes: plan.sizes,
            vocab: model.config.vocab,
            tokens: Vec::with_capacity(plan.sizes.context_tokens),
            activations: Activations::default(),
            moved: CacheRows::default(),
            current: 0,
            standby: None,
            takeover: None,
        })
    }

    /// Lets `standby` take over where a GPU fails: the caller notices nothing but the time it takes to run all
    /// tokens again.
    #[must_use]
    pub fn with_standby(mut self, standby: Standby) -> Self {
        self.standby = Some(standby);
        self
    }

    /// That the standby took over, if it did.
    pub fn takeover(&self) -> Option<&Takeover> {
        self.takeover.as_ref()
    }

    /// The tokens whose keys and values the caches hold.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens the caches can hold.
    pub fn context_tokens(&self) -> usize {
        self.sizes.context_tokens
    }

    /// True when not one more token fits.
    pub fn is_full(&self) -> bool {
        self.tokens.len() >= self.sizes.context_tokens
    }

    /// The segments that decode, in order, each with the name of its backend.
    pub fn segments(&self) -> impl Iterator<Item = (&Segment, &str)> {
        self.named(&self.decode)
    }

    /// The segments that read prompts, likewise, where they are others.
    pub fn prefill_segments(&self) -> Option<impl Iterator<Item = (&Segment, &str)>> {
        self.prefill.as_ref().map(|phase| self.named(phase))
    }

    fn named<'a>(&'a self, phase: &'a Phase) -> impl Iterator<Item = (&'a Segment, &'a str)> {
        let loaded = phase.segments.iter().map(|&index| &self.segments[index]);
        loaded.map(|loaded| (&loaded.segment, self.backends[loaded.backend].name()))
    }

    /// True where some layer runs on `backend` in some phase.
    pub fn runs_on(&self, backend: BackendKind) -> bool {
        self.segments.iter().any(|loaded| loaded.segment.backend == backend)
    }

    /// The name of the backend that gives the logits.
    pub fn head_backend(&self) -> &str {
        self.segments().last().map_or("no backend", |(_, name)| name)
    }

    /// The names of the backends in the order of the layers, "+" between them; those of the prompt first, where
    /// they are others.
    pub fn devices(&self) -> String {
        let decode = self.segments().map(|(_, name)| name).collect::<Vec<_>>().join(" + ");
        match self.prefill_segments() {
            None => decode,
            Some(prefill) => {
                format!("{}, then {decode}", prefill.map(|(_, name)| name).collect::<Vec<_>>().join(" + "))
            }
        }
    }

    /// The backends, for what only one kind of them can tell.
    pub fn backends_mut(&mut self) -> impl Iterator<Item = &mut dyn Backend> {
        self.backends.iter_mut().map(AsMut::as_mut)
    }

    /// What the caches were made for.
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Logits of the last step that wanted some: (wanted tokens, vocab). Empty where it gave
    /// [`candidates`](Self::candidates).
    pub fn logits_mut(&mut self) -> &mut [f32] {
        &mut self.activations.logits
    }

    /// The highest logits of the last step, where it wanted no more and the backend has a shortcut for them.
    pub fn candidates(&self) -> Option<&Candidates> {
        Some(&self.activations.candidates).filter(|candidates| !candidates.top.is_empty())
    }

    /// Rows of the output head that the last step multiplied exactly.
    pub fn head_rows(&self) -> usize {
        self.activations.head_rows
    }

    /// All logits after the last token. Where the last step gave candidates alone, the token runs once more.
    pub fn all_logits(&mut self) -> Result<&mut [f32]> {
        if self.activations.logits.is_empty()
            && let Some(&last) = self.tokens.last()
        {
            self.truncate(self.tokens.len() - 1);
            self.run(&[last], Wanted::Last, Kind::Decode)?;
        }
        Ok(self.logits_mut())
    }

    /// Forgets all tokens from position `len` on; does nothing when there are fewer.
    pub fn truncate(&mut self, len: usize) {
        // The backends overwrite their caches from the position of the next run on.
        self.tokens.truncate(len);
        for phase in [Some(&mut self.decode), self.prefill.as_mut()].into_iter().flatten() {
            phase.filled = phase.filled.min(self.tokens.len());
        }
    }

    /// Forgets what differs from `prompt`, and its last token in any case, as that one has to run to give
    /// logits. Returns how many tokens of `prompt` are kept.
    pub fn keep_common_prefix(&mut self, prompt: &[u32]) -> usize {
        let common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        self.truncate(common.min(prompt.len().saturating_sub(1)));
        self.tokens.len()
    }

    /// Runs all of `ids`, in batches; the logits are those of the last one.
    pub fn prefill(&mut self, ids: &[u32]) -> Result<&mut [f32]> {
        self.prefill_while(ids, Wanted::Last, || true)?;
        Ok(self.logits_mut())
    }

    /// As [`prefill`](Self::prefill), asking `go_on` before each batch and giving what is `wanted` of the last
    /// token. False when it was stopped: then there are no logits, and [`tokens`](Self::tokens) tells how far it
    /// came.
    pub fn prefill_while(&mut self, ids: &[u32], wanted: Wanted, mut go_on: impl FnMut() -> bool) -> Result<bool> {
        // All is checked before anything runs: a prompt that cannot fit must not cost minutes first.
        self.check(ids)?;
        let mut batches = ids.chunks(self.sizes.batch_tokens).peekable();
        while let Some(batch) = batches.next() {
            if !go_on() {
                return Ok(false);
            }
            let wanted = if batches.peek().is_some() { Wanted::Nothing } else { wanted };
            self.run(batch, wanted, Kind::Prefill)?;
        }
        Ok(true)
    }

    /// Runs one token; the logits are for the one after it.
    pub fn step(&mut self, id: u32) -> Result<&mut [f32]> {
        self.step_for(id, Wanted::Last)?;
        Ok(self.logits_mut())
    }

    /// Runs one token, for what is `wanted` of the logits after it.
    pub fn step_for(&mut self, id: u32, wanted: Wanted) -> Result<()> {
        self.check(&[id])?;
        self.run(&[id], wanted, Kind::Decode)
    }

    /// Most tokens of [`run_ahead`](Self::run_ahead) that give the same bits as so many steps.
    pub fn alike_tokens(&self) -> usize {
        let segments = self.decode.segments.iter().map(|&index| &self.segments[index]);
        let alike = segments.map(|loaded| self.backends[loaded.backend].alike_tokens(loaded.id));
        alike.min().unwrap_or(1).min(self.sizes.batch_tokens)
    }

    /// Runs some tokens in one pass, as steps of an answer: [`logits_after`](Self::logits_after) has those of each.
    pub fn run_ahead(&mut self, ids: &[u32]) -> Result<()> {
        self.check(ids)?;
        self.run(ids, Wanted::All, Kind::Decode)
    }

    /// The logits after token `row` of the last [`run_ahead`](Self::run_ahead), (vocab).
    pub fn logits_after(&mut self, row: usize) -> &mut [f32] {
        &mut self.activations.logits[row * self.vocab..][..self.vocab]
    }

    /// Runs all of `ids`, in batches; `use_logits` is given the logits after each token, (vocab), in order.
    pub fn score(&mut self, ids: &[u32], mut use_logits: impl FnMut(&[f32])) -> Result<()> {
        self.check(ids)?;
        for batch in ids.chunks(self.sizes.batch_tokens) {
            self.run(batch, Wanted::All, Kind::Prefill)?;
            self.activations.logits.chunks_exact(self.vocab).for_each(&mut use_logits);
        }
        Ok(())
    }

    /// Runs all of `ids`, in batches, on a plan whose last segment has no head; `use_stream` is given the residual
    /// stream behind the last block after each token, (dim), in order.
    pub fn hidden(&mut self, ids: &[u32], mut use_stream: impl FnMut(&[f32])) -> Result<()> {
        self.check(ids)?;
        for batch in ids.chunks(self.sizes.batch_tokens) {
            self.run(batch, Wanted::Nothing, Kind::Prefill)?;
            let width = self.activations.hidden.len() / batch.len();
            self.activations.hidden.chunks_exact(width.max(1)).for_each(&mut use_stream);
        }
        Ok(())
    }

    fn check(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::malformed("prompt", "at least one token", "none"));
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocab) {
            return Err(Error::malformed("token id", format!("below {} (the vocabulary)", self.vocab), id));
        }
        let needed = self.tokens.len() + ids.len();
        if needed > self.sizes.context_tokens {
            return Err(Error::ContextFull { needed, context: self.sizes.context_tokens });
        }
        Ok(())
    }

    /// One batch through all segments, on the standby where a GPU fails.
    fn run(&mut self, batch: &[u32], wanted: Wanted, kind: Kind) -> Result<()> {
        loop {
            match self.try_run(batch, wanted, kind) {
                Err(error) if self.failed_on_gpu(&error) => self.hand_over(error)?,
                done => return done,
            }
        }
    }

    fn failed_on_gpu(&self, error: &Error) -> bool {
        match error {
            Error::NotFinite { .. } => self.segments[self.current].segment.backend == BackendKind::Gpu,
            other => other.is_of_device(),
        }
    }

    /// Replaces all backends by those of the standby, and runs the tokens so far on them; where a GPU among those fails
    /// as well, by those of the standby's own.
    fn hand_over(&mut self, mut error: Error) -> Result<()> {
        let tokens = std::mem::take(&mut self.tokens);
        loop {
            let Some(standby) = self.standby.take() else { return Err(error) };
            // Their memory is needed: that of an integrated GPU is the machine's.
            self.segments.clear();
            self.backends.clear();
            let Self { backends, segments, decode, prefill, sizes, standby, .. } = standby(&error, tokens.len())?;
            (self.backends, self.segments, self.sizes) = (backends, segments, sizes);
            (self.decode, self.prefill, self.standby) = (decode, prefill, standby);
            self.takeover = Some(Takeover { tokens: tokens.len(), reason: error.to_string() });
            self.tokens.clear();
            let mut batches = tokens.chunks(self.sizes.batch_tokens);
            match batches.try_for_each(|batch| self.try_run(batch, Wanted::Nothing, Kind::Prefill)) {
                Err(again) if self.failed_on_gpu(&again) => error = again,
                done => return done,
            }
        }
    }

    /// One batch through all segments. After an error the caches may be ahead of `tokens`, which is
    /// harmless: the next run overwrites them.
    fn try_run(&mut self, batch: &[u32], wanted: Wanted, kind: Kind) -> Result<()> {
        let start = self.tokens.len();
        let end = start + batch.len();
        self.bring_caches(kind, start)?;
        let (phase, other) = self.phases(kind);
        phase.filled = end;
        if let Some(other) = other {
            other.filled = other.filled.min(start);
        }
        self.activations.ids.clear();
        self.activations.ids.extend_from_slice(batch);
        for index in 0..self.phases(kind).0.segments.len() {
            self.current = self.phases(kind).0.segments[index];
            let loaded = &self.segments[self.current];
            let backend = &mut self.backends[loaded.backend];
            backend.run(loaded.id, &mut self.activations, start..end, wanted)?;
        }
        let rows = match wanted {
            Wanted::Nothing => 0,
            Wanted::Top(_) if self.candidates().is_some() => 0,
            Wanted::Last | Wanted::Top(_) => 1,
            Wanted::All => batch.len(),
        };
        let found = self.activations.logits.len();
        if rows > 0 && found != rows * self.vocab {
            return Err(Error::malformed(format!("logits of {}", self.head_backend()), rows * self.vocab, found));
        }
        self.tokens.extend_from_slice(batch);
        Ok(())
    }

    /// The phase of a step, and the other one where there is one.
    fn phases(&mut self, kind: Kind) -> (&mut Phase, Option<&mut Phase>) {
        match (&mut self.prefill, kind) {
            (None, _) => (&mut self.decode, None),
            (Some(prefill), Kind::Prefill) => (prefill, Some(&mut self.decode)),
            (Some(prefill), Kind::Decode) => (&mut self.decode, Some(prefill)),
        }
    }

    /// Before a step at `start`: keys and values that the other phase computed since this one ran last.
    fn bring_caches(&mut self, kind: Kind, start: usize) -> Result<()> {
        let (phase, other) = self.phases(kind);
        let missing = phase.filled..start;
        let Some(other) = other.filter(|_| !missing.is_empty()) else { return Ok(()) };
        // Both are cut at the same layers, and a segment of both has one cache.
        let pairs: Vec<(usize, usize)> = other.segments.iter().copied().zip(phase.segments.iter().copied()).collect();
        for (from, to) in pairs.into_iter().filter(|(from, to)| from != to) {
            let (from, to) = (&self.segments[from], &self.segments[to]);
            for layer in 0..from.segment.layers.len() {
                self.backends[from.backend].read_cache(from.id, layer, missing.clone(), &mut self.moved)?;
                self.backends[to.backend].write_cache(to.id, layer, missing.clone(), &self.moved)?;
            }
        }
        Ok(())
    }
}

/// What a step is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Tokens of a prompt.
    Prefill,
    /// A token of the answer.
    Decode,
}
