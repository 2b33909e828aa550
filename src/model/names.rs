//! GGUF tensor names by role: the only place with such strings, as llama.cpp's and bitnet.cpp's converters write them.

use super::{Family, Linear, Norm};

pub(crate) const TOKEN_EMBD: &str = "token_embd.weight";
pub(crate) const OUTPUT_NORM: &str = "output_norm.weight";
pub(crate) const HEAD_NORM: &str = "output_norm_in.weight";
pub(crate) const OUTPUT: &str = "output.weight";
pub(crate) const ROPE_FREQS: &str = "rope_freqs.weight";
/// Factors of models with [`Rope::LONG`](super::Rope::LONG), within their original context and beyond.
pub(crate) const ROPE_SHORT: &str = "rope_factors_short.weight";
pub(crate) const ROPE_LONG: &str = "rope_factors_long.weight";

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
        Linear::DeltaQkv => "attn_qkv",
        Linear::DeltaGate => "attn_gate",
        Linear::DeltaOut => "ssm_out",
    };
    format!("blk.{layer}.{name}.weight")
}

/// Name of the bias of a projection.
pub fn bias(layer: usize, role: Linear) -> String {
    linear(layer, role).replace(".weight", ".bias")
}

/// The projection of that name, and its block.
pub(crate) fn projection(name: &str) -> Option<(usize, Linear)> {
    let layer = layer(name)?;
    Linear::ALL.into_iter().find(|&role| linear(layer, role) == name).map(|role| (layer, role))
}

/// The block that a tensor is of.
pub(crate) fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// The small tensors of a gated DeltaNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaTensor {
    /// See [`super::DeltaWeights`].
    Alpha,
    /// See [`super::DeltaWeights`].
    Beta,
    /// See [`super::DeltaWeights`].
    Conv,
    /// See [`super::DeltaWeights`].
    DtBias,
    /// See [`super::DeltaWeights`].
    Rate,
}

impl DeltaTensor {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Alpha, Self::Beta, Self::Conv, Self::DtBias, Self::Rate];
}

/// Name of a small tensor of block `layer`.
pub fn delta(layer: usize, tensor: DeltaTensor) -> String {
    let name = match tensor {
        DeltaTensor::Alpha => "ssm_alpha.weight",
        DeltaTensor::Beta => "ssm_beta.weight",
        DeltaTensor::Conv => "ssm_conv1d.weight",
        DeltaTensor::DtBias => "ssm_dt.bias",
        DeltaTensor::Rate => "ssm_a",
    };
    format!("blk.{layer}.{name}")
}

/// The tensors that a block of multi-token prediction has beside those of a block of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtpTensor {
    /// See [`super::MtpBlock`].
    Join,
    /// See [`super::MtpBlock`].
    EmbeddingNorm,
    /// See [`super::MtpBlock`].
    HiddenNorm,
    /// See [`super::MtpBlock`].
    HeadNorm,
    /// See [`super::MtpBlock`].
    TokenEmbd,
    /// See [`super::MtpBlock`].
    Output,
}

/// Name of such a tensor of block `layer`.
pub fn mtp(layer: usize, tensor: MtpTensor) -> String {
    let name = match tensor {
        MtpTensor::Join => "eh_proj",
        MtpTensor::EmbeddingNorm => "enorm",
        MtpTensor::HiddenNorm => "hnorm",
        MtpTensor::HeadNorm => "shared_head_norm",
        MtpTensor::TokenEmbd => "embed_tokens",
        MtpTensor::Output => "shared_head_head",
    };
    format!("blk.{layer}.nextn.{name}.weight")
}

/// Name of the one-element tensor that the product of a projection is multiplied by, where there is one.
pub fn linear_scale(layer: usize, role: Linear) -> String {
    scale_of(&linear(layer, role)).unwrap_or_else(|| unreachable!("names of projections end in .weight"))
}

/// As [`linear_scale`], for a tensor by its name.
pub(crate) fn scale_of(name: &str) -> Option<String> {
    name.strip_suffix(".weight").map(|stem| format!("{stem}.scale"))
}

/// Name of a norm; `layer` is ignored for those outside the blocks.
pub fn norm(family: Family, layer: usize, role: Norm) -> String {
    let name = match role {
        Norm::Attn => "attn_norm",
        Norm::QHead => "attn_q_norm",
        Norm::KHead => "attn_k_norm",
        Norm::AttnSub => "attn_sub_norm",
        // Not behind attention: its residual is added before.
        Norm::Ffn if family == Family::Qwen35 => "post_attention_norm",
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
        Norm::DeltaHead => "ssm_norm",
        Norm::Output => return OUTPUT_NORM.to_owned(),
        Norm::HeadIn => return HEAD_NORM.to_owned(),
    };
    format!("blk.{layer}.{name}.weight")
}
