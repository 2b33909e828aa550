//! `config.json` -> hyperparameters, and what it says about the weights.

use serde_json::Value;

use super::{json::Object, rope::rope};
use crate::{
    error::{Error, Result, shown},
    model::{Activation, Config, DeltaNet, Family, InputNorms, Linear, Multipliers},
};

/// Advice where weights are not ternary.
pub(super) const INSTEAD: &str = "take the model's GGUF file, or its checkpoint of safetensors that is not quantized (their \
                                  names often end with gguf and unpacked)";

/// How `weight_scale` of a packed matrix enters (`BitLinear` and `AutoBitLinear` of transformers); `linear_class`
/// decides, not the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScaleReading {
    /// `linear_class: autobitlinear`: the product is multiplied by it; it is mean|W|.
    Multiply,
    /// `linear_class: bitlinear`, also when the key is absent: the product is divided by it; it is 1 / mean|W|.
    Divide,
}

/// The description of the model in the directory.
#[derive(Clone, Debug)]
pub(crate) struct SourceConfig {
    /// Hyperparameters as the GGUF will state them.
    pub model: Config,
    /// `tie_word_embeddings`, where stated.
    pub tied: Option<bool>,
    /// Divides each RoPE frequency; (head_dim / 2), for `rope_type` `llama3` and `longrope`.
    pub rope_factors: Option<Vec<f32>>,
    /// Likewise, beyond the original context of `longrope`.
    pub long_rope_factors: Option<Vec<f32>>,
    /// Pairs of RoPE that turn by time, height, width and nothing: equal for text, but readers expect the key.
    pub rope_sections: Option<[i32; 4]>,
    /// Meaning of `weight_scale`; `None` without `quantization_config`.
    pub scale_reading: Option<ScaleReading>,
    /// MLX quantized matrices of the directory.
    pub is_mlx: bool,
    /// The model was trained to be rounded to ternary, so real-valued matrices may be.
    pub masters_are_ternary: bool,
    /// Tokens that some layers look back in training; they look at all.
    pub window: Option<usize>,
}

/// Reads and checks `config.json`.
pub(crate) fn read_config(json: &Value) -> Result<SourceConfig> {
    let outer = Object::top(json)?;
    let (arch, family) = architecture(&outer)?;
    let (name, tied) = (name(&outer)?, outer.bool("tie_word_embeddings")?);
    let is_mlx = is_mlx(&outer)?;
    // Models that see as well describe their text part one level deeper.
    let top = match outer.object("text_config")? {
        Some(text) if family == Family::Qwen35 => text,
        _ => outer,
    };
    refuse_unsupported(&top, family)?;

    let heads = top.count("num_attention_heads")?;
    let dim = top.count("hidden_size")?;
    let kv_heads = top.optional_count("num_key_value_heads")?.unwrap_or(heads);
    if heads % kv_heads != 0 {
        let expected = format!("a divisor of num_attention_heads ({heads})");
        return Err(Error::malformed(top.key("num_key_value_heads"), expected, kv_heads));
    }
    let head_dim = match top.optional_count("head_dim")? {
        Some(head_dim) => head_dim,
        None if dim % heads == 0 => dim / heads,
        None => {
            let expected = format!("a multiple of num_attention_heads ({heads})");
            return Err(Error::malformed(top.key("hidden_size"), expected, dim));
        }
    };
    if head_dim % 2 != 0 {
        return Err(Error::malformed("head dimension", "an even number, as RoPE turns pairs", head_dim));
    }
    if let Some(scalar) = top.float("query_pre_attn_scalar")?
        && scalar != head_dim as f64
    {
        let reason = format!("scores are divided by the root of the head dimension, {head_dim}");
        return Err(Error::unsupported(format!("{} = {scalar}", top.key("query_pre_attn_scalar")), reason));
    }
    let layers = top.count("num_hidden_layers")?;
    if layers > MAX_LAYERS {
        return Err(Error::malformed(top.key("num_hidden_layers"), format!("at most {MAX_LAYERS}"), layers));
    }
    let context = top.count("max_position_embeddings")?;
    let (rope, rope_factors, long_rope_factors) = rope(&top, arch, family, head_dim, context)?;
    let rms_eps = top.positive("rms_norm_eps")?.ok_or_else(|| Error::missing(top.key("rms_norm_eps"), "every norm"))?;
    let model = Config {
        arch: arch.to_owned(),
        family,
        name,
        layers,
        dim,
        ffn_dim: top.count("intermediate_size")?,
        heads,
        kv_heads,
        head_dim,
        vocab: top.count("vocab_size")?,
        context,
        rms_eps,
        rope,
        activation: activation(&top, arch, family)?,
        delta: if family == Family::Qwen35 { Some(delta_net(&top, layers)?) } else { None },
        rotation: None,
        mtp_blocks: 0,
        input_norms: input_norms(&top, family, rms_eps)?,
        multipliers: multipliers(&top, arch, layers, dim)?,
        biased: match family {
            Family::Qwen2 => &Linear::BIASED[..3],
            Family::Llama if top.bool("attention_bias")? == Some(true) => &Linear::BIASED,
            _ => &[],
        },
    };
    let scale_reading = scale_reading(&top, is_mlx, arch)?;
    Ok(SourceConfig {
        model,
        tied: tied.or(top.bool("tie_word_embeddings")?),
        rope_sections: rope_sections(&top, family)?,
        rope_factors,
        long_rope_factors,
        scale_reading,
        is_mlx,
        masters_are_ternary: family == Family::BitNet || family == Family::Gemma3 || scale_reading.is_some(),
        window: window(&top, family)?,
    })
}

/// The most blocks llama.cpp loads; more is a damaged file.
const MAX_LAYERS: usize = 512;

/// The GGUF architecture. The class name decides: 1bitLLM's files say `model_type: llama`.
fn architecture(top: &Object) -> Result<(&'static str, Family)> {
    let classes = top.strings("architectures")?;
    let found = match classes.first() {
        Some(&class) => class,
        None => top.str("model_type")?.ok_or_else(|| Error::missing(top.key("architectures"), "the model's graph"))?,
    };
    let with_input_norms = |kind: &str| match kind {
        "Qwen3Model" | "qwen3" => Some(("qwen3", Family::Qwen3)),
        "Gemma3ForCausalLM" | "Gemma3TextModel" | "gemma3_text" => Some(("gemma3", Family::Gemma3)),
        _ => None,
    };
    match found {
        "BitNetForCausalLM" | "bitnet" => Ok(("bitnet-b1.58", Family::BitNet)),
        "BitnetForCausalLM" => Ok(("bitnet", Family::BitNet)),
        // Mistral's graph is Llama's.
        "LlamaForCausalLM" | "llama" | "MistralForCausalLM" | "mistral" => Ok(("llama", Family::Llama)),
        "MiniCPMForCausalLM" | "minicpm" => Ok((Multipliers::ARCH, Family::Llama)),
        "Qwen2ForCausalLM" | "qwen2" => Ok(("qwen2", Family::Qwen2)),
        "Qwen3ForCausalLM" => Ok(("qwen3", Family::Qwen3)),
        "Qwen3_5ForConditionalGeneration" | "Qwen3_5ForCausalLM" | "qwen3_5" | "qwen3_5_text" => {
            Ok(("qwen35", Family::Qwen35))
        }
        // Models made for embeddings go by `model_type` in bitnet.cpp's `convert-bitnet-embedding-to-gguf.py`: their
        // class is one of their own.
        other => {
            let known = with_input_norms(other).or(top.str("model_type")?.and_then(with_input_norms));
            known.ok_or_else(|| {
                Error::unsupported(
                    format!("architecture {}", shown(other)),
                    "BitNetForCausalLM, BitnetForCausalLM, LlamaForCausalLM, MistralForCausalLM, MiniCPMForCausalLM, \
                     Qwen2ForCausalLM, Qwen3ForCausalLM and Qwen3_5ForCausalLM are",
                )
            })
        }
    }
}

/// The attention window of Mistral's layers and of Gemma 3's local ones. The files that bitnet.cpp's converter writes say
/// nothing of it, and its graph has full attention everywhere; so has this one.
fn window(top: &Object, family: Family) -> Result<Option<usize>> {
    let kinds = top.strings("layer_types")?;
    let is_local = kinds.is_empty() || kinds.contains(&"sliding_attention");
    let model_type = top.str("model_type")?.unwrap_or_default();
    match family {
        Family::Gemma3 if is_local => top.optional_count("sliding_window"),
        // Without a switch, as Qwen's have.
        Family::Llama if model_type == "mistral" => top.optional_count("sliding_window"),
        _ => Ok(None),
    }
}

/// Settings that change the graph in ways no op list has.
fn refuse_unsupported(top: &Object, family: Family) -> Result<()> {
    for key in ["attention_bias", "mlp_bias", "use_sliding_window"] {
        let is_known = key == "attention_bias" && matches!(family, Family::Llama | Family::Qwen2);
        if top.bool(key)? == Some(true) && !is_known {
            return Err(Error::unsupported(format!("{} = true", top.key(key)), "no ternary model is known to use it"));
        }
    }
    let known = |kind: &str| match kind {
        "full_attention" => true,
        "sliding_attention" => family == Family::Gemma3,
        LINEAR => family == Family::Qwen35,
        _ => false,
    };
    if top.strings("layer_types")?.iter().any(|kind| !known(kind)) {
        return Err(Error::unsupported(top.key("layer_types"), "only full attention in every layer is"));
    }
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if top.float(key)?.is_some() {
            return Err(Error::unsupported(top.key(key), "no ternary model is known to use it"));
        }
    }
    if family == Family::Qwen35 && top.bool("attn_output_gate")? == Some(false) {
        let thing = format!("{} = false", top.key("attn_output_gate"));
        return Err(Error::unsupported(thing, "the attention of this architecture has a gate here"));
    }
    if let Some(share) = top.float("partial_rotary_factor")?
        && share != 1.0
        && family != Family::Qwen35
    {
        return Err(Error::unsupported(format!("{} = {share}", top.key("partial_rotary_factor")), "only 1 is"));
    }
    for (key, trained) in [("weight_bits", 1), ("input_bits", 8)] {
        if let Some(bits) = top.uint(key)?
            && bits != trained
        {
            return Err(Error::unsupported(format!("{} = {bits}", top.key(key)), format!("only {trained} is")));
        }
    }
    Ok(())
}

/// A gated DeltaNet in `layer_types`.
const LINEAR: &str = "linear_attention";

/// The recurrent layers and their heads.
fn delta_net(top: &Object, layers: usize) -> Result<DeltaNet> {
    let kinds = top.strings("layer_types")?;
    let recurrent = if kinds.is_empty() {
        let interval = top.optional_count("full_attention_interval")?.unwrap_or(4);
        (1..=layers).map(|number| number % interval != 0).collect()
    } else if kinds.len() == layers {
        kinds.iter().map(|kind| *kind == LINEAR).collect()
    } else {
        return Err(Error::malformed(top.key("layer_types"), format!("{layers} layers"), kinds.len()));
    };
    let head_dim = top.count("linear_key_head_dim")?;
    let value_dim = top.count("linear_value_head_dim")?;
    if value_dim != head_dim {
        let expected = format!("{head_dim}, as linear_key_head_dim");
        return Err(Error::malformed(top.key("linear_value_head_dim"), expected, value_dim));
    }
    let key_heads = top.count("linear_num_key_heads")?;
    let value_heads = top.count("linear_num_value_heads")?;
    if !value_heads.is_multiple_of(key_heads) {
        let expected = format!("a multiple of linear_num_key_heads ({key_heads})");
        return Err(Error::malformed(top.key("linear_num_value_heads"), expected, value_heads));
    }
    Ok(DeltaNet { layers: recurrent, kernel: top.count("linear_conv_kernel_dim")?, key_heads, value_heads, head_dim })
}

/// `mrope_section`, with llama.cpp's fourth one.
fn rope_sections(top: &Object, family: Family) -> Result<Option<[i32; 4]>> {
    if family != Family::Qwen35 {
        return Ok(None);
    }
    let parameters = top.object("rope_parameters")?;
    let Some(list) = parameters.as_ref().and_then(|parameters| parameters.get("mrope_section")) else {
        return Ok(None);
    };
    let sections: Option<Vec<i32>> = list
        .as_array()
        .and_then(|list| list.iter().map(|section| section.as_u64().and_then(|n| i32::try_from(n).ok())).collect());
    match sections.as_deref() {
        Some(&[time, height, width]) => Ok(Some([time, height, width, 0])),
        _ => Err(Error::malformed(top.key("rope_parameters.mrope_section"), "three counts", shown(&list.to_string()))),
    }
}

/// The last part of `_name_or_path`. The directory's name is not used: it would make the output depend on where
/// the input lies, and in a download cache it is a hash.
fn name(top: &Object) -> Result<String> {
    let path = top.str("_name_or_path")?.unwrap_or("");
    let last = path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or("");
    Ok(if last == "." || last == ".." { String::new() } else { shown(last) })
}

fn activation(top: &Object, arch: &str, family: Family) -> Result<Activation> {
    if family == Family::Gemma3 {
        return match top.str("hidden_activation")?.unwrap_or("gelu_pytorch_tanh") {
            "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            other => Err(Error::malformed(top.key("hidden_activation"), "gelu_pytorch_tanh", shown(other))),
        };
    }
    let default = if arch == "bitnet-b1.58" { "relu2" } else { "silu" };
    match (top.str("hidden_act")?.unwrap_or(default), family) {
        ("relu2", Family::BitNet) => Ok(Activation::Relu2),
        ("silu" | "swish", _) => Ok(Activation::Silu),
        (other, _) => {
            let expected = if family == Family::BitNet { "relu2 or silu" } else { "silu" };
            Err(Error::malformed(top.key("hidden_act"), expected, shown(other)))
        }
    }
}

/// Whether MLX quantized matrices, each of which says by its shapes how.
fn is_mlx(outer: &Object) -> Result<bool> {
    let Some(mlx) = outer.object("quantization")? else { return Ok(false) };
    match mlx.str("mode")?.unwrap_or("affine") {
        "affine" => Ok(mlx.get("bits").is_some()),
        mode => Err(Error::unsupported(format!("MLX in mode {}", shown(mode)), format!("only affine is: {INSTEAD}"))),
    }
}

fn scale_reading(top: &Object, is_mlx: bool, arch: &str) -> Result<Option<ScaleReading>> {
    let stated = top.object("quantization_config")?;
    // Where it quantizes, MLX writes its own settings over those of transformers. Its graph of this model multiplies.
    let Some(quantisation) = stated.filter(|stated| !is_mlx || stated.get("quant_method").is_some()) else {
        return Ok((is_mlx && arch == "bitnet-b1.58").then_some(ScaleReading::Multiply));
    };
    let method = quantisation.str("quant_method")?.unwrap_or("absent");
    if method != "bitnet" {
        return Err(Error::unsupported(format!("quant_method {}", shown(method)), "only bitnet is"));
    }
    let kept = quantisation.strings("modules_to_not_convert")?;
    if let Some(module) = kept.iter().find(|module| module.contains("_proj")) {
        let thing = format!("{} with {}", quantisation.key("modules_to_not_convert"), shown(module));
        return Err(Error::unsupported(thing, "every projection of a block has to be ternary"));
    }
    match quantisation.str("linear_class")?.unwrap_or("bitlinear") {
        "bitlinear" => Ok(Some(ScaleReading::Divide)),
        "autobitlinear" => Ok(Some(ScaleReading::Multiply)),
        other => {
            let key = quantisation.key("linear_class");
            Err(Error::malformed(key, "bitlinear or autobitlinear", shown(other)))
        }
    }
}

/// MiniCPM's factors: its configuration class has 1 for each where the key is absent.
fn multipliers(top: &Object, arch: &str, layers: usize, dim: usize) -> Result<Multipliers> {
    if arch != Multipliers::ARCH {
        return Ok(Multipliers::default());
    }
    Ok(Multipliers {
        embedding: top.positive("scale_emb")?.unwrap_or(1.0),
        residual: top.positive("scale_depth")?.unwrap_or(1.0) / (layers as f32).sqrt(),
        logits: dim as f32 / top.positive("dim_model_base")?.unwrap_or(1.0),
    })
}

/// Norms on the inputs of projections: Gemma 3 is known here as BitNet's embedding model only, and transformers' `BitLinear`
/// has them where `use_rms_norm` is true.
fn input_norms(top: &Object, family: Family, rms_eps: f32) -> Result<Option<InputNorms>> {
    let quantisation = top.object("quantization_config")?;
    let stated = match &quantisation {
        Some(quantisation) if quantisation.bool("use_rms_norm")? == Some(true) => {
            // The default of transformers' `BitNetQuantConfig`.
            Some((quantisation, quantisation.positive("rms_norm_eps")?.unwrap_or(1e-6)))
        }
        _ => None,
    };
    match (family, stated) {
        (Family::Gemma3, _) => Ok(Some(InputNorms { eps: rms_eps, embedder: true })),
        (Family::BitNet | Family::Qwen35, Some((quantisation, _))) => Err(Error::unsupported(
            format!("{} = true", quantisation.key("use_rms_norm")),
            "blocks of this architecture have other norms in front of projections",
        )),
        (_, stated) => Ok(stated.map(|(_, eps)| InputNorms { eps, embedder: false })),
    }
}

#[cfg(test)]
mod tests {
    use bitnet_cpu_kernels::rope::Yarn;
    use serde_json::json;

    use super::*;
    use crate::model::RopeStyle;

    fn config(changes: Value) -> Result<SourceConfig> {
        let mut config = json!({
            "architectures": ["BitNetForCausalLM"], "vocab_size": 512, "hidden_size": 256, "intermediate_size": 640,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "relu2",
            "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
            "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear"},
        });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        read_config(&config)
    }

    fn message(changes: Value) -> String {
        config(changes).unwrap_err().to_string()
    }

    #[test]
    fn the_class_decides_the_architecture() {
        let arch = |class: &str| {
            let found = config(json!({"architectures": [class], "model_type": "llama", "hidden_act": "silu"})).unwrap();
            (found.model.arch, found.model.family, found.model.rope.style, found.model.rope.base)
        };
        let bitnet = ("bitnet-b1.58".to_owned(), Family::BitNet, RopeStyle::HalfSplit, 500_000.0);
        assert_eq!(arch("BitNetForCausalLM"), bitnet);
        assert_eq!(arch("BitnetForCausalLM"), ("bitnet".to_owned(), Family::BitNet, RopeStyle::HalfSplit, 10_000.0));
        assert_eq!(arch("LlamaForCausalLM"), ("llama".to_owned(), Family::Llama, RopeStyle::Interleaved, 10_000.0));
        assert_eq!(arch("MistralForCausalLM"), arch("LlamaForCausalLM"));
        assert_eq!(arch("Qwen3ForCausalLM"), ("qwen3".to_owned(), Family::Qwen3, RopeStyle::HalfSplit, 10_000.0));
        assert!(message(json!({"architectures": ["GPT2LMHeadModel"]})).contains("GPT2LMHeadModel is not supported"));
        let by_type = config(json!({"architectures": null, "model_type": "bitnet"})).unwrap();
        assert_eq!(by_type.model.arch, "bitnet-b1.58");
    }

    #[test]
    fn rope_theta_is_found_in_all_three_places() {
        let base = |changes| config(changes).unwrap().model.rope.base;
        assert_eq!(base(json!({"rope_theta": 1000.0})), 1000.0);
        assert_eq!(base(json!({"rope_parameters": {"rope_theta": 2000.0, "rope_type": "default"}})), 2000.0);
        assert_eq!(base(json!({"rope_theta": 1000.0, "rope_parameters": {"rope_theta": 2000.0}})), 2000.0);
        assert_eq!(base(json!({"rope_theta": 1000.0, "rope_scaling": null})), 1000.0);
    }

    #[test]
    fn rope_scaling_is_linear_llama3_or_refused() {
        let linear = config(json!({"rope_scaling": {"type": "linear", "factor": 4.0}})).unwrap();
        assert_eq!(linear.model.rope.position_scale, 0.25);
        let error = message(json!({"rope_scaling": {"rope_type": "su", "factor": 4.0}}));
        assert!(error.starts_with("RoPE scaling su is not supported"), "{error}");
        let yarn = |more: Value| {
            let mut scaling = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128});
            scaling.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            config(json!({"rope_scaling": scaling})).map(|found| found.model.rope.yarn.unwrap())
        };
        let usual = yarn(json!({})).unwrap();
        let expected = (4.0, 128, 32.0, 1.0, 1.0);
        let parts = |y: Yarn| (y.factor, y.original_context, y.beta_fast, y.beta_slow, y.attention_factor);
        assert_eq!(parts(usual), expected);
        // transformers: 0.1 ln 4 + 1 where nothing is stated.
        assert!((usual.magnitude() - 1.138_629_4).abs() < 1e-6);
        assert!((yarn(json!({"attention_factor": 2.0})).unwrap().magnitude() - 2.0).abs() < 1e-6);
        assert!(yarn(json!({"mscale": 0.7})).is_err() && yarn(json!({"truncate": false})).is_err());

        // head_dim 64, base 10000: wavelengths 2 pi * 10000^(i/32). With old context 8192, low 1 and high 4, those
        // below 2048 are kept (i <= 20: 2 pi * 10^2.5 = 1987), those above 8192 divided by 8 (i >= 25: 8379), and
        // i = 22 (3533.3, smooth = (2.31852 - 1) / 3 = 0.43951) is divided by 1 / (0.56049 / 8 + 0.43951) = 1.96245.
        let llama3 = json!({"rope_theta": 10000.0, "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}});
        let factors = config(llama3).unwrap().rope_factors.unwrap();
        assert_eq!(factors.len(), 32);
        assert!(factors[..=20].iter().all(|&f| f == 1.0) && factors[21] > 1.0, "{factors:?}");
        assert!(factors[25..].iter().all(|&f| f == 8.0) && factors[24] < 8.0, "{factors:?}");
        assert!((factors[22] - 1.96245).abs() < 1e-4, "{}", factors[22]);
    }

    #[test]
    fn longrope_has_other_factors_beyond_its_original_context() {
        let with = |top: Value, scaling: Value| {
            let mut all = json!({"rope_type": "longrope", "short_factor": vec![1.5; 32], "long_factor": vec![3.0; 32]});
            all.as_object_mut().unwrap().extend(scaling.as_object().unwrap().clone());
            let mut changes = json!({"max_position_embeddings": 256, "rope_scaling": all});
            changes.as_object_mut().unwrap().extend(top.as_object().unwrap().clone());
            config(changes).unwrap()
        };
        let original = |tokens: usize| json!({"original_max_position_embeddings": tokens});
        for (top, scaling) in [
            (json!({}), json!({})),
            (original(256), json!({"factor": 1.0})),
            (json!({}), json!({"original_max_position_embeddings": 256, "factor": 4.0})),
        ] {
            let found = with(top.clone(), scaling.clone());
            assert_eq!((found.rope_factors, found.model.rope.long), (Some(vec![1.5; 32]), None), "{top} {scaling}");
        }
        // transformers: sqrt(1 + ln(factor) / ln(original)), where the factor is stretched / original.
        for (top, scaling, expected, magnitude) in [
            (original(64), json!({}), 64, (1.0 + 4.0_f64.ln() / 64.0_f64.ln()).sqrt()),
            (json!({}), original(64), 64, (1.0 + 4.0_f64.ln() / 64.0_f64.ln()).sqrt()),
            (json!({}), json!({"factor": 4.0}), 256, (1.0 + 4.0_f64.ln() / 256.0_f64.ln()).sqrt()),
            (original(64), json!({"attention_factor": 1.3}), 64, 1.3),
        ] {
            let found = with(top.clone(), scaling.clone());
            let long = found.model.rope.long.unwrap();
            assert_eq!(long.original_context, expected, "{top} {scaling}");
            assert!((f64::from(long.magnitude) - magnitude).abs() < 1e-6, "{top} {scaling}: {long:?}");
            assert_eq!(found.long_rope_factors, Some(vec![3.0; 32]));
        }
    }

    #[test]
    fn linear_class_decides_how_the_scale_is_read() {
        let reading = |quantisation: Value| config(json!({"quantization_config": quantisation})).unwrap().scale_reading;
        let auto = json!({"quant_method": "bitnet", "linear_class": "autobitlinear"});
        assert_eq!(reading(auto), Some(ScaleReading::Multiply));
        assert_eq!(reading(json!({"quant_method": "bitnet"})), Some(ScaleReading::Divide));
        assert_eq!(reading(Value::Null), None);
        let normed = json!({"quant_method": "bitnet", "use_rms_norm": true});
        assert!(message(json!({"quantization_config": normed})).contains("use_rms_norm = true is not supported"));
        let llama = |normed: Value| json!({"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "quantization_config": normed});
        let norms = |eps| Some(InputNorms { eps, embedder: false });
        assert_eq!(config(llama(normed.clone())).unwrap().model.input_norms, norms(1e-6));
        let stated = json!({"quant_method": "bitnet", "use_rms_norm": true, "rms_norm_eps": 0.5});
        assert_eq!(config(llama(stated)).unwrap().model.input_norms, norms(0.5));
        let off = json!({"quant_method": "bitnet", "use_rms_norm": false, "rms_norm_eps": 0.5});
        assert_eq!(config(llama(off)).unwrap().model.input_norms, None);
        let other = message(json!({"quantization_config": {"quant_method": "gptq"}}));
        assert_eq!(other, "quant_method gptq is not supported: only bitnet is");
    }

    #[test]
    fn settings_of_mlx_stand_beside_or_over_those_of_transformers() {
        let mlx = json!({"group_size": 64, "bits": 4});
        let of = |class: &str, transformers: &Value| {
            let all = json!({"architectures": [class], "hidden_act": "silu", "quantization": mlx,
                "quantization_config": transformers});
            let found = config(all).unwrap();
            (found.is_mlx, found.scale_reading)
        };
        let bitnet = json!({"quant_method": "bitnet", "linear_class": "bitlinear"});
        assert_eq!(of("BitNetForCausalLM", &mlx), (true, Some(ScaleReading::Multiply)));
        assert_eq!(of("BitNetForCausalLM", &bitnet), (true, Some(ScaleReading::Divide)));
        assert_eq!(of("LlamaForCausalLM", &mlx), (true, None));
        let error = message(json!({"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}));
        assert!(error.starts_with("MLX in mode mxfp4 is not supported") && error.contains("GGUF"), "{error}");
        assert!(!config(json!({})).unwrap().is_mlx);
    }

    #[test]
    fn wrong_values_are_named_with_what_was_expected() {
        for (changes, expected) in [
            (json!({"vocab_size": "512"}), "key vocab_size: expected a non-negative integer, found a string"),
            (json!({"vocab_size": -1}), "key vocab_size: expected a non-negative integer, found -1"),
            (json!({"vocab_size": null}), "key vocab_size is missing (needed for the model's shape)"),
            (json!({"num_hidden_layers": 0}), "key num_hidden_layers: expected 1 to 2147483647, found 0"),
            (json!({"num_hidden_layers": 513}), "key num_hidden_layers: expected at most 512, found 513"),
            (json!({"num_key_value_heads": 3}), "expected a divisor of num_attention_heads (4), found 3"),
            (json!({"hidden_size": 255}), "key hidden_size: expected a multiple of num_attention_heads (4), found 255"),
            (json!({"head_dim": 63}), "head dimension: expected an even number"),
            (json!({"rms_norm_eps": 0}), "key rms_norm_eps: expected a positive number, found 0"),
            (json!({"hidden_act": "gelu"}), "key hidden_act: expected relu2 or silu, found gelu"),
            (json!({"attention_bias": true}), "key attention_bias = true is not supported"),
            (json!({"mlp_bias": true}), "key mlp_bias = true is not supported"),
            (json!({"rope_parameters": {"rope_theta": 0}}), "key rope_parameters.rope_theta: expected a positive"),
        ] {
            let found = message(changes);
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn the_name_is_the_last_part_of_its_path() {
        let name = |path: &str| config(json!({"_name_or_path": path})).unwrap().model.name;
        assert_eq!(name("1bitLLM/bitnet_b1_58-3B"), "bitnet_b1_58-3B");
        assert_eq!(name("/data/models/small/"), "small");
        assert_eq!([name(""), name(".")], [String::new(), String::new()]);
    }
}
