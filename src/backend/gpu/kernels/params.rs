//! The parameters of each kernel: at most 64 bytes, given as immediates or through a uniform buffer.
//!
//! Each struct has the fields of `struct Params` of its shader in the same order; `tests/gpu/shaders_valid.rs`
//! compares the names. The first four words change from step to step ([`Dynamic`]), the rest is fixed at load.

use bytemuck::{Pod, Zeroable};

/// Bytes reserved for the parameters of a dispatch: what every implementation of immediates offers.
pub const PARAM_BYTES: usize = 64;

/// What changes from step to step; the first words of every kernel's parameters.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Dynamic {
    /// Tokens of the step, or rows of the head's input.
    pub tokens: u32,
    /// Row of the head's input that those of this step begin with.
    pub normed: u32,
    /// Parts the keys are divided into by attention_decode.
    pub splits: u32,
    /// First token whose logits are wanted.
    pub first: u32,
}

/// The parameter bytes of one dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params([u8; PARAM_BYTES]);

impl Params {
    /// The bytes with the changing words filled in.
    pub fn with(&self, dynamic: &Dynamic) -> [u8; PARAM_BYTES] {
        let mut bytes = self.0;
        let words = bytemuck::bytes_of(dynamic);
        bytes[..words.len()].copy_from_slice(words);
        bytes
    }
}

macro_rules! params {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
        #[allow(missing_docs, reason = "documented in the shader")]
        pub struct $name {
            pub dynamic: Dynamic,
            $(pub $field: $ty,)*
        }

        impl $name {
            /// Field names in order, as the shader must have them.
            pub const FIELDS: &[&str] = &["tokens", "normed", "splits", "first", $(stringify!($field)),*];
        }

        const _: () = assert!(size_of::<$name>() <= PARAM_BYTES);

        impl From<$name> for Params {
            fn from(params: $name) -> Self {
                let mut bytes = [0; PARAM_BYTES];
                bytes[..size_of::<$name>()].copy_from_slice(bytemuck::bytes_of(&params));
                Self(bytes)
            }
        }
    )*};
}

params! {
    /// embed.wgsl
    Embed { rows: u32, row0: u32, cols: u32, row_bytes: u32, table0: u32, stride: u32, place: u32, scale: f32 }

    /// norm_quantize.wgsl
    NormQuantize {
        cols: u32, words: u32, in_stride: u32, in_offset: u32, groups: u32, eps: f32, place: u32,
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
        heads: u32, kv_heads: u32, head_dim: u32, stride: u32, q_offset: u32, k_offset: u32, v_offset: u32,
        half: u32, sines: u32, eps: f32, place: u32,
    }

    /// attention_decode.wgsl
    AttentionDecode {
        heads: u32, kv_heads: u32, head_dim: u32, stride: u32, q_offset: u32, k_offset: u32, v_offset: u32,
        half: u32, sines: u32, eps: f32, scale: f32, place: u32,
    }

    /// attention_merge.wgsl
    AttentionMerge { heads: u32, head_dim: u32 }

    /// attention_prefill.wgsl
    Attention { heads: u32, kv_heads: u32, head_dim: u32, stride: u32, q_offset: u32, scale: f32 }

    /// gate_up.wgsl
    GateUp { cols: u32, stride: u32, gate_offset: u32, up_offset: u32 }

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
