//! Tensor names of Hugging Face checkpoints by role, without the prefix `model.`.

use crate::model::{Family, Linear, Norm, names::DeltaTensor};

pub(super) const TOKEN_EMBD: &str = "embed_tokens.weight";
pub(super) const OUTPUT: &str = "lm_head.weight";
pub(super) const OUTPUT_SCALE: &str = "lm_head.weight_scale";
/// Beginnings of the names of a vision part, in transformers and in MLX.
pub(super) const VISION: &[&str] = &["visual.", "vision_tower."];
/// Beginning of the names of blocks that predict further tokens ahead.
pub(super) const MTP: &[&str] = &["mtp."];

/// The names a norm may have: 1bitLLM's models call the sub-norms differently, and BitNet's embedding models those of
/// inputs than transformers.
pub(super) fn norm(layer: usize, role: Norm, family: Family) -> Vec<String> {
    let names: &[&str] = match role {
        Norm::Attn => &["input_layernorm"],
        Norm::QHead => &["self_attn.q_norm"],
        Norm::KHead => &["self_attn.k_norm"],
        Norm::AttnSub => &["self_attn.attn_sub_norm", "self_attn.inner_attn_ln"],
        Norm::Ffn if family == Family::Gemma3 => &["pre_feedforward_layernorm"],
        Norm::Ffn => &["post_attention_layernorm"],
        Norm::FfnSub => &["mlp.ffn_sub_norm", "mlp.ffn_layernorm"],
        Norm::QIn => &["self_attn.q_proj.norm", "self_attn.q_proj.rms_norm"],
        Norm::KIn => &["self_attn.k_proj.norm", "self_attn.k_proj.rms_norm"],
        Norm::VIn => &["self_attn.v_proj.norm", "self_attn.v_proj.rms_norm"],
        Norm::OIn => &["self_attn.o_proj.norm", "self_attn.o_proj.rms_norm"],
        Norm::GateIn => &["mlp.gate_proj.norm", "mlp.gate_proj.rms_norm"],
        Norm::UpIn => &["mlp.up_proj.norm", "mlp.up_proj.rms_norm"],
        Norm::DownIn => &["mlp.down_proj.norm", "mlp.down_proj.rms_norm"],
        // Only Gemma 3 has these, where this name belongs to another norm than in all other models.
        Norm::PostAttn => &["post_attention_layernorm"],
        Norm::PostFfn => &["post_feedforward_layernorm"],
        Norm::DeltaHead => &["linear_attn.norm"],
        Norm::Output => return vec!["norm.weight".to_owned()],
        Norm::HeadIn => return vec!["lm_head.rms_norm.weight".to_owned()],
    };
    names.iter().map(|name| format!("layers.{layer}.{name}.weight")).collect()
}

/// The name of a projection, without `.weight` or `.weight_scale`.
pub(super) fn linear(layer: usize, role: Linear) -> String {
    let name = match role {
        Linear::Q => "self_attn.q_proj",
        Linear::K => "self_attn.k_proj",
        Linear::V => "self_attn.v_proj",
        Linear::O => "self_attn.o_proj",
        Linear::Gate => "mlp.gate_proj",
        Linear::Up => "mlp.up_proj",
        Linear::Down => "mlp.down_proj",
        Linear::DeltaQkv => "linear_attn.in_proj_qkv",
        Linear::DeltaGate => "linear_attn.in_proj_z",
        Linear::DeltaOut => "linear_attn.out_proj",
    };
    format!("layers.{layer}.{name}")
}

/// The name of a small tensor of a gated DeltaNet.
pub(super) fn delta(layer: usize, tensor: DeltaTensor) -> String {
    let name = match tensor {
        DeltaTensor::Alpha => "in_proj_a.weight",
        DeltaTensor::Beta => "in_proj_b.weight",
        DeltaTensor::Conv => "conv1d.weight",
        DeltaTensor::DtBias => "dt_bias",
        DeltaTensor::Rate => "A_log",
    };
    format!("layers.{layer}.linear_attn.{name}")
}

/// True for buffers that old transformers versions saved with the weights and that are no longer read.
pub(super) fn is_buffer(name: &str) -> bool {
    [".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias"].iter().any(|end| name.ends_with(end))
}
