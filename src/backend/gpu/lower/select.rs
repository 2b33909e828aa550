//! The choice of the best ids on the GPU, in place of the logits of the whole vocabulary: at most 2 KiB come back.

use crate::{
    backend::{
        Candidates, Rest, Scored,
        gpu::{
            buffers::activations::ActivationBuffers,
            device::Gpu,
            kernels::{params, pipelines::Shader},
            record::encode::{Builder, Dispatch, Extent},
        },
    },
    error::Result,
};

/// Ids that come back at most: with the sum and the word for damage they are 2044 bytes.
pub const MOST: usize = 254;
/// Ids that a screened head finds at most: the top 40 that sampling usually takes, and some that may be lowered.
const FEW: usize = 64;
/// Rows of the vocabulary for each of them: fewer, and the threshold, which one row of each chunk of 64 can be, would
/// leave many rows.
const ROWS_OF_FEW: usize = 512;
/// Length of a list of common/top.wgsl.
const LIST: usize = 256;
/// Blocks that are sorted side by side. More would leave more to merge for the one workgroup that follows.
const BLOCKS: usize = 32;
/// Most bytes that come back for the choice of a row, beside the word for damage.
pub const RESULT_BYTES: usize = 2048 - 4;
/// The sum, and a word of padding.
const HEADER_BYTES: u64 = 8;
const PAIR_BYTES: u64 = 8;
/// Bytes between the results of two rows: kernels know them as 257 pairs.
const ROW_BYTES: u64 = HEADER_BYTES + PAIR_BYTES * LIST as u64;

/// The logits chosen of a row; a later variant gives all that an earlier one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selection {
    /// The highest logit; of a single row its id is also the input of the next step.
    Greedy,
    /// As many of the highest as a screened head finds.
    Few,
    /// As many of the highest as come back.
    Top,
}

/// Number of ids that [`Selection::Few`] gives; less than 2 where it is no choice.
pub fn few(vocab: usize) -> usize {
    FEW.min(vocab / ROWS_OF_FEW)
}

impl Selection {
    /// The choice that gives at least `count` ids of `vocab`; `None` where all logits are needed.
    pub fn of(count: usize, vocab: usize, screened: bool) -> Option<Self> {
        match count {
            1 => Some(Self::Greedy),
            _ if screened && count <= few(vocab) => Some(Self::Few),
            _ if count <= MOST.min(vocab) => Some(Self::Top),
            _ => None,
        }
    }

    /// Ids that come back.
    fn count(self, vocab: usize) -> usize {
        match self {
            Self::Greedy => 1,
            Self::Few => few(vocab),
            Self::Top => MOST.min(vocab),
        }
    }
}

/// Blocks of the vocabulary, and logits of each.
fn blocks(vocab: usize) -> (usize, usize) {
    let per_block = vocab.div_ceil(BLOCKS).next_multiple_of(LIST);
    (vocab.div_ceil(per_block), per_block)
}

/// Buffers and dispatches of both choices.
pub struct Select {
    result: wgpu::Buffer,
    argmax: Vec<Dispatch>,
    top: Vec<Dispatch>,
    vocab: usize,
}

impl Select {
    /// Bytes of its buffers for up to `rows` of logits.
    pub fn bytes(vocab: usize, rows: usize) -> u64 {
        sizes(vocab, rows).iter().sum()
    }

    /// For the logits in `activations`.
    pub fn new(
        gpu: &Gpu,
        builder: &mut Builder<'_>,
        activations: &ActivationBuffers,
        (vocab, rows): (usize, usize),
    ) -> Result<Self> {
        let usage = wgpu::BufferUsages::STORAGE;
        let [lists, sums, result] = sizes(vocab, rows);
        let lists = gpu.buffer("lists of the highest logits", lists, usage)?;
        let sums = gpu.buffer("sums of logits", sums, usage)?;
        let result = gpu.buffer("highest logits", result, usage | wgpu::BufferUsages::COPY_SRC)?;
        let (blocks, per_block) = blocks(vocab);
        let all = wgpu::Buffer::as_entire_buffer_binding;
        let a_row = [Extent::Fixed(1), Extent::PerTokens(1), Extent::Fixed(1)];
        let of = params::Argmax { vocab: vocab as u32, ..Default::default() };
        let variant = builder.variant(Shader::Argmax);
        let buffers = [all(&activations.logits), all(&result), all(&activations.batch)];
        let argmax = builder.dispatch(variant, &[], of, &buffers, a_row)?;
        let (vocab_words, per_block) = (vocab as u32, per_block as u32);
        let of = params::TopLogits { vocab: vocab_words, per_block, blocks: blocks as u32, ..Default::default() };
        let grid = [Extent::Fixed(blocks), Extent::PerTokens(1), Extent::Fixed(1)];
        let variant = builder.variant(Shader::TopLogits);
        let top = builder.dispatch(variant, &[], of, &[all(&activations.logits), all(&lists), all(&sums)], grid)?;
        let of = params::MergeTop { blocks: blocks as u32, ..Default::default() };
        let variant = builder.variant(Shader::MergeTop);
        let merge = builder.dispatch(variant, &[], of, &[all(&lists), all(&sums), all(&result)], a_row)?;
        Ok(Self { result, argmax: vec![argmax], top: vec![top, merge], vocab })
    }

    /// To be recorded behind the head.
    pub fn dispatches(&self, choice: Selection) -> &[Dispatch] {
        match choice {
            Selection::Greedy => &self.argmax,
            Selection::Few | Selection::Top => &self.top,
        }
    }

    /// Most dispatches of any choice.
    pub fn most_dispatches(&self) -> usize {
        self.argmax.len().max(self.top.len())
    }

    /// The part to read back of a row of logits: buffer, offset and bytes.
    pub fn source(&self, choice: Selection, row: usize) -> (&wgpu::Buffer, u64, u64) {
        let bytes = HEADER_BYTES + PAIR_BYTES * choice.count(self.vocab) as u64;
        (&self.result, ROW_BYTES * row as u64, bytes)
    }

    /// Takes in what came back of a row.
    pub fn read(&self, choice: Selection, bytes: &[u8], candidates: &mut Candidates) {
        let words = |bytes: &[u8]| -> [u32; 2] { bytemuck::pod_read_unaligned(&bytes[..8]) };
        let pairs = bytes.chunks_exact(PAIR_BYTES as usize).skip(1).take(choice.count(self.vocab)).map(words);
        candidates.top.clear();
        candidates.top.extend(pairs.map(|[id, bits]| Scored { id, logit: f32::from_bits(bits) }));
        candidates.rest = match choice {
            _ if candidates.top.len() == self.vocab => Rest::None,
            // Of what a screened head leaves out, no more is known.
            Selection::Greedy | Selection::Few => Rest::Lower,
            Selection::Top => {
                let sum = f64::from(f32::from_bits(words(bytes)[0]));
                Rest::Summed { log_sum_exp: (f64::from(candidates.top[0].logit) + sum.ln()) as f32 }
            }
        };
    }
}

fn sizes(vocab: usize, rows: usize) -> [u64; 3] {
    let (blocks, _) = blocks(vocab);
    [PAIR_BYTES * (rows * blocks * LIST) as u64, 4 * (rows * blocks) as u64, ROW_BYTES * rows as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_vocabulary() {
        for vocab in [1, 255, 256, 257, 8192, 8193, 32_000, 128_256, 151_936, 262_144] {
            let (blocks, per_block) = blocks(vocab);
            assert!(blocks * per_block >= vocab && (blocks - 1) * per_block < vocab, "{vocab}");
            assert!((1..=BLOCKS).contains(&blocks) && per_block % LIST == 0, "{vocab}");
        }
        // The buffer holds more than comes back.
        assert!(HEADER_BYTES + PAIR_BYTES * MOST as u64 <= RESULT_BYTES as u64 && MOST <= LIST);
        assert!(HEADER_BYTES + PAIR_BYTES * FEW as u64 + 4 <= RESULT_BYTES as u64, "with the count of the screen");
    }

    #[test]
    fn what_2_kib_cannot_hold_takes_all_logits() {
        let of = |count, vocab| Selection::of(count, vocab, false);
        assert_eq!([of(1, 50), of(50, 50), of(51, 50)], [Some(Selection::Greedy), Some(Selection::Top), None]);
        assert_eq!([of(MOST, 1000), of(MOST + 1, 1000)], [Some(Selection::Top), None]);
    }

    #[test]
    fn a_screened_head_gives_few() {
        let of = |count, vocab| Selection::of(count, vocab, true);
        let greedy = Some(Selection::Greedy);
        assert_eq!([of(1, 50), of(1, 128_256), of(2, 1023)], [greedy, greedy, Some(Selection::Top)]);
        assert_eq!([of(2, 1024), of(3, 1024)], [Some(Selection::Few), Some(Selection::Top)]);
        assert_eq!([of(64, 128_256), of(65, 128_256)], [Some(Selection::Few), Some(Selection::Top)]);
    }
}
