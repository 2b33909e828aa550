//! A model: validated hyperparameters and its tensors by role.

mod config;
pub(crate) mod dialect;
mod load;
pub mod names;
mod weights;

pub use bitnet_cpu_kernels::format::{I2sPacking, MatrixScales, TileTable};
pub use config::{Activation, Config, Family, Rope, RopeStyle};
pub use dialect::OpenOptions;
pub(crate) use load::dense_type;
pub use weights::{Block, DenseMatrix, Linear, Norm, TernaryMatrix, Weights};

/// A model ready to be planned and loaded.
#[derive(Clone, Debug)]
pub struct Model {
    /// Hyperparameters.
    pub config: Config,
    /// Tensors; large ones still in the memory map.
    pub weights: Weights,
}
