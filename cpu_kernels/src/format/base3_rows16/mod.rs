//! [`Layout::Base3R16`](super::Layout::Base3R16): five weights a byte, of 16 rows side by side.

#[cfg(target_arch = "x86_64")]
mod avx512vbmi;

use std::ops::Range;

use super::{
    I2S_BLOCK, I2S_BLOCK_BYTES,
    base3::{DIGITS, ZERO, five_in_a_byte},
    rows16::PANEL_ROWS,
};
#[cfg(target_arch = "x86_64")]
use crate::isa::{Avx2, Avx512Vnni};

/// Blocks of I2_S whose codes share bytes.
pub const BLOCKS: usize = 5;

/// Bytes of a row that hold the codes of [`BLOCKS`] blocks.
pub const RUN_BYTES: usize = I2S_BLOCK;

/// Codes of zeros: blocks that complete the last run of a row.
const ZEROS: [u8; I2S_BLOCK_BYTES] = [ZERO * 0b01_01_01_01; I2S_BLOCK_BYTES];

/// Bytes of a row, 1/16 of those of 16 rows; `usize::MAX` if that is too large a number.
pub fn row_bytes(cols: usize) -> usize {
    cols.div_ceil(BLOCKS * I2S_BLOCK).saturating_mul(RUN_BYTES)
}

/// Bytes of 16 rows.
pub fn panel_bytes(cols: usize) -> usize {
    PANEL_ROWS * row_bytes(cols)
}

/// Bytes of a (rows, cols) matrix; `usize::MAX` if that is too large a number.
pub fn bytes(rows: usize, cols: usize) -> usize {
    rows.div_ceil(PANEL_ROWS).saturating_mul(PANEL_ROWS).saturating_mul(row_bytes(cols))
}

/// Packs the rows of I2_S `plain`, of `cols` columns each, side by side into `out`. Rows that the last 16 lack hold
/// weights of 0.
///
/// # Errors
/// The number of the first row that has a code 3, for which there is no digit.
pub fn pack_rows(plain: &[u8], plain_bytes: usize, cols: usize, out: &mut [u8]) -> Result<(), usize> {
    #[cfg(target_arch = "x86_64")]
    if plain_bytes > 0
        && let Some(vbmi) = Avx512Vnni::detect().and_then(Avx512Vnni::vbmi)
        && avx512vbmi::pack_rows(vbmi, plain, plain_bytes, cols, out)
    {
        return Ok(());
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = Avx2::detect() {
        // Finds the row of a code 3, too.
        return pack_rows_avx2(avx2, plain, plain_bytes, cols, out);
    }
    pack_rows_plain(plain, plain_bytes, cols, out)
}

#[cfg(target_arch = "x86_64")]
fn pack_rows_avx2(_: Avx2, plain: &[u8], plain_bytes: usize, cols: usize, out: &mut [u8]) -> Result<(), usize> {
    #[target_feature(enable = "avx2")]
    fn with_avx2(plain: &[u8], plain_bytes: usize, cols: usize, out: &mut [u8]) -> Result<(), usize> {
        pack_rows_plain(plain, plain_bytes, cols, out)
    }
    // SAFETY: the capability token proves the features.
    unsafe { with_avx2(plain, plain_bytes, cols, out) }
}

/// Inlined into functions with target features, so that each gets the vectors it may use.
#[inline(always)]
fn pack_rows_plain(plain: &[u8], plain_bytes: usize, cols: usize, out: &mut [u8]) -> Result<(), usize> {
    if plain_bytes == 0 {
        return Ok(());
    }
    let panel_bytes = panel_bytes(cols);
    for (panel, (rows, out)) in
        plain.chunks(PANEL_ROWS * plain_bytes).zip(out.chunks_exact_mut(panel_bytes)).enumerate()
    {
        if rows.len() < PANEL_ROWS * plain_bytes {
            out.fill(five_in_a_byte([ZERO; BLOCKS]));
        }
        let quads = out.as_chunks_mut::<4>().0;
        for (row, codes) in rows.chunks_exact(plain_bytes).enumerate() {
            let mut found = 0;
            for (run, blocks) in codes.as_chunks::<I2S_BLOCK_BYTES>().0.chunks(BLOCKS).enumerate() {
                let blocks = std::array::from_fn(|at| blocks.get(at).unwrap_or(&ZEROS));
                let mut bytes = [0; RUN_BYTES];
                let [a, b, c, d] = bytes.as_chunks_mut().0 else { unreachable!("four quarters") };
                found |= pack_quarter::<6>(blocks, a) | pack_quarter::<4>(blocks, b);
                found |= pack_quarter::<2>(blocks, c) | pack_quarter::<0>(blocks, d);
                for (line, quad) in bytes.as_chunks::<4>().0.iter().enumerate() {
                    quads[(run * RUN_BYTES / 4 + line) * PANEL_ROWS + row] = *quad;
                }
            }
            if found != 0 {
                return Err(panel * PANEL_ROWS + row);
            }
        }
    }
    Ok(())
}

/// Packs the columns of five blocks at one shift; not 0 if one has code 3.
#[inline(always)]
fn pack_quarter<const SHIFT: u32>(blocks: [&[u8; I2S_BLOCK_BYTES]; BLOCKS], out: &mut [u8; I2S_BLOCK_BYTES]) -> u8 {
    let mut found = 0;
    for at in 0..I2S_BLOCK_BYTES {
        let codes = blocks.map(|block| block[at] >> SHIFT & 3);
        found |= codes.iter().fold(0, |found, code| found | (code & code >> 1));
        // A code 3, which is told, may give any byte.
        out[at] = five_in_a_byte(codes);
    }
    found
}

/// The rows `range` of such a matrix as I2_S, one after the other.
pub fn part(packed: &[u8], plain_bytes: usize, cols: usize, range: Range<usize>, out: &mut [u8]) {
    let row_bytes = row_bytes(cols);
    for (row, out) in range.zip(out.chunks_exact_mut(plain_bytes.max(1))) {
        let panel = packed[row / PANEL_ROWS * PANEL_ROWS * row_bytes..].as_chunks::<4>().0;
        out.fill(0);
        for (at, out) in out.as_chunks_mut::<I2S_BLOCK_BYTES>().0.iter_mut().enumerate() {
            let (run, block) = (at / BLOCKS, at % BLOCKS);
            for c in 0..I2S_BLOCK {
                let byte = panel[(run * RUN_BYTES / 4 + c / 4) * PANEL_ROWS + row % PANEL_ROWS][c % 4];
                out[c % I2S_BLOCK_BYTES] |= DIGITS.code(byte, block) << (6 - 2 * (c / I2S_BLOCK_BYTES));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FormatError, Layout, pack, repack, ternary_bytes, unpack, unpack_rows};
    use crate::testing::Rng;

    /// Row 17 is the second of the second 16. Its columns 5, 133, 261, 389 and 517 are column 5 of five blocks: byte 1 of
    /// its quad in the second line, 27 a + 9 b + 3 c + d and 64 e more, or from 64 on 192 + 17 e + (that - 64).
    #[test]
    fn a_code_stands_where_the_layout_says() {
        let (rows, cols) = (18, 640);
        let byte = |five: [u8; 5]| {
            let mut codes = vec![1; rows * cols];
            (0..5).for_each(|block| codes[17 * cols + 128 * block + 5] = five[block]);
            let packed = pack(Layout::Base3R16, rows, cols, &codes);
            assert_eq!(packed.len(), 2 * 16 * 128);
            let at = 16 * 128 + 64 + 4 + 1;
            assert!((0..packed.len()).all(|i| i == at || packed[i] == 64 + 40));
            packed[at]
        };
        assert_eq!(byte([2, 1, 0, 2, 2]), 192 + 34 + 1);
        assert_eq!(byte([2, 1, 0, 0, 2]), 128 + 63);
        assert_eq!(byte([0, 0, 2, 0, 0]), 6);
        assert_eq!(byte([2, 2, 2, 2, 1]), 192 + 17 + 16);
    }

    #[test]
    fn unpacking_undoes_packing() {
        let mut rng = Rng::new(8);
        for (rows, cols) in [(0, 5), (3, 0), (1, 1), (15, 128), (16, 130), (17, 640), (45, 768), (20, 1408)] {
            let codes = rng.codes(rows * cols);
            let packed = pack(Layout::Base3R16, rows, cols, &codes);
            assert_eq!(packed.len(), ternary_bytes(Layout::Base3R16, rows, cols), "{rows} x {cols}");
            assert_eq!(unpack(Layout::Base3R16, rows, cols, &packed), codes, "{rows} x {cols}");
            let plain = pack(Layout::I2sP128, rows, cols, &codes);
            let first = rows / 3 / 16 * 16;
            let row_bytes = plain.len() / rows.max(1);
            let mut found = vec![0xFF; (rows - first) * row_bytes];
            unpack_rows(Layout::Base3R16, (rows, cols), &packed, first..rows, &mut found);
            assert_eq!(found, plain[first * row_bytes..], "{rows} x {cols} from row {first}");
        }
    }

    #[test]
    fn every_way_of_packing_gives_the_same_bytes() {
        let mut rng = Rng::new(9);
        for (rows, cols) in [(1, 1), (15, 128), (16, 640), (17, 768), (45, 1408)] {
            let plain = pack(Layout::I2sP128, rows, cols, &rng.codes(rows * cols));
            let mut found = [(); 2].map(|()| vec![0; super::bytes(rows, cols)]);
            super::pack_rows(&plain, plain.len() / rows, cols, &mut found[0]).unwrap();
            super::pack_rows_plain(&plain, plain.len() / rows, cols, &mut found[1]).unwrap();
            assert!(found[0] == found[1], "{rows} x {cols}");
        }
    }

    #[test]
    fn a_row_takes_128_bytes_for_640_columns() {
        assert_eq!(ternary_bytes(Layout::Base3R16, 16, 5120), 16 * 1024);
        assert_eq!(ternary_bytes(Layout::Base3R16, 17, 17408), 32 * 28 * 128);
        assert_eq!(ternary_bytes(Layout::Base3R16, usize::MAX, 641), usize::MAX);
    }

    #[test]
    fn a_code_3_is_refused_by_its_place() {
        let (rows, cols) = (19, 768);
        for (row, col) in [(0, 0), (3, 100), (16, 640), (18, 767)] {
            let mut plain = pack(Layout::I2sP128, rows, cols, &vec![2; rows * cols]);
            plain[row * cols / 4 + col / 128 * 32 + col % 32] |= 3 << (6 - 2 * (col % 128 / 32));
            let error = repack(&plain, rows, cols, Layout::Base3R16);
            assert_eq!(error, Err(FormatError::Code { element: row * cols + col }));
        }
    }
}
