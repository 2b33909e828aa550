//! Shapes to make dummy models of: by size, by the name of a published model, or from a `config.json`.

use std::path::Path;

use super::random::Random;
use crate::{
    convert::hf::{config::read_config, json::read_json},
    error::{Error, Result, shown},
    model::{Activation, Config, DeltaNet, Family, Linear, Multipliers, Rope, RopeStyle, Rotation},
};

/// The shape of a model to be made up.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Hyperparameters.
    pub model: Config,
    /// The embedding table serves as the head.
    pub tied: bool,
    /// Groups of 128 columns have scales of their own, where the type of the matrices has room for them.
    pub grouped: bool,
}

/// Name, hidden size, FFN size, layers, heads: the sizes of bitnet.cpp's dummy generator
/// (`generate-dummy-bitnet-model.py`).
const SIZES: [(&str, usize, usize, usize, usize); 11] = [
    ("125M", 768, 3072, 11, 12),
    ("350M", 1024, 3072, 24, 16),
    ("1B", 2048, 3584, 24, 32),
    ("1.5B", 1536, 9216, 28, 32),
    ("2.7B", 3072, 7680, 24, 32),
    ("3.8B", 3840, 8192, 24, 32),
    ("7B", 4096, 12032, 32, 32),
    ("13B", 5120, 13824, 40, 40),
    ("30B", 6656, 16384, 60, 52),
    ("70B", 8192, 24576, 80, 64),
    ("100B", 8192, 45568, 72, 64),
];

/// A published model: the dimensions of its `config.json`.
struct Published {
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
    base: f32,
    eps: f32,
}

#[rustfmt::skip] // One line a model, as in the table it comes from.
const PUBLISHED: [Published; 10] = [
    Published { name: "2b-4t", arch: "bitnet-b1.58", layers: 30, dim: 2560, ffn_dim: 6912, heads: 20, kv_heads: 5, head_dim: 128, vocab: 128_256, context: 4096, base: 500_000.0, eps: 1e-5 },
    Published { name: "bitnet-large", arch: "bitnet", layers: 24, dim: 1536, ffn_dim: 4096, heads: 16, kv_heads: 16, head_dim: 96, vocab: 32_002, context: 2048, base: 10_000.0, eps: 1e-5 },
    Published { name: "bitnet-3b", arch: "bitnet", layers: 26, dim: 3200, ffn_dim: 8640, heads: 32, kv_heads: 32, head_dim: 100, vocab: 32_002, context: 2048, base: 10_000.0, eps: 1e-5 },
    Published { name: "llama3-8b", arch: "llama", layers: 32, dim: 4096, ffn_dim: 14_336, heads: 32, kv_heads: 8, head_dim: 128, vocab: 128_256, context: 8192, base: 500_000.0, eps: 1e-5 },
    Published { name: "falcon3-1b", arch: "llama", layers: 18, dim: 2048, ffn_dim: 8192, heads: 8, kv_heads: 4, head_dim: 256, vocab: 131_072, context: 8192, base: 1_000_042.0, eps: 1e-6 },
    Published { name: "falcon3-3b", arch: "llama", layers: 22, dim: 3072, ffn_dim: 9216, heads: 12, kv_heads: 4, head_dim: 256, vocab: 131_072, context: 32_768, base: 1_000_042.0, eps: 1e-6 },
    Published { name: "falcon3-7b", arch: "llama", layers: 28, dim: 3072, ffn_dim: 23_040, heads: 12, kv_heads: 4, head_dim: 256, vocab: 131_072, context: 32_768, base: 1_000_042.0, eps: 1e-6 },
    Published { name: "falcon3-10b", arch: "llama", layers: 40, dim: 3072, ffn_dim: 23_040, heads: 12, kv_heads: 4, head_dim: 256, vocab: 131_072, context: 32_768, base: 1_000_042.0, eps: 1e-6 },
    Published { name: "falcon-e-1b", arch: "llama", layers: 24, dim: 2048, ffn_dim: 9216, heads: 16, kv_heads: 2, head_dim: 128, vocab: 32_768, context: 32_768, base: 1_000_000.0, eps: 1e-5 },
    Published { name: "falcon-e-3b", arch: "llama", layers: 32, dim: 2048, ffn_dim: 13_312, heads: 16, kv_heads: 2, head_dim: 128, vocab: 32_768, context: 32_768, base: 1_000_000.0, eps: 1e-5 },
];

/// A published hybrid model of PrismML: the dimensions of Qwen3.5 and 3.6 in their `config.json`.
struct Hybrid {
    name: &'static str,
    layers: usize,
    dim: usize,
    ffn_dim: usize,
    heads: usize,
    value_heads: usize,
    tied: bool,
    /// The block of its rotation.
    block: Option<usize>,
}

#[rustfmt::skip] // One line a model, as in the table it comes from.
const HYBRIDS: [Hybrid; 4] = [
    Hybrid { name: "bonsai-27b", layers: 64, dim: 5120, ffn_dim: 17_408, heads: 24, value_heads: 48, tied: false, block: None },
    Hybrid { name: "bonsai2-27b", layers: 64, dim: 5120, ffn_dim: 17_408, heads: 24, value_heads: 48, tied: false, block: Some(1024) },
    Hybrid { name: "bonsai2-9b", layers: 32, dim: 4096, ffn_dim: 12_288, heads: 16, value_heads: 32, tied: false, block: Some(4096) },
    Hybrid { name: "bonsai2-4b", layers: 32, dim: 2560, ffn_dim: 9216, heads: 16, value_heads: 32, tied: true, block: Some(512) },
];

impl Shape {
    /// The names [`by_size`](Self::by_size) knows.
    pub fn sizes() -> impl Iterator<Item = &'static str> {
        SIZES.iter().map(|size| size.0)
    }

    /// The names [`like`](Self::like) knows.
    pub fn published() -> impl Iterator<Item = &'static str> {
        PUBLISHED.iter().map(|model| model.name).chain(HYBRIDS.iter().map(|model| model.name))
    }

    /// A BitNet b1.58 model of about that many parameters, with as many key/value heads as query heads.
    pub fn by_size(name: &str) -> Result<Self> {
        let Some(&(name, dim, ffn_dim, layers, heads)) = SIZES.iter().find(|size| size.0.eq_ignore_ascii_case(name))
        else {
            return Err(unknown("size", name, Self::sizes()));
        };
        let shape = Published {
            name,
            arch: "bitnet-b1.58",
            layers,
            dim,
            ffn_dim,
            heads,
            kv_heads: heads,
            head_dim: dim / heads,
            vocab: 32_002,
            context: 2048,
            base: 10_000.0,
            eps: 1e-5,
        };
        Ok(shape.shape())
    }

    /// The shape of a published model.
    pub fn like(name: &str) -> Result<Self> {
        if let Some(model) = PUBLISHED.iter().find(|model| model.name.eq_ignore_ascii_case(name)) {
            return Ok(model.shape());
        }
        let hybrid = HYBRIDS.iter().find(|model| model.name.eq_ignore_ascii_case(name));
        hybrid.map(Hybrid::shape).ok_or_else(|| unknown("model", name, Self::published()))
    }

    /// This shape with a block of multi-token prediction behind its layers.
    ///
    /// # Errors
    /// If models of its kind have none.
    pub fn with_mtp(mut self) -> Result<Self> {
        if self.model.family != Family::Qwen35 {
            let thing = format!("a block of multi-token prediction in architecture {}", self.model.arch);
            return Err(Error::unsupported(thing, "only hybrid models have one"));
        }
        self.model.mtp_blocks = 1;
        Ok(self)
    }

    /// The shape that a `config.json` describes.
    pub fn from_config(path: &Path) -> Result<Self> {
        let json = read_json(path)?.ok_or_else(|| Error::missing(path.display().to_string(), "the shape"))?;
        let source = read_config(&json).map_err(|e| e.in_file(path.display().to_string()))?;
        if source.rope_factors.is_some() {
            return Err(Error::unsupported("RoPE scaling by factors", "a dummy model has no rope_freqs.weight"));
        }
        let tied = source.tied.unwrap_or(source.model.family == Family::BitNet);
        Ok(Self { model: source.model, tied, grouped: false })
    }
}

impl Published {
    fn shape(&self) -> Shape {
        let (family, style) = match self.arch {
            "llama" => (Family::Llama, RopeStyle::Interleaved),
            _ => (Family::BitNet, RopeStyle::HalfSplit),
        };
        let model = Config {
            arch: self.arch.to_owned(),
            family,
            name: format!("Dummy-{}", self.name),
            layers: self.layers,
            dim: self.dim,
            ffn_dim: self.ffn_dim,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            vocab: self.vocab,
            context: self.context,
            rms_eps: self.eps,
            rope: Rope { dims: self.head_dim, base: self.base, position_scale: 1.0, yarn: None, long: None, style },
            activation: if self.arch == "bitnet-b1.58" { Activation::Relu2 } else { Activation::Silu },
            delta: None,
            rotation: None,
            mtp_blocks: 0,
            input_norms: None,
            multipliers: Multipliers::default(),
            biased: &[],
        };
        Shape { model, tied: family == Family::BitNet, grouped: false }
    }
}

impl Hybrid {
    fn shape(&self) -> Shape {
        let delta = DeltaNet {
            layers: (1..=self.layers).map(|number| number % 4 != 0).collect(),
            kernel: 4,
            key_heads: 16,
            value_heads: self.value_heads,
            head_dim: 128,
        };
        let rope =
            Rope { dims: 64, base: 1e7, position_scale: 1.0, yarn: None, long: None, style: RopeStyle::HalfSplit };
        let mut model = Config {
            arch: "qwen35".to_owned(),
            family: Family::Qwen35,
            name: format!("Dummy-{}", self.name),
            layers: self.layers,
            dim: self.dim,
            ffn_dim: self.ffn_dim,
            heads: self.heads,
            kv_heads: 4,
            head_dim: 256,
            vocab: 248_320,
            context: 262_144,
            rms_eps: 1e-6,
            rope,
            activation: Activation::Silu,
            delta: Some(delta),
            rotation: None,
            mtp_blocks: 0,
            input_norms: None,
            multipliers: Multipliers::default(),
            biased: &[],
        };
        model.rotation = self.block.map(|block| rotation(&model, block, self.tied));
        Shape { model, tied: self.tied, grouped: true }
    }
}

/// A rotation of everything, with signs.
fn rotation(model: &Config, block: usize, tied: bool) -> Rotation {
    let folded: Vec<Vec<Linear>> = (0..model.layers).map(|layer| model.linears(layer).to_vec()).collect();
    let mut widths: Vec<usize> = folded.iter().flatten().map(|&role| model.linear_shape(role).1).collect();
    widths.sort_unstable();
    widths.dedup();
    let signs = |width: usize| {
        let mut random = Random::stream(0, width as u64);
        (width, (0..width).map(|_| random.sign()).collect())
    };
    let signs = Some(widths.into_iter().map(signs).collect());
    Rotation { block, signs, folded, head: true, tied, v_grouped: true }
}

fn unknown(what: &str, name: &str, known: impl Iterator<Item = &'static str>) -> Error {
    let known = known.collect::<Vec<_>>().join(", ");
    Error::Usage(format!("there is no dummy {what} {}; there are {known}", shown(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters of the blocks' projections, in billions.
    fn projections(shape: &Shape) -> f64 {
        let model = &shape.model;
        let elements = |role| {
            let (rows, cols) = model.linear_shape(role);
            (rows * cols) as f64
        };
        (0..model.layers).flat_map(|layer| model.linears(layer)).map(|&role| elements(role)).sum::<f64>() / 1e9
    }

    #[test]
    fn shapes_have_about_the_parameters_their_names_say() {
        for (name, billions) in
            [("7B", 6.9), ("13B", 12.7), ("30B", 30.4), ("70B", 69.5), ("100B", 99.0), ("1.5B", 1.45), ("3.8B", 3.7)]
        {
            let found = projections(&Shape::by_size(name).unwrap());
            assert!((found / billions - 1.0).abs() < 0.05, "{name}: {found}");
        }
        // 2B-4T has 2.08e9 ternary weights: 210 tensors of 2 bits make its 521 MB.
        let found = projections(&Shape::like("2B-4T").unwrap());
        assert!((found - 2.08).abs() < 0.01, "{found}");
        // The 27B has 26.9e9 parameters with two tables of 248320 x 5120.
        let found = projections(&Shape::like("Bonsai2-27B").unwrap());
        assert!((found - (26.9 - 2.54)).abs() < 0.1, "{found}");
    }

    #[test]
    fn rows_fit_the_blocks_of_every_head_type_and_heads_are_even() {
        let sizes = Shape::sizes().map(|name| Shape::by_size(name).unwrap());
        for shape in sizes.chain(Shape::published().map(|name| Shape::like(name).unwrap())) {
            let model = &shape.model;
            assert_eq!((model.dim % 32, model.head_dim % 2, model.heads % model.kv_heads), (0, 0, 0), "{}", model.name);
        }
    }

    #[test]
    fn unknown_names_list_the_known() {
        let error = Shape::by_size("9B").unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Usage);
        assert!(error.to_string().contains("no dummy size 9B; there are 125M, 350M"), "{error}");
        assert!(Shape::like("gpt").unwrap_err().to_string().contains("2b-4t, bitnet-large"));
    }
}
