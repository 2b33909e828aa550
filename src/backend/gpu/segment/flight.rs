//! A step that is under way.

use std::time::Instant;

use super::{
    lists::HeadLists,
    part::Part,
    rows::{self, Output, StepRow},
};
use crate::{
    backend::{RowOutput, gpu::buffers::readback::Pending},
    model::Config,
};

/// A part that the device works on.
pub struct Begun {
    pub submission: wgpu::SubmissionIndex,
    pub pending: Pending,
    /// When it was submitted.
    pub since: Instant,
    /// Its number, see [`Proof`](crate::backend::gpu::record::proof::Proof).
    pub number: u32,
}

/// The rest of a step, and its results so far. One a segment, reused from step to step.
#[derive(Default)]
pub struct Flight {
    pub rows: Vec<StepRow>,
    pub tokens: usize,
    /// By the whole step and not by the chunk: where chunks end depends on measured times, and floats must not.
    pub in_tiles: bool,
    /// Input, by the segment's `embed`; hidden states become the output of each chunk in turn.
    pub ids: Vec<u32>,
    pub hidden: Vec<f32>,
    /// The part at hand. `None` while there is no step.
    pub part: Option<(Part, Begun)>,
    pub logits: Vec<f32>,
    pub outputs: Vec<RowOutput>,
}

impl Flight {
    /// Takes what came back of a part, in the order in which it was recorded. Gives the word for damage.
    pub fn take_results(
        &mut self,
        bytes: &[u8],
        list: Option<&HeadLists>,
        config: &Config,
        (step_rows, part): (&[StepRow], &Part),
    ) -> u32 {
        let mut rest = bytes;
        let mut next = |length: usize| {
            let (now, later) = rest.split_at(length);
            rest = later;
            now
        };
        let damage = word(next(4));
        let (Some(head), Some(list)) = (&part.head, list) else {
            if list.is_none() {
                let chunk = part.chunk.start * config.dim..part.chunk.end * config.dim;
                let values = floats(next(4 * chunk.len()));
                self.hidden[chunk].iter_mut().zip(values).for_each(|(to, from)| *to = from);
            }
            return damage;
        };
        for output in rows::outputs(step_rows, &head.tokens) {
            match output {
                Output::Logits { row, tokens } => {
                    let before = self.logits.len() / config.vocab;
                    self.logits.extend(floats(next(4 * tokens.len() * config.vocab)));
                    let output = &mut self.outputs[row];
                    // The logits of a row may come in several parts.
                    let start = if output.logits.is_empty() { before } else { output.logits.start };
                    output.logits = start..before + tokens.len();
                    output.head_rows = config.vocab;
                }
                Output::Highest { row, token, choice } => {
                    let (_, _, length) = list.select.source(choice, token - head.tokens.start);
                    let output = &mut self.outputs[row];
                    list.select.read(choice, next(length as usize), &mut output.candidates);
                    output.head_rows = if head.screened { word(next(4)) as usize } else { config.vocab };
                }
            }
        }
        damage
    }
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |&word| u32::from_le_bytes(word))
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}
