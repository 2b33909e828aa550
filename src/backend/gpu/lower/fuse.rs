//! Which ops become one kernel: from the ops of a block to steps. A step is one dispatch, a product one for each window
//! of its weights. No device is needed to tell.

use crate::{
    error::{Error, Result},
    graph::op::{Op, Part, Slot},
    model::{Activation, Norm},
};

/// Which kernels a list is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelPhase {
    /// One token: matrix-vector products, attention split over the keys.
    Decode,
    /// 2 to 8 tokens, which share a reading of the weights; else as one.
    Few,
    /// Many tokens: tiles.
    Prefill,
}

/// Source of a quantisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantizeInput {
    Slot(Slot),
    /// The result of attention, in the place of the first split.
    Parts,
    /// The result of attention in its splits: merged on the way.
    Splits,
}

/// A norm and quantisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantize {
    pub input: QuantizeInput,
    pub norm: Option<Norm>,
    /// Rotated in between.
    pub rotated: bool,
    /// Attention's output goes through its gate first.
    pub opened: bool,
}

/// Norms and rotation of queries and keys before attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    pub q_norm: Option<Norm>,
    pub k_norm: Option<Norm>,
    pub rotate: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// An op as it is, by a kernel of its own.
    Plain(&'a Op),
    Quantize(Quantize),
    Product {
        /// Number among the joined matrices of the block ([`joined`]).
        joined: usize,
        /// Norm and quantisation of the input that the kernel does itself first.
        fold: Option<Quantize>,
        /// Activation applied before the product is stored.
        gate: Option<Activation>,
    },
    /// Head norms, rotation, and the keys and values into the cache.
    RopeAppend(Heads),
    AttentionPrefill,
    /// [`Step::RopeAppend`] and the attention over parts of the keys, in one.
    AttentionDecode(Heads),
    /// Merges the results of the parts, where there are several.
    Merge,
    /// Inputs of a gated DeltaNet: the norm and quantisation of the residual stream, and the gates of its heads.
    DeltaInput {
        norm: Norm,
        rotated: bool,
    },
    /// Its convolution and its rule.
    DeltaRule,
    /// Its gated norm, quantised; and the last inputs of the convolution are kept.
    DeltaNorm {
        grouped: bool,
        rotated: bool,
    },
}

/// Conditions on which the choice of steps depends.
pub struct Rules<'a> {
    pub phase: KernelPhase,
    /// Whether the product of those matrices can norm and quantise its input itself.
    pub folds: &'a dyn Fn(usize) -> bool,
    /// Whether one dispatch binds all of their rows.
    pub whole: &'a dyn Fn(usize) -> bool,
}

/// Most matrices that a dispatch may multiply by at once: three scales fit in its parameters.
const MAX_PARTS: usize = 3;

/// The parts of a [`Op::Linear`] that one dispatch can do: their outputs lie one after the other.
pub fn joined(parts: &[Part]) -> Vec<&[Part]> {
    let joins = |a: &Part, b: &Part| {
        let follows = matches!(
            (a.out, b.out),
            (Slot::Q | Slot::GatedQ, Slot::K)
                | (Slot::K, Slot::V)
                | (Slot::Gate, Slot::Up)
                | (Slot::DeltaQkv, Slot::DeltaGate)
        );
        follows && !a.add && !b.add
    };
    parts.chunk_by(joins).flat_map(|run| run.chunks(MAX_PARTS)).collect()
}

/// The steps of one block. But in [`KernelPhase::Prefill`], head norms, rotation and cache writes are done by attention; the gate by the
/// product that makes it; a norm and quantisation by the product that reads it.
pub fn steps<'a>(ops: &'a [Op], rules: &Rules<'_>) -> Result<Vec<Step<'a>>> {
    let decode = rules.phase != KernelPhase::Prefill;
    let mut out = Vec::new();
    let mut heads = Heads::default();
    let mut held = None;
    let mut delta = Delta::default();
    let (mut in_parts, mut opened, mut gated, mut at) = (false, false, false, 0);
    for (index, op) in ops.iter().enumerate() {
        let next = ops.get(index + 1);
        match op {
            Op::NormQuantize { input, norm } | Op::RotateQuantize { input, norm } => {
                let rotated = matches!(op, Op::RotateQuantize { .. });
                if let Some(step) = delta.quantize(*input, rotated) {
                    out.push(step);
                    continue;
                }
                let (input, norm) = delta.source(*input, *norm);
                let mut quantize = Quantize { input: QuantizeInput::Slot(input), norm, rotated, opened: false };
                if input == Slot::Attn {
                    quantize.opened = std::mem::take(&mut opened);
                    if std::mem::take(&mut in_parts) {
                        quantize.input =
                            if rotated || quantize.opened { QuantizeInput::Splits } else { QuantizeInput::Parts };
                        out.extend((quantize.input == QuantizeInput::Parts).then_some(Step::Merge));
                    }
                }
                // Only the one product may need it: another would find the input changed or nothing quantised.
                let one = match (next, ops.get(index + 2)) {
                    (Some(Op::Linear { .. }), Some(Op::Linear { .. })) => None,
                    (Some(Op::Linear { parts }), _) => Some(at..at + joined(parts).len()),
                    _ => None,
                };
                let can_fold = decode && !quantize.opened && quantize.input != QuantizeInput::Splits;
                if can_fold && one.is_some_and(|mut products| products.all(rules.folds)) {
                    held = Some(quantize);
                } else {
                    out.push(Step::Quantize(quantize));
                }
            }
            Op::Linear { parts } => {
                let fold = held.take();
                let all = joined(parts);
                let gate = match next {
                    Some(Op::Gate(activation)) if decode && all.len() == 1 && (rules.whole)(at) => {
                        let outputs: Vec<Slot> = parts.iter().map(|part| part.out).collect();
                        (outputs == [Slot::Gate, Slot::Up]).then_some(*activation)
                    }
                    _ => None,
                };
                gated = gate.is_some();
                for _ in all {
                    out.push(Step::Product { joined: at, fold, gate });
                    at += 1;
                }
            }
            Op::HeadNorm { slot: Slot::Q, norm } => heads.q_norm = Some(*norm),
            Op::HeadNorm { slot: Slot::K, norm } => heads.k_norm = Some(*norm),
            Op::Rope => heads.rotate = true,
            // The kernels of attention read queries where they lie.
            Op::SplitGate => {}
            Op::Attention => {
                let heads = std::mem::take(&mut heads);
                if decode {
                    out.push(Step::AttentionDecode(heads));
                    in_parts = true;
                } else {
                    out.extend([Step::RopeAppend(heads), Step::AttentionPrefill]);
                }
            }
            Op::OutputGate => opened = true,
            Op::Gate(_) if gated => gated = false,
            op if delta.takes(op, next) => out.extend((*op == Op::DeltaRule).then_some(Step::DeltaRule)),
            // It would see the slots without what is held back.
            plain if in_parts || opened || delta.waits() || heads != Heads::default() => {
                return Err(wrong_order(plain));
            }
            plain => out.push(Step::Plain(plain)),
        }
    }
    match ops.last() {
        Some(last) if in_parts || opened || delta.waits() || heads != Heads::default() => Err(wrong_order(last)),
        _ => Ok(out),
    }
}

/// Ops of a gated DeltaNet that wait for the quantisation behind them.
#[derive(Default)]
struct Delta {
    /// Norm of the residual stream that the gates and the projections share.
    norm: Option<Norm>,
    /// The gates are still to be computed.
    gates: bool,
    /// The convolution, still to be done by the rule.
    conv: bool,
    /// The gated norm, and whether it groups heads.
    gated_norm: Option<bool>,
}

impl Delta {
    /// Whether `op` is one of a DeltaNet in its place, which is taken up.
    fn takes(&mut self, op: &Op, next: Option<&Op>) -> bool {
        match op {
            &Op::Norm { input: Slot::Hidden, norm, out: Slot::Normed, add: false }
                if next == Some(&Op::DeltaGates) && self.norm.is_none() =>
            {
                self.norm = Some(norm);
                true
            }
            Op::DeltaGates => {
                self.gates = self.norm.is_some();
                self.gates
            }
            Op::DeltaConv => {
                self.conv = next == Some(&Op::DeltaRule) && !self.gates;
                self.conv
            }
            Op::DeltaRule => std::mem::take(&mut self.conv),
            Op::DeltaNorm { grouped } => self.gated_norm.replace(*grouped).is_none(),
            _ => false,
        }
    }

    /// The step that does a quantisation of `input` beside what waits for it.
    fn quantize<'a>(&mut self, input: Slot, rotated: bool) -> Option<Step<'a>> {
        match (input, self.norm, self.gated_norm) {
            (Slot::Normed, Some(norm), _) if std::mem::take(&mut self.gates) => {
                Some(Step::DeltaInput { norm, rotated })
            }
            (Slot::Delta, _, Some(grouped)) => {
                self.gated_norm = None;
                Some(Step::DeltaNorm { grouped, rotated })
            }
            _ => None,
        }
    }

    /// Where a quantisation finds its input: the shared norm is not kept, but taken again.
    fn source(&self, input: Slot, norm: Option<Norm>) -> (Slot, Option<Norm>) {
        match (input, self.norm, norm) {
            (Slot::Normed, Some(shared), None) => (Slot::Hidden, Some(shared)),
            _ => (input, norm),
        }
    }

    fn waits(&self) -> bool {
        self.gates || self.conv || self.gated_norm.is_some()
    }
}

/// The error of an op before which another must take up what attention holds back.
fn wrong_order(op: &Op) -> Error {
    Error::unsupported(
        format!("{op:?} in this order of operations"),
        "the GPU runs head norms and rotations before attention, and a quantisation after it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::{Graph, block_ops},
        model::{Config, DeltaNet, Family, InputNorms, Linear, Multipliers, Rope, RopeStyle, Rotation},
    };

    /// BitNet b1.58 2B-4T: `config.json` of microsoft/bitnet-b1.58-2B-4T.
    fn bitnet_2b_4t() -> Config {
        Config {
            arch: "bitnet-b1.58".to_owned(),
            family: Family::BitNet,
            name: String::new(),
            layers: 30,
            dim: 2560,
            ffn_dim: 6912,
            heads: 20,
            kv_heads: 5,
            head_dim: 128,
            vocab: 128_256,
            context: 4096,
            rms_eps: 1e-5,
            rope: Rope {
                dims: 128,
                base: 500_000.0,
                position_scale: 1.0,
                yarn: None,
                long: None,
                style: RopeStyle::HalfSplit,
            },
            activation: Activation::Relu2,
            delta: None,
            rotation: None,
            mtp_blocks: 0,
            input_norms: None,
            multipliers: Multipliers::default(),
            biased: &[],
        }
    }

    fn steps_of(ops: &[Op], phase: KernelPhase, folds: bool, whole: bool) -> Vec<Step<'_>> {
        steps(ops, &Rules { phase, folds: &|_| folds, whole: &|_| whole }).unwrap()
    }

    /// A token of 2B-4T: six dispatches a layer, the last norm, and the embedding and the head in as many windows as
    /// bindings of 128 MiB make of their 657 MB.
    #[test]
    fn dispatches_of_a_token() {
        let config = bitnet_2b_4t();
        let ops = block_ops(&config);
        let layer = steps_of(&ops, KernelPhase::Decode, true, true);
        let head_windows = (config.vocab * config.dim * 2).div_ceil(128 << 20);
        let all = config.layers * layer.len() + 2 * head_windows + 1;
        assert_eq!((layer.len(), head_windows, all), (6, 5, 191));
        assert!(all <= config.layers * 7 + 6);
        // Norms and quantisations as kernels of their own.
        assert_eq!(steps_of(&ops, KernelPhase::Decode, false, true).len(), 10);
        // Head norms cost no dispatch.
        let qwen3 = Config { family: Family::Qwen3, activation: Activation::Silu, ..bitnet_2b_4t() };
        assert_eq!(steps_of(&block_ops(&qwen3), KernelPhase::Decode, true, true).len(), 6);
    }

    /// A token of a rotated hybrid of 27B: nine dispatches for a DeltaNet where the largest product has its norm apart, else
    /// eight; for attention one fewer.
    #[test]
    fn dispatches_of_a_hybrid_token() {
        let delta = DeltaNet { layers: vec![true, false], kernel: 4, key_heads: 16, value_heads: 48, head_dim: 128 };
        let mut config = Config {
            arch: "qwen35".to_owned(),
            family: Family::Qwen35,
            layers: 2,
            dim: 5120,
            ffn_dim: 17408,
            heads: 24,
            kv_heads: 4,
            head_dim: 256,
            activation: Activation::Silu,
            delta: Some(delta),
            ..bitnet_2b_4t()
        };
        for folded in [vec![], vec![Linear::ALL.to_vec(); 2]] {
            let is_rotated = !folded.is_empty();
            config.rotation = is_rotated.then_some(Rotation {
                block: 1024,
                signs: None,
                folded,
                head: true,
                tied: false,
                v_grouped: true,
            });
            let graph = Graph::of(&config);
            let count = |layer: usize, phase: KernelPhase, apart: bool| {
                let ops = &graph.layer(layer).ops;
                // Of three products behind norms the down projection is too wide, and gate and up are the largest.
                let folds = |at: usize| at == 0 || (at == 2 && !apart);
                let rules = Rules { phase, folds: &folds, whole: &|_| true };
                steps(ops, &rules).unwrap().len()
            };
            let decode = |layer: usize, apart: bool| count(layer, KernelPhase::Decode, apart);
            assert_eq!([decode(0, false), decode(1, false)], [8, 7], "rotated {is_rotated}");
            assert_eq!([decode(0, true), decode(1, true)], [9, 8], "rotated {is_rotated}");
            // The activation by itself, and keys and values before attention.
            let prefill = |layer: usize| count(layer, KernelPhase::Prefill, true);
            assert_eq!([prefill(0), prefill(1)], [10, 11], "rotated {is_rotated}");
            let ops = &graph.layer(0).ops;
            let folds = |at: usize| at == 2;
            let rules = Rules { phase: KernelPhase::Decode, folds: &folds, whole: &|_| true };
            assert_eq!(
                steps(ops, &rules).unwrap()[..4],
                [
                    Step::DeltaInput { norm: Norm::Attn, rotated: is_rotated },
                    Step::Product { joined: 0, fold: None, gate: None },
                    Step::DeltaRule,
                    Step::DeltaNorm { grouped: is_rotated, rotated: is_rotated },
                ]
            );
        }
    }

    #[test]
    fn a_folded_block() {
        let quantize = |input, norm| Quantize { input, norm: Some(norm), rotated: false, opened: false };
        let heads = Heads { q_norm: None, k_norm: None, rotate: true };
        let product = |joined, fold, gate| Step::Product { joined, fold: Some(fold), gate };
        assert_eq!(
            steps_of(&block_ops(&bitnet_2b_4t()), KernelPhase::Decode, true, true),
            [
                product(0, quantize(QuantizeInput::Slot(Slot::Hidden), Norm::Attn), None),
                Step::AttentionDecode(heads),
                Step::Merge,
                product(1, quantize(QuantizeInput::Parts, Norm::AttnSub), None),
                product(2, quantize(QuantizeInput::Slot(Slot::Hidden), Norm::Ffn), Some(Activation::Relu2)),
                product(3, quantize(QuantizeInput::Slot(Slot::Gate), Norm::FfnSub), None),
            ]
        );
    }

    /// The kernels for many tokens fuse nothing but the head norms and the rotation.
    #[test]
    fn a_block_of_many_tokens() {
        let config = Config { family: Family::Qwen3, activation: Activation::Silu, ..bitnet_2b_4t() };
        let slot = |input, norm| {
            Step::Quantize(Quantize { input: QuantizeInput::Slot(input), norm, rotated: false, opened: false })
        };
        let product = |joined| Step::Product { joined, fold: None, gate: None };
        let heads = Heads { q_norm: Some(Norm::QHead), k_norm: Some(Norm::KHead), rotate: true };
        assert_eq!(
            steps_of(&block_ops(&config), KernelPhase::Prefill, true, true),
            [
                slot(Slot::Hidden, Some(Norm::Attn)),
                product(0),
                Step::RopeAppend(heads),
                Step::AttentionPrefill,
                slot(Slot::Attn, None),
                product(1),
                slot(Slot::Hidden, Some(Norm::Ffn)),
                product(2),
                Step::Plain(&Op::Gate(Activation::Silu)),
                slot(Slot::Gate, None),
                product(3),
            ]
        );
    }

    /// A product that took several tokens could not norm and quantise them all itself, as `folds` says then.
    #[test]
    fn few_tokens_differ_from_one_in_the_products() {
        let ops = block_ops(&bitnet_2b_4t());
        assert_eq!(steps_of(&ops, KernelPhase::Few, false, true), steps_of(&ops, KernelPhase::Decode, false, true),);
    }

    /// Gate and up in several windows: the gate waits for both. Outputs apart: two products quantise the same input.
    #[test]
    fn what_cannot_be_joined_stays_apart() {
        let ops = block_ops(&bitnet_2b_4t());
        let steps_in_windows = steps_of(&ops, KernelPhase::Decode, true, false);
        assert_eq!(steps_in_windows.len(), 7);
        assert!(steps_in_windows.contains(&Step::Plain(&Op::Gate(Activation::Relu2))));

        let part = |weight, out| Part { weight, out, add: false };
        let quantize = Op::NormQuantize { input: Slot::Hidden, norm: None };
        let apart = Op::Linear { parts: vec![part(Linear::V, Slot::V), part(Linear::Q, Slot::Q)] };
        let folded = Quantize { input: QuantizeInput::Slot(Slot::Hidden), norm: None, rotated: false, opened: false };
        let fold = Some(folded);
        fn decode<'a>(ops: &'a [Op], folds: &dyn Fn(usize) -> bool) -> Vec<Step<'a>> {
            steps(ops, &Rules { phase: KernelPhase::Decode, folds, whole: &|_| true }).unwrap()
        }
        let both = [quantize.clone(), apart];
        assert_eq!(
            decode(&both, &|_| true),
            [Step::Product { joined: 0, fold, gate: None }, Step::Product { joined: 1, fold, gate: None }]
        );
        let own = |joined| Step::Product { joined, fold: None, gate: None };
        let unfolded = [Step::Quantize(folded), own(0), own(1)];
        assert_eq!(decode(&both, &|at| at == 0), unfolded);
        // Two ops that read what was quantised once.
        let one = |weight, out| Op::Linear { parts: vec![part(weight, out)] };
        let two = [quantize, one(Linear::V, Slot::V), one(Linear::Q, Slot::Q)];
        assert_eq!(decode(&two, &|_| true), unfolded);
    }

    #[test]
    fn work_that_nothing_takes_up_is_an_error() {
        let refused = |ops: &[Op]| {
            let rules = Rules { phase: KernelPhase::Decode, folds: &|_| true, whole: &|_| true };
            steps(ops, &rules).unwrap_err().to_string()
        };
        for (ops, named) in [
            (vec![Op::Rope], "Rope in this order of operations"),
            (vec![Op::Attention], "Attention in this order of operations"),
            // The slots do not hold yet what an op on its own would read.
            (vec![Op::Rope, Op::Gate(Activation::Silu), Op::Attention], "Gate(Silu) in this order of operations"),
            (vec![Op::Attention, Op::Gate(Activation::Silu)], "Gate(Silu) in this order of operations"),
        ] {
            let error = refused(&ops);
            assert!(error.contains(named), "{ops:?}: {error}");
        }
    }

    /// Norms that are kept, in a block of Gemma 3, which adds no step of another kind for them.
    #[test]
    fn an_op_that_fuses_with_nothing_is_a_plain_step() {
        let input_norms = Some(InputNorms { eps: 1e-6, embedder: true });
        let config = Config { family: Family::Gemma3, input_norms, ..bitnet_2b_4t() };
        let ops = block_ops(&config);
        for (phase, steps) in [(KernelPhase::Decode, 14), (KernelPhase::Prefill, 21)] {
            let steps_of_block = steps_of(&ops, phase, true, true);
            let plain: Vec<_> =
                steps_of_block.iter().filter(|step| matches!(step, Step::Plain(Op::Norm { .. }))).collect();
            assert_eq!((plain.len(), steps_of_block.len()), (4, steps), "{phase:?}");
            assert_eq!(plain[0], &Step::Plain(&ops[0]));
        }
    }

    #[test]
    fn outputs_that_lie_together_are_joined() {
        let part = |weight, out, add| Part { weight, out, add };
        let qkv = [part(Linear::Q, Slot::Q, false), part(Linear::K, Slot::K, false), part(Linear::V, Slot::V, false)];
        assert_eq!(joined(&qkv), [&qkv[..]]);
        let apart = [part(Linear::V, Slot::V, false), part(Linear::Q, Slot::Q, false), part(Linear::K, Slot::K, false)];
        assert_eq!(joined(&apart), [&apart[..1], &apart[1..]]);
        let adding = [part(Linear::Gate, Slot::Gate, true), part(Linear::Up, Slot::Up, false)];
        assert_eq!(joined(&adding), [&adding[..1], &adding[1..]]);
    }
}
