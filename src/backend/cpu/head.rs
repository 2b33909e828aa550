//! The output head: final norm, and the logits or the highest logits of the tokens that want them.

use std::time::Instant;

use bitnet_cpu_kernels::{
    ALIKE_TOKENS, Cpu, dense, norm, rotate,
    screen::{Screen, Top},
};

use super::{
    super::{Activations, Batch, Rest, Scored, SlotId, Want},
    rotations::Rotations,
};
use crate::{
    model::{Model, Norm},
    plan::Sizes,
};

/// A token that wants candidates.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// Its row of the batch.
    row: usize,
    count: usize,
}

/// Buffers of the head. Nothing here grows after [`Head::new`].
#[derive(Debug)]
pub(super) struct Head {
    /// The quantised copy for [`Want::Top`], where the sizes ask for it.
    screen: Option<Screen>,
    /// Most candidates that the copy finds; 0 without one.
    most_top: usize,
    /// (batch_tokens, dim): final norm of the tokens that want logits, rotated where the head is; those of rows that want
    /// candidates are last.
    normed: Vec<f32>,
    /// (sequences, dim): as `normed`, of the last token of each slot that got candidates.
    kept: Vec<f32>,
    /// Tokens that want candidates.
    wanted: Vec<Wanted>,
    /// The highest products of each of them.
    tops: Vec<Top>,
}

impl Head {
    pub fn new(cpu: &Cpu, model: &Model, sizes: &Sizes) -> Self {
        let dim = model.config.dim;
        let screen = if sizes.head_screen { screen(cpu, model, sizes) } else { None };
        Self {
            most_top: if screen.is_some() { Screen::most_top(model.config.vocab) } else { 0 },
            screen,
            normed: vec![0.0; sizes.batch_tokens * dim],
            kept: vec![0.0; sizes.sequences * dim],
            wanted: Vec::with_capacity(sizes.batch_tokens),
            tops: vec![Top::default(); ALIKE_TOKENS],
        }
    }

    /// Largest [`Want::Top`] that it answers with candidates.
    pub fn most_top(&self) -> usize {
        self.most_top
    }

    /// Logits and candidates for `hidden` (tokens, dim), the residual stream behind the last block.
    pub fn run(
        &mut self,
        cpu: &Cpu,
        model: &Model,
        rotations: &Rotations,
        batch: &Batch,
        hidden: &[f32],
        out: &mut Activations,
    ) {
        out.clear_output(batch.rows.len());
        let config = &model.config;
        let full_tokens = self.norm_wanted(cpu, model, rotations, batch, hidden);
        let head = model.weights.head().view();

        out.logits.resize(full_tokens * config.vocab, 0.0);
        if full_tokens > 0 {
            dense::matmul(cpu, head, &self.normed[..full_tokens * config.dim], &mut out.logits);
        }
        let mut next = 0;
        for (row, output) in batch.rows.iter().zip(&mut out.rows) {
            let count = self.full_tokens(row.want, row.positions.len());
            output.logits = next..next + count;
            output.head_rows = if count > 0 { config.vocab } else { 0 };
            next += count;
        }
        if !self.wanted.is_empty() {
            self.run_screen(cpu, model, batch, full_tokens, out);
        }
    }

    /// All logits of a slot whose last step gave candidates.
    pub fn full_logits(&self, cpu: &Cpu, model: &Model, slot: SlotId, logits: &mut Vec<f32>) {
        let dim = model.config.dim;
        let before = logits.len();
        logits.resize(before + model.config.vocab, 0.0);
        let normed = &self.kept[slot.index() * dim..][..dim];
        dense::matmul(cpu, model.weights.head().view(), normed, &mut logits[before..]);
    }

    /// The token with the highest logit for `normed` (dim), the final norm of one token, which is rotated where the head is;
    /// `logits` (vocab) is room. `None` where that is no number.
    pub fn highest(
        &mut self,
        cpu: &Cpu,
        model: &Model,
        rotations: &Rotations,
        normed: &mut [f32],
        logits: &mut [f32],
    ) -> Option<u32> {
        if let Some(rotation) = rotations.head() {
            rotate::forward(cpu, rotation, normed);
        }
        let head = model.weights.head().view();
        if let Some(screen) = &mut self.screen {
            let top = &mut self.tops[..1];
            top[0].count = 1;
            screen.top_rows(cpu, head, normed, top);
            if top[0].exact.is_some() {
                return top[0].products.first().filter(|best| best.value.is_finite()).map(|best| best.row);
            }
        }
        dense::matmul(cpu, head, normed, logits);
        highest(logits)
    }

    /// Tokens of a row whose logits are computed in full.
    fn full_tokens(&self, want: Want, tokens: usize) -> usize {
        match want {
            Want::Nothing => 0,
            _ if self.candidates(want, tokens).is_some() => 0,
            Want::Last | Want::Top(_) => 1,
            Want::All | Want::Each(_) => tokens,
        }
    }

    /// How many candidates the last tokens of a row want, and how many tokens.
    fn candidates(&self, want: Want, tokens: usize) -> Option<(usize, usize)> {
        match want {
            Want::Top(count) if count <= self.most_top => Some((count, 1)),
            Want::Each(count) if count <= self.most_top && tokens <= ALIKE_TOKENS => Some((count, tokens)),
            _ => None,
        }
    }

    /// Fills `normed`: first the tokens whose logits are wanted in full, in the order of the batch; their number is
    /// returned. Then those of `wanted`, of which the last of each row is also kept for its slot.
    fn norm_wanted(&mut self, cpu: &Cpu, model: &Model, rotations: &Rotations, batch: &Batch, hidden: &[f32]) -> usize {
        let (dim, eps) = (model.config.dim, model.config.eps(Norm::Output));
        let weight = &model.weights.output_norm;
        self.wanted.clear();
        let (mut end, mut full_tokens) = (0, 0);
        for row in &batch.rows {
            end += row.positions.len();
            let count = self.full_tokens(row.want, row.positions.len());
            let x = &hidden[(end - count) * dim..end * dim];
            norm::rms_norm(cpu, x, dim, weight, eps, &mut self.normed[full_tokens * dim..][..count * dim]);
            full_tokens += count;
        }
        let mut end = 0;
        for (number, row) in batch.rows.iter().enumerate() {
            end += row.positions.len();
            let Some((count, tokens)) = self.candidates(row.want, row.positions.len()) else { continue };
            let to = &mut self.normed[(full_tokens + self.wanted.len()) * dim..][..tokens * dim];
            norm::rms_norm(cpu, &hidden[(end - tokens) * dim..end * dim], dim, weight, eps, to);
            self.wanted.extend((0..tokens).map(|_| Wanted { row: number, count }));
        }
        let normed = &mut self.normed[..(full_tokens + self.wanted.len()) * dim];
        if let Some(weight) = &model.weights.head_norm {
            norm::rms_norm_in_place(cpu, normed, dim, weight, model.config.eps(Norm::HeadIn));
        }
        if let Some(rotation) = rotations.head() {
            rotate::forward(cpu, rotation, normed);
        }
        for (normed, wanted) in self.normed[full_tokens * dim..].chunks_exact(dim).zip(&self.wanted) {
            let slot = batch.rows[wanted.row].slot.index();
            self.kept[slot * dim..][..dim].copy_from_slice(normed);
        }
        full_tokens
    }

    /// The highest logits of the tokens of `wanted`, whose norms stand behind `before` others. Where the bounds are of no use
    /// for one of a row, its logits in full.
    fn run_screen(&mut self, cpu: &Cpu, model: &Model, batch: &Batch, before: usize, out: &mut Activations) {
        let Self { screen: Some(screen), normed, wanted, tops, .. } = self else {
            unreachable!("rows want candidates only where there is a copy")
        };
        let (dim, vocab, head) = (model.config.dim, model.config.vocab, model.weights.head().view());
        let mut screened = 0..0;
        let mut start = 0;
        for of_row in wanted.chunk_by(|a, b| a.row == b.row) {
            if start == screened.end {
                // The next rows, as many as the copy is read for at once.
                let mut ends = wanted[start..].chunk_by(|a, b| a.row == b.row).scan(start, |end, of_row| {
                    *end += of_row.len();
                    Some(*end)
                });
                let end = ends.by_ref().take_while(|end| *end <= start + ALIKE_TOKENS).last().unwrap_or(start);
                screened = start..end;
                for (top, wanted) in tops.iter_mut().zip(&wanted[screened.clone()]) {
                    top.count = wanted.count;
                }
                let x = &normed[(before + start) * dim..(before + end) * dim];
                screen.top_rows(cpu, head, x, &mut tops[..screened.len()]);
            }
            let x = &normed[(before + start) * dim..][..of_row.len() * dim];
            let tops = &tops[start - screened.start..][..of_row.len()];
            start += of_row.len();
            let output = &mut out.rows[of_row[0].row];
            let exact = tops.iter().map(|top| top.exact);
            if let Some(exact) = exact.sum::<Option<usize>>() {
                let found = tops.iter().flat_map(|top| &top.products);
                output.candidates.top.extend(found.map(|best| Scored { id: best.row, logit: best.value }));
                output.candidates.rest = Rest::Lower;
                output.head_rows = exact;
                if let Want::Each(_) = batch.rows[of_row[0].row].want {
                    output.each = of_row.len();
                }
                continue;
            }
            let first = out.logits.len() / vocab;
            out.logits.resize((first + of_row.len()) * vocab, 0.0);
            dense::matmul(cpu, head, x, &mut out.logits[first * vocab..]);
            output.logits = first..first + of_row.len();
            output.head_rows = vocab;
        }
    }
}

/// Index of the highest of some logits, of equals the first; `None` where that is no number.
pub(super) fn highest(logits: &[f32]) -> Option<u32> {
    let mut best = (None, f32::NEG_INFINITY);
    for (id, &logit) in (0..).zip(logits) {
        if logit.is_nan() {
            return None;
        }
        if logit > best.1 {
            best = (Some(id), logit);
        }
    }
    best.0.filter(|_| best.1.is_finite())
}

/// A copy of the head in fewer bits, for one token of each sequence.
fn screen(cpu: &Cpu, model: &Model, sizes: &Sizes) -> Option<Screen> {
    let start = Instant::now();
    let head = model.weights.head();
    let screen = Screen::new(cpu, head.view(), ALIKE_TOKENS.min(sizes.batch_tokens));
    // Few of its rows are read from here on.
    head.data.release();
    log::debug!("a copy of the head in few bits: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    screen
}
