//! A model: validated hyperparameters and its tensors by role.

mod config;
mod delta;
pub(crate) mod dialect;
mod keys;
mod load;
pub mod names;
mod rotation;
mod scales;
mod ternary;
mod weights;

pub use bitnet_cpu_kernels::format::{I2sPacking, MatrixScales, TileTable};
use bitnet_cpu_kernels::{format::Layout, rope::RopeTable};
pub use config::{Activation, Config, Family, Rope, RopeStyle};
pub use delta::DeltaNet;
pub use dialect::OpenOptions;
use dialect::blame;
#[cfg(feature = "convert")]
pub(crate) use load::dense_type;
pub use rotation::Rotation;
pub use scales::TernaryScales;
pub(crate) use ternary::repack_rows;
pub use ternary::{PackedMatrix, TernaryCodes, TernaryMatrix};
pub use weights::{Block, DeltaWeights, DenseMatrix, Linear, Norm, Weights};

use crate::error::Result;

/// A model ready to be planned and loaded.
#[derive(Clone, Debug)]
pub struct Model {
    /// Hyperparameters.
    pub config: Config,
    /// Tensors; large ones still in the memory map.
    pub weights: Weights,
}

impl Model {
    /// The matrix of a projection in a layout: see [`TernaryMatrix::packed`].
    ///
    /// # Errors
    /// Names the tensor and the place of a code that is none, or that the layout has no room for.
    pub fn packed(&self, layer: usize, role: Linear, to: Layout) -> Result<PackedMatrix> {
        let matrix = self.weights.blocks[layer].linear(role);
        matrix.packed(to).map_err(|e| blame(&names::linear(layer, role), matrix.cols, e))
    }

    /// The rotations of the first `positions` positions, as the model scales them.
    ///
    /// # Panics
    /// If `rope_factors` are not one for each pair that rotates; loading a file checks it.
    pub fn rope_table(&self, positions: usize) -> RopeTable {
        let rope = &self.config.rope;
        let yarn = rope.yarn.map(|yarn| yarn.factors(rope.dims, rope.base));
        let factors = match (yarn, &self.weights.rope_factors) {
            (Some(yarn), Some(given)) => Some(yarn.iter().zip(given).map(|(a, b)| a * b).collect()),
            (yarn, given) => yarn.or_else(|| given.clone()),
        };
        let table = RopeTable::new(rope.dims, rope.base, rope.position_scale, factors.as_deref(), positions);
        match rope.yarn {
            Some(yarn) => table.stretched(yarn.magnitude()),
            None => table,
        }
    }
}
