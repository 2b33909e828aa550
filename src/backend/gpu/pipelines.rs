//! The one table of kernels, and how their text is put together.
//!
//! In: a [`Shader`] and the choices made for the device. Out: WGSL text ([`Variant::compose`]): the pieces of
//! `shaders/common/` the kernel uses, the kernel, and the declaration of its parameters. Numbers are
//! pipeline constants (`override`), never text.

use std::fmt;

use bitnet_cpu_kernels::format::DenseType;
use serde::{Deserialize, Serialize};

use super::params;

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
        include_str!(concat!("../../../shaders/", $path))
    };
}

const FINITE: Piece = Piece::Always(shader!("common/finite.wgsl"));
const GATE: Piece = Piece::Always(shader!("common/gate.wgsl"));
const KV_CACHE: Piece = Piece::Always(shader!("common/kv_cache.wgsl"));
const QUANTIZE: Piece = Piece::Always(shader!("common/quantize.wgsl"));
const RANK: Piece = Piece::Always(shader!("common/rank.wgsl"));
const TOP: Piece = Piece::Always(shader!("common/top.wgsl"));
const QUANTIZE_ROW: Piece = Piece::Always(shader!("common/quantize_row.wgsl"));
const QUANTIZE_GROUPED: Piece = Piece::Always(shader!("common/quantize_row_grouped.wgsl"));
const INPUT_SLOT: Piece = Piece::Always(shader!("common/input_slot.wgsl"));
const INPUT_PARTS: Piece = Piece::Always(shader!("common/input_parts.wgsl"));
const BLOCK: Piece = Piece::Always(shader!("common/ternary_block.wgsl"));
const GROUP: Piece = Piece::Always(shader!("common/group.wgsl"));
const TERNARY: Piece = Piece::Always(shader!("common/ternary.wgsl"));
const TERNARY_GROUPED: Piece = Piece::Always(shader!("common/ternary_grouped.wgsl"));
const TERNARY_STORE: Piece = Piece::Always(shader!("common/ternary_store.wgsl"));
const ACTS_STORED: Piece = Piece::Always(shader!("common/acts_stored.wgsl"));
const ACTS_FOLDED: Piece = Piece::Always(shader!("common/acts_folded.wgsl"));
const SUM16: Piece = Piece::Always(shader!("common/sum16.wgsl"));
const INVERSE_RMS: Piece = Piece::Always(shader!("common/inverse_rms.wgsl"));
const SCREEN: Piece = Piece::Always(shader!("common/screen.wgsl"));
const SCREEN_EXACT: Piece = Piece::Always(shader!("common/screen_exact.wgsl"));
const ROPE: Piece = Piece::Always(shader!("common/rope.wgsl"));
const KV_STORE: Piece = Piece::Always(shader!("common/kv_store.wgsl"));

const R: Access = Access::Read;
const W: Access = Access::Write;

impl Shader {
    /// All kernels.
    pub const ALL: [Self; 30] = [
        Self::Embed,
        Self::NormQuantize,
        Self::NormQuantizeParts,
        Self::NormQuantizeGrouped,
        Self::NormQuantizePartsGrouped,
        Self::TernaryMatvec,
        Self::TernaryFew,
        Self::TernaryMatmul,
        Self::TernaryMatvecGrouped,
        Self::TernaryFewGrouped,
        Self::TernaryMatmulGrouped,
        Self::FoldedMatvec,
        Self::FoldedMatvecParts,
        Self::FoldedMatvecGrouped,
        Self::FoldedMatvecPartsGrouped,
        Self::RopeAppend,
        Self::AttentionDecode,
        Self::AttentionMerge,
        Self::AttentionPrefill,
        Self::GateUp,
        Self::RmsNorm,
        Self::Head,
        Self::ScreenQuery,
        Self::HeadScreen,
        Self::ScreenCut,
        Self::ScreenProbe,
        Self::ScreenRescore,
        Self::TopLogits,
        Self::MergeTop,
        Self::Argmax,
    ];

    /// The table.
    pub const fn kernel(self) -> Kernel {
        match self {
            Self::Embed => Kernel {
                name: "embed",
                source: shader!("embed.wgsl"),
                pieces: &[Piece::PlainLane, Piece::Dense, FINITE],
                bindings: &[R, R, W, W],
                workgroup: 64,
                constants: &[],
                params: params::Embed::FIELDS,
            },
            // One workgroup reads a whole row several times: the widest one hides most latency.
            Self::NormQuantize => Kernel {
                name: "norm_quantize",
                source: shader!("norm_quantize.wgsl"),
                pieces: &[Piece::Lane, QUANTIZE, QUANTIZE_ROW, INPUT_SLOT, FINITE],
                bindings: &[R, R, W, W, W],
                workgroup: 256,
                constants: &["NORM"],
                params: params::NormQuantize::FIELDS,
            },
            Self::NormQuantizeParts => Kernel {
                name: "norm_quantize_parts",
                source: shader!("norm_quantize.wgsl"),
                pieces: &[Piece::Lane, QUANTIZE, QUANTIZE_ROW, INPUT_PARTS, FINITE],
                bindings: &[R, R, W, W, W],
                workgroup: 256,
                constants: &["NORM", "HEADS", "HEAD_DIM"],
                params: params::NormQuantize::FIELDS,
            },
            Self::NormQuantizeGrouped => Kernel {
                name: "norm_quantize_grouped",
                source: shader!("norm_quantize.wgsl"),
                pieces: &[Piece::Lane, QUANTIZE, QUANTIZE_GROUPED, GROUP, INPUT_SLOT, FINITE],
                bindings: &[R, R, W, W, W],
                workgroup: 256,
                constants: &["NORM", "GROUP"],
                params: params::NormQuantize::FIELDS,
            },
            Self::NormQuantizePartsGrouped => Kernel {
                name: "norm_quantize_parts_grouped",
                source: shader!("norm_quantize.wgsl"),
                pieces: &[Piece::Lane, QUANTIZE, QUANTIZE_GROUPED, GROUP, INPUT_PARTS, FINITE],
                bindings: &[R, R, W, W, W],
                workgroup: 256,
                constants: &["NORM", "HEADS", "HEAD_DIM", "GROUP"],
                params: params::NormQuantize::FIELDS,
            },
            // 64 invocations = 16 rows: a multiple of every subgroup size up to 64.
            Self::TernaryMatvec => Kernel {
                name: "ternary_matvec_i2s",
                source: shader!("ternary_matvec_i2s.wgsl"),
                pieces: &[Piece::Lane, Piece::Dot, BLOCK, GATE, TERNARY, ACTS_STORED, TERNARY_STORE, FINITE],
                bindings: &[R, R, R, W, W],
                workgroup: 64,
                constants: &["ADD", "GATE"],
                params: params::Ternary::FIELDS,
            },
            Self::TernaryFew => Kernel {
                name: "ternary_few_i2s",
                source: shader!("ternary_few_i2s.wgsl"),
                ..Self::TernaryMatvec.kernel()
            },
            Self::TernaryMatmul => Kernel {
                name: "ternary_matmul_i2s",
                source: shader!("ternary_matmul_i2s.wgsl"),
                pieces: &[Piece::PlainLane, Piece::Dot, TERNARY, ACTS_STORED, TERNARY_STORE, FINITE],
                bindings: &[R, R, R, W, W],
                workgroup: 256,
                constants: &["ADD"],
                params: params::Ternary::FIELDS,
            },
            Self::TernaryMatvecGrouped => Kernel {
                name: "ternary_matvec_grouped",
                source: shader!("ternary_matvec_grouped.wgsl"),
                pieces: &[
                    Piece::Lane,
                    Piece::Dot,
                    BLOCK,
                    GATE,
                    TERNARY_GROUPED,
                    GROUP,
                    ACTS_STORED,
                    TERNARY_STORE,
                    FINITE,
                ],
                bindings: &[R, R, R, W, W, R],
                workgroup: 64,
                constants: &["ADD", "GATE", "GROUP"],
                params: params::TernaryGrouped::FIELDS,
            },
            Self::TernaryFewGrouped => Kernel {
                name: "ternary_few_grouped",
                source: shader!("ternary_few_grouped.wgsl"),
                ..Self::TernaryMatvecGrouped.kernel()
            },
            Self::TernaryMatmulGrouped => Kernel {
                name: "ternary_matmul_grouped",
                source: shader!("ternary_matmul_grouped.wgsl"),
                pieces: &[Piece::PlainLane, Piece::Dot, TERNARY_GROUPED, GROUP, ACTS_STORED, TERNARY_STORE, FINITE],
                bindings: &[R, R, R, W, W, R],
                workgroup: 256,
                constants: &["ADD", "GROUP"],
                params: params::TernaryGrouped::FIELDS,
            },
            // As wide as norm_quantize, whose order of additions they repeat; 64 rows share that work.
            Self::FoldedMatvec => Kernel {
                name: "folded_matvec",
                source: shader!("ternary_matvec_i2s.wgsl"),
                pieces: &[
                    Piece::Lane,
                    Piece::Dot,
                    BLOCK,
                    GATE,
                    TERNARY,
                    QUANTIZE,
                    QUANTIZE_ROW,
                    INPUT_SLOT,
                    ACTS_FOLDED,
                    TERNARY_STORE,
                    FINITE,
                ],
                bindings: &[R, R, R, W, W],
                workgroup: 256,
                constants: &["ADD", "GATE", "NORM", "COLS", "WORDS", "ACTS", "IN_STRIDE", "IN_OFFSET", "EPS", "ROUNDS"],
                params: params::Ternary::FIELDS,
            },
            Self::FoldedMatvecParts => Kernel {
                name: "folded_matvec_parts",
                source: shader!("ternary_matvec_i2s.wgsl"),
                pieces: &[
                    Piece::Lane,
                    Piece::Dot,
                    BLOCK,
                    GATE,
                    TERNARY,
                    QUANTIZE,
                    QUANTIZE_ROW,
                    INPUT_PARTS,
                    ACTS_FOLDED,
                    TERNARY_STORE,
                    FINITE,
                ],
                bindings: &[R, R, R, W, W],
                workgroup: 256,
                constants: &[
                    "ADD",
                    "GATE",
                    "NORM",
                    "COLS",
                    "WORDS",
                    "ACTS",
                    "IN_STRIDE",
                    "IN_OFFSET",
                    "EPS",
                    "ROUNDS",
                    "HEADS",
                    "HEAD_DIM",
                ],
                params: params::Ternary::FIELDS,
            },
            Self::FoldedMatvecGrouped => Kernel {
                name: "folded_matvec_grouped",
                source: shader!("ternary_matvec_grouped.wgsl"),
                pieces: &[
                    Piece::Lane,
                    Piece::Dot,
                    BLOCK,
                    GATE,
                    TERNARY_GROUPED,
                    GROUP,
                    QUANTIZE,
                    QUANTIZE_GROUPED,
                    INPUT_SLOT,
                    ACTS_FOLDED,
                    TERNARY_STORE,
                    FINITE,
                ],
                bindings: &[R, R, R, W, W, R],
                workgroup: 256,
                constants: &[
                    "ADD",
                    "GATE",
                    "NORM",
                    "COLS",
                    "WORDS",
                    "ACTS",
                    "IN_STRIDE",
                    "IN_OFFSET",
                    "EPS",
                    "ROUNDS",
                    "GROUP",
                ],
                params: params::TernaryGrouped::FIELDS,
            },
            Self::FoldedMatvecPartsGrouped => Kernel {
                name: "folded_matvec_parts_grouped",
                source: shader!("ternary_matvec_grouped.wgsl"),
                pieces: &[
                    Piece::Lane,
                    Piece::Dot,
                    BLOCK,
                    GATE,
                    TERNARY_GROUPED,
                    GROUP,
                    QUANTIZE,
                    QUANTIZE_GROUPED,
                    INPUT_PARTS,
                    ACTS_FOLDED,
                    TERNARY_STORE,
                    FINITE,
                ],
                bindings: &[R, R, R, W, W, R],
                workgroup: 256,
                constants: &[
                    "ADD",
                    "GATE",
                    "NORM",
                    "COLS",
                    "WORDS",
                    "ACTS",
                    "IN_STRIDE",
                    "IN_OFFSET",
                    "EPS",
                    "ROUNDS",
                    "HEADS",
                    "HEAD_DIM",
                    "GROUP",
                ],
                params: params::TernaryGrouped::FIELDS,
            },
            Self::RopeAppend => Kernel {
                name: "rope_append",
                source: shader!("rope_append.wgsl"),
                pieces: &[Piece::Lane, ROPE, KV_CACHE, KV_STORE, FINITE],
                bindings: &[W, W, W, R, R, R, W],
                workgroup: 64,
                constants: &["Q_NORM", "K_NORM", "INTERLEAVED", "K_TYPE", "V_TYPE"],
                params: params::RopeAppend::FIELDS,
            },
            Self::AttentionDecode => Kernel {
                name: "attention_decode",
                source: shader!("attention_decode.wgsl"),
                pieces: &[Piece::Lane, ROPE, KV_CACHE, KV_STORE, FINITE],
                bindings: &[R, W, W, R, R, R, W, W],
                workgroup: 128,
                constants: &["Q_NORM", "K_NORM", "INTERLEAVED", "K_TYPE", "V_TYPE", "FRESH", "SPLIT_KEYS"],
                params: params::AttentionDecode::FIELDS,
            },
            Self::AttentionMerge => Kernel {
                name: "attention_merge",
                source: shader!("attention_merge.wgsl"),
                pieces: &[Piece::PlainLane],
                bindings: &[W],
                workgroup: 128,
                constants: &[],
                params: params::AttentionMerge::FIELDS,
            },
            Self::AttentionPrefill => Kernel {
                name: "attention_prefill",
                source: shader!("attention_prefill.wgsl"),
                pieces: &[Piece::PlainLane, KV_CACHE],
                bindings: &[R, R, R, W],
                workgroup: 256,
                constants: &["K_TYPE", "V_TYPE"],
                params: params::Attention::FIELDS,
            },
            Self::GateUp => Kernel {
                name: "gate_up",
                source: shader!("gate_up.wgsl"),
                pieces: &[Piece::PlainLane, GATE],
                bindings: &[W],
                workgroup: 256,
                constants: &["GATE"],
                params: params::GateUp::FIELDS,
            },
            Self::RmsNorm => Kernel {
                name: "rms_norm",
                source: shader!("rms_norm.wgsl"),
                pieces: &[Piece::Lane, INVERSE_RMS, FINITE],
                bindings: &[R, R, W, W],
                workgroup: 256,
                constants: &["ADD"],
                params: params::RmsNorm::FIELDS,
            },
            Self::Head => Kernel {
                name: "head",
                source: shader!("head.wgsl"),
                pieces: &[Piece::Lane, Piece::Dense, SUM16, FINITE],
                bindings: &[R, R, W, W],
                workgroup: 64,
                constants: &["TILE"],
                params: params::Head::FIELDS,
            },
            Self::ScreenQuery => Kernel {
                name: "screen_query",
                source: shader!("screen_query.wgsl"),
                pieces: &[Piece::Lane, INVERSE_RMS, RANK, SCREEN, FINITE],
                bindings: &[R, R, W, W, W, W, W],
                workgroup: 256,
                constants: &[],
                params: params::ScreenQuery::FIELDS,
            },
            Self::HeadScreen => Kernel {
                name: "head_screen",
                source: shader!("head_screen.wgsl"),
                pieces: &[Piece::Lane, Piece::Dot, RANK, SCREEN],
                bindings: &[R, R, R, W, W, W],
                workgroup: 64,
                constants: &[],
                params: params::HeadScreen::FIELDS,
            },
            Self::ScreenCut => Kernel {
                name: "screen_cut",
                source: shader!("screen_cut.wgsl"),
                pieces: &[Piece::Lane, RANK, SCREEN],
                bindings: &[R, W],
                workgroup: 256,
                constants: &[],
                params: params::ScreenCut::FIELDS,
            },
            Self::ScreenProbe => Kernel {
                name: "screen_probe",
                source: shader!("screen_probe.wgsl"),
                pieces: &[Piece::Lane, Piece::Dense, SUM16, RANK, SCREEN, SCREEN_EXACT],
                bindings: &[R, R, R, W],
                workgroup: 64,
                constants: &[],
                params: params::ScreenExact::FIELDS,
            },
            Self::ScreenRescore => Kernel {
                name: "screen_rescore",
                source: shader!("screen_rescore.wgsl"),
                pieces: &[Piece::Lane, Piece::Dense, SUM16, RANK, SCREEN, SCREEN_EXACT, FINITE],
                bindings: &[R, R, R, W, W, W],
                workgroup: 64,
                constants: &[],
                params: params::ScreenExact::FIELDS,
            },
            Self::TopLogits => Kernel {
                name: "top_logits",
                source: shader!("top_logits.wgsl"),
                pieces: &[Piece::Lane, RANK, TOP],
                bindings: &[R, W, W],
                workgroup: 256,
                constants: &[],
                params: params::TopLogits::FIELDS,
            },
            Self::MergeTop => Kernel {
                name: "merge_top",
                source: shader!("merge_top.wgsl"),
                pieces: &[Piece::Lane, RANK, TOP],
                bindings: &[R, R, W],
                workgroup: 256,
                constants: &[],
                params: params::MergeTop::FIELDS,
            },
            // One workgroup: the widest.
            Self::Argmax => Kernel {
                name: "argmax",
                source: shader!("argmax.wgsl"),
                pieces: &[Piece::PlainLane, RANK],
                bindings: &[R, W, W],
                workgroup: 256,
                constants: &[],
                params: params::Argmax::FIELDS,
            },
        }
    }

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
