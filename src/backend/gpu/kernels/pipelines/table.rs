//! The rows of the table: what each kernel is made of, binds and takes.

use super::{Access, Kernel, Piece, Shader};
use crate::backend::gpu::kernels::params;

const FINITE: Piece = Piece::Always(shader!("common/finite.wgsl"));
const BATCH: Piece = Piece::Always(shader!("common/batch.wgsl"));
const FINITE_BATCH: Piece = Piece::Always(shader!("common/finite_batch.wgsl"));
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
const SCREEN_ROWS: Piece = Piece::Always(shader!("common/screen_rows.wgsl"));
const SCREEN_EXACT: Piece = Piece::Always(shader!("common/screen_exact.wgsl"));
const ROPE: Piece = Piece::Always(shader!("common/rope.wgsl"));
const KV_STORE: Piece = Piece::Always(shader!("common/kv_store.wgsl"));

const R: Access = Access::Read;
const W: Access = Access::Write;

impl Shader {
    /// All kernels.
    pub const ALL: [Self; 31] = [
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
        Self::HeadScreenFew,
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
                pieces: &[Piece::PlainLane, Piece::Dense, BATCH, FINITE_BATCH],
                bindings: &[W, R, W],
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
                pieces: &[Piece::Lane, ROPE, KV_CACHE, KV_STORE, BATCH, FINITE_BATCH],
                bindings: &[W, W, W, R, R, R, W],
                workgroup: 64,
                constants: &["Q_NORM", "K_NORM", "INTERLEAVED", "K_TYPE", "V_TYPE", "WINDOW_BASE", "WINDOW_ROWS"],
                params: params::RopeAppend::FIELDS,
            },
            Self::AttentionDecode => Kernel {
                name: "attention_decode",
                source: shader!("attention_decode.wgsl"),
                pieces: &[Piece::Lane, ROPE, KV_CACHE, KV_STORE, BATCH, FINITE_BATCH],
                bindings: &[R, W, W, R, R, R, W, W],
                workgroup: 128,
                constants: &[
                    "Q_NORM",
                    "K_NORM",
                    "INTERLEAVED",
                    "K_TYPE",
                    "V_TYPE",
                    "WINDOW_BASE",
                    "WINDOW_ROWS",
                    "FRESH",
                    "SPLIT_KEYS",
                ],
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
                bindings: &[R, R, R, W, R],
                workgroup: 256,
                constants: &["K_TYPE", "V_TYPE", "WINDOW_BASE", "WINDOW_ROWS"],
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
                pieces: &[Piece::Lane, Piece::Dot, RANK, SCREEN, SCREEN_ROWS],
                bindings: &[R, R, R, W, W, W],
                workgroup: 64,
                constants: &[],
                params: params::HeadScreen::FIELDS,
            },
            Self::HeadScreenFew => {
                Kernel { name: "head_screen_few", source: shader!("head_screen_few.wgsl"), ..Self::HeadScreen.kernel() }
            }
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
                pieces: &[Piece::PlainLane, RANK, BATCH],
                bindings: &[R, W, W],
                workgroup: 256,
                constants: &[],
                params: params::Argmax::FIELDS,
            },
        }
    }
}
