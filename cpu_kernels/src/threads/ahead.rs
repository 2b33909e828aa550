//! Weights that arrive in a cache while threads wait for each other.
//!
//! A decode step is bound by reading weights. Between two products it runs operations too small for all threads, and each
//! product ends with a thread that waits for the others: time in which memory rests. Who waits fetches the first weights
//! of the product that comes next.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes between two looks at whether the wait is over: 0.1 us of reading.
const STRIDE: usize = 1024;

/// A cache line.
const LINE: usize = 64;

/// Where the next weights of a thread begin, and how far they have been asked for. Read while they are written, at worst
/// lines are fetched that nobody needs.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    start: AtomicUsize,
    len: AtomicUsize,
    asked: AtomicUsize,
}

impl Ahead {
    /// Has these bytes fetched, in place of those before.
    pub fn set(&self, bytes: &[u8]) {
        self.start.store(bytes.as_ptr().addr(), Ordering::Relaxed);
        self.len.store(bytes.len(), Ordering::Relaxed);
        self.asked.store(0, Ordering::Relaxed);
    }

    /// Asks for the next few lines; false where all are on their way.
    pub fn fetch(&self) -> bool {
        let len = self.len.load(Ordering::Relaxed);
        if self.asked.load(Ordering::Relaxed) >= len {
            return false;
        }
        let at = self.asked.fetch_add(STRIDE, Ordering::Relaxed);
        let start = self.start.load(Ordering::Relaxed);
        for line in (at..len.min(at.saturating_add(STRIDE))).step_by(LINE) {
            prefetch(start.wrapping_add(line));
        }
        true
    }
}

#[cfg(target_arch = "x86_64")]
fn prefetch(address: usize) {
    crate::x86::prefetch_at(std::ptr::without_provenance(address), 0);
}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch(_: usize) {}

#[cfg(test)]
impl Ahead {
    /// The addresses that are left to fetch.
    pub fn left(&self) -> std::ops::Range<usize> {
        let [start, len, asked] = [&self.start, &self.len, &self.asked].map(|x| x.load(Ordering::Relaxed));
        start + asked.min(len)..start + len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_asked_for_once() {
        let ahead = Ahead::default();
        assert!(!ahead.fetch(), "there is nothing at first");
        for len in [1, LINE, STRIDE, 5 * STRIDE + 1] {
            let bytes = vec![0_u8; len];
            ahead.set(&bytes);
            let start = bytes.as_ptr().addr();
            assert_eq!(ahead.left(), start..start + len);
            let calls = (0..100).take_while(|_| ahead.fetch()).count();
            assert_eq!(calls, len.div_ceil(STRIDE), "{len} bytes");
            assert!(ahead.left().is_empty());
        }
        ahead.set(&[]);
        assert!(!ahead.fetch());
    }
}
