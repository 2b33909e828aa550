//! The kernels: their table, their parameters, and their compilation. Nothing here knows more of a device than wgpu's
//! own handle.

pub mod compile;
mod kernel;
mod table;
mod variant;
mod words;

/// Kernels, and the texts they are composed to.
pub mod pipelines {
    pub(crate) use super::kernel::Streams;
    pub use super::{
        kernel::{Access, Choices, Flavour, Input, KernelRow, Lanes, ParamSource, Product, Tile},
        table::Shader,
        variant::{Program, Variant, reads},
    };
}

/// The parameters of each kernel.
pub mod params {
    pub use super::{
        table::{
            AddBias, Argmax, Attention, AttentionDecode, AttentionMerge, DeltaInput, DeltaNorm, DeltaStep, Embed,
            GateUp, Head, HeadScreen, MergeTop, NormQuantize, RmsNorm, RopeAppend, Rotate, RotateQuantize, ScreenCut,
            ScreenExact, ScreenQuery, Ternary, TernaryGrouped, TopLogits,
        },
        words::{Dynamic, PARAM_BYTES, Params},
    };
}
