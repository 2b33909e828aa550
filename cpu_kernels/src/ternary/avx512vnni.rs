//! AVX-512 VNNI: as [`super::avxvnni`], on twice as many columns or rows at a time and with twice as many registers.

use std::{arch::x86_64::*, ops::Range};

use super::{
    Tile,
    panel::{PANEL_ROWS, Panel, PanelTokens},
};
use crate::{
    isa::Avx512Vnni,
    x86::{
        AHEAD, load_i8, load_u8, prefetch_ahead,
        wide::{join, load_i32, load_u8 as load_codes, store_i32},
    },
};

/// Most tokens that are multiplied row by row: from 5 on panels are as fast or faster (Zen 5).
const FEW: usize = 4;

/// Tokens that meet two panels in registers. More would fit (12 make 24 accumulators of 32 registers), but then the
/// addresses of their values do not: 12 tokens ran at 160 G products/s, 10 and 8 at 450 (Zen 5).
const PANEL_TOKENS: usize = 8;

/// D of each token and row, `sums` (tokens, rows).
pub fn sums(_: Avx512Vnni, tile: Tile, sums: &mut [i32]) {
    // SAFETY: the capability token proves the features.
    unsafe {
        if tile.tokens <= FEW { few_tokens(tile, 0..tile.rows, sums) } else { many_tokens(tile, 0..tile.rows, sums) }
    }
}

/// The same of some rows, for more tokens than a few.
pub fn rows(_: Avx512Vnni, tile: Tile, rows: Range<usize>, sums: &mut [i32]) {
    // SAFETY: the capability token proves the features.
    unsafe { many_tokens(tile, rows, sums) }
}

/// Row by row, as [`super::avx2::few_tokens`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn few_tokens(tile: Tile, rows: Range<usize>, sums: &mut [i32]) {
    for first in (0..tile.tokens).step_by(FEW) {
        match tile.tokens - first {
            1 => pass::<1>(tile, rows.clone(), first, sums),
            2 => pass::<2>(tile, rows.clone(), first, sums),
            3 => pass::<3>(tile, rows.clone(), first, sums),
            _ => pass::<FEW>(tile, rows.clone(), first, sums),
        }
    }
}

/// All rows against `N` tokens, two blocks at a time. Codes stay at their bit positions, as in [`super::avxvnni`], and
/// each token has four sums, of 64, 16, 4 and 1 times the code.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn pass<const N: usize>(tile: Tile, rows: Range<usize>, first_token: usize, sums: &mut [i32]) {
    let mut values: [&[[i8; 128]]; N] = [&[]; N];
    for n in 0..N {
        values[n] = tile.token(first_token + n);
    }
    let masks =
        [_mm512_set1_epi8(0xC0_u8 as i8), _mm512_set1_epi8(0x30), _mm512_set1_epi8(0x0C), _mm512_set1_epi8(0x03)];
    for row in rows {
        let mut lanes = [[_mm512_setzero_si512(); 4]; N];
        let (pairs, last) = tile.row(row).as_chunks::<2>();
        for (i, [first, second]) in pairs.iter().enumerate() {
            prefetch_ahead::<AHEAD, _>(first);
            let block = join(load_u8(first), load_u8(second));
            for n in 0..N {
                let (first, second) = (values[n][2 * i].as_chunks().0, values[n][2 * i + 1].as_chunks().0);
                for part in 0..4 {
                    let values = join(load_i8(&first[part]), load_i8(&second[part]));
                    let codes = _mm512_and_si512(block, masks[part]);
                    lanes[n][part] = _mm512_dpbusd_epi32(lanes[n][part], codes, values);
                }
            }
        }
        if let [last] = last {
            let block = _mm512_zextsi256_si512(load_u8(last));
            for n in 0..N {
                let values = values[n][2 * pairs.len()].as_chunks().0;
                for part in 0..4 {
                    let codes = _mm512_and_si512(block, masks[part]);
                    let values = _mm512_zextsi256_si512(load_i8(&values[part]));
                    lanes[n][part] = _mm512_dpbusd_epi32(lanes[n][part], codes, values);
                }
            }
        }
        for n in 0..N {
            let [a, b, c, d] = lanes[n];
            let high = _mm512_add_epi32(_mm512_srai_epi32::<6>(a), _mm512_srai_epi32::<4>(b));
            let low = _mm512_add_epi32(_mm512_srai_epi32::<2>(c), d);
            sums[(first_token + n) * tile.rows + row] = _mm512_reduce_add_epi32(_mm512_add_epi32(high, low));
        }
    }
}

/// Two panels at a time: 32 rows are unpacked once for all tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn many_tokens(tile: Tile, rows: Range<usize>, sums: &mut [i32]) {
    let mut panels = [Panel::new(), Panel::new()];
    let whole = rows.start + rows.len() / PANEL_ROWS * PANEL_ROWS;
    for row in (rows.start..whole).step_by(2 * PANEL_ROWS) {
        for cols in Panel::col_ranges(tile.stride) {
            let [first, second] = &mut panels;
            let first = first.fill(&tile, row, cols.clone());
            if whole - row < 2 * PANEL_ROWS {
                all_tokens(&tile, row, cols, [first], sums);
            } else {
                let second = second.fill(&tile, row + PANEL_ROWS, cols.clone());
                all_tokens(&tile, row, cols, [first, second], sums);
            }
        }
    }
    few_tokens(tile, whole..rows.end, sums);
}

/// `P` panels times all tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn all_tokens<const P: usize>(tile: &Tile, row: usize, cols: Range<usize>, steps: [&[[u8; 64]]; P], sums: &mut [i32]) {
    for first in (0..tile.tokens).step_by(PANEL_TOKENS) {
        let at = PanelTokens { row, first, cols: cols.clone() };
        match tile.tokens - first {
            1 => multiply_panels::<P, 1>(tile, at, steps, sums),
            2 => multiply_panels::<P, 2>(tile, at, steps, sums),
            3 => multiply_panels::<P, 3>(tile, at, steps, sums),
            4 => multiply_panels::<P, 4>(tile, at, steps, sums),
            5 => multiply_panels::<P, 5>(tile, at, steps, sums),
            6 => multiply_panels::<P, 6>(tile, at, steps, sums),
            7 => multiply_panels::<P, 7>(tile, at, steps, sums),
            _ => multiply_panels::<P, PANEL_TOKENS>(tile, at, steps, sums),
        }
    }
}

/// `P` panels times `N` tokens, added to `sums` (or written there, by the first panels of the rows).
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply_panels<const P: usize, const N: usize>(
    tile: &Tile,
    at: PanelTokens,
    steps: [&[[u8; 64]]; P],
    sums: &mut [i32],
) {
    let mut values: [&[i32]; N] = [&[]; N];
    let mut lanes = [[_mm512_setzero_si512(); P]; N];
    for n in 0..N {
        values[n] = tile.quads(at.first + n, &at.cols);
        if at.cols.start > 0 {
            for p in 0..P {
                lanes[n][p] =
                    load_i32(sums[at.sums(tile, n).start + p * PANEL_ROWS..].first_chunk().expect("whole panels"));
            }
        }
    }
    for step in 0..steps[0].len() {
        let mut codes = [_mm512_setzero_si512(); P];
        for p in 0..P {
            codes[p] = load_codes(&steps[p][step]);
        }
        for n in 0..N {
            let values = _mm512_set1_epi32(values[n][step]);
            for p in 0..P {
                lanes[n][p] = _mm512_dpbusd_epi32(lanes[n][p], codes[p], values);
            }
        }
    }
    for n in 0..N {
        for p in 0..P {
            let start = at.sums(tile, n).start + p * PANEL_ROWS;
            store_i32(sums[start..].first_chunk_mut().expect("whole panels"), lanes[n][p]);
        }
    }
}
