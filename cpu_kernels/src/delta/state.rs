//! State of one sequence and layer between steps.

use bytemuck::{Pod, Zeroable, allocation::try_zeroed_vec};

use super::{Shape, ShapeError};

/// A cache line, so that rows of S, which are mostly whole lines, begin on one.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// The state of one sequence in one layer, allocated once; zero before the first token.
#[derive(Clone, Debug)]
pub struct State {
    shape: Shape,
    /// (kernel - 1, channels)
    conv: Vec<f32>,
    /// (value_heads, dim, dim), and what the last line has left.
    memory: Vec<Line>,
}

impl State {
    /// A state of zeros; `Ok(None)` if there is not the memory.
    ///
    /// # Errors
    /// If there is no such shape.
    pub fn try_new(shape: Shape) -> Result<Option<Self>, ShapeError> {
        shape.check()?;
        let (conv, memory) = (try_zeroed_vec(shape.conv_len()), try_zeroed_vec(shape.memory_len().div_ceil(16)));
        Ok(conv.ok().zip(memory.ok()).map(|(conv, memory)| Self { shape, conv, memory }))
    }

    /// Heads of the layer.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Back to the state before the first token.
    pub fn clear(&mut self) {
        self.conv.fill(0.0);
        self.memory.fill(Line::zeroed());
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
        &bytemuck::cast_slice(&self.memory)[..self.shape.memory_len()]
    }

    /// As [`Self::memory`], to write.
    pub fn memory_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.memory)[..self.shape.memory_len()]
    }
}
