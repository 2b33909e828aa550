//! Handing out parts of one output to several threads.

use std::{marker::PhantomData, ops::Range};

/// A slice that several threads write at once, each its own part.
pub struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Disjoint` only gives out `&mut [T]`, which may go to another thread if T may.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: `part` is the only access through a shared reference, and its contract forbids overlapping parts.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Borrows the whole slice for as long as parts of it are handed out.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The part at `range`.
    ///
    /// # Safety
    /// - No two parts that are alive at the same time overlap.
    ///
    /// # Panics
    /// If `range` is not within the slice.
    #[allow(clippy::mut_from_ref, reason = "the contract forbids two references to one element")]
    pub unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part {range:?} of a slice of {}", self.len);
        // SAFETY: `start` is valid for `len` elements for 'a, the assertion above keeps the range within them,
        // and the caller promises that nobody else holds a reference into it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_slices_of_the_range() {
        let mut values = [0, 1, 2, 3, 4, 5];
        let split = Disjoint::new(&mut values);
        // SAFETY: 0..2, 2..2 and 4..6 do not overlap.
        let (a, b, c) = unsafe { (split.part(0..2), split.part(2..2), split.part(4..6)) };
        a[1] = 10;
        c[0] = 40;
        assert!(b.is_empty());
        assert_eq!(values, [0, 10, 2, 3, 40, 5]);
    }

    #[test]
    #[should_panic(expected = "part 1..4 of a slice of 3")]
    fn a_part_past_the_end_panics() {
        let mut values = [0; 3];
        // SAFETY: only one part.
        unsafe { Disjoint::new(&mut values).part(1..4) };
    }
}
