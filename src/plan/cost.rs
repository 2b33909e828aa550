//! Measured cost of a step on each backend, and the cost of a whole answer made of it.

use serde::{Deserialize, Serialize};

/// Milliseconds of one kind of step on one backend, by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepCost {
    /// Once per step: submission, synchronisation, hidden states handed over.
    pub fixed_ms: f64,
    /// For each layer.
    pub layer_ms: f64,
    /// Final norm and output head of one token.
    pub head_ms: f64,
}

impl StepCost {
    /// A step through `layers` layers, with or without the head.
    pub fn of(self, layers: usize, head: bool) -> f64 {
        self.fixed_ms + self.layer_ms * layers as f64 + if head { self.head_ms } else { 0.0 }
    }
}

/// Both kinds of step on one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendCost {
    /// One token.
    pub decode: StepCost,
    /// A batch of [`Costs::batch_tokens`] tokens of a prompt.
    pub prefill: StepCost,
    /// Millijoules of the processor's package for a decoded token through one layer, where the machine tells.
    pub layer_mj: Option<f64>,
}

/// Costs of equal steps on both backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// On the CPU.
    pub cpu: BackendCost,
    /// On the GPU.
    pub gpu: BackendCost,
    /// Tokens of the batch that [`BackendCost::prefill`] was measured with.
    pub batch_tokens: usize,
    /// Moving what one layer holds of one token from one backend to the other; the mean of all kinds of layers.
    pub move_ms: f64,
}

/// The request that a plan is made for: the time that counts is that of all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the answer.
    pub answer_tokens: usize,
}

impl Default for Workload {
    /// A question with some text to it, and an answer of a few paragraphs.
    fn default() -> Self {
        Self { prompt_tokens: 512, answer_tokens: 128 }
    }
}

/// How many of the last layers each phase has on the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSplit {
    /// While the prompt is read.
    pub prefill: usize,
    /// While the answer is written.
    pub decode: usize,
}

impl Costs {
    /// Milliseconds of a token of the answer with the last `on_gpu` of `layers` layers, and the head, on the GPU.
    pub fn decode_ms(&self, layers: usize, on_gpu: usize) -> f64 {
        split_ms(self.cpu.decode, self.gpu.decode, layers, on_gpu)
    }

    /// Milliseconds of a prompt of `tokens`, likewise.
    pub fn prefill_ms(&self, layers: usize, on_gpu: usize, tokens: usize) -> f64 {
        let batches = tokens as f64 / self.batch_tokens.max(1) as f64;
        // The head runs once, for the last token.
        let head_ms = if on_gpu == 0 { self.cpu.prefill.head_ms } else { self.gpu.prefill.head_ms };
        let headless = |cost: StepCost| StepCost { head_ms: 0.0, ..cost };
        batches * split_ms(headless(self.cpu.prefill), headless(self.gpu.prefill), layers, on_gpu) + head_ms
    }

    /// Milliseconds of all of `work`. Where the phases differ, the keys and values of the prompt move once.
    pub fn total_ms(&self, layers: usize, split: LayerSplit, work: Workload) -> f64 {
        let moved = split.prefill.abs_diff(split.decode) * work.prompt_tokens;
        self.prefill_ms(layers, split.prefill, work.prompt_tokens)
            + self.decode_ms(layers, split.decode) * work.answer_tokens as f64
            + self.move_ms * moved as f64
    }

    /// The fastest split with at most `most` layers on the GPU.
    ///
    /// Every cost is linear in the number of layers, so that a phase is best with none or with as many as fit.
    /// Equal times go to the CPU, and to phases that do not differ.
    pub fn fastest(&self, layers: usize, most: usize, work: Workload) -> LayerSplit {
        let candidates = [(0, 0), (most, most), (most, 0), (0, most)];
        candidates
            .map(|(prefill, decode)| LayerSplit { prefill, decode })
            .into_iter()
            .min_by(|a, b| self.total_ms(layers, *a, work).total_cmp(&self.total_ms(layers, *b, work)))
            .unwrap_or_else(|| unreachable!("four candidates"))
    }
}

fn split_ms(cpu: StepCost, gpu: StepCost, layers: usize, on_gpu: usize) -> f64 {
    match on_gpu {
        0 => cpu.of(layers, true),
        n if n >= layers => gpu.of(layers, true),
        n => cpu.of(layers - n, false) + gpu.of(n, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Workload = Workload { prompt_tokens: 100, answer_tokens: 10 };

    fn step(fixed_ms: f64, layer_ms: f64, head_ms: f64) -> StepCost {
        StepCost { fixed_ms, layer_ms, head_ms }
    }

    fn backend(decode: StepCost, prefill: StepCost) -> BackendCost {
        BackendCost { decode, prefill, layer_mj: None }
    }

    /// CPU: 1 + 4 a layer; GPU: 3 + 2 a layer, in batches of 50: 0 + 20 and 10 + 10.
    fn costs() -> Costs {
        Costs {
            cpu: backend(step(1.0, 4.0, 6.0), step(0.0, 20.0, 6.0)),
            gpu: backend(step(3.0, 2.0, 5.0), step(10.0, 10.0, 5.0)),
            batch_tokens: 50,
            move_ms: 0.01,
        }
    }

    #[test]
    fn a_split_step_pays_both_fixed_costs_and_one_head() {
        assert_eq!(costs().decode_ms(8, 0), 1.0 + 32.0 + 6.0);
        assert_eq!(costs().decode_ms(8, 8), 3.0 + 16.0 + 5.0);
        assert_eq!(costs().decode_ms(8, 3), (1.0 + 20.0) + (3.0 + 6.0 + 5.0));
        assert_eq!(costs().prefill_ms(8, 0, 100), 2.0 * 160.0 + 6.0);
        assert_eq!(costs().prefill_ms(8, 3, 100), 2.0 * (100.0 + 10.0 + 30.0) + 5.0);
    }

    #[test]
    fn phases_differ_where_that_pays_for_the_move() {
        // Decode on the CPU, prefill on the GPU: 1 ms a token against 2.
        let mut costs = costs();
        costs.cpu.decode = step(0.0, 1.0, 1.0);
        costs.gpu.decode = step(20.0, 1.0, 1.0);
        assert_eq!(costs.fastest(8, 8, WORK), LayerSplit { prefill: 8, decode: 0 });
        // 100 tokens x 8 layers at 1 ms: more than all that the GPU saves.
        costs.move_ms = 1.0;
        assert_eq!(costs.fastest(8, 8, WORK), LayerSplit { prefill: 0, decode: 0 });
        // The GPU is worse at prompts, and much better at decoding.
        let mut costs = self::costs();
        costs.gpu.prefill = step(0.0, 50.0, 0.0);
        costs.gpu.decode = step(0.0, 0.1, 0.1);
        assert_eq!(costs.fastest(8, 8, WORK), LayerSplit { prefill: 0, decode: 8 });
    }

    #[test]
    fn equal_times_go_to_the_cpu() {
        let same = backend(step(1.0, 1.0, 1.0), step(1.0, 1.0, 1.0));
        let costs = Costs { cpu: same, gpu: same, batch_tokens: 50, move_ms: 0.0 };
        assert_eq!(costs.fastest(8, 8, WORK), LayerSplit { prefill: 0, decode: 0 });
    }
}
