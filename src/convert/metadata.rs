//! Hyperparameters -> the metadata of the GGUF file.

use super::TernaryType;
use crate::{
    gguf::{Array, Metadata, Value},
    model::{Activation, Config, Family, InputNorms, Multipliers, Rope, Rotation, names},
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
    number("block_count", model.layers + model.mtp_blocks);
    number("feed_forward_length", model.ffn_dim);
    number("rope.dimension_count", model.rope.dims);
    number("attention.head_count", model.heads);
    number("attention.head_count_kv", model.kv_heads);
    // Readers assume embedding_length / head_count, except for qwen3, where they expect the keys.
    if matches!(model.family, Family::Qwen3 | Family::Gemma3 | Family::Qwen35)
        || model.heads * model.head_dim != model.dim
    {
        number("attention.key_length", model.head_dim);
        number("attention.value_length", model.head_dim);
    }
    if let Some(delta) = &model.delta {
        number("ssm.conv_kernel", delta.kernel);
        number("ssm.state_size", delta.head_dim);
        number("ssm.group_count", delta.key_heads);
        number("ssm.time_step_rank", delta.value_heads);
        number("ssm.inner_size", delta.value_width());
        if model.mtp_blocks > 0 {
            number("nextn_predict_layers", model.mtp_blocks);
        }
        if let Some(interval) = interval(&delta.layers) {
            number("full_attention_interval", interval);
        }
        // llama.cpp does not load the family without; a checkpoint's own list replaces it.
        let sections = Value::Array(Array::I32(usual_sections(model.rope.dims / 2).to_vec()));
        metadata.set(format!("{arch}.rope.dimension_sections"), sections);
    }
    if let Some(delta) = model.delta.as_ref().filter(|delta| interval(&delta.layers).is_none()) {
        let flags = Value::Array(Array::Bool(delta.layers.clone()));
        metadata.set(format!("{arch}.attention.recurrent_layers"), flags);
    }
    metadata.set(format!("{arch}.attention.layer_norm_rms_epsilon"), Value::F32(model.rms_eps));
    metadata.set(format!("{arch}.rope.freq_base"), Value::F32(model.rope.base));
    if arch == Multipliers::ARCH {
        for (key, value) in Multipliers::KEYS.iter().zip(model.multipliers.values()) {
            metadata.set(format!("{arch}.{key}"), Value::F32(value));
        }
    }
    if model.rope.position_scale != 1.0 {
        metadata.set(format!("{arch}.rope.scaling.type"), Value::String("linear".into()));
        metadata.set(format!("{arch}.rope.scaling.factor"), Value::F32(1.0 / model.rope.position_scale));
    }
    if let Some(yarn) = model.rope.yarn {
        let mut set = |key: &str, value| metadata.set(format!("{arch}.rope.scaling.{key}"), value);
        set("type", Value::String("yarn".into()));
        set("factor", Value::F32(yarn.factor));
        set("original_context_length", Value::U32(yarn.original_context as u32));
        set("yarn_beta_fast", Value::F32(yarn.beta_fast));
        set("yarn_beta_slow", Value::F32(yarn.beta_slow));
        set("attn_factor", Value::F32(yarn.attention_factor));
    }
    if let Some(long) = model.rope.long {
        let mut set = |key: &str, value| metadata.set(format!("{arch}.rope.scaling.{key}"), value);
        set("type", Value::String(Rope::LONG.into()));
        set("original_context_length", Value::U32(long.original_context as u32));
        set("attn_factor", Value::F32(long.magnitude));
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
    if let Some(norms) = model.input_norms.filter(|norms| !norms.embedder) {
        metadata.set(format!("{arch}.{}", InputNorms::KEY), Value::F32(norms.eps));
    }
    if let Some(rotation) = &model.rotation {
        describe_rotation(rotation, &mut metadata);
    }
    metadata
}

/// Pairs of dimensions that turn with time, height, width and nothing: thirds, as published models have them (11, 11, 10,
/// 0 of 32). All turn with the position where there are no images.
fn usual_sections(pairs: usize) -> [i32; 4] {
    let share = |part: usize| ((pairs + 2 - part) / 3) as i32;
    [share(0), share(1), share(2), 0]
}

/// The distance of attention layers, where every so many layers are one.
fn interval(recurrent: &[bool]) -> Option<usize> {
    let interval = recurrent.iter().position(|recurrent| !recurrent)? + 1;
    recurrent.iter().zip(1..).all(|(&recurrent, number)| recurrent == (number % interval != 0)).then_some(interval)
}

/// The keys of a rotated basis, as PrismML's converter writes them.
fn describe_rotation(rotation: &Rotation, metadata: &mut Metadata) {
    let mut set = |key: &str, value| metadata.set(format!("prism.hadamard.{key}"), value);
    let string = |text: &str| Value::String(text.to_owned());
    set("version", Value::U32(if rotation.tied { 2 } else { 1 }));
    set("block_size", Value::U32(rotation.block as u32));
    set("transform", string("normalized-sylvester-walsh-hadamard"));
    set("axis", string("input-last-dimension"));
    set("sign_mode", string(if rotation.signs.is_some() { "explicit" } else { "identity" }));
    if let Some(signs) = &rotation.signs {
        let ints = |values: Vec<i32>| Value::Array(Array::I32(values));
        set("sign_widths", ints(signs.iter().map(|(width, _)| *width as i32).collect()));
        set("sign_values", ints(signs.iter().flat_map(|(_, signs)| signs).map(|&sign| sign as i32).collect()));
    }
    let folded = rotation.folded.iter().enumerate();
    let folded = folded.flat_map(|(layer, roles)| roles.iter().map(move |&role| names::linear(layer, role)));
    let head = (rotation.head && !rotation.tied).then(|| names::OUTPUT.to_owned());
    let strings = |names: Vec<String>| Value::Array(Array::String(names));
    set("weight_names", strings(head.into_iter().chain(folded).collect()));
    set("inverse_weight_names", strings(vec![names::TOKEN_EMBD.to_owned()]));
    set("gdn_v_grouped", Value::Bool(rotation.v_grouped));
    if rotation.tied {
        set("tied_output", Value::Bool(true));
    }
}
