//! Pairs of weights as 4-bit indices, two pairs a byte: what TL1 is made of, and the last columns of TL2.
//!
//! The index of the pair (w0, w1) is 3 w0 + w1 + 4, or 3 c0 + c1 in codes: 0 to 8. The pair of the lower columns is in
//! the high nibble.

use super::grid::{Column, all, reaches};

/// The four columns of the bytes of 32 rows; 3 where an index is 9 or more.
#[inline]
pub(super) fn read(bytes: &Column, columns: &mut [Column; 4]) {
    for (pair, shift) in columns.as_chunks_mut::<2>().0.iter_mut().zip([4, 0]) {
        for (at, &bytes) in bytes.iter().enumerate() {
            let index = bytes >> shift & all(15);
            let upper = reaches(index, 3) + reaches(index, 6);
            let invalid = reaches(index, 9);
            let invalid = invalid | invalid << 1;
            pair[0][at] = upper | invalid;
            pair[1][at] = ((index - upper - upper - upper) | invalid) & all(3);
        }
    }
}

/// The byte of four codes.
pub(super) fn byte(codes: &[u8]) -> u8 {
    (3 * codes[0] + codes[1]) << 4 | (3 * codes[2] + codes[3])
}
