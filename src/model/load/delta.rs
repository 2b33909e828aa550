//! The small tensors of gated DeltaNet layers.

use super::Loader;
use crate::{
    error::{Error, Result},
    model::{
        DeltaNet, DeltaWeights,
        names::{self, DeltaTensor},
    },
};

impl Loader<'_> {
    pub(super) fn delta(&self, layer: usize, shape: &DeltaNet) -> Result<DeltaWeights> {
        let name = |tensor| names::delta(layer, tensor);
        let (heads, dim) = (shape.value_heads, self.config.dim);
        let rate = self.floats(&name(DeltaTensor::Rate), heads)?;
        // Above 0 the state would grow without end.
        if let Some(bad) = rate.iter().find(|rate| **rate > 0.0) {
            let thing = format!("tensor {}", name(DeltaTensor::Rate));
            return Err(Error::malformed(thing, "rates of at most 0, -exp(A_log)", bad));
        }
        Ok(DeltaWeights {
            alpha: self.dense(&name(DeltaTensor::Alpha), heads, dim)?,
            beta: self.dense(&name(DeltaTensor::Beta), heads, dim)?,
            conv: self.matrix_of_floats(&name(DeltaTensor::Conv), shape.channels(), shape.kernel)?,
            dt_bias: self.floats(&name(DeltaTensor::DtBias), heads)?,
            rate,
        })
    }
}
