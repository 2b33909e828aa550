//! State of one sequence and layer between steps.

use bytemuck::allocation::try_zeroed_vec;

use super::{Shape, ShapeError};
use crate::memory::Memory;

/// The state of one sequence in one layer, allocated once; zero before the first token.
#[derive(Debug)]
pub struct State {
    shape: Shape,
    /// (kernel - 1, channels)
    conv: Vec<f32>,
    /// (value_heads, dim, dim) f32: rows of S, which are mostly whole cache lines, begin on one.
    memory: Memory,
}

impl State {
    /// A state of zeros; `Ok(None)` if there is not the memory.
    ///
    /// # Errors
    /// If there is no such shape.
    pub fn try_new(shape: Shape) -> Result<Option<Self>, ShapeError> {
        shape.check()?;
        let conv = try_zeroed_vec(shape.conv_len()).ok();
        let memory = shape.memory_len().checked_mul(size_of::<f32>()).and_then(Memory::try_zeroed);
        Ok(conv.zip(memory).map(|(conv, memory)| Self { shape, conv, memory }))
    }

    /// Heads of the layer.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Back to the state before the first token.
    pub fn clear(&mut self) {
        self.conv.fill(0.0);
        self.memory.fill(0);
    }

    /// Becomes what `from` is: to keep a copy of a state, and to go back to it.
    ///
    /// # Panics
    /// If it has another shape.
    pub fn copy_from(&mut self, from: &Self) {
        assert_eq!(self.shape, from.shape, "State::copy_from: shape");
        self.conv.copy_from_slice(&from.conv);
        self.memory.copy_from_slice(&from.memory);
    }

    /// The last inputs of the convolution, (kernel - 1, channels), oldest first.
    pub fn conv(&self) -> &[f32] {
        &self.conv
    }

    /// As [`Self::conv`], to write.
    pub fn conv_mut(&mut self) -> &mut [f32] {
        &mut self.conv
    }

    /// S of each value head, (value_heads, dim, dim): row j has the weights of all keys for value j.
    pub fn memory(&self) -> &[f32] {
        bytemuck::cast_slice(&self.memory)
    }

    /// As [`Self::memory`], to write.
    pub fn memory_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.memory)
    }
}
