//! The rotations of a model's inputs, by their width.

use bitnet_cpu_kernels::rotate::Rotation;

use crate::{
    error::{Error, Result},
    model::Config,
};

/// Empty where weights are stored as they are.
#[derive(Debug)]
pub(super) struct Rotations {
    by_width: Vec<Rotation>,
    dim: usize,
    head: bool,
}

impl Rotations {
    /// The rotations of the residual stream's width, and of every folded projection's.
    pub fn of(config: &Config) -> Result<Self> {
        let mut rotations = Self { by_width: Vec::new(), dim: config.dim, head: false };
        let Some(rotation) = &config.rotation else { return Ok(rotations) };
        rotations.head = rotation.head;
        let folded = rotation.folded.iter().flatten().map(|&role| config.linear_shape(role).1);
        for width in folded.chain([config.dim]) {
            if rotations.by_width.iter().any(|known| known.width() == width) {
                continue;
            }
            let made = Rotation::new(width, rotation.block, rotation.signs_of(width));
            rotations.by_width.push(made.map_err(|e| Error::unsupported("the rotation", e.to_string()))?);
        }
        Ok(rotations)
    }

    /// The rotation of inputs of that width.
    ///
    /// # Panics
    /// If no folded matrix has it.
    pub fn of_width(&self, width: usize) -> &Rotation {
        let found = self.by_width.iter().find(|rotation| rotation.width() == width);
        found.unwrap_or_else(|| panic!("no rotation of {width}"))
    }

    /// The rotation that rows of the embedding table are stored in.
    pub fn embedding(&self) -> Option<&Rotation> {
        self.by_width.iter().find(|rotation| rotation.width() == self.dim)
    }

    /// The rotation of the head's input.
    pub fn head(&self) -> Option<&Rotation> {
        self.embedding().filter(|_| self.head)
    }
}
