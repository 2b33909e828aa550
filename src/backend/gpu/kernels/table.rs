//! The one table of kernels: what each is made of, binds and takes. A kernel that is added has a row here, its parameters
//! below, its file in `shaders/`, and the lowering that dispatches it.

use super::{
    kernel::{Access, Flavour, Input, KernelRow, Piece, Streams},
    words::{Dynamic, PARAM_BYTES, Params, params},
};

/// A file of `shaders/`.
macro_rules! shader {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $path))
    };
}

pub(super) use shader;

const FINITE: Piece = Piece::Always(shader!("common/finite.wgsl"));
const BATCH: Piece = Piece::Always(shader!("common/batch.wgsl"));
const FINITE_BATCH: Piece = Piece::Always(shader!("common/finite_batch.wgsl"));
const GATE: Piece = Piece::Always(shader!("common/gate.wgsl"));
const KV_CACHE: Piece = Piece::Always(shader!("common/kv_cache.wgsl"));
const RANK: Piece = Piece::Always(shader!("common/rank.wgsl"));
const TOP: Piece = Piece::Always(shader!("common/top.wgsl"));
const BLOCK: Piece = Piece::Always(shader!("common/ternary_block.wgsl"));
const TERNARY: Piece = Piece::Always(shader!("common/ternary.wgsl"));
const TERNARY_GROUPED: Piece = Piece::Always(shader!("common/ternary_grouped.wgsl"));
const TERNARY_STORE: Piece = Piece::Always(shader!("common/ternary_store.wgsl"));
const SUM16: Piece = Piece::Always(shader!("common/sum16.wgsl"));
const INVERSE_RMS: Piece = Piece::Always(shader!("common/inverse_rms.wgsl"));
const SCREEN: Piece = Piece::Always(shader!("common/screen.wgsl"));
const SCREEN_ROWS: Piece = Piece::Always(shader!("common/screen_rows.wgsl"));
const SCREEN_EXACT: Piece = Piece::Always(shader!("common/screen_exact.wgsl"));
const ROPE: Piece = Piece::Always(shader!("common/rope.wgsl"));
const KV_STORE: Piece = Piece::Always(shader!("common/kv_store.wgsl"));
const ACTS_WRITTEN: Piece = Piece::Always(shader!("common/acts_written.wgsl"));
const QUANTIZE: Piece = Piece::Always(shader!("common/quantize.wgsl"));
const QUANTIZE_GROUPS: Piece = Piece::Always(shader!("common/quantize_groups.wgsl"));
const ROTATE: Piece = Piece::Always(shader!("common/rotate.wgsl"));
const WEIGHTED: Piece = Piece::Always(shader!("common/weighted.wgsl"));
const SOURCE_WEIGHTED: Piece = Piece::Always(shader!("common/source_weighted.wgsl"));

const R: Access = Access::Read;
const W: Access = Access::Write;

const PLAIN: Flavour = Flavour { input: Input::Quantized, grouped: false, rotated: false };
const GROUPED: Flavour = Flavour { grouped: true, ..PLAIN };
const SLOT: Flavour = Flavour { input: Input::Slot, ..PLAIN };
const SLOT_GROUPED: Flavour = Flavour { grouped: true, ..SLOT };
const SLOT_ROTATED: Flavour = Flavour { rotated: true, ..SLOT_GROUPED };
const PARTS: Flavour = Flavour { input: Input::Parts, ..PLAIN };
const PARTS_GROUPED: Flavour = Flavour { grouped: true, ..PARTS };
const SPLITS_ROTATED: Flavour = Flavour { input: Input::Splits, ..SLOT_ROTATED };

/// One kernel for each file of `shaders/`.
macro_rules! kernels {
    ($($(#[$doc:meta])* $name:ident: $kernel:expr;)*) => {
        /// A kernel: a file of `shaders/`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "named like their files")]
        pub enum Shader {
            $($(#[$doc])* $name,)*
        }

        impl Shader {
            /// All kernels.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its row.
            pub const fn kernel(self) -> KernelRow {
                match self {
                    $(Self::$name => $kernel,)*
                }
            }
        }
    };
}

kernels! {
    Embed: KernelRow {
        source: shader!("embed.wgsl"),
        flavours: &[(PLAIN, "embed")],
        pieces: &[Piece::PlainLane, Piece::Dense, BATCH, FINITE_BATCH],
        bindings: &[W, R, W],
        workgroup: 64,
        params: Embed::FIELDS,
        streams: Streams::Little,
    };
    // One workgroup reads a whole row several times: the widest one hides most latency.
    NormQuantize: KernelRow {
        source: shader!("norm_quantize.wgsl"),
        flavours: &[
            (SLOT, "norm_quantize"),
            (PARTS, "norm_quantize_parts"),
            (SLOT_GROUPED, "norm_quantize_grouped"),
            (PARTS_GROUPED, "norm_quantize_parts_grouped"),
        ],
        pieces: &[Piece::Lane, Piece::Row, Piece::Quantize, ACTS_WRITTEN, FINITE],
        bindings: &[R, R, W, W, W],
        workgroup: 256,
        params: NormQuantize::FIELDS,
        streams: Streams::Little,
    };
    RotateQuantize: KernelRow {
        source: shader!("rotate_quantize.wgsl"),
        flavours: &[(SLOT_ROTATED, "rotate_quantize"), (SPLITS_ROTATED, "rotate_quantize_splits")],
        pieces: &[Piece::Lane, Piece::Row, Piece::Quantize, ACTS_WRITTEN, FINITE],
        bindings: &[R, R, W, W, W, R],
        workgroup: 256,
        params: RotateQuantize::FIELDS,
        streams: Streams::Little,
    };
    Rotate: KernelRow {
        source: shader!("rotate.wgsl"),
        flavours: &[(SLOT, "rotate")],
        pieces: &[Piece::Lane, Piece::Row, ROTATE, WEIGHTED, FINITE],
        bindings: &[R, R, W, W],
        workgroup: 256,
        params: Rotate::FIELDS,
        streams: Streams::Little,
    };
    DeltaInput: KernelRow {
        source: shader!("delta_input.wgsl"),
        flavours: &[(SLOT_ROTATED, "delta_input")],
        pieces: &[Piece::Lane, Piece::Row, Piece::Quantize, SOURCE_WEIGHTED, Piece::Dense, ACTS_WRITTEN, FINITE],
        bindings: &[R, R, W, W, W, R, R, W],
        workgroup: 256,
        params: DeltaInput::FIELDS,
        streams: Streams::Weights(&[6]),
    };
    DeltaStep: KernelRow {
        source: shader!("delta_step.wgsl"),
        flavours: &[(PLAIN, "delta_step")],
        pieces: &[Piece::Lane, BATCH, FINITE_BATCH],
        bindings: &[R, R, R, R, W, W, W],
        workgroup: 64,
        params: DeltaStep::FIELDS,
        streams: Streams::Little,
    };
    // In groups only.
    DeltaNorm: KernelRow {
        source: shader!("delta_norm.wgsl"),
        flavours: &[(GROUPED, "delta_norm")],
        pieces: &[Piece::Lane, QUANTIZE, QUANTIZE_GROUPS, ROTATE, ACTS_WRITTEN, BATCH, FINITE_BATCH],
        bindings: &[R, R, W, W, W, R, R, W],
        workgroup: 256,
        params: DeltaNorm::FIELDS,
        streams: Streams::Little,
    };
    // 64 invocations = 16 rows: a multiple of every subgroup size up to 64.
    TernaryMatvec: KernelRow {
        source: shader!("ternary_matvec_i2s.wgsl"),
        flavours: &[(PLAIN, "ternary_matvec_i2s"), (SLOT, "folded_matvec"), (PARTS, "folded_matvec_parts")],
        pieces: &[Piece::Lane, Piece::Dot, BLOCK, GATE, TERNARY, Piece::Acts, TERNARY_STORE, FINITE],
        bindings: &[R, R, R, W, W],
        workgroup: 64,
        params: Ternary::FIELDS,
        streams: Streams::Weights(&[0]),
    };
    TernaryFew: KernelRow {
        source: shader!("ternary_few_i2s.wgsl"),
        flavours: &[(PLAIN, "ternary_few_i2s")],
        ..Shader::TernaryMatvec.kernel()
    };
    TernaryMatmul: KernelRow {
        source: shader!("ternary_matmul_i2s.wgsl"),
        flavours: &[(PLAIN, "ternary_matmul_i2s")],
        pieces: &[Piece::PlainLane, Piece::Dot, Piece::Tile, TERNARY, Piece::Acts, TERNARY_STORE, FINITE],
        bindings: &[R, R, R, W, W],
        workgroup: 256,
        params: Ternary::FIELDS,
        streams: Streams::Weights(&[0]),
    };
    TernaryMatvecGrouped: KernelRow {
        source: shader!("ternary_matvec_grouped.wgsl"),
        flavours: &[
            (GROUPED, "ternary_matvec_grouped"),
            (SLOT_GROUPED, "folded_matvec_grouped"),
            (PARTS_GROUPED, "folded_matvec_parts_grouped"),
            (SLOT_ROTATED, "folded_matvec_rotated"),
        ],
        pieces: &[
            Piece::Lane,
            Piece::Dot,
            BLOCK,
            GATE,
            TERNARY_GROUPED,
            Piece::Acts,
            TERNARY_STORE,
            FINITE,
        ],
        bindings: &[R, R, R, W, W, R],
        workgroup: 64,
        params: TernaryGrouped::FIELDS,
        streams: Streams::Weights(&[0, 5]),
    };
    TernaryFewGrouped: KernelRow {
        source: shader!("ternary_few_grouped.wgsl"),
        flavours: &[(GROUPED, "ternary_few_grouped")],
        ..Shader::TernaryMatvecGrouped.kernel()
    };
    TernaryMatmulGrouped: KernelRow {
        source: shader!("ternary_matmul_grouped.wgsl"),
        flavours: &[(GROUPED, "ternary_matmul_grouped")],
        pieces: &[
            Piece::PlainLane,
            Piece::Dot,
            Piece::Tile,
            TERNARY_GROUPED,
            Piece::Acts,
            TERNARY_STORE,
            FINITE,
        ],
        bindings: &[R, R, R, W, W, R],
        workgroup: 256,
        params: TernaryGrouped::FIELDS,
        streams: Streams::Weights(&[0, 5]),
    };
    RopeAppend: KernelRow {
        source: shader!("rope_append.wgsl"),
        flavours: &[(PLAIN, "rope_append")],
        pieces: &[Piece::Lane, ROPE, KV_CACHE, KV_STORE, BATCH, FINITE_BATCH],
        bindings: &[W, W, W, R, R, R, W],
        workgroup: 64,
        params: RopeAppend::FIELDS,
        streams: Streams::Little,
    };
    AttentionDecode: KernelRow {
        source: shader!("attention_decode.wgsl"),
        flavours: &[(PLAIN, "attention_decode")],
        pieces: &[Piece::Lane, ROPE, KV_CACHE, KV_STORE, BATCH, FINITE_BATCH],
        bindings: &[R, W, W, R, R, R, W, W],
        workgroup: 128,
        params: AttentionDecode::FIELDS,
        streams: Streams::Cache(&[1, 2]),
    };
    AttentionMerge: KernelRow {
        source: shader!("attention_merge.wgsl"),
        flavours: &[(PLAIN, "attention_merge")],
        pieces: &[Piece::PlainLane],
        bindings: &[W],
        workgroup: 128,
        params: AttentionMerge::FIELDS,
        streams: Streams::Little,
    };
    AttentionPrefill: KernelRow {
        source: shader!("attention_prefill.wgsl"),
        flavours: &[(PLAIN, "attention_prefill")],
        pieces: &[Piece::PlainLane, KV_CACHE],
        bindings: &[R, R, R, W, R],
        workgroup: 256,
        params: Attention::FIELDS,
        streams: Streams::Cache(&[1, 2]),
    };
    GateUp: KernelRow {
        source: shader!("gate_up.wgsl"),
        flavours: &[(PLAIN, "gate_up")],
        pieces: &[Piece::PlainLane, GATE],
        bindings: &[W],
        workgroup: 256,
        params: GateUp::FIELDS,
        streams: Streams::Little,
    };
    AddBias: KernelRow {
        source: shader!("add_bias.wgsl"),
        flavours: &[(PLAIN, "add_bias")],
        pieces: &[Piece::PlainLane],
        bindings: &[W, R],
        workgroup: 256,
        params: AddBias::FIELDS,
        streams: Streams::Little,
    };
    RmsNorm: KernelRow {
        source: shader!("rms_norm.wgsl"),
        flavours: &[(PLAIN, "rms_norm")],
        pieces: &[Piece::Lane, INVERSE_RMS, FINITE],
        bindings: &[R, R, W, W],
        workgroup: 256,
        params: RmsNorm::FIELDS,
        streams: Streams::Little,
    };
    Head: KernelRow {
        source: shader!("head.wgsl"),
        flavours: &[(PLAIN, "head")],
        pieces: &[Piece::Lane, Piece::Dense, SUM16, FINITE],
        bindings: &[R, R, W, W],
        workgroup: 64,
        params: Head::FIELDS,
        streams: Streams::Weights(&[1]),
    };
    ScreenQuery: KernelRow {
        source: shader!("screen_query.wgsl"),
        flavours: &[(PLAIN, "screen_query")],
        pieces: &[Piece::Lane, INVERSE_RMS, RANK, SCREEN, FINITE],
        bindings: &[R, R, W, W, W, W, W],
        workgroup: 256,
        params: ScreenQuery::FIELDS,
        streams: Streams::Little,
    };
    HeadScreen: KernelRow {
        source: shader!("head_screen.wgsl"),
        flavours: &[(PLAIN, "head_screen")],
        pieces: &[Piece::Lane, Piece::Dot, RANK, SCREEN, SCREEN_ROWS],
        bindings: &[R, R, R, W, W, W],
        workgroup: 64,
        params: HeadScreen::FIELDS,
        streams: Streams::Weights(&[0]),
    };
    HeadScreenFew: KernelRow {
        source: shader!("head_screen_few.wgsl"),
        flavours: &[(PLAIN, "head_screen_few")],
        ..Shader::HeadScreen.kernel()
    };
    ScreenCut: KernelRow {
        source: shader!("screen_cut.wgsl"),
        flavours: &[(PLAIN, "screen_cut")],
        pieces: &[Piece::Lane, RANK, SCREEN],
        bindings: &[R, W],
        workgroup: 256,
        params: ScreenCut::FIELDS,
        streams: Streams::Little,
    };
    ScreenProbe: KernelRow {
        source: shader!("screen_probe.wgsl"),
        flavours: &[(PLAIN, "screen_probe")],
        pieces: &[Piece::Lane, Piece::Dense, SUM16, RANK, SCREEN, SCREEN_EXACT],
        bindings: &[R, R, R, W],
        workgroup: 64,
        params: ScreenExact::FIELDS,
        streams: Streams::Little,
    };
    ScreenRescore: KernelRow {
        source: shader!("screen_rescore.wgsl"),
        flavours: &[(PLAIN, "screen_rescore")],
        pieces: &[Piece::Lane, Piece::Dense, SUM16, RANK, SCREEN, SCREEN_EXACT, FINITE],
        bindings: &[R, R, R, W, W, W],
        workgroup: 64,
        params: ScreenExact::FIELDS,
        streams: Streams::Little,
    };
    TopLogits: KernelRow {
        source: shader!("top_logits.wgsl"),
        flavours: &[(PLAIN, "top_logits")],
        pieces: &[Piece::Lane, RANK, TOP],
        bindings: &[R, W, W],
        workgroup: 256,
        params: TopLogits::FIELDS,
        streams: Streams::Little,
    };
    MergeTop: KernelRow {
        source: shader!("merge_top.wgsl"),
        flavours: &[(PLAIN, "merge_top")],
        pieces: &[Piece::Lane, RANK, TOP],
        bindings: &[R, R, W],
        workgroup: 256,
        params: MergeTop::FIELDS,
        streams: Streams::Little,
    };
    // One workgroup: the widest.
    Argmax: KernelRow {
        source: shader!("argmax.wgsl"),
        flavours: &[(PLAIN, "argmax")],
        pieces: &[Piece::PlainLane, RANK, BATCH],
        bindings: &[R, W, W],
        workgroup: 256,
        params: Argmax::FIELDS,
        streams: Streams::Little,
    };
}

params! {
    /// embed.wgsl
    Embed { rows: u32, row0: u32, cols: u32, row_bytes: u32, table0: u32, stride: u32, place: u32, scale: f32 }

    /// norm_quantize.wgsl
    NormQuantize {
        cols: u32, words: u32, in_stride: u32, in_offset: u32, groups: u32, eps: f32, place: u32,
    }

    /// rotate_quantize.wgsl
    RotateQuantize {
        cols: u32, words: u32, in_stride: u32, in_offset: u32, groups: u32, eps: f32, place: u32, gate_stride: u32,
    }

    /// rotate.wgsl
    Rotate { cols: u32, in_stride: u32, in_offset: u32, eps: f32, place: u32 }

    /// delta_input.wgsl
    DeltaInput {
        cols: u32, words: u32, in_stride: u32, in_offset: u32, groups: u32, eps: f32, place: u32, heads: u32,
        row_bytes: u32,
    }

    /// delta_step.wgsl
    DeltaStep { key_heads: u32, value_heads: u32, stride: u32, context: u32, place: u32 }

    /// delta_norm.wgsl
    DeltaNorm {
        cols: u32, words: u32, groups: u32, eps: f32, place: u32, key_heads: u32, value_heads: u32, stride: u32,
        z_offset: u32, context: u32,
    }

    /// ternary_matvec_i2s.wgsl and ternary_matmul_i2s.wgsl
    Ternary {
        rows: u32, row0: u32, row_quads: u32, codes0: u32, out_stride: u32, out_offset: u32,
        part1: u32, part2: u32, scale0: f32, scale1: f32, scale2: f32, place: u32,
    }

    /// ternary_matvec_grouped.wgsl and ternary_matmul_grouped.wgsl
    TernaryGrouped {
        rows: u32, row0: u32, row_quads: u32, codes0: u32, scales0: u32, groups: u32, out_stride: u32, out_offset: u32,
        place: u32,
    }

    /// rope_append.wgsl
    RopeAppend {
        heads: u32, kv_heads: u32, stride: u32, q_offset: u32, k_offset: u32, v_offset: u32,
        half: u32, sines: u32, eps: f32, place: u32,
    }

    /// attention_decode.wgsl
    AttentionDecode {
        heads: u32, kv_heads: u32, stride: u32, q_offset: u32, k_offset: u32, v_offset: u32,
        half: u32, sines: u32, eps: f32, scale: f32, place: u32,
    }

    /// attention_merge.wgsl
    AttentionMerge { heads: u32, head_dim: u32 }

    /// attention_prefill.wgsl
    Attention { heads: u32, kv_heads: u32, stride: u32, q_offset: u32, scale: f32 }

    /// gate_up.wgsl
    GateUp { cols: u32, stride: u32, gate_offset: u32, up_offset: u32 }

    /// add_bias.wgsl
    AddBias { cols: u32, stride: u32 }

    /// rms_norm.wgsl
    RmsNorm { cols: u32, stride: u32, eps: f32, place: u32 }

    /// head.wgsl
    Head { rows: u32, row0: u32, cols: u32, row_bytes: u32, table0: u32, vocab: u32, place: u32 }

    /// screen_query.wgsl
    ScreenQuery { cols: u32, stride: u32, eps: f32, place: u32, words: u32, gamma: f32 }

    /// head_screen.wgsl and head_screen_few.wgsl
    HeadScreen {
        rows: u32, row0: u32, blocks: u32, copy0: u32, chunk0: u32, chunks: u32, vocab: u32, least: f32,
    }

    /// screen_cut.wgsl
    ScreenCut { chunks: u32, count: u32 }

    /// screen_probe.wgsl and screen_rescore.wgsl
    ScreenExact {
        rows: u32, row0: u32, cols: u32, row_bytes: u32, table0: u32, chunks: u32, vocab: u32, place: u32,
    }

    /// top_logits.wgsl
    TopLogits { vocab: u32, per_block: u32, blocks: u32 }

    /// merge_top.wgsl
    MergeTop { blocks: u32 }

    /// argmax.wgsl
    Argmax { vocab: u32 }
}
