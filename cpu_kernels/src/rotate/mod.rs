//! Rotation of activations into the basis that some models keep their weights in: signs and a blockwise Walsh-Hadamard
//! transform, which spreads outliers over a block before it is quantised (QuaRot, arXiv:2404.00456).
//!
//! H\[r\]\[c\] = (-1)^popcount(r & c) / sqrt(block) (Sylvester's matrix, symmetric and its own inverse) acts on every
//! `block` consecutive values; s are signs +1 and -1.
//!
//! - [`forward`], of what a rotated matrix multiplies: x <- H (s o x), so that W_stored H (s o x) = W x.
//! - [`inverse`], of rows of a rotated embedding table: x <- s o (H x).
//!
//! The transform takes log2(block) stages of additions and subtractions of pairs instead of block^2 products, in the same
//! order on every instruction set: the results are the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use std::{error, fmt};

use crate::{Cpu, isa::Base, threads::Disjoint, tokens_of};

/// Values that are worth waking a thread for (about 2 us of work).
const MIN_VALUES_PER_CHUNK: usize = 4096;

/// The rotation of rows of one width.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    block: usize,
    /// s / sqrt(block), (width): signs and the scale of H in one product.
    factors: Box<[f32]>,
}

impl Rotation {
    /// For rows of `width` values, with `signs` (width) of +1 and -1; `None` = +1 everywhere.
    ///
    /// # Errors
    /// If `block` is no power of two from 2 on that divides `width`, or the signs are others or not `width`.
    pub fn new(width: usize, block: usize, signs: Option<&[f32]>) -> Result<Self, RotationError> {
        if block < 2 || !block.is_power_of_two() || width == 0 || !width.is_multiple_of(block) {
            return Err(RotationError::Block { width, block });
        }
        let scale = (1.0 / (block as f64).sqrt()) as f32;
        let factors = match signs {
            None => vec![scale; width],
            Some(signs) if signs.len() != width => {
                return Err(RotationError::Signs { expected: width, found: signs.len() });
            }
            Some(signs) => {
                if let Some(at) = signs.iter().position(|sign| sign.abs() != 1.0) {
                    return Err(RotationError::Sign { at, found: signs[at].to_string() });
                }
                signs.iter().map(|sign| sign * scale).collect()
            }
        };
        Ok(Self { block, factors: factors.into() })
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.factors.len()
    }

    /// Values that are transformed together.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Forward rotation of one row in place.
    pub(crate) fn forward_row(&self, base: Base, x: &mut [f32]) {
        for (x, factors) in x.chunks_exact_mut(self.block).zip(self.factors.chunks_exact(self.block)) {
            forward_block(base, x, factors);
        }
    }
}

/// A rotation that there is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RotationError {
    /// Blocks that are no power of two, or that do not make up a row.
    Block {
        /// Values of a row.
        width: usize,
        /// Values of a block.
        block: usize,
    },
    /// The wrong number of signs.
    Signs {
        /// Values of a row.
        expected: usize,
        /// Signs found.
        found: usize,
    },
    /// A sign that is neither +1 nor -1.
    Sign {
        /// Its place.
        at: usize,
        /// Its value.
        found: String,
    },
}

impl fmt::Display for RotationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block { width, block } => {
                write!(
                    f,
                    "a rotation of rows of {width}: expected blocks of a power of two that divides it, found {block}"
                )
            }
            Self::Signs { expected, found } => write!(f, "a rotation: expected {expected} signs, found {found}"),
            Self::Sign { at, found } => write!(f, "sign {at} of a rotation: expected +1 or -1, found {found}"),
        }
    }
}

impl error::Error for RotationError {}

/// H (s o x) of each row of `x` (T, width) in place.
///
/// # Panics
/// If `x` is not whole rows.
pub fn forward(cpu: &Cpu, rotation: &Rotation, x: &mut [f32]) {
    blocks("rotate::forward", cpu, rotation, x, forward_block);
}

/// s o (H x) of each row of `x` (T, width) in place: undoes [`forward`].
///
/// # Panics
/// If `x` is not whole rows.
pub fn inverse(cpu: &Cpu, rotation: &Rotation, x: &mut [f32]) {
    blocks("rotate::inverse", cpu, rotation, x, inverse_block);
}

/// Calls `apply` with each block and its factors.
fn blocks(what: &str, cpu: &Cpu, rotation: &Rotation, x: &mut [f32], apply: fn(Base, &mut [f32], &[f32])) {
    let (block, width) = (rotation.block, rotation.width());
    let count = tokens_of(what, x, width) * (width / block);
    let per_chunk = MIN_VALUES_PER_CHUNK.div_ceil(block);
    let base = cpu.isa().base();
    let x = Disjoint::new(x);
    cpu.pool().run(count.div_ceil(per_chunk), |chunk| {
        for at in chunk * per_chunk..count.min((chunk + 1) * per_chunk) {
            // SAFETY: chunks are disjoint ranges of blocks.
            let part = unsafe { x.part(at * block..(at + 1) * block) };
            apply(base, part, &rotation.factors[at * block % width..][..block]);
        }
    });
}

/// x <- the unscaled transform of factors o x, for one block.
fn forward_block(base: Base, x: &mut [f32], factors: &[f32]) {
    match base {
        Base::Scalar => scalar::forward(x, factors),
        #[cfg(target_arch = "x86_64")]
        Base::Avx2(avx2) => avx2::forward(avx2, x, factors),
        #[cfg(target_arch = "aarch64")]
        Base::Neon(neon) => neon::forward(neon, x, factors),
    }
}

/// x <- factors o the unscaled transform of x, for one block.
fn inverse_block(base: Base, x: &mut [f32], factors: &[f32]) {
    match base {
        Base::Scalar => scalar::inverse(x, factors),
        #[cfg(target_arch = "x86_64")]
        Base::Avx2(avx2) => avx2::inverse(avx2, x, factors),
        #[cfg(target_arch = "aarch64")]
        Base::Neon(neon) => neon::inverse(neon, x, factors),
    }
}

#[cfg(test)]
mod tests;
