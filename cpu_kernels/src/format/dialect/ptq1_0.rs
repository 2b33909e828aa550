//! PTQ1_0: blocks of 128 weights in 28 bytes: 24 bytes of five weights, 2 bytes of four, and the f16 scale d. Bytes
//! hold digits as in [TQ1_0](super::tq1_0).
//!
//! ```text
//! byte m, 0..15        weights       m,  16 + m,  32 + m,  48 + m,  64 + m
//! byte 16 + m, 0..7    weights  80 + m,  88 + m,  96 + m, 104 + m, 112 + m
//! byte 24 + m, 0..1    weights 120 + m, 122 + m, 124 + m, 126 + m, then a digit 0
//! byte 26              d, 2 bytes
//! ```
//!
//! Source: PrismML's description of Ternary Bonsai files; no file of this type was at hand.

use std::ops::Range;

use super::{
    super::{
        base3::five_in_a_byte,
        base3_rows16::{BLOCKS, RUN_BYTES, panel_bytes},
        rows16::PANEL_ROWS,
    },
    blocks::Blocks,
    tq1_0::{pack_digits, unpack_digits},
};
#[cfg(target_arch = "x86_64")]
use crate::isa::Avx2;

pub(in super::super) const BYTES: usize = 28;

pub(super) fn coding(cols: usize) -> Blocks<BYTES, 128> {
    Blocks { cols, header: 0, scale: 26, unpack, pack }
}

/// The codes of a block. Inlined into functions with target features.
#[inline(always)]
pub(in super::super) fn unpack(block: &[u8; BYTES], codes: &mut [u8; 128]) {
    unpack_digits::<16>(&block[..16], &mut codes[..80]);
    unpack_digits::<8>(&block[16..24], &mut codes[80..120]);
    unpack_digits::<2>(&block[24..26], &mut codes[120..]);
}

fn pack(codes: &[u8; 128], block: &mut [u8; BYTES]) {
    pack_digits::<16>(&codes[..80], &mut block[..16]);
    pack_digits::<8>(&codes[80..120], &mut block[16..24]);
    pack_digits::<2>(&codes[120..], &mut block[24..26]);
}

/// A block of zeros.
const ZEROS: [u8; BYTES] = {
    let mut block = [128; BYTES];
    // Four zeros and a digit 0.
    (block[24], block[25]) = (127, 127);
    block
};

/// Bytes of 16 rows side by side, (4 columns of each row) a line.
type Lines = [[u8; 4 * PANEL_ROWS]; RUN_BYTES / 4];

/// `rows` of a matrix of `cols` columns, from a multiple of 16 on, as [`Layout::Base3R16`](crate::format::Layout::Base3R16):
/// without two bits a weight in between, as loading a large file would spend half of its time there. True: every byte is
/// five digits.
pub(super) fn pack_rows16(bytes: &[u8], cols: usize, rows: Range<usize>, out: &mut [u8]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = Avx2::detect() {
        pack_rows16_avx2(avx2, bytes, cols, rows, out);
        return true;
    }
    pack_rows16_plain(bytes, cols, rows, out);
    true
}

#[cfg(target_arch = "x86_64")]
fn pack_rows16_avx2(_: Avx2, bytes: &[u8], cols: usize, rows: Range<usize>, out: &mut [u8]) {
    #[target_feature(enable = "avx2")]
    fn with_avx2(bytes: &[u8], cols: usize, rows: Range<usize>, out: &mut [u8]) {
        pack_rows16_plain(bytes, cols, rows, out);
    }
    // SAFETY: the capability token proves the features.
    unsafe { with_avx2(bytes, cols, rows, out) }
}

/// Inlined into functions with target features, so that each gets the vectors it may use.
#[inline(always)]
fn pack_rows16_plain(bytes: &[u8], cols: usize, rows: Range<usize>, out: &mut [u8]) {
    let of_row = cols / 128;
    let blocks = bytes.as_chunks::<BYTES>().0;
    for (first, out) in rows.clone().step_by(PANEL_ROWS).zip(out.chunks_exact_mut(panel_bytes(cols))) {
        for (run, lines) in bytemuck::cast_slice_mut::<u8, Lines>(out).iter_mut().enumerate() {
            let block = |row: usize, at: usize| match (run * BLOCKS + at, first + row) {
                (block, row) if block < of_row && row < rows.end => &blocks[row * of_row + block],
                _ => &ZEROS,
            };
            pack_bytes::<16, 5>(block, 0, 0, lines);
            pack_bytes::<8, 5>(block, 16, 80, lines);
            pack_bytes::<2, 4>(block, 24, 120, lines);
        }
    }
}

/// The `D` digits of `M` bytes from `at` on, in each of five blocks of each row, as the columns from `col` on.
#[inline(always)]
fn pack_bytes<'a, const M: usize, const D: usize>(
    block: impl Fn(usize, usize) -> &'a [u8; BYTES],
    at: usize,
    col: usize,
    lines: &mut Lines,
) {
    const LANES: usize = 64;
    let together = (LANES / M).min(PANEL_ROWS);
    for first in (0..PANEL_ROWS).step_by(together) {
        let mut fractions = [[0_u8; LANES]; BLOCKS];
        for (number, fractions) in fractions.iter_mut().enumerate() {
            for (row, to) in fractions.chunks_exact_mut(M).take(together).enumerate() {
                to.copy_from_slice(&block(first + row, number)[at..at + M]);
            }
        }
        for digit in 0..D {
            // Plain loops over lanes become vector instructions.
            let mut codes = [[0; LANES]; BLOCKS];
            for (codes, fractions) in codes.iter_mut().zip(&mut fractions) {
                for (code, fraction) in codes.iter_mut().zip(fractions) {
                    // The whole part of 3 / 256 times the byte, and 256 times what is left.
                    *code = u8::from(*fraction >= 86) + u8::from(*fraction >= 171);
                    *fraction = fraction.wrapping_add(*fraction).wrapping_add(*fraction);
                }
            }
            let [a, b, c, d, e] = &codes;
            let mut packed = [0; LANES];
            for lane in 0..LANES {
                packed[lane] = five_in_a_byte([a[lane], b[lane], c[lane], d[lane], e[lane]]);
            }
            for (row, packed) in packed.chunks_exact(M).take(together).enumerate() {
                let step = M.min(4);
                for (col, packed) in (col + M * digit..).step_by(step).zip(packed.chunks_exact(step)) {
                    lines[col / 4][4 * (first + row) + col % 4..][..step].copy_from_slice(packed);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, tests::check_by_hand};
    use half::f16;

    use super::{super::Codec, pack_rows16_plain};
    use crate::{
        format::{Layout, MatrixScales, repack, ternary_bytes},
        testing::Rng,
    };

    #[test]
    fn rows_side_by_side_are_those_of_the_decoded_matrix() {
        let mut rng = Rng::new(6);
        let layout = Layout::Base3R16;
        for (rows, cols) in [(16, 640), (17, 128), (45, 768), (33, 1408), (1, 5120)] {
            let codec = Codec::new(Dialect::PTQ1_0, rows, cols).unwrap();
            // Any byte is valid, also those that are never written.
            let bytes: Vec<u8> = (0..codec.bytes()).map(|_| rng.below(256) as u8).collect();
            let expected = repack(&codec.decode(&bytes).unwrap(), rows, cols, layout).unwrap();
            for first in (0..rows).step_by(16) {
                let mut found = [(); 2].map(|()| vec![0; ternary_bytes(layout, rows - first, cols)]);
                assert!(codec.pack_rows(&bytes, first..rows, layout, &mut found[0]));
                pack_rows16_plain(&bytes, cols, first..rows, &mut found[1]);
                let expected = &expected[ternary_bytes(layout, first, cols)..];
                assert!(found.iter().all(|found| found == expected), "{rows} x {cols} from row {first}");
            }
            assert!(!codec.pack_rows(&bytes, 0..rows, Layout::I2sR16, &mut []));
        }
    }

    #[test]
    fn bytes_are_those_of_the_format() {
        // Five zeros: v = 11111 in base 3 = 121, and ceil(256 * 121 / 243) = ceil(127.47) = 128.
        let mut bytes = [128; 28];
        // Four zeros and a digit 0: v = 11110 = 120, ceil(126.42) = 127.
        bytes[24..26].fill(127);
        // Weight 17 = 1, digit 1 of byte 1: v = 12111 = 148, ceil(155.92) = 156.
        bytes[1] = 156;
        // Weight 99 = 80 + 8 * 2 + 3 = -1, digit 2 of byte 16 + 3: v = 11011 = 112, ceil(117.99) = 118.
        bytes[19] = 118;
        // Weight 125 = 120 + 2 * 2 + 1 = 1, digit 2 of byte 24 + 1: v = 11210 = 129, ceil(135.9) = 136.
        bytes[25] = 136;
        bytes[26..].copy_from_slice(&[0x00, 0x38]);
        let scales = MatrixScales::PerGroup { size: 128, values: [f16::from_f32(0.5)].into() };
        check_by_hand(Dialect::PTQ1_0, (1, 128), &[(0, 17, 1), (0, 99, -1), (0, 125, 1)], scales, &bytes);
    }
}
