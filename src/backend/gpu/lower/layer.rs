//! From the ops of a block to its dispatches.

use super::{
    fuse::{self, KernelPhase, Rules, Step},
    lowering::{Lowering, place_code},
    product::MAX_ROWS,
    weights::{Joined, LayerWeights},
};
use crate::{
    backend::gpu::{buffers::memory::LayerMemory, record::encode::Dispatch},
    error::{Error, Result},
    graph::op::Op,
};

impl<'a> Lowering<'a> {
    /// The dispatches of one block.
    pub fn layer(
        &mut self,
        ops: &[Op],
        layer: usize,
        weights: &'a LayerWeights,
        memory: &'a LayerMemory,
        phase: KernelPhase,
    ) -> Result<Vec<Dispatch>> {
        let place = place_code(layer + 1);
        let windows =
            weights.joined.iter().map(|joined| self.row_windows(joined, MAX_ROWS)).collect::<Result<Vec<_>>>()?;
        let size = |joined: &Joined| joined.rows.iter().sum::<usize>() * joined.cols;
        let largest = (0..weights.joined.len()).rev().max_by_key(|&at| size(&weights.joined[at]));
        let apart = largest.filter(|_| layer < self.apart_layers);
        let rules = Rules {
            phase,
            folds: &|at| {
                let joined = weights.joined.get(at).filter(|_| phase == KernelPhase::Decode && Some(at) != apart);
                joined.is_some_and(|joined| self.folds(joined))
            },
            whole: &|at| windows.get(at).is_some_and(|windows| windows.len() == 1),
        };
        let steps = fuse::steps(ops, &rules)?;
        let mut windows = windows.into_iter();
        let mut out = Vec::new();
        for step in steps {
            match step {
                Step::Plain(op) => out.push(self.plain(op, weights, place)?),
                Step::Quantize(quantize) => out.push(self.quantize(quantize, weights, place)?),
                Step::Product { joined, fold, gate } => {
                    let missing = || Error::missing("a ternary matrix", "the op list");
                    let joined = weights.joined.get(joined).ok_or_else(missing)?;
                    for window in windows.next().ok_or_else(missing)? {
                        out.push(self.product(joined, window, weights, (phase, fold, gate), place)?);
                    }
                }
                Step::RopeAppend(heads) => {
                    for window in memory.windows() {
                        out.push(self.rope_append(heads, weights, window, place)?);
                    }
                }
                Step::AttentionDecode(heads) => {
                    for window in memory.windows() {
                        out.push(self.attention_decode(heads, weights, window, place)?);
                    }
                }
                Step::AttentionPrefill => {
                    for window in memory.windows() {
                        out.push(self.attention_prefill(window)?);
                    }
                }
                Step::Merge => out.push(self.merge()?),
                Step::DeltaInput { norm, rotated } => out.push(self.delta_input(norm, rotated, weights, place)?),
                Step::DeltaRule => out.push(self.delta_step(weights, memory.recurrent()?, phase, place)?),
                Step::DeltaNorm { grouped, rotated } => {
                    out.push(self.delta_norm((grouped, rotated), weights, memory.recurrent()?, place)?);
                }
            }
        }
        Ok(out)
    }
}
