//! The one table of kernels, and how their text is put together.
//!
//! In: a [`Shader`] and the choices made for the device. Out: WGSL text ([`Variant::compose`]): the pieces of
//! `shaders/common/` the kernel uses, the kernel, and the declaration of its parameters. Numbers are
//! pipeline constants (`override`), never text.

use std::fmt;

use bitnet_cpu_kernels::format::DenseType;
use serde::{Deserialize, Serialize};

/// How a kernel uses a storage buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    Write,
}

/// A kernel of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named like their files")]
pub enum Shader {
    Embed,
    NormQuantize,
    /// norm_quantize.wgsl with the result of attention as input.
    NormQuantizeParts,
    /// norm_quantize.wgsl with a scale for each group of columns.
    NormQuantizeGrouped,
    /// Both of these.
    NormQuantizePartsGrouped,
    TernaryMatvec,
    TernaryFew,
    TernaryMatmul,
    TernaryMatvecGrouped,
    TernaryFewGrouped,
    TernaryMatmulGrouped,
    /// ternary_matvec_i2s.wgsl that norms and quantises its input itself.
    FoldedMatvec,
    /// The same with the result of attention as input.
    FoldedMatvecParts,
    /// ternary_matvec_grouped.wgsl that norms and quantises its input itself.
    FoldedMatvecGrouped,
    /// The same with the result of attention as input.
    FoldedMatvecPartsGrouped,
    RopeAppend,
    AttentionDecode,
    AttentionMerge,
    AttentionPrefill,
    GateUp,
    RmsNorm,
    Head,
    ScreenQuery,
    HeadScreen,
    HeadScreenFew,
    ScreenCut,
    ScreenProbe,
    ScreenRescore,
    TopLogits,
    MergeTop,
    Argmax,
}

/// Which twin of the reductions: through subgroup operations or through workgroup memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Lanes {
    Subgroup,
    Workgroup,
}

/// Which twin of the ternary product. Both give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Product {
    Int8,
    F32,
}

/// How parameters reach a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParamSource {
    /// `var<immediate>` (push constants, root constants).
    Immediate,
    /// A uniform buffer with a dynamic offset, for devices without immediates.
    Uniform,
}

/// What is chosen once for a device and holds for all its kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Choices {
    pub lanes: Lanes,
    pub product: Product,
    pub params: ParamSource,
}

impl fmt::Display for Choices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lanes = match self.lanes {
            Lanes::Subgroup => "subgroups",
            Lanes::Workgroup => "no subgroups",
        };
        let product = match self.product {
            Product::Int8 => "int8 dot products",
            Product::F32 => "f32 products",
        };
        let params = match self.params {
            ParamSource::Immediate => "immediates",
            ParamSource::Uniform => "a uniform buffer",
        };
        write!(f, "{lanes}, {product}, {params}")
    }
}

/// A piece of text in front of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// Always this file.
    Always(&'static str),
    /// The entry point and the reductions of [`Lanes`].
    Lane,
    /// The entry point without subgroups, for kernels that gain nothing from them.
    PlainLane,
    /// The product of [`Product`].
    Dot,
    /// The reader of a [`DenseType`].
    Dense,
}

/// A row of the table.
pub struct Kernel {
    /// File stem, label and name in profiles.
    pub name: &'static str,
    source: &'static str,
    pieces: &'static [Piece],
    /// Access of bindings 0, 1, ... of group 0.
    pub bindings: &'static [Access],
    /// Invocations of a workgroup (the constant WG), unless a dispatch has another: a power of two, at most 256.
    pub workgroup: u32,
    /// Pipeline constants besides WG.
    pub constants: &'static [&'static str],
    /// Fields of `struct Params`.
    pub params: &'static [&'static str],
}

macro_rules! shader {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $path))
    };
}

mod table;

impl Shader {
    fn uses(self, piece: Piece) -> bool {
        self.kernel().pieces.contains(&piece)
    }

    /// Every text this kernel can be composed to.
    pub fn variants(self) -> Vec<Variant> {
        let lanes: &[Lanes] =
            if self.uses(Piece::Lane) { &[Lanes::Subgroup, Lanes::Workgroup] } else { &[Lanes::Workgroup] };
        let products: &[Product] =
            if self.uses(Piece::Dot) { &[Product::Int8, Product::F32] } else { &[Product::Int8] };
        let dense: Vec<Option<DenseType>> =
            if self.uses(Piece::Dense) { DENSE.iter().map(|&(ty, _)| Some(ty)).collect() } else { vec![None] };
        let mut all = Vec::new();
        for params in [ParamSource::Immediate, ParamSource::Uniform] {
            for &lanes in lanes {
                for &product in products {
                    for &dense in &dense {
                        all.push(Variant { shader: self, choices: Choices { lanes, product, params }, dense });
                    }
                }
            }
        }
        all
    }
}

/// The dense types the GPU reads, with their readers.
const DENSE: [(DenseType, &str); 10] = [
    (DenseType::F32, shader!("common/dense_f32.wgsl")),
    (DenseType::F16, shader!("common/dense_f16.wgsl")),
    (DenseType::BF16, shader!("common/dense_bf16.wgsl")),
    (DenseType::Q8_0, shader!("common/dense_q8_0.wgsl")),
    (DenseType::Q6K, shader!("common/dense_q6_k.wgsl")),
    (DenseType::Q4K, shader!("common/dense_q4_k.wgsl")),
    (DenseType::Q4_0, shader!("common/dense_q4_0.wgsl")),
    (DenseType::TQ2_0, shader!("common/dense_tq2_0.wgsl")),
    (DenseType::Q2_0, shader!("common/dense_q2_0.wgsl")),
    (DenseType::Q2_0G128, shader!("common/dense_q2_0_g128.wgsl")),
];

/// True when the kernels `embed` and `head` read this type.
pub fn reads(ty: DenseType) -> bool {
    DENSE.iter().any(|&(have, _)| have == ty)
}

/// A kernel with all choices of text made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The kernel.
    pub shader: Shader,
    /// Twins to take.
    pub choices: Choices,
    /// Element type of the table, for `embed` and `head`.
    pub dense: Option<DenseType>,
}

impl Variant {
    /// A variant with the choices of the device; those the kernel does not have are put to one value, so
    /// that equal text is an equal variant.
    pub fn new(shader: Shader, choices: Choices, dense: Option<DenseType>) -> Self {
        let lanes = if shader.uses(Piece::Lane) { choices.lanes } else { Lanes::Workgroup };
        let product = if shader.uses(Piece::Dot) { choices.product } else { Product::Int8 };
        let dense = dense.filter(|_| shader.uses(Piece::Dense));
        Self { shader, choices: Choices { lanes, product, params: choices.params }, dense }
    }

    /// A name for labels, logs and test failures: "ternary_matvec_i2s-subgroup-int8-immediate".
    pub fn name(&self) -> String {
        let mut name = self.shader.kernel().name.to_owned();
        let mut push = |text: String| {
            name.push('-');
            name.push_str(&text.to_lowercase());
        };
        if self.shader.uses(Piece::Lane) {
            push(format!("{:?}", self.choices.lanes));
        }
        if self.shader.uses(Piece::Dot) {
            push(format!("{:?}", self.choices.product));
        }
        if let Some(dense) = self.dense {
            push(format!("{dense:?}"));
        }
        push(format!("{:?}", self.choices.params));
        name
    }

    /// The WGSL text.
    pub fn compose(&self) -> String {
        let kernel = self.shader.kernel();
        let mut text = String::new();
        for piece in kernel.pieces {
            text.push_str(match piece {
                Piece::Always(source) => source,
                Piece::Lane => match self.choices.lanes {
                    Lanes::Subgroup => shader!("common/lane_subgroup.wgsl"),
                    Lanes::Workgroup => shader!("common/lane.wgsl"),
                },
                Piece::PlainLane => shader!("common/lane.wgsl"),
                Piece::Dot => match self.choices.product {
                    Product::Int8 => shader!("common/dot_int8.wgsl"),
                    Product::F32 => shader!("common/dot_f32.wgsl"),
                },
                Piece::Dense => DENSE.iter().find(|&&(ty, _)| Some(ty) == self.dense).map_or("", |&(_, text)| text),
            });
            text.push('\n');
        }
        text.push_str(kernel.source);
        text.push_str(match self.choices.params {
            ParamSource::Immediate => "\nvar<immediate> p: Params;\n",
            ParamSource::Uniform => "\n@group(1) @binding(0) var<uniform> p: Params;\n",
        });
        text
    }
}
