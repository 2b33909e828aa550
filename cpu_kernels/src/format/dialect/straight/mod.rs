//! Rows of some dialects straight to [`Layout::I2sP128`](crate::format::Layout::I2sP128): a byte a weight in between would
//! take most of the time in which a large file is loaded.

#[cfg(target_arch = "x86_64")]
mod avx2;

use std::ops::Range;

use super::{super::I2S_BLOCK_BYTES, Dialect, ptq1_0, q2_0, tq1_0, tq2_0};
#[cfg(target_arch = "x86_64")]
use crate::isa::Avx2;

/// A block of [`Layout::I2sP128`](crate::format::Layout::I2sP128).
type Block = [u8; I2S_BLOCK_BYTES];

/// Packs `rows` of the bytes of a matrix into `out`, of `row_bytes` for each; false if one has a code 3. `None` for dialects
/// that go by single codes.
pub(super) fn rows(
    dialect: Dialect,
    bytes: &[u8],
    row_bytes: usize,
    rows: Range<usize>,
    out: &mut [u8],
) -> Option<bool> {
    let bytes = &bytes[rows.start * row_bytes..rows.end * row_bytes];
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = Avx2::detect() {
        return match dialect {
            Dialect::Q2_0 => Some(avx2::q2_0_rows::<{ q2_0::BYTES_64 }>(avx2, bytes, row_bytes, out)),
            Dialect::Q2_0G128 => Some(avx2::q2_0_rows::<{ q2_0::BYTES_128 }>(avx2, bytes, row_bytes, out)),
            Dialect::PTQ1_0 => Some(avx2::ptq1_0_rows(avx2, bytes, row_bytes, out)),
            Dialect::TQ1_0 => Some(avx2::tq1_0_rows(avx2, bytes, row_bytes, out)),
            Dialect::TQ2_0 => Some(avx2::each(avx2, bytes, row_bytes, out, tq2_0::plain_row)),
            _ => None,
        };
    }
    plain_rows(dialect, bytes, row_bytes, out)
}

/// As [`rows`], of all rows of `bytes`: the reference.
fn plain_rows(dialect: Dialect, bytes: &[u8], row_bytes: usize, out: &mut [u8]) -> Option<bool> {
    match dialect {
        Dialect::Q2_0 => Some(each(bytes, row_bytes, out, q2_0::plain_row::<{ q2_0::BYTES_64 }>)),
        Dialect::Q2_0G128 => Some(each(bytes, row_bytes, out, q2_0::plain_row::<{ q2_0::BYTES_128 }>)),
        Dialect::PTQ1_0 => Some(each(bytes, row_bytes, out, ptq1_0::plain_row)),
        Dialect::TQ1_0 => Some(each(bytes, row_bytes, out, tq1_0::plain_row)),
        Dialect::TQ2_0 => Some(each(bytes, row_bytes, out, tq2_0::plain_row)),
        _ => None,
    }
}

/// Has `row` pack row after row: from the bytes of a file to blocks, false where there is a code 3, which ends up there as it
/// is. Inlined into functions with target features, so that each gets the vectors it may use.
#[inline(always)]
fn each(bytes: &[u8], row_bytes: usize, out: &mut [u8], mut row: impl FnMut(&[u8], &mut [Block]) -> bool) -> bool {
    let packed_bytes = (out.len() / (bytes.len() / row_bytes).max(1)).max(1);
    let mut fine = true;
    for (from, out) in bytes.chunks_exact(row_bytes).zip(out.chunks_exact_mut(packed_bytes)) {
        fine &= row(from, out.as_chunks_mut().0);
    }
    fine
}

/// A block of [`Layout::I2sP128`](crate::format::Layout::I2sP128) of the codes of its quarters.
#[inline(always)]
pub(super) fn from_quarters([a, b, c, d]: &[Block; 4]) -> Block {
    let mut block = [0; I2S_BLOCK_BYTES];
    for (at, byte) in block.iter_mut().enumerate() {
        *byte = a[at] << 6 | b[at] << 4 | c[at] << 2 | d[at];
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::{Codec, I2S_BLOCK, dialect::grid::Grid, padded_cols},
        testing::Rng,
    };

    const ALL: [(Dialect, usize); 5] = [
        (Dialect::Q2_0, 64),
        (Dialect::Q2_0G128, 128),
        (Dialect::PTQ1_0, 128),
        (Dialect::TQ1_0, 256),
        (Dialect::TQ2_0, 256),
    ];

    #[test]
    fn rows_are_those_by_single_codes() {
        let mut rng = Rng::new(6);
        for (dialect, block) in ALL {
            for (rows, blocks) in [(1, 1), (3, 2), (5, 11), (17, 20)] {
                let cols = blocks * block;
                let codec = Codec::new(dialect, rows, cols).unwrap();
                // Any byte, as codes 3 end up where others do; the second half has none.
                let mut bytes: Vec<u8> = (0..codec.bytes()).map(|_| rng.below(256) as u8).collect();
                let half = bytes.len() / 2;
                bytes[half..].iter_mut().for_each(|byte| *byte &= !(*byte >> 1 & 0x55));
                let packed = padded_cols(cols) / 4;
                let mut expected = vec![0; rows * packed];
                let mut codes = vec![1; rows * padded_cols(cols)];
                for (row, codes) in codes.chunks_exact_mut(padded_cols(cols)).enumerate() {
                    let mut grid = Grid::new(1, cols);
                    codec.with(|coding| coding.read(&bytes, row, &mut grid));
                    codes[..cols].copy_from_slice(grid.row(0));
                    for (col, code) in codes.iter().enumerate() {
                        let (block, quarter) = (col / I2S_BLOCK, col % I2S_BLOCK / I2S_BLOCK_BYTES);
                        let at = row * packed + block * I2S_BLOCK_BYTES + col % I2S_BLOCK_BYTES;
                        expected[at] |= code << (6 - 2 * quarter);
                    }
                }
                let row_bytes = codec.bytes() / rows;
                for first in 0..rows {
                    let mut found = vec![0; (rows - first) * packed];
                    let what = format!("{dialect:?} {rows} x {cols} from row {first}");
                    let is_fine = !codes[first * padded_cols(cols)..].contains(&3);
                    assert_eq!(
                        super::rows(dialect, &bytes, row_bytes, first..rows, &mut found),
                        Some(is_fine),
                        "{what}"
                    );
                    assert_eq!(found, expected[first * packed..], "{what}");
                    found.fill(0);
                    let of_rows = &bytes[first * row_bytes..];
                    assert_eq!(plain_rows(dialect, of_rows, row_bytes, &mut found), Some(is_fine), "{what}");
                    assert_eq!(found, expected[first * packed..], "{what}");
                }
            }
        }
    }
}
