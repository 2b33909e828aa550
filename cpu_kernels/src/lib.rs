//! Kernels for ternary (1.58-bit) language models on the processor.
//!
//! In: packed weights ([`mod@format`]), activations as `f32` slices. Out: `f32` slices. Each operation has one
//! folder: `mod.rs` holds the formula, the shapes, the checks at entry and the choice of variant, `scalar.rs`
//! the reference, and one file per instruction set the fast variants. The reference is the specification: every
//! variant is compared with it by the same tests.
//!
//! T is the number of tokens of a step. A wrong length is a bug of the caller and panics with both lengths;
//! data from files is checked by the constructors in [`mod@format`], which return errors.
//!
//! A token flows through the operations in this order:
//! [`dense::gather`] (embedding), [`quantize::norm_quantize`], [`ternary::matmul`], [`rope::apply`],
//! [`attention::append`], [`attention::attend`], [`gate::apply`], [`norm::rms_norm`], [`dense::matmul`]
//! (head), or [`screen::Screen::top_rows`] for its highest products alone. A layer without positions has
//! [`delta::conv`], [`delta::mix`] and [`delta::gated_norm`] in place of attention; models whose weights are rotated,
//! [`rotate::inverse`] behind the embedding and [`quantize::norm_rotate_quantize`].
#![allow(clippy::needless_range_loop, reason = "kernels index several arrays of registers by one number")]

pub mod isa;

pub mod threads;

pub mod format;

pub mod rotate;

pub mod quantize;

pub mod ternary;

pub mod norm;

pub mod rope;

pub mod attention;

pub mod delta;

pub mod bias;

pub mod gate;

pub mod dense;

pub mod screen;

pub mod memory;

pub mod ceiling;

pub mod testing;

#[cfg(target_arch = "aarch64")]
mod arm;

#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use isa::Isa;
use ternary::Tiling;
pub use threads::Pool;

/// Up to this many tokens of a step give the same bits as so many steps of one token. Drafts of an answer are checked
/// that way, and the text must not depend on it. More tokens may be added up in another order.
pub const ALIKE_TOKENS: usize = 8;

/// An instruction set that this processor has, and threads, to run operations on.
#[derive(Debug)]
pub struct Cpu {
    isa: Isa,
    pool: Pool,
    /// For partial results of operations: grown by the first step that needs more, used again by the later ones.
    scratch: Mutex<Vec<f32>>,
    /// Tables of the ternary products.
    tables: Mutex<ternary::LookupScratch>,
    /// Tilings of ternary matrices, by (rows, cols); others have the default.
    tilings: Vec<((usize, usize), Tiling)>,
}

impl Cpu {
    /// `threads` (at least 1) includes the calling thread.
    pub fn new(isa: Isa, threads: usize) -> Self {
        log::debug!("CPU kernels: {}, {threads} threads", isa.name());
        Self { isa, pool: Pool::new(threads), scratch: Mutex::default(), tables: Mutex::default(), tilings: Vec::new() }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads in use, the calling one included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Where lookup tables are built. Nothing else holds the lock but a panic, which leaves tables that are overwritten.
    fn tables(&self) -> MutexGuard<'_, ternary::LookupScratch> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the products of ternary matrices of these (rows, cols) up in another way.
    pub fn set_tilings(&mut self, tilings: Vec<((usize, usize), Tiling)>) {
        self.tilings = tilings;
    }

    fn tiling(&self, rows: usize, cols: usize) -> Tiling {
        let found = self.tilings.iter().find(|(shape, _)| *shape == (rows, cols));
        found.map(|(_, tiling)| *tiling).unwrap_or_default()
    }

    /// The threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

/// Tokens of `x`, a (T, width) matrix.
///
/// # Panics
/// If `x` is not a whole number of rows.
#[track_caller]
fn tokens_of(what: &str, x: &[f32], width: usize) -> usize {
    assert!(width > 0, "{what}: a width of 0");
    assert!(x.len().is_multiple_of(width), "{what}: {} values are not whole rows of {width}", x.len());
    x.len() / width
}
