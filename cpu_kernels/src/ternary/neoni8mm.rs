//! NEON with `smmla`, which multiplies eight columns of two rows with those of two tokens: many tokens. Few of them stay
//! with `sdot`, since a vector of codes of two rows would have to be put together for each.

use std::arch::aarch64::*;

use super::{
    SMALL_BATCH, Tile, neondot,
    panel::{PANEL_ROWS, Panel, PanelTokens, neon::PAIR_STEP_BYTES},
};
use crate::{
    arm::{load_i8, load_i32, load_u8, matrix_product, store_i32},
    isa::NeonI8mm,
};

/// Tokens that meet a panel in registers, as two pairs: 16 accumulators of 32 registers.
pub const PANEL_TOKENS: usize = 4;

/// Sums of the rows of a panel by twos, with two tokens: lane 2i + j of a vector is row i of two with token j.
pub type PairLanes = [int32x4_t; PANEL_ROWS / 2];

/// Values of two tokens, 16 at a time.
pub type PairValues<'a> = [&'a [[i8; 16]]; 2];

/// D of each token and row, `sums` (tokens, rows).
pub fn sums(i8mm: NeonI8mm, tile: Tile, sums: &mut [i32]) {
    if tile.tokens <= SMALL_BATCH {
        return neondot::sums(i8mm.dot(), tile, sums);
    }
    // SAFETY: the capability token proves the features.
    unsafe { many_tokens(tile, sums) }
}

/// Panel by panel: 16 rows are unpacked once for all tokens.
#[target_feature(enable = "neon,dotprod,i8mm")]
fn many_tokens(tile: Tile, sums: &mut [i32]) {
    let mut panel = Panel::new();
    let whole = tile.rows / PANEL_ROWS * PANEL_ROWS;
    for row in (0..whole).step_by(PANEL_ROWS) {
        for cols in Panel::col_ranges(tile.stride) {
            let steps = panel.fill_pairs(&tile, row, cols.clone());
            for first in (0..tile.tokens).step_by(PANEL_TOKENS) {
                let at = PanelTokens { row, first, cols: cols.clone() };
                match tile.tokens - first {
                    1 | 2 => multiply_panel::<1>(&tile, at, steps, sums),
                    _ => multiply_panel::<2>(&tile, at, steps, sums),
                }
            }
        }
    }
    neondot::few_tokens(tile, whole..tile.rows, sums);
}

/// A panel times `PAIRS` pairs of tokens, added to `sums` (or written there, by the first panel of the row).
#[target_feature(enable = "neon,dotprod,i8mm")]
fn multiply_panel<const PAIRS: usize>(tile: &Tile, at: PanelTokens, steps: &[[u8; PAIR_STEP_BYTES]], sums: &mut [i32]) {
    let mut lanes = [[vdupq_n_s32(0); PANEL_ROWS / 2]; PAIRS];
    if at.cols.start > 0 {
        for pair in 0..PAIRS {
            let of_token = |i: usize| sums[at.sums(tile, at.nth(tile, 2 * pair + i))].as_chunks().0;
            let (a, b) = (of_token(0), of_token(1));
            for quad in 0..PANEL_ROWS / 4 {
                let (a, b) = (load_i32(&a[quad]), load_i32(&b[quad]));
                lanes[pair][2 * quad] = vzip1q_s32(a, b);
                lanes[pair][2 * quad + 1] = vzip2q_s32(a, b);
            }
        }
    }
    multiply_steps(steps, pair_values(tile, &at), &mut lanes);
    for pair in 0..PAIRS {
        // The second of a pair may stand for the first: both write the same.
        for (i, of_token) in by_token(&lanes[pair]).into_iter().enumerate() {
            let sums = sums[at.sums(tile, at.nth(tile, 2 * pair + i))].as_chunks_mut().0;
            for quad in 0..PANEL_ROWS / 4 {
                store_i32(&mut sums[quad], of_token[quad]);
            }
        }
    }
}

/// The values of a panel's columns of the tokens at `at`, by twos; the last one stands for one past it.
pub fn pair_values<'a, const PAIRS: usize>(tile: &Tile<'a>, at: &PanelTokens) -> [PairValues<'a>; PAIRS] {
    let values = |n: usize| {
        let token = at.first + at.nth(tile, n);
        tile.values[token * tile.stride..][at.cols.clone()].as_chunks().0
    };
    let mut pairs: [PairValues; PAIRS] = [[&[]; 2]; PAIRS];
    for pair in 0..PAIRS {
        pairs[pair] = [values(2 * pair), values(2 * pair + 1)];
    }
    pairs
}

/// Steps of 16 rows times the values of pairs of tokens, added to `lanes`.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
pub fn multiply_steps<const PAIRS: usize>(
    steps: &[[u8; PAIR_STEP_BYTES]],
    values: [PairValues; PAIRS],
    lanes: &mut [PairLanes; PAIRS],
) {
    // Two steps meet 16 values of each token.
    for (i, steps) in steps.as_chunks::<2>().0.iter().enumerate() {
        let mut of_pairs = [[vdupq_n_s8(0); 2]; PAIRS];
        for pair in 0..PAIRS {
            let [a, b] = values[pair].map(|values| &values[i]);
            let (a, b) = (vreinterpretq_s64_s8(load_i8(a)), vreinterpretq_s64_s8(load_i8(b)));
            of_pairs[pair] = [vreinterpretq_s8_s64(vzip1q_s64(a, b)), vreinterpretq_s8_s64(vzip2q_s64(a, b))];
        }
        for step in 0..2 {
            for (two, codes) in steps[step].as_chunks().0.iter().enumerate() {
                let codes = vreinterpretq_s8_u8(load_u8(codes));
                for pair in 0..PAIRS {
                    lanes[pair][two] = matrix_product(lanes[pair][two], codes, of_pairs[pair][step]);
                }
            }
        }
    }
}

/// The sums of each of two tokens with 16 rows, side by side.
#[inline]
#[target_feature(enable = "neon")]
pub fn by_token(lanes: &PairLanes) -> [[int32x4_t; PANEL_ROWS / 4]; 2] {
    let mut tokens = [[vdupq_n_s32(0); PANEL_ROWS / 4]; 2];
    for quad in 0..PANEL_ROWS / 4 {
        let (a, b) = (lanes[2 * quad], lanes[2 * quad + 1]);
        tokens[0][quad] = vuzp1q_s32(a, b);
        tokens[1][quad] = vuzp2q_s32(a, b);
    }
    tokens
}
