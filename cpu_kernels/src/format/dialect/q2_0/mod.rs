//! Q2_0: blocks of 64 weights in 18 bytes, or, before ggml settled the size and in PrismML's PQ2_0, of 128 weights in
//! 34: the f16 scale d, then the codes in order, weight j in byte 2 + j / 4 at shift 2 * (j % 4).
//!
//! ```text
//! bits      7 6    5 4    3 2    1 0
//! byte 0    d, 2 bytes
//! byte 2    j 3    j 2    j 1    j 0
//! byte 3    j 7    j 6    j 5    j 4
//!  ..
//! ```
//!
//! The format gives code 3 the value +2, which no ternary weight has. Source: ggml, `block_q2_0` in ggml-common.h;
//! PrismML's model cards.

#[cfg(target_arch = "x86_64")]
mod avx2;

use std::ops::Range;

use super::{
    super::{
        I2S_BLOCK,
        base3::five_in_a_byte,
        base3_rows16::{BLOCKS, RUN_BYTES, panel_bytes},
        rows16::PANEL_ROWS,
    },
    blocks::Blocks,
};
#[cfg(target_arch = "x86_64")]
use crate::{isa::Avx2, x86::prefetch_at};

pub(super) const BYTES_64: usize = 18;
pub(super) const BYTES_128: usize = 34;

pub(super) fn coding_64(cols: usize) -> Blocks<BYTES_64, 64> {
    Blocks { cols, header: 0, scale: 0, unpack, pack }
}

pub(super) fn coding_128(cols: usize) -> Blocks<BYTES_128, 128> {
    Blocks { cols, header: 0, scale: 0, unpack, pack }
}

fn unpack<const B: usize, const N: usize>(block: &[u8; B], codes: &mut [u8; N]) {
    for (byte, codes) in block[2..].iter().zip(codes.as_chunks_mut::<4>().0) {
        // A number for each byte becomes a lane of a vector, a code for each does not.
        let byte = u32::from(*byte);
        *codes = ((byte | byte << 6 | byte << 12 | byte << 18) & 0x0303_0303).to_le_bytes();
    }
}

fn pack<const B: usize, const N: usize>(codes: &[u8; N], block: &mut [u8; B]) {
    for (byte, codes) in block[2..].iter_mut().zip(codes.as_chunks::<4>().0) {
        *byte = codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6;
    }
}

/// True where one of some blocks has a code 3.
pub(super) fn has_three<const B: usize>(bytes: &[u8]) -> bool {
    // Eight bytes at a time.
    let threes = |block: &[u8; B]| {
        let eights = block[2..].as_chunks().0.iter().map(|&eight| u64::from_le_bytes(eight));
        eights.fold(0, |found, eight| found | (eight & eight >> 1))
    };
    bytes.as_chunks().0.iter().fold(0, |found, block| found | threes(block)) & 0x5555_5555_5555_5555 != 0
}

/// Bytes of the codes of as many columns as a block of I2_S has.
const CODES: usize = I2S_BLOCK / 4;

/// Codes of zeros.
const ZEROS: u8 = 0b01_01_01_01;

/// Five blocks of a row, as many as share bytes.
type Blocks5 = [[u8; CODES]; BLOCKS];

/// A run of a row: four columns each.
type Quads = [[u8; 4]; RUN_BYTES / 4];

/// `rows` of a matrix of `cols` columns in blocks of `N` weights, from a multiple of 16 on, as
/// [`Layout::Base3R16`](crate::format::Layout::Base3R16): a byte a weight in between would take most of the time in which
/// a large file is loaded. False where there is a code 3, for which that has no digit; `out` then means nothing.
pub(super) fn pack_rows16<const B: usize, const N: usize>(
    bytes: &[u8],
    cols: usize,
    rows: Range<usize>,
    out: &mut [u8],
) -> bool {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = Avx2::detect() {
        return avx2::pack_rows16::<B, N>(avx2, bytes, cols, rows, out);
    }
    each_run::<B, N>(bytes, cols, rows, out, pack_run)
}

/// Calls `pack` with the blocks of each run and where they go, and tells whether all gave 0. Inlined into functions with
/// target features.
#[inline(always)]
fn each_run<const B: usize, const N: usize>(
    bytes: &[u8],
    cols: usize,
    rows: Range<usize>,
    out: &mut [u8],
    pack: impl Fn(&Blocks5, &mut Quads) -> u8,
) -> bool {
    let of_row = cols / N;
    let blocks = bytes.as_chunks::<B>().0;
    let mut threes = 0;
    for (first, out) in rows.clone().step_by(PANEL_ROWS).zip(out.chunks_exact_mut(panel_bytes(cols))) {
        let runs = out.as_chunks_mut::<4>().0.as_chunks_mut::<PANEL_ROWS>().0.as_chunks_mut::<{ RUN_BYTES / 4 }>().0;
        for (run, lines) in runs.iter_mut().enumerate() {
            for place in 0..PANEL_ROWS {
                let row = if first + place < rows.end { &blocks[(first + place) * of_row..][..of_row] } else { &[] };
                let row = &row[row.len().min(run * BLOCKS * I2S_BLOCK / N)..];
                // 16 rows side by side are more than the processor follows by itself.
                #[cfg(target_arch = "x86_64")]
                if let Some(block) = row.get(2 * BLOCKS * I2S_BLOCK / N) {
                    (0..BLOCKS * I2S_BLOCK / N * B).step_by(64).for_each(|at| prefetch_at(block.as_ptr(), at));
                }
                let mut codes = [[ZEROS; CODES]; BLOCKS];
                if N == 64 {
                    copy_codes::<B, 16>(row, &mut codes)
                } else {
                    copy_codes::<B, 32>(row, &mut codes)
                }
                let mut quads = [[0; 4]; RUN_BYTES / 4];
                threes |= pack(&codes, &mut quads);
                for (line, quad) in lines.iter_mut().zip(quads) {
                    line[place] = quad;
                }
            }
        }
    }
    threes == 0
}

/// The codes of the first blocks of a row, `C` bytes each.
#[inline(always)]
fn copy_codes<const B: usize, const C: usize>(row: &[[u8; B]], codes: &mut Blocks5) {
    for (codes, block) in codes.as_flattened_mut().as_chunks_mut::<C>().0.iter_mut().zip(row) {
        *codes = *block[2..].first_chunk().expect("codes behind the scale");
    }
}

/// The bytes of five blocks, whose byte `m` holds columns `4 m` to `4 m + 3`; not 0 if one has code 3.
fn pack_run(blocks: &Blocks5, quads: &mut Quads) -> u8 {
    let mut threes = 0;
    for (m, quad) in quads.iter_mut().enumerate() {
        for (column, packed) in quad.iter_mut().enumerate() {
            let codes = blocks.map(|block| block[m] >> (2 * column) & 3);
            threes |= codes.iter().fold(0, |found, code| found | (code & code >> 1));
            *packed = five_in_a_byte(codes);
        }
    }
    threes
}

#[cfg(test)]
mod tests {
    use super::super::{Codec, Dialect, tests::check_by_hand};
    use half::f16;

    use super::{BYTES_64, BYTES_128, each_run, pack_run};
    use crate::{
        format::{GroupScales, Layout, MatrixScales, repack, ternary_bytes},
        testing::Rng,
    };

    #[test]
    fn rows_side_by_side_are_those_of_the_decoded_matrix() {
        let mut rng = Rng::new(6);
        let layout = Layout::Base3R16;
        let plain_64: fn(&[u8], usize, std::ops::Range<usize>, &mut [u8]) -> bool =
            |bytes, cols, rows, out| each_run::<BYTES_64, 64>(bytes, cols, rows, out, pack_run);
        for (dialect, block_bytes, plain, shapes) in [
            (Dialect::Q2_0, BYTES_64, plain_64, [(16, 640), (17, 64), (45, 768), (33, 1472), (1, 5120)]),
            (
                Dialect::Q2_0G128,
                BYTES_128,
                |bytes, cols, rows, out| each_run::<BYTES_128, 128>(bytes, cols, rows, out, pack_run),
                [(16, 640), (17, 128), (45, 768), (33, 1408), (1, 5120)],
            ),
        ] {
            for (rows, cols) in shapes {
                let codec = Codec::new(dialect, rows, cols).unwrap();
                let mut bytes: Vec<u8> = (0..codec.bytes())
                    .map(|_| (0..4).fold(0, |byte, shift| byte | (rng.below(3) as u8) << (2 * shift)))
                    .collect();
                let expected = repack(&codec.decode(&bytes).unwrap(), rows, cols, layout).unwrap();
                for first in (0..rows).step_by(16) {
                    let mut found = [(); 2].map(|()| vec![0; ternary_bytes(layout, rows - first, cols)]);
                    assert!(codec.pack_rows(&bytes, first..rows, layout, &mut found[0]));
                    assert!(plain(&bytes, cols, first..rows, &mut found[1]));
                    let expected = &expected[ternary_bytes(layout, first, cols)..];
                    assert!(
                        found.iter().all(|found| found == expected),
                        "{dialect:?} {rows} x {cols} from row {first}"
                    );
                }
                assert!(!codec.pack_rows(&bytes, 0..rows, Layout::I2sR16, &mut []));
                assert!(codec.is_ternary(&bytes, 0..rows));
                // A code 3 in the last block, at each shift, is left to those who name its place.
                let last = bytes.len() - block_bytes + 2 + rng.below(block_bytes - 2);
                for shift in [0, 2, 4, 6] {
                    let before = bytes[last];
                    bytes[last] |= 3 << shift;
                    assert!(!codec.is_ternary(&bytes, 0..rows) && codec.is_ternary(&bytes, 0..rows - 1));
                    let mut out = vec![0; ternary_bytes(layout, rows, cols)];
                    assert!(!codec.pack_rows(&bytes, 0..rows, layout, &mut out), "{dialect:?} shift {shift}");
                    bytes[last] = before;
                }
            }
        }
    }

    #[test]
    fn bytes_are_those_of_the_format() {
        // d = 1 and d = 0, as a block of zeros has: 0x3c00 and 0x0000. Weight 5 of the first block: byte 2 + 1, shift 2.
        // Weight 63, or 127, the last: shift 6.
        let values: GroupScales = [1.0, 0.0].map(f16::from_f32).into();
        let mut bytes = [0b01_01_01_01; 36];
        bytes[3] = 0b01_01_10_01;
        bytes[17] = 0b00_01_01_01;
        bytes[..2].copy_from_slice(&[0x00, 0x3c]);
        bytes[18..20].copy_from_slice(&[0, 0]);
        let scales = MatrixScales::PerGroup { size: 64, values: values.clone() };
        check_by_hand(Dialect::Q2_0, (2, 64), &[(0, 5, 1), (0, 63, -1)], scales, &bytes);

        let mut bytes = [0b01_01_01_01; 68];
        bytes[3] = 0b01_01_10_01;
        bytes[33] = 0b00_01_01_01;
        bytes[..2].copy_from_slice(&[0x00, 0x3c]);
        bytes[34..36].copy_from_slice(&[0, 0]);
        let scales = MatrixScales::PerGroup { size: 128, values };
        check_by_hand(Dialect::Q2_0G128, (1, 256), &[(0, 5, 1), (0, 127, -1)], scales, &bytes);
    }
}
