//! [`Layout::I2sR16`](super::Layout::I2sR16): the blocks of [`Layout::I2sP128`](super::Layout::I2sP128), 16 rows side
//! by side.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::_mm256_setzero_si256;
use std::ops::Range;

use half::f16;

#[cfg(target_arch = "x86_64")]
use super::I2S_BLOCK_BYTES;
use super::ternary::{ZERO, padded_cols};
#[cfg(target_arch = "x86_64")]
use crate::{
    isa::Avx2,
    x86::{load_u8, store_u8, transpose},
};

/// Rows that stand side by side.
pub const PANEL_ROWS: usize = 16;

/// Four fields of [`ZERO`].
const ZEROS: u8 = 0b01_01_01_01 * ZERO;

/// Bytes of a (rows, cols) matrix; `usize::MAX` if that is too large a number.
pub(super) fn bytes(rows: usize, cols: usize) -> usize {
    rows.div_ceil(PANEL_ROWS).saturating_mul(PANEL_ROWS).saturating_mul(padded_cols(cols) / 4)
}

/// The rows of `plain`, of `row_bytes` each, side by side in `out`. Rows that the last 16 lack hold weights of 0.
pub(crate) fn interleave(plain: &[u8], row_bytes: usize, out: &mut [u8]) {
    let panel_bytes = PANEL_ROWS * row_bytes.max(1);
    for (rows, panel) in plain.chunks(panel_bytes).zip(out.chunks_exact_mut(panel_bytes)) {
        if rows.len() < panel_bytes {
            panel.fill(ZEROS);
        }
        #[cfg(target_arch = "x86_64")]
        if rows.len() == panel_bytes
            && let Some(avx2) = Avx2::detect()
        {
            interleave_avx2(avx2, rows, row_bytes, panel);
            continue;
        }
        interleave_panel(rows, row_bytes, panel);
    }
}

/// Up to 16 rows.
fn interleave_panel(rows: &[u8], row_bytes: usize, panel: &mut [u8]) {
    let panel = panel.as_chunks_mut::<4>().0;
    for (row, codes) in rows.chunks_exact(row_bytes).enumerate() {
        for (at, quad) in codes.as_chunks::<4>().0.iter().enumerate() {
            panel[at * PANEL_ROWS + row] = *quad;
        }
    }
}

/// 16 rows, eight fours of columns of eight of them at a time.
#[cfg(target_arch = "x86_64")]
fn interleave_avx2(_: Avx2, rows: &[u8], row_bytes: usize, panel: &mut [u8]) {
    #[target_feature(enable = "avx2")]
    fn with_avx2(rows: &[u8], row_bytes: usize, panel: &mut [u8]) {
        let blocks = rows.as_chunks::<I2S_BLOCK_BYTES>().0;
        let of_row = row_bytes / I2S_BLOCK_BYTES;
        let halves = panel.as_chunks_mut::<{ 4 * PANEL_ROWS / 2 }>().0;
        for (at, halves) in halves.as_chunks_mut::<{ 2 * I2S_BLOCK_BYTES / 4 }>().0.iter_mut().enumerate() {
            for half in 0..2 {
                let mut eight = [_mm256_setzero_si256(); PANEL_ROWS / 2];
                for (row, to) in eight.iter_mut().enumerate() {
                    *to = load_u8(&blocks[(half * PANEL_ROWS / 2 + row) * of_row + at]);
                }
                for (line, fours) in transpose(eight).into_iter().enumerate() {
                    store_u8(&mut halves[2 * line + half], fours);
                }
            }
        }
    }
    // SAFETY: the capability token proves the features.
    unsafe { with_avx2(rows, row_bytes, panel) }
}

/// The rows `range` of such a matrix, one after the other.
pub(super) fn part(packed: &[u8], row_bytes: usize, range: Range<usize>, out: &mut [u8]) {
    for (row, out) in range.zip(out.chunks_exact_mut(row_bytes.max(1))) {
        let panel = packed[row / PANEL_ROWS * PANEL_ROWS * row_bytes..].as_chunks::<4>().0;
        for (at, quad) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *quad = panel[at * PANEL_ROWS + row % PANEL_ROWS];
        }
    }
}

/// Scales (rows, groups) in the order (rows / 16, groups, 16); 0 for the rows that the last 16 lack.
pub(crate) fn interleave_scales(values: &[f16], groups: usize) -> Vec<f16> {
    let rows = values.len().checked_div(groups).unwrap_or(0);
    let mut out = vec![f16::ZERO; rows.next_multiple_of(PANEL_ROWS) * groups];
    interleave_scales_into(values, groups, &mut out);
    out
}

/// Writes scales (rows, groups) in the order (rows / 16, groups, 16) into zeros, which rows that the last 16 lack keep.
pub fn interleave_scales_into(values: &[f16], groups: usize, out: &mut [f16]) {
    let panel = PANEL_ROWS * groups.max(1);
    for (values, panel) in values.chunks(panel).zip(out.chunks_exact_mut(panel)) {
        for (group, panel) in panel.as_chunks_mut::<PANEL_ROWS>().0.iter_mut().enumerate() {
            for (value, to) in values[group..].iter().step_by(groups).zip(panel) {
                *to = *value;
            }
        }
    }
}

/// The inverse of [`interleave_scales`], for `rows` rows.
pub(super) fn separate_scales(values: &[f16], rows: usize, groups: usize) -> Vec<f16> {
    let of_row = |row: usize| {
        let panel = &values[row / PANEL_ROWS * PANEL_ROWS * groups..];
        (0..groups).map(move |group| panel[group * PANEL_ROWS + row % PANEL_ROWS])
    };
    (0..rows).flat_map(of_row).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Layout, pack, repack, ternary_bytes, unpack, unpack_rows};
    use crate::testing::Rng;

    /// Row 17 is the second of the second 16; its column 69 = 2 * 32 + 4 + 1 stands in the third field of byte 1 of its
    /// quad in the second line.
    #[test]
    fn a_code_stands_where_the_layout_says() {
        let (rows, cols) = (18, 128);
        let mut codes = vec![1; rows * cols];
        codes[17 * cols + 69] = 2;
        let packed = pack(Layout::I2sR16, rows, cols, &codes);
        let mut expected = vec![0b01_01_01_01; 2 * 16 * 32];
        expected[16 * 32 + 64 + 4 + 1] = 0b01_01_10_01;
        assert_eq!(packed, expected);
    }

    #[test]
    fn unpacking_undoes_packing_code_3_included() {
        let mut rng = Rng::new(7);
        for (rows, cols) in [(0, 5), (3, 0), (1, 1), (15, 128), (16, 130), (17, 256), (45, 640)] {
            let bytes = ternary_bytes(Layout::I2sP128, rows, cols);
            let plain: Vec<u8> = (0..bytes).map(|_| rng.next_u64() as u8).collect();
            let packed = repack(&plain, rows, cols, Layout::I2sR16).unwrap();
            assert_eq!(packed.len(), ternary_bytes(Layout::I2sR16, rows, cols), "{rows} x {cols}");
            let first = rows / 3 / 16 * 16;
            let row_bytes = bytes / rows.max(1);
            let mut found = vec![0; (rows - first) * row_bytes];
            unpack_rows(Layout::I2sR16, (rows, cols), &packed, first..rows, &mut found);
            assert_eq!(found, plain[first * row_bytes..], "{rows} x {cols} from row {first}");
            assert_eq!(
                unpack(Layout::I2sR16, rows, cols, &packed),
                unpack(Layout::I2sP128, rows, cols, &plain),
                "{rows} x {cols}"
            );
        }
    }
}
