//! Model family -> op lists. The formulas are in the family's paper or reference code, named at each list.

use super::op::{Op, Part, Slot};
use crate::model::{Config, Linear, Norm};

/// The ops of one transformer block; every block of a model runs the same list.
///
/// - BitNet b1.58 2B-4T: Hugging Face `modeling_bitnet.py`: two sub-norms, before `o` and before `down`.
/// - Llama: `modeling_llama.py`; the Falcon3 and Llama3-8B-1.58 checkpoints only change sizes.
/// - Qwen3: `modeling_qwen3.py`: per-head norms of q and k before RoPE.
pub fn block_ops(config: &Config) -> Vec<Op> {
    let part = |weight, out| Part { weight, out, add: false };
    let residual = |weight| Op::Linear { parts: vec![Part { weight, out: Slot::Hidden, add: true }] };
    let optional = |norm| config.family.block_norms().contains(&norm).then_some(norm);

    let mut ops = vec![
        Op::NormQuantize { input: Slot::Hidden, norm: Some(Norm::Attn) },
        Op::Linear { parts: vec![part(Linear::Q, Slot::Q), part(Linear::K, Slot::K), part(Linear::V, Slot::V)] },
    ];
    ops.extend(optional(Norm::QHead).map(|norm| Op::HeadNorm { slot: Slot::Q, norm }));
    ops.extend(optional(Norm::KHead).map(|norm| Op::HeadNorm { slot: Slot::K, norm }));
    ops.extend([
        Op::Rope,
        Op::Attention,
        Op::NormQuantize { input: Slot::Attn, norm: optional(Norm::AttnSub) },
        residual(Linear::O),
        Op::NormQuantize { input: Slot::Hidden, norm: Some(Norm::Ffn) },
        Op::Linear { parts: vec![part(Linear::Gate, Slot::Gate), part(Linear::Up, Slot::Up)] },
        Op::Gate(config.activation),
        Op::NormQuantize { input: Slot::Gate, norm: optional(Norm::FfnSub) },
        residual(Linear::Down),
    ]);
    ops
}
