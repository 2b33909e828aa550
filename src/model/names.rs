//! GGUF tensor names by role: the only place with such strings, as llama.cpp's and bitnet.cpp's converters write them.

use super::{Linear, Norm};

pub(crate) const TOKEN_EMBD: &str = "token_embd.weight";
pub(crate) const OUTPUT_NORM: &str = "output_norm.weight";
pub(crate) const OUTPUT: &str = "output.weight";
pub(crate) const ROPE_FREQS: &str = "rope_freqs.weight";

/// Name of a projection of block `layer`.
pub fn linear(layer: usize, role: Linear) -> String {
    let name = match role {
        Linear::Q => "attn_q",
        Linear::K => "attn_k",
        Linear::V => "attn_v",
        Linear::O => "attn_output",
        Linear::Gate => "ffn_gate",
        Linear::Up => "ffn_up",
        Linear::Down => "ffn_down",
    };
    format!("blk.{layer}.{name}.weight")
}

/// Name of the one-element tensor that the product of a projection is multiplied by, where there is one.
pub fn linear_scale(layer: usize, role: Linear) -> String {
    scale_of(&linear(layer, role)).unwrap_or_else(|| unreachable!("names of projections end in .weight"))
}

/// As [`linear_scale`], for a tensor by its name.
pub(crate) fn scale_of(name: &str) -> Option<String> {
    name.strip_suffix(".weight").map(|stem| format!("{stem}.scale"))
}

/// Name of a norm; `layer` is ignored for the output norm.
pub fn norm(layer: usize, role: Norm) -> String {
    let name = match role {
        Norm::Attn => "attn_norm",
        Norm::QHead => "attn_q_norm",
        Norm::KHead => "attn_k_norm",
        Norm::AttnSub => "attn_sub_norm",
        Norm::Ffn => "ffn_norm",
        Norm::FfnSub => "ffn_sub_norm",
        Norm::QIn => "attn_q_norm_in",
        Norm::KIn => "attn_k_norm_in",
        Norm::VIn => "attn_v_norm_in",
        Norm::OIn => "attn_output_norm_in",
        Norm::GateIn => "ffn_gate_norm_in",
        Norm::UpIn => "ffn_up_norm_in",
        Norm::DownIn => "ffn_down_norm_in",
        Norm::PostAttn => "post_attention_norm",
        Norm::PostFfn => "post_ffw_norm",
        Norm::Output => return OUTPUT_NORM.to_owned(),
    };
    format!("blk.{layer}.{name}.weight")
}
