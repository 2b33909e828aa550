//! AVX2: 32 products by one `maddubs`, which multiplies unsigned codes by signed values and adds pairs into i16.

use std::{arch::x86_64::*, ops::Range};

use super::{
    MOST_PASSES, SMALL_BATCH, Tile,
    panel::{PANEL_ROWS, Panel, PanelTokens},
};
use crate::{
    isa::Avx2,
    x86::{AHEAD, load_i8, load_i32, load_u8, prefetch_ahead, store_i32, sum_i32},
};

/// Most that one lane of a `maddubs` result holds: two products of at most 3 * -128 (code 3 may stand in a file).
const LANE_MAX: usize = 2 * 3 * 128;

/// `maddubs` results that fit in an i16 lane before it is widened: 42.
const FITTING: usize = i16::MAX as usize / LANE_MAX;

/// Blocks of a row between widenings; each adds four results to a lane.
const WIDEN_BLOCKS: usize = FITTING / 4;

/// Blocks of a row that one token multiplies before it widens: two cache lines. Of each, two fields count four times,
/// which makes 4 * 2 * 4 * [`LANE_MAX`] = 24576 in a lane.
const ONE_TOKEN_BLOCKS: usize = 4;

const _: () = assert!(ONE_TOKEN_BLOCKS * 2 * 4 * LANE_MAX <= i16::MAX as usize);

/// Tokens that meet a panel in registers: with two vectors of rows, 8 accumulators, 2 vectors of codes, 1 of values
/// and a product leave some of the 16 registers for the compiler.
const PANEL_TOKENS: usize = 4;

/// D of each token and row, `sums` (tokens, rows).
pub fn sums(_: Avx2, tile: Tile, sums: &mut [i32]) {
    // SAFETY: the capability token proves the features.
    unsafe { if tile.tokens <= MOST_PASSES { few_tokens(tile, 0..tile.rows, sums) } else { many_tokens(tile, sums) } }
}

/// Row by row, unpacked in registers: for up to [`MOST_PASSES`] tokens, and for the rows that fill no panel.
///
/// One row at a time reads memory in its order. Several rows would share the loads of the values, but read as many
/// stretches at once: with 4 rows, one token streamed 17 GB/s of cold weights instead of 23 (Zen 5, which reads 38).
#[target_feature(enable = "avx2,fma,f16c")]
pub fn few_tokens(tile: Tile, rows: Range<usize>, sums: &mut [i32]) {
    for first in (0..tile.tokens).step_by(SMALL_BATCH) {
        match tile.tokens - first {
            1 => one_token(tile, rows.clone(), first, sums),
            2 => pass::<2>(tile, rows.clone(), first, sums),
            3 => pass::<3>(tile, rows.clone(), first, sums),
            4 => pass::<4>(tile, rows.clone(), first, sums),
            5 => pass::<5>(tile, rows.clone(), first, sums),
            6 => pass::<6>(tile, rows.clone(), first, sums),
            7 => pass::<7>(tile, rows.clone(), first, sums),
            _ => pass::<SMALL_BATCH>(tile, rows.clone(), first, sums),
        }
    }
}

/// All rows against one token.
#[target_feature(enable = "avx2,fma,f16c")]
fn one_token(tile: Tile, rows: Range<usize>, token: usize, sums: &mut [i32]) {
    let values = tile.token(token);
    for row in rows {
        sums[token * tile.rows + row] = multiply_one(tile.row(row), values);
    }
}

/// A row times one token. Unpacking is a third of the work here, so two fields stay where they are in their half of a
/// byte and count four times: one shift a block instead of three.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_one(row: &[[u8; 32]], values: &[[i8; 128]]) -> i32 {
    let mut wide = _mm256_setzero_si256();
    let (row, row_tail) = row.as_chunks::<ONE_TOKEN_BLOCKS>();
    let (values, values_tail) = values.as_chunks::<ONE_TOKEN_BLOCKS>();
    for (blocks, values) in row.iter().zip(values) {
        for line in blocks.as_chunks::<2>().0 {
            prefetch_ahead::<AHEAD, _>(line);
        }
        wide = _mm256_add_epi32(wide, multiply_blocks(blocks, values));
    }
    sum_i32(_mm256_add_epi32(wide, multiply_blocks(row_tail, values_tail)))
}

/// Up to [`ONE_TOKEN_BLOCKS`] blocks times as many of a token.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_blocks(blocks: &[[u8; 32]], values: &[[i8; 128]]) -> __m256i {
    let (mut once, mut four_times) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    for (block, values) in blocks.iter().zip(values) {
        let (codes, values) = (unpack_in_halves(load_u8(block)), values.as_chunks().0);
        let product = |part: usize| _mm256_maddubs_epi16(codes[part], load_i8(&values[part]));
        once = _mm256_add_epi16(once, _mm256_add_epi16(product(1), product(3)));
        four_times = _mm256_add_epi16(four_times, _mm256_add_epi16(product(0), product(2)));
    }
    widen(_mm256_add_epi16(once, _mm256_srai_epi16::<2>(four_times)))
}

/// All rows against `N` tokens.
#[target_feature(enable = "avx2,fma,f16c")]
fn pass<const N: usize>(tile: Tile, rows: Range<usize>, first_token: usize, sums: &mut [i32]) {
    let mut values: [&[[i8; 128]]; N] = [&[]; N];
    for n in 0..N {
        values[n] = tile.token(first_token + n);
    }
    for row in rows {
        let products = multiply(tile.row(row), values);
        for n in 0..N {
            sums[(first_token + n) * tile.rows + row] = products[n];
        }
    }
}

/// A row times `N` tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<const N: usize>(row: &[[u8; 32]], values: [&[[i8; 128]]; N]) -> [i32; N] {
    let zero = _mm256_setzero_si256();
    let mut wide = [zero; N];
    for (chunk, blocks) in row.chunks(WIDEN_BLOCKS).enumerate() {
        let mut narrow = [zero; N];
        for (i, block) in blocks.iter().enumerate() {
            prefetch_ahead::<AHEAD, _>(block);
            let codes = unpack(load_u8(block));
            for n in 0..N {
                let values = values[n][chunk * WIDEN_BLOCKS + i].as_chunks().0;
                let product = |part: usize| _mm256_maddubs_epi16(codes[part], load_i8(&values[part]));
                let (low, high) = (_mm256_add_epi16(product(0), product(1)), _mm256_add_epi16(product(2), product(3)));
                narrow[n] = _mm256_add_epi16(narrow[n], _mm256_add_epi16(low, high));
            }
        }
        for n in 0..N {
            wide[n] = _mm256_add_epi32(wide[n], widen(narrow[n]));
        }
    }
    let mut products = [0; N];
    for n in 0..N {
        products[n] = sum_i32(wide[n]);
    }
    products
}

/// The codes of a block, 32 columns a vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn unpack(block: __m256i) -> [__m256i; 4] {
    let mask = _mm256_set1_epi8(3);
    [
        _mm256_and_si256(_mm256_srli_epi16::<6>(block), mask),
        _mm256_and_si256(_mm256_srli_epi16::<4>(block), mask),
        _mm256_and_si256(_mm256_srli_epi16::<2>(block), mask),
        _mm256_and_si256(block, mask),
    ]
}

/// As [`unpack`], but with the codes of the first and third quarter times four: they stay where they are in their
/// half of a byte, which saves two shifts.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn unpack_in_halves(block: __m256i) -> [__m256i; 4] {
    let (ones, fours) = (_mm256_set1_epi8(0b0011), _mm256_set1_epi8(0b1100));
    let high = _mm256_srli_epi16::<4>(block);
    [
        _mm256_and_si256(high, fours),
        _mm256_and_si256(high, ones),
        _mm256_and_si256(block, fours),
        _mm256_and_si256(block, ones),
    ]
}

/// Sums of pairs of i16 lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn widen(narrow: __m256i) -> __m256i {
    _mm256_madd_epi16(narrow, _mm256_set1_epi16(1))
}

/// Panel by panel: 16 rows are unpacked once for all tokens.
#[target_feature(enable = "avx2,fma,f16c")]
fn many_tokens(tile: Tile, sums: &mut [i32]) {
    let mut panel = Panel::new();
    let whole = tile.rows / PANEL_ROWS * PANEL_ROWS;
    for row in (0..whole).step_by(PANEL_ROWS) {
        for cols in Panel::col_ranges(tile.stride) {
            let steps = panel.fill(&tile, row, cols.clone());
            for first in (0..tile.tokens).step_by(PANEL_TOKENS) {
                let at = PanelTokens { row, first, cols: cols.clone() };
                match tile.tokens - first {
                    1 => multiply_panel::<1>(&tile, at, steps, sums),
                    2 => multiply_panel::<2>(&tile, at, steps, sums),
                    3 => multiply_panel::<3>(&tile, at, steps, sums),
                    _ => multiply_panel::<PANEL_TOKENS>(&tile, at, steps, sums),
                }
            }
        }
    }
    few_tokens(tile, whole..tile.rows, sums);
}

/// A panel times `N` tokens, added to `sums` (or written there, by the first panel of the row).
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_panel<const N: usize>(tile: &Tile, at: PanelTokens, steps: &[[u8; 64]], sums: &mut [i32]) {
    let mut values: [&[i32]; N] = [&[]; N];
    let zero = _mm256_setzero_si256();
    let mut wide = [[zero; 2]; N];
    for n in 0..N {
        values[n] = tile.quads(at.first + n, &at.cols);
        if at.cols.start > 0 {
            let sums = sums[at.sums(tile, n)].as_chunks().0;
            wide[n] = [load_i32(&sums[0]), load_i32(&sums[1])];
        }
    }
    for start in (0..steps.len()).step_by(FITTING) {
        let mut narrow = [[zero; 2]; N];
        for step in start..steps.len().min(start + FITTING) {
            let codes = steps[step].as_chunks().0;
            let codes = [load_u8(&codes[0]), load_u8(&codes[1])];
            for n in 0..N {
                let values = _mm256_set1_epi32(values[n][step]);
                for half in 0..2 {
                    narrow[n][half] = _mm256_add_epi16(narrow[n][half], _mm256_maddubs_epi16(codes[half], values));
                }
            }
        }
        for n in 0..N {
            for half in 0..2 {
                wide[n][half] = _mm256_add_epi32(wide[n][half], widen(narrow[n][half]));
            }
        }
    }
    for n in 0..N {
        let sums = sums[at.sums(tile, n)].as_chunks_mut().0;
        store_i32(&mut sums[0], wide[n][0]);
        store_i32(&mut sums[1], wide[n][1]);
    }
}
