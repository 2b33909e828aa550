//! A source whose matrices are read once where memory allows: they are needed when they are written and when they are
//! compared, and real numbers take eight times as long to read as what they become.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::source::{Matrix, Source};
use crate::{bytes::Bytes, error::Result};

/// A source and what is held of it.
pub(super) struct Remembering<'a> {
    source: &'a dyn Source,
    held: Mutex<Held>,
}

struct Held {
    matrices: HashMap<usize, Matrix>,
    /// Bytes that may still be taken.
    room: u64,
}

impl<'a> Remembering<'a> {
    /// Holds at most `room` bytes of codes and scales.
    pub fn new(source: &'a dyn Source, room: u64) -> Self {
        Self { source, held: Mutex::new(Held { matrices: HashMap::new(), room }) }
    }

    /// A matrix for the last time: it is held no longer.
    pub fn take(&self, at: usize) -> Result<Matrix> {
        let held = self.held().matrices.remove(&at);
        match held {
            Some(matrix) => {
                self.held().room += bytes(&matrix);
                Ok(matrix)
            }
            None => self.source.ternary(at),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Codes, and a scale for each 64 of them at most.
fn bytes(matrix: &Matrix) -> u64 {
    matrix.codes.len() as u64 * 9 / 8
}

impl Source for Remembering<'_> {
    fn ternary(&self, at: usize) -> Result<Matrix> {
        if let Some(matrix) = self.held().matrices.get(&at) {
            return Ok(matrix.clone());
        }
        let matrix = self.source.ternary(at)?;
        let mut held = self.held();
        if let Some(left) = held.room.checked_sub(bytes(&matrix)) {
            held.room = left;
            held.matrices.insert(at, matrix.clone());
        }
        Ok(matrix)
    }

    fn rows(&self, at: usize, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        self.source.rows(at, rows, out)
    }

    fn bytes(&self, at: usize) -> Result<Bytes> {
        self.source.bytes(at)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bitnet_cpu_kernels::format::MatrixScales;

    use super::*;

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Source for Counting {
        fn ternary(&self, at: usize) -> Result<Matrix> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let (codes, scales) = (vec![at as u8; 64], MatrixScales::PerTensor(1.0));
            Ok(Matrix { codes, scales, factor: None, rounded: false, warning: None })
        }

        fn rows(&self, _at: usize, _rows: Range<usize>, _out: &mut [f32]) -> Result<()> {
            unreachable!("there is no table")
        }

        fn bytes(&self, _at: usize) -> Result<Bytes> {
            unreachable!("nothing is kept as it is")
        }
    }

    #[test]
    fn what_has_room_is_read_once() {
        let counting = Counting::default();
        let reads = || counting.0.load(Ordering::Relaxed);
        // Room for two of 72 bytes.
        let source = Remembering::new(&counting, 150);
        for at in [0, 1, 2, 0, 1, 2] {
            assert_eq!(source.ternary(at).unwrap().codes, [at as u8; 64]);
        }
        assert_eq!(reads(), 4, "the third one twice");
        assert_eq!([0, 1, 2].map(|at| source.take(at).unwrap().codes[0]), [0, 1, 2]);
        assert_eq!(reads(), 5);
        // What was taken made room.
        source.ternary(2).unwrap();
        source.ternary(2).unwrap();
        assert_eq!(reads(), 6);
    }
}
