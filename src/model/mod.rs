//! A model: validated hyperparameters and its tensors by role.

mod config;
mod delta;
pub(crate) mod dialect;
mod keys;
mod load;
pub mod names;
mod reals;
mod rotation;
mod scales;
mod ternary;
mod weights;

pub use bitnet_cpu_kernels::format::{I2sPacking, MatrixScales, TileTable};
use bitnet_cpu_kernels::{format::Layout, rope::RopeTable};
pub use config::{Activation, Config, Family, InputNorms, LongRope, Multipliers, Rope, RopeStyle};
pub use delta::DeltaNet;
pub use dialect::OpenOptions;
use dialect::blame;
#[cfg(feature = "convert")]
pub(crate) use load::{dense_type, table_as_f16};
#[cfg(feature = "convert")]
pub(crate) use reals::{common_magnitude, of_bytes as of_real_bytes, real_type};
pub use rotation::Rotation;
pub use scales::TernaryScales;
#[cfg(feature = "convert")]
pub(crate) use ternary::codes_are_zero;
pub(crate) use ternary::repack_rows;
pub use ternary::{PackedMatrix, TernaryCodes, TernaryMatrix};
pub use weights::{Block, DeltaWeights, DenseMatrix, Linear, MtpBlock, Norm, Weights};

use crate::error::Result;

/// A warning about matrices of these names, which have nothing but zeros.
pub(crate) fn zero_warning(names: &[String]) -> Option<String> {
    let tensors = first_and_more(names)?;
    Some(format!("{tensors} hold nothing but zeros: the file is damaged, another copy of it may be whole"))
}

/// "tensor NAME and 3 more"; `None` without a name.
pub(crate) fn first_and_more(names: &[impl AsRef<str>]) -> Option<String> {
    let (first, more) = names.split_first()?;
    let first = first.as_ref();
    Some(if more.is_empty() { format!("tensor {first}") } else { format!("tensor {first} and {} more", more.len()) })
}

/// A model ready to be planned and loaded.
#[derive(Clone, Debug)]
pub struct Model {
    /// Hyperparameters.
    pub config: Config,
    /// Tensors; large ones still in the memory map.
    #[doc(hidden)]
    pub weights: Weights,
}

impl Model {
    /// Names of the projections that have nothing but zeros, which no trained model has: their file is damaged.
    ///
    /// # Errors
    /// As those of [`packed`](Self::packed), for the rows looked at.
    pub fn zero_matrices(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for (layer, block) in self.weights.blocks.iter().enumerate() {
            for (role, matrix) in block.linears() {
                let name = names::linear(layer, role);
                if matrix.is_zero().map_err(|e| blame(&name, matrix.cols, e))? {
                    names.push(name);
                }
            }
        }
        Ok(names)
    }

    /// The matrix of a projection in a layout: see [`TernaryMatrix::packed`].
    ///
    /// # Errors
    /// Names the tensor and the place of a code that is none, or that the layout has no room for.
    #[doc(hidden)]
    pub fn packed(&self, layer: usize, role: Linear, to: Layout) -> Result<PackedMatrix> {
        let matrix = self.weights.blocks[layer].linear(role);
        matrix.packed(to).map_err(|e| blame(&names::linear(layer, role), matrix.cols, e))
    }

    /// The rotations of the first `positions` positions, as the model scales them where a text may have `context` tokens.
    ///
    /// # Panics
    /// If `rope_factors` are not one for each pair that rotates; loading a file checks it.
    #[doc(hidden)]
    pub fn rope_table(&self, positions: usize, context: usize) -> RopeTable {
        let rope = &self.config.rope;
        let yarn = rope.yarn.map(|yarn| yarn.factors(rope.dims, rope.base));
        let given = match rope.long {
            Some(long) if context > long.original_context => &self.weights.long_rope_factors,
            _ => &self.weights.rope_factors,
        };
        let factors = match (yarn, given) {
            (Some(yarn), Some(given)) => Some(yarn.iter().zip(given).map(|(a, b)| a * b).collect()),
            (yarn, given) => yarn.or_else(|| given.clone()),
        };
        let table = RopeTable::new(rope.dims, rope.base, rope.position_scale, factors.as_deref(), positions);
        match (rope.yarn, rope.long) {
            (Some(yarn), _) => table.stretched(yarn.magnitude()),
            (None, Some(long)) => table.stretched(long.magnitude),
            (None, None) => table,
        }
    }
}
