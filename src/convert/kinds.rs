//! The types that can be asked for.

use bitnet_cpu_kernels::format::{Codec, DenseType, Dialect, I2sPacking, Tile};

use crate::{
    error::{Error, Result},
    gguf::TensorType,
    model::dialect::blame,
};

/// The type that ternary matrices are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TernaryType {
    /// bitnet.cpp; 2 bits a weight, read in place.
    #[default]
    I2S,
    /// bitnet.cpp on ARM; 2 bits a weight.
    TL1,
    /// bitnet.cpp on x86; 1.67 bits a weight.
    TL2,
    /// llama.cpp; 1.69 bits a weight.
    TQ1_0,
    /// llama.cpp; 2.06 bits a weight.
    TQ2_0,
    /// llama.cpp; 2.25 bits a weight, a scale for each 64.
    Q2_0,
    /// PrismML; 2.13 bits a weight, a scale for each 128.
    PQ2_0,
    /// PrismML; 1.75 bits a weight, a scale for each 128.
    PTQ1_0,
}

impl TernaryType {
    /// `general.file_type` of files of these matrices: what bitnet.cpp (I2_S, TL1, TL2), PrismML (PQ2_0, PTQ1_0) and
    /// llama.cpp write. They give 38 to 40 different meanings, so no reader should decide anything by it.
    pub(crate) fn file_type(self) -> u32 {
        match self {
            Self::TQ1_0 => 36,
            Self::TQ2_0 => 37,
            Self::TL1 => 38,
            Self::TL2 => 39,
            Self::I2S => 40,
            Self::Q2_0 => 41,
            Self::PQ2_0 => 142,
            Self::PTQ1_0 => 143,
        }
    }

    /// The format's name.
    pub fn name(self) -> &'static str {
        self.tensor_type().name()
    }

    pub(crate) fn tensor_type(self) -> TensorType {
        match self {
            Self::I2S => TensorType::I2_S,
            Self::TL1 => TensorType::TL1,
            Self::TL2 => TensorType::TL2,
            Self::TQ1_0 => TensorType::TQ1_0,
            Self::TQ2_0 => TensorType::TQ2_0,
            Self::Q2_0 => TensorType::Q2_0,
            Self::PQ2_0 => TensorType::PQ2_0,
            Self::PTQ1_0 => TensorType::PTQ1_0,
        }
    }

    /// Whether embedding tables and heads of this type are read.
    pub(super) fn is_for_tables(self) -> bool {
        match self {
            Self::TQ1_0 | Self::TQ2_0 | Self::Q2_0 | Self::PQ2_0 | Self::PTQ1_0 => true,
            Self::I2S | Self::TL1 | Self::TL2 => false,
        }
    }

    /// How a matrix is written.
    ///
    /// # Errors
    /// If it has a shape that the type cannot have; names the tensor.
    pub(crate) fn codec(self, tensor: &str, rows: usize, cols: usize) -> Result<Codec> {
        let tiled = |tile: Option<Tile>, rule: &str| {
            tile.ok_or_else(|| {
                let reason = format!("{} needs {rule}, and this is {rows} x {cols}", self.tensor_type().name());
                Error::unsupported(format!("tensor {tensor}"), reason)
            })
        };
        let dialect = match self {
            Self::I2S => Dialect::I2S(I2sPacking::P128),
            Self::TL1 => Dialect::TL1(tiled(Tile::for_tl1(rows, cols), "multiples of 32 rows and of 32 columns")?),
            Self::TL2 => {
                let rule = "multiples of 32 rows and of 32 columns, at least 256 of these";
                Dialect::TL2(tiled(Tile::for_tl2(rows, cols), rule)?)
            }
            Self::TQ1_0 => Dialect::TQ1_0,
            Self::TQ2_0 => Dialect::TQ2_0,
            Self::Q2_0 => Dialect::Q2_0,
            Self::PQ2_0 => Dialect::Q2_0G128,
            Self::PTQ1_0 => Dialect::PTQ1_0,
        };
        Codec::new(dialect, rows, cols).map_err(|e| blame(tensor, cols, e))
    }
}

/// Type that the embedding table and the head are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The type they have.
    Keep,
    /// 16 bits a weight.
    F16,
    /// 8.5 bits a weight.
    Q8_0,
    /// 6.56 bits a weight.
    Q6K,
}

impl Head {
    /// The type to write; `None` where they are kept.
    pub(super) fn types(self) -> Option<(TensorType, DenseType)> {
        match self {
            Self::Keep => None,
            Self::F16 => Some((TensorType::F16, DenseType::F16)),
            Self::Q8_0 => Some((TensorType::Q8_0, DenseType::Q8_0)),
            Self::Q6K => Some((TensorType::Q6_K, DenseType::Q6K)),
        }
    }
}
