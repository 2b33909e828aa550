//! Which tensors a model has: their names in a GGUF file and in a checkpoint, and their shapes (formats.md 4.10).

use crate::{
    gguf::{TensorSpec, TensorType},
    model::{Config, Family, Linear, Norm},
};

/// The norms of a block, in the order they are used.
pub(crate) fn norms(family: Family) -> impl Iterator<Item = Norm> {
    Norm::BLOCK.into_iter().filter(move |norm| match norm {
        Norm::QHead | Norm::KHead => family == Family::Qwen3,
        Norm::AttnSub | Norm::FfnSub => family == Family::BitNet,
        Norm::Attn | Norm::Ffn => true,
        Norm::Output => false,
    })
}

/// GGUF name, checkpoint names (the second is 1bitLLM's), size (formats.md 4.10).
pub(crate) fn norm_names(model: &Config, role: Norm) -> (&'static str, &'static [&'static str], usize) {
    match role {
        Norm::Attn => ("attn_norm", &["input_layernorm"], model.dim),
        Norm::QHead => ("attn_q_norm", &["self_attn.q_norm"], model.head_dim),
        Norm::KHead => ("attn_k_norm", &["self_attn.k_norm"], model.head_dim),
        Norm::AttnSub => {
            ("attn_sub_norm", &["self_attn.attn_sub_norm", "self_attn.inner_attn_ln"], model.heads * model.head_dim)
        }
        Norm::Ffn => ("ffn_norm", &["post_attention_layernorm"], model.dim),
        Norm::FfnSub => ("ffn_sub_norm", &["mlp.ffn_sub_norm", "mlp.ffn_layernorm"], model.ffn_dim),
        Norm::Output => ("output_norm", &["norm"], model.dim),
    }
}

/// GGUF name, checkpoint name, rows, columns (formats.md 4.10).
pub(crate) fn projection_names(model: &Config, role: Linear) -> (&'static str, &'static str, usize, usize) {
    let (q, kv) = (model.heads * model.head_dim, model.kv_heads * model.head_dim);
    match role {
        Linear::Q => ("attn_q", "self_attn.q_proj", q, model.dim),
        Linear::K => ("attn_k", "self_attn.k_proj", kv, model.dim),
        Linear::V => ("attn_v", "self_attn.v_proj", kv, model.dim),
        Linear::O => ("attn_output", "self_attn.o_proj", model.dim, q),
        Linear::Gate => ("ffn_gate", "mlp.gate_proj", model.ffn_dim, model.dim),
        Linear::Up => ("ffn_up", "mlp.up_proj", model.ffn_dim, model.dim),
        Linear::Down => ("ffn_down", "mlp.down_proj", model.dim, model.ffn_dim),
    }
}

/// A tensor of the output; `sizes` slowest first, as in the checkpoint.
pub(crate) fn spec(name: String, sizes: &[usize], ty: TensorType) -> TensorSpec {
    TensorSpec { name, dims: sizes.iter().rev().map(|&size| size as u64).collect(), ty }
}

/// Bytes of a tensor in the file, without padding. The shape has been checked against the type.
pub(crate) fn bytes(spec: &TensorSpec) -> u64 {
    spec.ty.size_bytes(&spec.dims).expect("the shape was checked when the tensor was planned")
}
