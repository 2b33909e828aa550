//! Model family -> op lists. The formulas are in the family's paper or reference code, named at each list.

use super::{
    MtpGraph,
    op::{Op, Part, Slot},
};
use crate::model::{Config, Linear, Norm};

/// The ops of a block whose projections have a norm on each input, so that none shares its quantised input with
/// another: bitnet.cpp's graphs `qwen3` and `gemma3` (July 2026), and transformers' `BitLinear` with `use_rms_norm`.
fn input_norm_ops(config: &Config) -> Vec<Op> {
    let norms = config.family.block_norms();
    let copy = |norm| Op::Norm { input: Slot::Hidden, norm, out: Slot::Normed, add: false };
    let product = |ops: &mut Vec<Op>, input, norm, weight, out| {
        ops.push(Op::NormQuantize { input, norm: Some(norm) });
        ops.push(Op::Linear { parts: vec![Part { weight, out, add: out == Slot::Hidden }] });
    };
    // Straight into the residual stream, or through a norm.
    let residual = |ops: &mut Vec<Op>, input, norm, weight, post| {
        if norms.contains(&post) {
            product(ops, input, norm, weight, Slot::Normed);
            ops.push(Op::Norm { input: Slot::Normed, norm: post, out: Slot::Hidden, add: true });
        } else {
            product(ops, input, norm, weight, Slot::Hidden);
        }
    };
    let mut ops = vec![copy(Norm::Attn)];
    product(&mut ops, Slot::Normed, Norm::QIn, Linear::Q, Slot::Q);
    product(&mut ops, Slot::Normed, Norm::KIn, Linear::K, Slot::K);
    product(&mut ops, Slot::Normed, Norm::VIn, Linear::V, Slot::V);
    ops.extend((!config.biased.is_empty()).then_some(Op::Bias));
    ops.extend(norms.contains(&Norm::QHead).then_some(Op::HeadNorm { slot: Slot::Q, norm: Norm::QHead }));
    ops.extend(norms.contains(&Norm::KHead).then_some(Op::HeadNorm { slot: Slot::K, norm: Norm::KHead }));
    ops.extend([Op::Rope, Op::Attention]);
    residual(&mut ops, Slot::Attn, Norm::OIn, Linear::O, Norm::PostAttn);
    ops.extend(config.biased.contains(&Linear::O).then_some(Op::OutputBias));
    ops.push(copy(Norm::Ffn));
    product(&mut ops, Slot::Normed, Norm::GateIn, Linear::Gate, Slot::Gate);
    product(&mut ops, Slot::Normed, Norm::UpIn, Linear::Up, Slot::Up);
    ops.push(Op::Gate(config.activation));
    residual(&mut ops, Slot::Gate, Norm::DownIn, Linear::Down, Norm::PostFfn);
    ops
}

/// The ops of a block of attention.
///
/// - BitNet b1.58 2B-4T: Hugging Face `modeling_bitnet.py`: two sub-norms, before `o` and before `down`.
/// - Llama: `modeling_llama.py`; the Falcon3 and Llama3-8B-1.58 checkpoints only change sizes (`attention_bias`: biases on q,
///   k, v and the output), and MiniCPM's factors are in
///   [`Config::embedding_scale`], [`Config::eps`] and the output norm.
/// - Qwen2: `modeling_qwen2.py`: biases on q, k and v.
/// - Qwen3: `modeling_qwen3.py`: per-head norms of q and k before RoPE.
/// - Qwen3.5: `modeling_qwen3_5.py`: as Qwen3, with a gate on attention's output.
fn attention_ops(config: &Config, layer: usize) -> Vec<Op> {
    if config.input_norms.is_some() {
        return input_norm_ops(config);
    }
    let optional = |norm| config.family.block_norms().contains(&norm).then_some(norm);
    let gated = config.has_output_gate();
    let q = if gated { Slot::GatedQ } else { Slot::Q };

    let mut ops = Vec::new();
    let inputs = [part(Linear::Q, q), part(Linear::K, Slot::K), part(Linear::V, Slot::V)];
    products(&mut ops, config, layer, (Slot::Hidden, Some(Norm::Attn)), &inputs);
    ops.extend(gated.then_some(Op::SplitGate));
    ops.extend((!config.biased.is_empty()).then_some(Op::Bias));
    ops.extend(optional(Norm::QHead).map(|norm| Op::HeadNorm { slot: Slot::Q, norm }));
    ops.extend(optional(Norm::KHead).map(|norm| Op::HeadNorm { slot: Slot::K, norm }));
    ops.extend([Op::Rope, Op::Attention]);
    ops.extend(gated.then_some(Op::OutputGate));
    products(&mut ops, config, layer, (Slot::Attn, optional(Norm::AttnSub)), &[residual(Linear::O)]);
    ops.extend(config.biased.contains(&Linear::O).then_some(Op::OutputBias));
    feed_forward(&mut ops, config, layer);
    ops
}

/// The ops of a block with a gated DeltaNet: transformers' `Qwen3_5GatedDeltaNet`, in the order of heads that llama.cpp's
/// files have. Decay and update take the norm's output in f32 and unrotated.
fn delta_ops(config: &Config, layer: usize) -> Vec<Op> {
    let mut ops =
        vec![Op::Norm { input: Slot::Hidden, norm: Norm::Attn, out: Slot::Normed, add: false }, Op::DeltaGates];
    let inputs = [part(Linear::DeltaQkv, Slot::DeltaQkv), part(Linear::DeltaGate, Slot::DeltaGate)];
    products(&mut ops, config, layer, (Slot::Normed, None), &inputs);
    let rotation = config.rotation.as_ref();
    let grouped = rotation.is_some_and(|of| of.v_grouped && of.folds(layer, Linear::DeltaOut));
    ops.extend([Op::DeltaConv, Op::DeltaRule, Op::DeltaNorm { grouped }]);
    products(&mut ops, config, layer, (Slot::Delta, None), &[residual(Linear::DeltaOut)]);
    feed_forward(&mut ops, config, layer);
    ops
}

fn feed_forward(ops: &mut Vec<Op>, config: &Config, layer: usize) {
    let sub_norm = config.family.block_norms().contains(&Norm::FfnSub).then_some(Norm::FfnSub);
    let inputs = [part(Linear::Gate, Slot::Gate), part(Linear::Up, Slot::Up)];
    products(ops, config, layer, (Slot::Hidden, Some(Norm::Ffn)), &inputs);
    ops.push(Op::Gate(config.activation));
    products(ops, config, layer, (Slot::Gate, sub_norm), &[residual(Linear::Down)]);
}

/// The ops of a block of multi-token prediction behind the join of its two inputs: llama.cpp's graph of `qwen35`, whose
/// matrices may be of any type.
pub(super) fn mtp_ops(config: &Config) -> MtpGraph {
    let folds = |weight| config.rotation.as_ref().is_some_and(|rotation| rotation.folds(config.layers, weight));
    let dense = |ops: &mut Vec<Op>, input, parts: &[Part]| {
        ops.extend(folds(parts[0].weight).then_some(Op::Rotate { slot: input }));
        ops.push(Op::Dense { input, parts: parts.to_vec() });
    };
    let norm = |norm| Op::Norm { input: Slot::Hidden, norm, out: Slot::Normed, add: false };
    let head_norm = |slot, norm| Op::HeadNorm { slot, norm };
    let kv = [part(Linear::K, Slot::K), part(Linear::V, Slot::V)];

    let mut keys = vec![norm(Norm::Attn)];
    dense(&mut keys, Slot::Normed, &kv);
    keys.extend([head_norm(Slot::K, Norm::KHead), Op::Rope, Op::Append]);

    let mut block = vec![norm(Norm::Attn)];
    dense(&mut block, Slot::Normed, &[&kv[..], &[part(Linear::Q, Slot::GatedQ)]].concat());
    block.extend([Op::SplitGate, head_norm(Slot::Q, Norm::QHead), head_norm(Slot::K, Norm::KHead)]);
    block.extend([Op::Rope, Op::Attention, Op::OutputGate]);
    dense(&mut block, Slot::Attn, &[residual(Linear::O)]);
    block.push(norm(Norm::Ffn));
    dense(&mut block, Slot::Normed, &[part(Linear::Gate, Slot::Gate), part(Linear::Up, Slot::Up)]);
    block.push(Op::Gate(config.activation));
    dense(&mut block, Slot::Gate, &[residual(Linear::Down)]);
    MtpGraph { keys, block }
}

fn part(weight: Linear, out: Slot) -> Part {
    Part { weight, out, add: false }
}

fn residual(weight: Linear) -> Part {
    Part { weight, out: Slot::Hidden, add: true }
}

/// Quantises an input and multiplies it: once for the matrices that are stored as they are, once, rotated, for the others.
fn products(ops: &mut Vec<Op>, config: &Config, layer: usize, (input, norm): (Slot, Option<Norm>), parts: &[Part]) {
    let rotation = config.rotation.as_ref();
    let folds = |part: &Part| rotation.is_some_and(|rotation| rotation.folds(layer, part.weight));
    let (folded, plain): (Vec<Part>, Vec<Part>) = parts.iter().partition(|part| folds(part));
    if !plain.is_empty() {
        ops.extend([Op::NormQuantize { input, norm }, Op::Linear { parts: plain }]);
    }
    if !folded.is_empty() {
        ops.extend([Op::RotateQuantize { input, norm }, Op::Linear { parts: folded }]);
    }
}

/// The ops of a layer.
pub(super) fn layer_ops(config: &Config, layer: usize) -> Vec<Op> {
    if config.is_recurrent(layer) { delta_ops(config, layer) } else { attention_ops(config, layer) }
}

/// The ops of every layer of a model whose layers are alike.
pub fn block_ops(config: &Config) -> Vec<Op> {
    layer_ops(config, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gguf::{Metadata, Value},
        model::{Activation, Family, InputNorms},
    };

    fn config(arch: &str) -> Config {
        let mut metadata = Metadata::default();
        metadata.set("general.architecture", Value::String(arch.into()));
        for (key, value) in [
            ("block_count", 2),
            ("context_length", 64),
            ("embedding_length", 256),
            ("feed_forward_length", 768),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
        ] {
            metadata.set(format!("{arch}.{key}"), Value::U32(value));
        }
        metadata.set(format!("{arch}.attention.layer_norm_rms_epsilon"), Value::F32(1e-6));
        Config::from_metadata(&metadata, 100).unwrap()
    }

    /// transformers' `Qwen3DecoderLayer`: norm, q and k with a norm on each head before the rotation, attention, o; norm,
    /// silu(gate) * up, down; nothing before o and down.
    #[test]
    fn a_qwen3_block() {
        let residual = |weight| Op::Linear { parts: vec![Part { weight, out: Slot::Hidden, add: true }] };
        assert_eq!(
            block_ops(&config("qwen3")),
            [
                Op::NormQuantize { input: Slot::Hidden, norm: Some(Norm::Attn) },
                Op::Linear {
                    parts: vec![part(Linear::Q, Slot::Q), part(Linear::K, Slot::K), part(Linear::V, Slot::V)]
                },
                Op::HeadNorm { slot: Slot::Q, norm: Norm::QHead },
                Op::HeadNorm { slot: Slot::K, norm: Norm::KHead },
                Op::Rope,
                Op::Attention,
                Op::NormQuantize { input: Slot::Attn, norm: None },
                residual(Linear::O),
                Op::NormQuantize { input: Slot::Hidden, norm: Some(Norm::Ffn) },
                Op::Linear { parts: vec![part(Linear::Gate, Slot::Gate), part(Linear::Up, Slot::Up)] },
                Op::Gate(Activation::Silu),
                Op::NormQuantize { input: Slot::Gate, norm: None },
                residual(Linear::Down),
            ]
        );
    }

    /// bitnet.cpp's `gemma3` graph for bitnet-embedding-270m: every projection has the norm of its own input, and what o
    /// and down give is normed before it is added.
    #[test]
    fn a_gemma3_block_of_an_embedding_model() {
        let copy = |norm| Op::Norm { input: Slot::Hidden, norm, out: Slot::Normed, add: false };
        let back = |norm| Op::Norm { input: Slot::Normed, norm, out: Slot::Hidden, add: true };
        let product = |input, norm, weight, out| {
            [Op::NormQuantize { input, norm: Some(norm) }, Op::Linear { parts: vec![part(weight, out)] }]
        };
        let head = |slot, norm| Op::HeadNorm { slot, norm };
        let expected = [
            vec![copy(Norm::Attn)],
            product(Slot::Normed, Norm::QIn, Linear::Q, Slot::Q).to_vec(),
            product(Slot::Normed, Norm::KIn, Linear::K, Slot::K).to_vec(),
            product(Slot::Normed, Norm::VIn, Linear::V, Slot::V).to_vec(),
            vec![head(Slot::Q, Norm::QHead), head(Slot::K, Norm::KHead), Op::Rope, Op::Attention],
            product(Slot::Attn, Norm::OIn, Linear::O, Slot::Normed).to_vec(),
            vec![back(Norm::PostAttn), copy(Norm::Ffn)],
            product(Slot::Normed, Norm::GateIn, Linear::Gate, Slot::Gate).to_vec(),
            product(Slot::Normed, Norm::UpIn, Linear::Up, Slot::Up).to_vec(),
            vec![Op::Gate(Activation::GeluTanh)],
            product(Slot::Gate, Norm::DownIn, Linear::Down, Slot::Normed).to_vec(),
            vec![back(Norm::PostFfn)],
        ];
        assert_eq!(block_ops(&config("gemma3")), expected.concat());
        // Qwen 3 adds both straight to the stream.
        let input_norms = Some(InputNorms { eps: 1e-6, embedder: true });
        let qwen = Config { input_norms, ..config("qwen3") };
        let ops = block_ops(&qwen);
        assert_eq!(ops.len(), expected.concat().len() - 2);
        let adding = |op: &&Op| matches!(op, Op::Linear { parts } if parts[0].add && parts[0].out == Slot::Hidden);
        assert_eq!(ops.iter().filter(adding).count(), 2);
        // Llama has no norms on its heads either.
        let llama = Config { input_norms, ..config("llama") };
        assert_eq!(block_ops(&llama).len(), ops.len() - 2);
    }

    /// The families differ in norms and activation only.
    #[test]
    fn what_the_families_add() {
        for (arch, family, head_norms, sub_norms, activation) in [
            ("bitnet-b1.58", Family::BitNet, 0, 2, Activation::Relu2),
            ("bitnet", Family::BitNet, 0, 2, Activation::Silu),
            ("llama", Family::Llama, 0, 0, Activation::Silu),
            ("minicpm", Family::Llama, 0, 0, Activation::Silu),
            ("qwen2", Family::Qwen2, 0, 0, Activation::Silu),
            ("qwen3", Family::Qwen3, 2, 0, Activation::Silu),
        ] {
            let config = config(arch);
            let ops = block_ops(&config);
            assert_eq!(config.family, family, "{arch}");
            let count = |wanted: fn(&Op) -> bool| ops.iter().filter(|op| wanted(op)).count();
            assert_eq!(count(|op| matches!(op, Op::HeadNorm { .. })), head_norms, "{arch}");
            let sub_norm = |op: &Op| matches!(op, Op::NormQuantize { norm: Some(Norm::AttnSub | Norm::FfnSub), .. });
            assert_eq!(count(sub_norm), sub_norms, "{arch}");
            assert_eq!(count(|op| matches!(op, Op::NormQuantize { .. })), 4, "{arch}");
            assert!(ops.contains(&Op::Gate(activation)), "{arch}");
            // Right behind the products.
            assert_eq!(ops.iter().position(|op| *op == Op::Bias), (arch == "qwen2").then_some(2), "{arch}");
            let used: Vec<Norm> = ops
                .iter()
                .filter_map(|op| match op {
                    Op::NormQuantize { norm, .. } => *norm,
                    Op::HeadNorm { norm, .. } => Some(*norm),
                    _ => None,
                })
                .collect();
            assert_eq!(used.len(), family.block_norms().len(), "{arch}: {used:?}");
            assert!(family.block_norms().iter().all(|norm| used.contains(norm)), "{arch}: {used:?}");
        }
    }
}
