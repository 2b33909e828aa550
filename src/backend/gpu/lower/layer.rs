//! From the ops of a block to its dispatches.

use super::{
    fuse::{self, Phase, Rules, Step},
    lowering::{Lowering, place_code},
    product::MAX_ROWS,
    weights::{Group, LayerWeights},
};
use crate::{
    backend::gpu::{buffers::cache::CacheWindow, record::encode::Dispatch},
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
        cache: &'a [CacheWindow],
        phase: Phase,
    ) -> Result<Vec<Dispatch>> {
        let place = place_code(layer + 1);
        let windows =
            weights.groups.iter().map(|group| self.row_windows(group, MAX_ROWS)).collect::<Result<Vec<_>>>()?;
        let size = |group: &Group| group.rows.iter().sum::<usize>() * group.cols;
        let largest = (0..weights.groups.len()).rev().max_by_key(|&group| size(&weights.groups[group]));
        let apart = largest.filter(|_| layer < self.apart_layers);
        let rules = Rules {
            phase,
            folds: &|at| {
                let group = weights.groups.get(at).filter(|_| phase == Phase::Decode && Some(at) != apart);
                group.is_some_and(|group| self.folds(group))
            },
            whole: &|group| windows.get(group).is_some_and(|windows| windows.len() == 1),
        };
        let steps = fuse::steps(ops, &rules)?;
        let mut windows = windows.into_iter();
        let mut out = Vec::new();
        for step in steps {
            match step {
                Step::Norm(norm) => out.push(self.slot_norm(norm, weights, place)?),
                Step::Quantize(quantize) => out.push(self.norm_quantize(quantize, weights, place)?),
                Step::Product { group, fold, gate } => {
                    let missing = || Error::missing("a ternary matrix", "the op list");
                    let group = weights.groups.get(group).ok_or_else(missing)?;
                    for window in windows.next().ok_or_else(missing)? {
                        out.push(self.product(group, window, weights, (phase, fold, gate), place)?);
                    }
                }
                Step::RopeAppend(heads) => {
                    for window in cache {
                        out.push(self.rope_append(heads, weights, window, place)?);
                    }
                }
                Step::AttentionDecode(heads) => {
                    for window in cache {
                        out.push(self.attention_decode(heads, weights, window, place)?);
                    }
                }
                Step::AttentionPrefill => {
                    for window in cache {
                        out.push(self.attention_prefill(window)?);
                    }
                }
                Step::Merge => out.push(self.merge()?),
                Step::Gate(activation) => out.push(self.gate(activation)?),
            }
        }
        Ok(out)
    }
}
