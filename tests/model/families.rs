//! The dimensions of every released model family: what the keys of its files give, how many tensors it must have, and,
//! for those with unusual shapes, a block of the real size on every instruction set.

use std::sync::Arc;

use bitnet_cpu_kernels::{format::ScaleKind, isa::Isa};
use bitnet_gpu::{
    backend::{Activations, Backend, Batch, Want, cpu::CpuBackend},
    gguf::{Metadata, Value},
    model::{Activation, Config, Family, InputNorms, Linear, RopeStyle},
    plan::{BackendKind, KvType, Segment, Sizes},
};

use crate::common::gpu::{
    model::{BITNET, LLAMA, QWEN3, Spec, random_model},
    relative_l2,
};

/// A released model, as its `config.json` or its GGUF metadata say.
struct Release {
    name: &'static str,
    arch: &'static str,
    layers: usize,
    dim: usize,
    ffn_dim: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
    context: usize,
    theta: f32,
    eps: f32,
    /// The embedding table is the head.
    tied: bool,
    activation: Activation,
    /// Tensors of its GGUF file, from logs of loaders where one was published.
    tensors: usize,
    /// Ternary weights in thousands, from the shapes by hand.
    ternary_thousands: usize,
}

const BITNET_2B: Release = Release {
    name: "BitNet-b1.58-2B-4T",
    arch: "bitnet-b1.58",
    layers: 30,
    dim: 2560,
    ffn_dim: 6912,
    heads: 20,
    kv_heads: 5,
    head_dim: 128,
    vocab: 128_256,
    context: 4096,
    theta: 500_000.0,
    eps: 1e-5,
    tied: true,
    activation: Activation::Relu2,
    tensors: 332,
    // 30 * (2 * 2560 * 2560 + 2 * 640 * 2560 + 3 * 6912 * 2560)
    ternary_thousands: 2_084_044,
};

const FALCON3_1B: Release = Release {
    name: "Falcon3-1B-1.58",
    arch: "llama",
    layers: 18,
    dim: 2048,
    ffn_dim: 8192,
    heads: 8,
    kv_heads: 4,
    head_dim: 256,
    vocab: 131_072,
    context: 8192,
    theta: 1_000_042.0,
    eps: 1e-6,
    tied: false,
    activation: Activation::Silu,
    tensors: 18 * 9 + 3,
    // 18 * (2 * 2048 * 2048 + 2 * 1024 * 2048 + 3 * 8192 * 2048)
    ternary_thousands: 1_132_462,
};

/// The dimensions from a dump of the tensors of the released checkpoint (Aefinity-AI/alice-aegis), its tensors from a
/// loader's log (microsoft/BitNet, pull request 268: 49 F32, 2 F16, 168 I2_S). They add up to the size of the released
/// file within its header: see [`falcon_e_fills_its_files`]. Base and epsilon are one source's; files tell theirs.
const FALCON_E_1B: Release = Release {
    name: "Falcon-E-1B",
    arch: "llama",
    layers: 24,
    dim: 2048,
    ffn_dim: 9216,
    heads: 16,
    kv_heads: 2,
    head_dim: 128,
    vocab: 32768,
    context: 32768,
    theta: 1_000_000.0,
    eps: 1e-5,
    tied: false,
    activation: Activation::Silu,
    tensors: 49 + 2 + 168,
    // 24 * (2 * 2048 * 2048 + 2 * 256 * 2048 + 3 * 9216 * 2048)
    ternary_thousands: 1_585_446,
};

const FALCON_E_3B: Release = Release {
    name: "Falcon-E-3B",
    layers: 32,
    ffn_dim: 13312,
    tensors: 32 * 9 + 3,
    // 32 * (2 * 2048 * 2048 + 2 * 256 * 2048 + 3 * 13312 * 2048)
    ternary_thousands: 2_919_235,
    ..FALCON_E_1B
};

const BONSAI_1_7B: Release = Release {
    name: "Ternary-Bonsai-1.7B",
    arch: "qwen3",
    layers: 28,
    dim: 2048,
    ffn_dim: 6144,
    heads: 16,
    kv_heads: 8,
    head_dim: 128,
    vocab: 151_936,
    context: 65536,
    theta: 1_000_000.0,
    eps: 1e-6,
    tied: true,
    activation: Activation::Silu,
    tensors: 310,
    // 28 * (2 * 2048 * 2048 + 2 * 1024 * 2048 + 3 * 6144 * 2048)
    ternary_thousands: 1_409_286,
};

const RELEASES: [Release; 13] = [
    BITNET_2B,
    Release {
        name: "bitnet_b1_58-large",
        arch: "bitnet",
        layers: 24,
        dim: 1536,
        ffn_dim: 4096,
        heads: 16,
        kv_heads: 16,
        head_dim: 96,
        vocab: 32002,
        context: 2048,
        theta: 10000.0,
        activation: Activation::Silu,
        tensors: 24 * 11 + 2,
        // 24 * (4 * 1536 * 1536 + 3 * 4096 * 1536)
        ternary_thousands: 679_477,
        ..BITNET_2B
    },
    Release {
        name: "bitnet_b1_58-3B",
        arch: "bitnet",
        layers: 26,
        dim: 3200,
        ffn_dim: 8640,
        heads: 32,
        kv_heads: 32,
        head_dim: 100,
        vocab: 32002,
        context: 2048,
        theta: 10000.0,
        activation: Activation::Silu,
        tensors: 26 * 11 + 2,
        // 26 * (4 * 3200 * 3200 + 3 * 8640 * 3200)
        ternary_thousands: 3_221_504,
        ..BITNET_2B
    },
    Release {
        name: "Llama3-8B-1.58",
        arch: "llama",
        layers: 32,
        dim: 4096,
        ffn_dim: 14336,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        vocab: 128_256,
        theta: 500_000.0,
        eps: 1e-5,
        tensors: 32 * 9 + 3,
        // 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096)
        ternary_thousands: 6_979_321,
        ..FALCON3_1B
    },
    FALCON3_1B,
    Release {
        name: "Falcon3-3B-1.58",
        layers: 22,
        dim: 3072,
        ffn_dim: 9216,
        heads: 12,
        context: 32768,
        tensors: 22 * 9 + 3,
        // 22 * (2 * 3072 * 3072 + 2 * 1024 * 3072 + 3 * 9216 * 3072)
        ternary_thousands: 2_422_210,
        ..FALCON3_1B
    },
    Release {
        name: "Falcon3-10B-1.58",
        layers: 40,
        dim: 3072,
        ffn_dim: 23040,
        heads: 12,
        context: 32768,
        tensors: 40 * 9 + 3,
        // 40 * (2 * 3072 * 3072 + 2 * 1024 * 3072 + 3 * 23040 * 3072)
        ternary_thousands: 9_500_098,
        ..FALCON3_1B
    },
    Release {
        name: "Falcon3-7B-1.58",
        layers: 28,
        dim: 3072,
        ffn_dim: 23040,
        heads: 12,
        context: 32768,
        tensors: 28 * 9 + 3,
        // 28 * (2 * 3072 * 3072 + 2 * 1024 * 3072 + 3 * 23040 * 3072)
        ternary_thousands: 6_650_068,
        ..FALCON3_1B
    },
    FALCON_E_1B,
    FALCON_E_3B,
    BONSAI_1_7B,
    Release {
        name: "Ternary-Bonsai-4B",
        layers: 36,
        dim: 2560,
        ffn_dim: 9728,
        heads: 32,
        tensors: 36 * 11 + 2,
        // 36 * (2 * 4096 * 2560 + 2 * 1024 * 2560 + 3 * 9728 * 2560)
        ternary_thousands: 3_633_315,
        ..BONSAI_1_7B
    },
    Release {
        name: "Ternary-Bonsai-8B",
        layers: 36,
        dim: 4096,
        ffn_dim: 12288,
        heads: 32,
        tied: false,
        tensors: 399,
        // 36 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 12288 * 4096)
        ternary_thousands: 6_945_767,
        ..BONSAI_1_7B
    },
];

fn config(release: &Release) -> Config {
    let arch = release.arch;
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", Value::String(arch.into()));
    let mut number = |key: &str, value: usize| metadata.set(format!("{arch}.{key}"), Value::U32(value as u32));
    number("block_count", release.layers);
    number("context_length", release.context);
    number("embedding_length", release.dim);
    number("feed_forward_length", release.ffn_dim);
    number("attention.head_count", release.heads);
    number("attention.head_count_kv", release.kv_heads);
    number("vocab_size", release.vocab);
    // Files have these where heads * head_dim is not the width, and qwen3 ones always.
    if release.heads * release.head_dim != release.dim || arch == "qwen3" {
        number("attention.key_length", release.head_dim);
        number("attention.value_length", release.head_dim);
    }
    metadata.set(format!("{arch}.attention.layer_norm_rms_epsilon"), Value::F32(release.eps));
    metadata.set(format!("{arch}.rope.freq_base"), Value::F32(release.theta));
    Config::from_metadata(&metadata, release.vocab).unwrap_or_else(|e| panic!("{}: {e}", release.name))
}

#[test]
fn every_release_is_understood() {
    for release in &RELEASES {
        let (config, name) = (config(release), release.name);
        let (family, style) = match release.arch {
            "llama" => (Family::Llama, RopeStyle::Interleaved),
            "qwen3" => (Family::Qwen3, RopeStyle::HalfSplit),
            _ => (Family::BitNet, RopeStyle::HalfSplit),
        };
        assert_eq!((config.family, config.activation), (family, release.activation), "{name}");
        assert_eq!(
            (config.head_dim, config.kv_width()),
            (release.head_dim, release.kv_heads * release.head_dim),
            "{name}"
        );
        assert_eq!(
            (config.rope.dims, config.rope.base, config.rope.style),
            (release.head_dim, release.theta, style),
            "{name}"
        );
        let of_layer = Linear::ATTENTION.len() + family.block_norms().len();
        let outside = if release.tied { 2 } else { 3 };
        assert_eq!(release.layers * of_layer + outside, release.tensors, "{name}: tensors");
        let weights: usize = Linear::ATTENTION.iter().map(|&role| config.linear_shape(role)).map(|(m, k)| m * k).sum();
        assert_eq!(weights * release.layers / 1000, release.ternary_thousands, "{name}: ternary weights");
    }
}

/// The checkpoints hold four ternary weights a byte, and norms, table and head in bf16. The rest of a file is its header
/// and a scale a matrix: a little over 100 bytes a tensor, so a matrix more or less would show. (Sizes of the released
/// `model.safetensors`, as Aefinity-AI/alice-aegis lists them.)
#[test]
fn falcon_e_fills_its_files() {
    assert_eq!(FALCON_E_1B.layers * Family::Llama.block_norms().len() + 1, 49, "norms of 1B");
    assert_eq!(FALCON_E_1B.layers * Linear::ATTENTION.len(), 168, "ternary matrices of 1B");
    for (release, file_bytes) in [(&FALCON_E_1B, 665_041_488), (&FALCON_E_3B, 998_568_704)] {
        let config = config(release);
        let of_layer: usize =
            Linear::ATTENTION.iter().map(|&role| config.linear_shape(role)).map(|(m, k)| m * k / 4).sum();
        let norms = Family::Llama.block_norms().len() * release.layers + 1;
        let bytes = of_layer * release.layers + (norms * release.dim + 2 * release.vocab * release.dim) * 2;
        // The matrices have a scale each, which is a tensor of its own.
        let tensors = release.tensors + release.layers * Linear::ATTENTION.len();
        let rest = (file_bytes - bytes) / tensors;
        assert!((80..160).contains(&rest), "{}: {rest} bytes a tensor", release.name);
    }
}

/// Microsoft's embedding models, as the guide beside their converter gives the dimensions. No key tells the first from
/// another qwen3 model: its tensors do (tests/embed.rs).
#[test]
fn the_embedding_models_are_understood() {
    let small = Release {
        name: "bitnet-embedding-0.6b",
        layers: 28,
        dim: 1024,
        ffn_dim: 3072,
        context: 32768,
        // 7 matrices and 11 norms a layer, the table and the last norm.
        tensors: 28 * 18 + 2,
        // 28 * (2 * 2048 * 1024 + 2 * 1024 * 1024 + 3 * 3072 * 1024)
        ternary_thousands: 440_401,
        ..BONSAI_1_7B
    };
    let smaller = Release {
        name: "bitnet-embedding-270m",
        arch: "gemma3",
        layers: 18,
        dim: 640,
        ffn_dim: 2048,
        heads: 4,
        kv_heads: 1,
        head_dim: 256,
        vocab: 262_144,
        theta: 10000.0,
        activation: Activation::GeluTanh,
        // Two norms more.
        tensors: 18 * 20 + 2,
        // 18 * (2 * 1024 * 640 + 2 * 256 * 640 + 3 * 2048 * 640)
        ternary_thousands: 100_270,
        ..small
    };
    for (release, family) in [(&small, Family::Qwen3), (&smaller, Family::Gemma3)] {
        let input_norms = Some(InputNorms { eps: 1e-6, embedder: true });
        let config = Config { family, input_norms, ..config(release) };
        assert_eq!((config.activation, config.rope.style), (release.activation, RopeStyle::HalfSplit));
        assert_eq!(
            (config.head_dim, config.rope.dims, config.rope.base),
            (release.head_dim, release.head_dim, release.theta)
        );
        let of_layer = Linear::ATTENTION.len() + config.norms(0).len();
        assert_eq!(release.layers * of_layer + 2, release.tensors, "{}: tensors", release.name);
        let weights: usize = Linear::ATTENTION.iter().map(|&role| config.linear_shape(role)).map(|(m, k)| m * k).sum();
        assert_eq!(weights * release.layers / 1000, release.ternary_thousands, "{}: ternary weights", release.name);
        let scale = if release.arch == "gemma3" { 640f32.sqrt() } else { 1.0 };
        assert_eq!(config.embedding_scale(), scale);
    }
    assert_eq!(config(&smaller).family, Family::Gemma3);
}

/// A block of the real size with random weights: K = 8640 and heads of 100; heads of 256; eight query heads to one of
/// keys; and the groups of Ternary Bonsai, whose queries are wider than the model.
#[test]
fn blocks_of_unusual_sizes_run_on_every_instruction_set() {
    let spec = |release: &Release, base: Spec, scales| Spec {
        dim: release.dim,
        ffn_dim: release.ffn_dim,
        heads: release.heads,
        kv_heads: release.kv_heads,
        head_dim: release.head_dim,
        activation: release.activation,
        layers: 1,
        // The tables are not what is tested.
        vocab: 8,
        table: BITNET.table,
        head: None,
        scales,
        ..base
    };
    for (release, base, scales) in [
        (&RELEASES[2], BITNET, ScaleKind::PerTensor),
        (&FALCON3_1B, LLAMA, ScaleKind::PerTensor),
        (&FALCON_E_3B, LLAMA, ScaleKind::PerTensor),
        (&BONSAI_1_7B, QWEN3, ScaleKind::PerGroup(128)),
    ] {
        let spec = spec(release, base, scales);
        let model = Arc::new(random_model(&spec, 51));
        let segment =
            Segment { layers: 0..1, backend: BackendKind::Cpu, embed: true, head: true, reason: "test".into() };
        let (k_type, v_type) = (KvType::F16, KvType::F16);
        let sizes = Sizes::new(8, 2).with_kv(k_type, v_type);
        let run = |isa: Isa| {
            let mut backend = CpuBackend::new(isa, 2);
            let id = backend.load(&model, &segment, &sizes, &mut |_| {}).unwrap();
            let mut activations = Activations { ids: vec![3, 5], ..Activations::default() };
            backend.run(id, &Batch::one(0..2, Want::All), &mut activations).unwrap();
            activations.logits
        };
        let expected = run(Isa::Scalar);
        assert!(expected.iter().any(|&logit| logit != 0.0), "{}: logits of nothing but zeros", release.name);
        for isa in Isa::available() {
            let error = relative_l2(&run(isa), &expected);
            eprintln!("{} {}: relative L2 {error:.1e}", release.name, isa.name());
            // Float order flips an activation between two integers now and then.
            assert!(error < 2e-2, "{} {}: relative L2 {error}", release.name, isa.name());
        }
    }
}
