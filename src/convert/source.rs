//! Source of a conversion: its description, and its tensors one at a time.

use std::{ops::Range, path::PathBuf};

use bitnet_cpu_kernels::format::{MatrixScales, ScaleKind};

use super::{Head, TernaryType};
use crate::{
    bytes::Bytes,
    error::Result,
    gguf::{Metadata, TensorType},
};

/// Everything about a model but its weights.
pub(super) struct Description {
    /// The pairs of the output, but for what depends on its types.
    pub metadata: Metadata,
    /// The tensors in the order of the output.
    pub inputs: Vec<Input>,
    /// Default for the ternary matrices, where nothing is asked for.
    pub default_type: TernaryType,
    /// Default for the embedding table and the head, where nothing is asked for.
    pub default_head: Head,
    /// The files that are read.
    pub files: Vec<PathBuf>,
    /// Bytes of the files that hold weights.
    pub bytes: u64,
    /// Choices and omissions the user should know.
    pub warnings: Vec<String>,
}

/// A tensor of the input.
pub(super) struct Input {
    /// The name in the output.
    pub name: String,
    /// The name in the input, for messages.
    pub origin: String,
    /// Slowest first.
    pub sizes: Vec<usize>,
    pub kind: Kind,
}

pub(super) enum Kind {
    /// A ternary matrix, written in the type that is asked for.
    Ternary {
        /// Kind of scales it has.
        scales: ScaleKind,
        /// Whether a factor stands beside them.
        factor: bool,
    },
    /// The embedding table or the head (rows, cols), written in the type that is asked for; its type if it is kept.
    Table(TensorType),
    /// Anything else, kept as it is.
    Other(TensorType),
}

/// A ternary matrix as the kernels have it: weight = factor * scale * (code - 1).
#[derive(Clone)]
pub(super) struct Matrix {
    /// Rows of [`Layout::I2sP128`](bitnet_cpu_kernels::format::Layout::I2sP128).
    pub codes: Vec<u8>,
    pub scales: MatrixScales,
    pub factor: Option<f32>,
    /// True when real numbers were rounded.
    pub rounded: bool,
    /// Anything odd about it.
    pub warning: Option<String>,
}

/// A model to be converted. `at` is a place in [`Description::inputs`].
pub(super) trait Source: Sync {
    /// The matrix of a [`Kind::Ternary`].
    fn ternary(&self, at: usize) -> Result<Matrix>;

    /// Rows of a [`Kind::Table`] as numbers, finite or not; they begin at a multiple of
    /// [`ROW_STEP`](crate::model::dialect::ROW_STEP).
    fn rows(&self, at: usize, rows: Range<usize>, out: &mut [f32]) -> Result<()>;

    /// The bytes of a tensor that is kept as it is.
    fn bytes(&self, at: usize) -> Result<Bytes>;
}
