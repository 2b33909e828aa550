use super::*;
use crate::gguf::Value;

fn metadata(arch: &str, changes: &[(&str, Value)]) -> Metadata {
    let mut m = Metadata::default();
    m.set("general.architecture", Value::String(arch.into()));
    for (key, value) in [
        ("block_count", 30),
        ("context_length", 4096),
        ("embedding_length", 2560),
        ("feed_forward_length", 6912),
        ("attention.head_count", 20),
        ("attention.head_count_kv", 5),
    ] {
        m.set(format!("{arch}.{key}"), Value::U32(value));
    }
    m.set(format!("{arch}.attention.layer_norm_rms_epsilon"), Value::F32(1e-5));
    m.set(format!("{arch}.rope.freq_base"), Value::F32(500_000.0));
    for (key, value) in changes {
        m.set(format!("{arch}.{key}"), value.clone());
    }
    m
}

#[test]
fn the_official_2b4t_file_is_understood() {
    for arch in ["bitnet-b1.58", "bitnet-25", "bitnet"] {
        let config = Config::from_metadata(&metadata(arch, &[]), 128_256).unwrap();
        assert_eq!((config.head_dim, config.kv_width()), (128, 640));
        assert_eq!(config.activation, Activation::Relu2, "{arch}");
        assert_eq!(config.rope.style, RopeStyle::HalfSplit);
    }
}

#[test]
fn the_activation_follows_the_model_not_the_name() {
    let large = [("block_count", Value::U32(24)), ("vocab_size", Value::U32(32002))];
    for arch in ["bitnet", "bitnet-b1.58"] {
        let config = Config::from_metadata(&metadata(arch, &large), 32002).unwrap();
        assert_eq!(config.activation, Activation::Silu, "{arch}");
    }
    let stated = [("hidden_activation", Value::String("silu".into()))];
    let config = Config::from_metadata(&metadata("bitnet-b1.58", &stated), 128_256).unwrap();
    assert_eq!(config.activation, Activation::Silu);
}

#[test]
fn an_explicit_head_dim_wins() {
    let changes = [("attention.key_length", Value::U32(64)), ("attention.value_length", Value::U32(64))];
    let config = Config::from_metadata(&metadata("qwen3", &changes), 1000).unwrap();
    assert_eq!((config.head_dim, config.rope.dims), (64, 64));
}

#[test]
fn yarn_is_read_with_its_defaults() {
    let yarn = |changes: &[(&str, Value)]| {
        let mut all = vec![("rope.scaling.type", Value::String("yarn".into()))];
        all.extend(changes.iter().cloned());
        Config::from_metadata(&metadata("qwen3", &all), 1000).map(|config| config.rope)
    };
    let rope = yarn(&[("rope.scaling.factor", Value::F32(4.0))]).unwrap();
    let expected = Yarn { factor: 4.0, original_context: 4096, beta_fast: 32.0, beta_slow: 1.0, attention_factor: 1.0 };
    assert_eq!((rope.yarn, rope.position_scale), (Some(expected), 1.0));
    let original = ("rope.scaling.original_context_length", Value::U32(1024));
    let attention = ("rope.scaling.attn_factor", Value::F32(0.5));
    let rope = yarn(&[("rope.scaling.factor", Value::F32(4.0)), original, attention]).unwrap();
    assert_eq!(rope.yarn, Some(Yarn { original_context: 1024, attention_factor: 0.5, ..expected }));
    for (key, value) in [("rope.scaling.yarn_log_multiplier", 0.1), ("rope.scaling.yarn_ext_factor", 0.5)] {
        let error = yarn(&[(key, Value::F32(value))]).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
    let error = yarn(&[("rope.scaling.original_context_length", Value::U32(0))]).unwrap_err().to_string();
    assert!(error.contains("1 to"), "{error}");
}

#[test]
fn factors_of_minicpm_are_read_with_their_defaults() {
    let minicpm = |changes: &[(&str, Value)]| Config::from_metadata(&metadata("minicpm", changes), 1000);
    let config = minicpm(&[]).unwrap();
    // 30 layers of width 2560.
    let usual = Multipliers { embedding: 12.0, residual: 1.4 / 30f32.sqrt(), logits: 10.0 };
    assert_eq!((config.multipliers, config.rope.style), (usual, RopeStyle::Interleaved));
    let stated = [("embedding_scale", 2.0), ("residual_scale", 0.5), ("logit_scale", 4.0)];
    let config = minicpm(&stated.map(|(key, value)| (key, Value::F32(value)))).unwrap();
    assert_eq!(config.multipliers, Multipliers { embedding: 2.0, residual: 0.5, logits: 4.0 });
    assert_eq!((config.embedding_scale(), config.eps(Norm::Attn), config.eps(Norm::QHead)), (4.0, 4e-5, 1e-5));
    for key in Multipliers::KEYS {
        for (value, expected) in
            [(0.0, "above 0"), (-1.0, "above 0"), (f32::NAN, "above 0"), (1e-7, "1e-6 to 1e6"), (1e7, "1e-6 to 1e6")]
        {
            let error = minicpm(&[(key, Value::F32(value))]).unwrap_err().to_string();
            assert!(error.contains(&format!("minicpm.{key}")) && error.contains(expected), "{error}");
        }
    }
    // Other architectures have none.
    let llama = Config::from_metadata(&metadata("llama", &[("logit_scale", Value::F32(4.0))]), 1000).unwrap();
    assert_eq!(llama.multipliers, Multipliers::default());
}

#[test]
fn norms_on_inputs_have_an_epsilon_of_their_own() {
    let key = "attention.input_norm_rms_epsilon";
    let with = |arch: &str, eps: f32| Config::from_metadata(&metadata(arch, &[(key, Value::F32(eps))]), 1000);
    let config = with("llama", 0.5).unwrap();
    assert_eq!(config.input_norms, Some(InputNorms { eps: 0.5, embedder: false }));
    assert_eq!([Norm::QIn, Norm::HeadIn, Norm::Output].map(|norm| config.eps(norm)), [0.5, 0.5, 1e-5]);
    assert!(with("gemma3", 0.5).unwrap().input_norms.is_some_and(|norms| norms.embedder));
    for (arch, eps, expected) in
        [("llama", 0.0, "above 0"), ("qwen2", f32::NAN, "above 0"), ("bitnet", 0.5, "other norms")]
    {
        let error = with(arch, eps).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains(expected), "{error}");
    }
}

#[test]
fn longrope_has_its_context_and_its_factor() {
    let long = |changes: &[(&str, Value)]| {
        let kind = [("rope.scaling.type", Value::String("longrope".into()))];
        Config::from_metadata(&metadata("minicpm", &[&kind, changes].concat()), 1000).map(|config| config.rope.long)
    };
    let of = |original_context, magnitude| Some(LongRope { original_context, magnitude });
    assert_eq!(long(&[]).unwrap(), of(4096, 1.0));
    let original = ("rope.scaling.original_context_length", Value::U32(2048));
    assert_eq!(long(&[original, ("rope.scaling.attn_factor", Value::F32(1.25))]).unwrap(), of(2048, 1.25));
    assert!(long(&[("rope.scaling.attn_factor", Value::F32(0.0))]).is_err());
}

#[test]
fn bad_values_are_refused_by_name() {
    let cases: &[(&str, Value, &str)] = &[
        ("block_count", Value::U32(0), "1 to 512"),
        ("block_count", Value::U32(513), "1 to 512"),
        ("block_count", Value::U32(1_000_000_000), "1 to 512"),
        ("block_count", Value::F32(30.0), "an integer"),
        ("block_count", Value::I32(-1), "a non-negative integer"),
        ("block_count", Value::String("30".into()), "an integer"),
        ("attention.head_count", Value::U32(0), "1 to"),
        ("attention.head_count", Value::U32(3), "a divisor"),
        ("attention.head_count_kv", Value::U32(0), "1 to"),
        ("attention.head_count_kv", Value::U32(40), "a divisor"),
        ("attention.head_count_kv", Value::U32(3), "a divisor"),
        ("embedding_length", Value::U32(0), "1 to"),
        ("embedding_length", Value::U32(2561), "a multiple of the 20 heads"),
        ("embedding_length", Value::U32(1 << 31), "1 to"),
        ("feed_forward_length", Value::U32(0), "1 to"),
        ("context_length", Value::U32(0), "1 to"),
        ("context_length", Value::U32(1 << 31), "1 to"),
        ("rope.dimension_count", Value::U32(0), "1 to"),
        ("rope.dimension_count", Value::U32(127), "an even number up to 128"),
        ("rope.dimension_count", Value::U32(130), "an even number up to 128"),
        ("rope.freq_base", Value::F32(0.0), "above 0"),
        ("rope.freq_base", Value::F32(-1.0), "above 0"),
        ("rope.freq_base", Value::F32(f32::NAN), "above 0"),
        ("rope.freq_base", Value::F32(f32::INFINITY), "above 0"),
        ("attention.layer_norm_rms_epsilon", Value::F32(0.0), "above 0"),
        ("attention.layer_norm_rms_epsilon", Value::F32(-1e-5), "above 0"),
        ("attention.layer_norm_rms_epsilon", Value::F32(f32::NAN), "above 0"),
        ("attention.value_length", Value::U32(64), "128, the key length"),
        ("vocab_size", Value::U32(5), "the rows of token_embd.weight"),
        ("rope.scaling.type", Value::String("su".into()), "known are"),
        ("rope.scaling.factor", Value::F32(0.0), "above 0"),
        ("hidden_activation", Value::String("gelu".into()), "relu2 or silu"),
    ];
    for (key, value, expected) in cases {
        let error = Config::from_metadata(&metadata("bitnet-b1.58", &[(key, value.clone())]), 128_256).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected), "{key} = {value:?} gave: {text}");
        assert!(text.contains("bitnet-b1.58."), "{key} = {value:?} gave: {text}");
    }
}

#[test]
fn unknown_models_are_refused_with_a_reason() {
    for (arch, reason) in [("qwen35moe", "mixtures of experts"), ("maple", "known are")] {
        let error = Config::from_metadata(&metadata(arch, &[]), 100).unwrap_err().to_string();
        assert!(error.contains(&format!("architecture '{arch}'")) && error.contains(reason), "{error}");
    }
    let empty = Metadata::default();
    let error = Config::from_metadata(&empty, 100).unwrap_err().to_string();
    assert!(error.contains("general.architecture is missing"), "{error}");
}
