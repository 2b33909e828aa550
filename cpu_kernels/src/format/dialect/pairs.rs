//! Pairs of weights as 4-bit indices, two pairs a byte: what TL1 is made of, and the last columns of TL2.
//!
//! The index of the pair (w0, w1) is 3 w0 + w1 + 4, or 3 c0 + c1 in codes: 0 to 8. The pair of the lower columns is in
//! the high nibble.

use super::grid::Grid;

/// The four codes of each byte; 3 where an index is 9 or more.
static CODES: [[u8; 4]; 256] = {
    let mut table = [[3; 4]; 256];
    let mut byte = 0;
    while byte < 256 {
        let nibbles = [byte / 16, byte % 16];
        let mut at = 0;
        while at < 2 {
            if nibbles[at] < 9 {
                table[byte][2 * at] = (nibbles[at] / 3) as u8;
                table[byte][2 * at + 1] = (nibbles[at] % 3) as u8;
            }
            at += 1;
        }
        byte += 1;
    }
    table
};

/// Reads four codes from column `col` on.
pub(super) fn read(byte: u8, codes: &mut Grid, row: usize, col: usize) {
    codes.put(row, col, CODES[usize::from(byte)]);
}

/// The byte of four codes.
pub(super) fn byte(codes: &[u8]) -> u8 {
    (3 * codes[0] + codes[1]) << 4 | (3 * codes[2] + codes[3])
}
