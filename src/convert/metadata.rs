//! Hyperparameters -> the metadata of the GGUF file.

use super::TernaryType;
use crate::{
    gguf::{Metadata, Value},
    model::{Activation, Config, Family},
};

/// The pairs that describe a model of I2_S matrices, in the order of the official 2B-4T file (`ggml-model-i2_s.gguf`).
pub(crate) fn describe(model: &Config) -> Metadata {
    let mut metadata = Metadata::default();
    let arch = &model.arch;
    metadata.set("general.architecture", Value::String(arch.clone()));
    if !model.name.is_empty() {
        metadata.set("general.name", Value::String(model.name.clone()));
    }
    let mut number = |key: &str, value: usize| {
        let value = u32::try_from(value).expect("config.json was checked: counts are below 2^31");
        metadata.set(format!("{arch}.{key}"), Value::U32(value));
    };
    number("vocab_size", model.vocab);
    number("context_length", model.context);
    number("embedding_length", model.dim);
    number("block_count", model.layers);
    number("feed_forward_length", model.ffn_dim);
    number("rope.dimension_count", model.rope.dims);
    number("attention.head_count", model.heads);
    number("attention.head_count_kv", model.kv_heads);
    // Readers assume embedding_length / head_count, except for qwen3, where they expect the keys.
    if matches!(model.family, Family::Qwen3 | Family::Qwen3InputNorms | Family::Gemma3InputNorms)
        || model.heads * model.head_dim != model.dim
    {
        number("attention.key_length", model.head_dim);
        number("attention.value_length", model.head_dim);
    }
    metadata.set(format!("{arch}.attention.layer_norm_rms_epsilon"), Value::F32(model.rms_eps));
    metadata.set(format!("{arch}.rope.freq_base"), Value::F32(model.rope.base));
    if model.rope.position_scale != 1.0 {
        metadata.set(format!("{arch}.rope.scaling.type"), Value::String("linear".into()));
        metadata.set(format!("{arch}.rope.scaling.factor"), Value::F32(1.0 / model.rope.position_scale));
    }
    // The other families have one activation. For BitNet, readers guess by the architecture's name and differ.
    if model.family == Family::BitNet {
        let activation = match model.activation {
            Activation::Relu2 => "relu2",
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
        };
        metadata.set(format!("{arch}.hidden_activation"), Value::String(activation.into()));
    }
    metadata.set("general.file_type", Value::U32(TernaryType::default().file_type()));
    metadata.set("general.quantization_version", Value::U32(2));
    metadata
}
