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
use crate::{model::Model, plan::Sizes};

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
    /// Rows of the batch that want candidates.
    top_rows: Vec<usize>,
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
            top_rows: Vec::with_capacity(ALIKE_TOKENS),
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
        if !self.top_rows.is_empty() {
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

    /// Tokens of a row whose logits are computed in full.
    fn full_tokens(&self, want: Want, tokens: usize) -> usize {
        match want {
            Want::Nothing => 0,
            Want::Top(count) if count <= self.most_top => 0,
            Want::Last | Want::Top(_) => 1,
            Want::All => tokens,
        }
    }

    /// Fills `normed`: first the tokens whose logits are wanted in full, in the order of the batch; their number is
    /// returned. Then the last token of each row of `top_rows`, which is also kept for its slot.
    fn norm_wanted(&mut self, cpu: &Cpu, model: &Model, rotations: &Rotations, batch: &Batch, hidden: &[f32]) -> usize {
        let (dim, eps) = (model.config.dim, model.config.rms_eps);
        let weight = &model.weights.output_norm;
        self.top_rows.clear();
        let (mut end, mut full_tokens) = (0, 0);
        for (number, row) in batch.rows.iter().enumerate() {
            end += row.positions.len();
            let count = self.full_tokens(row.want, row.positions.len());
            let x = &hidden[(end - count) * dim..end * dim];
            norm::rms_norm(cpu, x, dim, weight, eps, &mut self.normed[full_tokens * dim..][..count * dim]);
            full_tokens += count;
            if count == 0 && row.want != Want::Nothing {
                self.top_rows.push(number);
            }
        }
        let mut end = 0;
        let mut tops = 0;
        for (number, row) in batch.rows.iter().enumerate() {
            end += row.positions.len();
            if self.top_rows.get(tops) == Some(&number) {
                let to = &mut self.normed[(full_tokens + tops) * dim..][..dim];
                norm::rms_norm(cpu, &hidden[(end - 1) * dim..end * dim], dim, weight, eps, to);
                tops += 1;
            }
        }
        if let Some(rotation) = rotations.head() {
            rotate::forward(cpu, rotation, &mut self.normed[..(full_tokens + tops) * dim]);
        }
        for (normed, &number) in self.normed[full_tokens * dim..].chunks_exact(dim).zip(&self.top_rows) {
            let slot = batch.rows[number].slot.index();
            self.kept[slot * dim..][..dim].copy_from_slice(normed);
        }
        full_tokens
    }

    /// The highest logits of the rows of `top_rows`, whose norms stand behind `before` others. Where the bounds are of no
    /// use for a row, its logits in full.
    fn run_screen(&mut self, cpu: &Cpu, model: &Model, batch: &Batch, before: usize, out: &mut Activations) {
        let Self { screen: Some(screen), normed, top_rows, tops, .. } = self else {
            unreachable!("rows want candidates only where there is a copy")
        };
        let (dim, vocab, head) = (model.config.dim, model.config.vocab, model.weights.head().view());
        let x = &normed[before * dim..][..top_rows.len() * dim];
        let tops = &mut tops[..top_rows.len()];
        for (top, &row) in tops.iter_mut().zip(&*top_rows) {
            if let Want::Top(count) = batch.rows[row].want {
                top.count = count;
            }
        }
        screen.top_rows(cpu, head, x, tops);
        for ((top, x), &row) in tops.iter().zip(x.chunks_exact(dim)).zip(&*top_rows) {
            let output = &mut out.rows[row];
            if let Some(exact) = top.exact {
                let found = top.products.iter().map(|product| Scored { id: product.row, logit: product.value });
                output.candidates.top.extend(found);
                output.candidates.rest = Rest::Lower;
                output.head_rows = exact;
                continue;
            }
            let first = out.logits.len() / vocab;
            out.logits.resize((first + 1) * vocab, 0.0);
            dense::matmul(cpu, head, x, &mut out.logits[first * vocab..]);
            output.logits = first..first + 1;
            output.head_rows = vocab;
        }
    }
}

/// A copy of the head in fewer bits, for one token of each sequence.
fn screen(cpu: &Cpu, model: &Model, sizes: &Sizes) -> Option<Screen> {
    let start = Instant::now();
    let head = model.weights.head();
    let screen = Screen::new(cpu, head.view(), sizes.sequences.clamp(1, ALIKE_TOKENS));
    // Few of its rows are read from here on.
    head.data.release();
    log::debug!("a copy of the head in few bits: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    screen
}
