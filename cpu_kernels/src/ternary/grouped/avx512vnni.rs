//! AVX-512 VNNI: as [`super::avxvnni`], with 16 rows in a vector.

use std::{arch::x86_64::*, ops::Range};

use super::{
    super::{
        LINE, LINES, MOST_PASSES,
        panel::{PANEL_ROWS, Panel, PanelTokens, STEP_COLS},
    },
    Grouped, Token,
    few::{QUADS, blocks, blocks_of_each, few_tokens, prefetch_scales, products},
};
use crate::{
    format::I2S_BLOCK,
    isa::Avx512Vnni,
    x86::{AHEAD, prefetch_ahead, wide},
};

/// Tokens that meet two panels in registers: the sums of a group and the totals are 24 of the 32. With eight, totals went
/// through memory after each group: products of 96 and more tokens ran at 71 % of the ceiling in place of 74, and in groups
/// of 64 at 66 in place of 68 (Zen 5, two threads).
const PANEL_TOKENS: usize = 6;

products!(Avx512Vnni, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", few: MOST_PASSES);
few_tokens!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni");

/// The sums D of 16 rows.
type Sums = __m512i;

/// The sums D of quarters `FIRST` .. `END` of blocks of 16 rows. Codes stay at their bit positions, as in
/// [`super::super::avxvnni`]: each token has a sum for each quarter, of 64, 16, 4 or 1 times the code.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn dots<const FIRST: usize, const END: usize, const B: usize, const N: usize>(
    panel: &[[[u8; LINE]; LINES]; B],
    values: &[&[[i32; QUADS]; B]; N],
) -> [Sums; N] {
    let masks =
        [_mm512_set1_epi8(0xC0_u8 as i8), _mm512_set1_epi8(0x30), _mm512_set1_epi8(0x0C), _mm512_set1_epi8(0x03)];
    // Each addition waits for the one before it in the same sum: with few tokens, each block has its own.
    let own = if N <= 2 { B } else { 1 };
    let mut lanes = [[[_mm512_setzero_si512(); 4]; B]; N];
    for (block, lines) in panel.iter().enumerate() {
        for (at, line) in lines.iter().enumerate() {
            prefetch_ahead::<AHEAD, _>(line);
            let packed = wide::load_u8(line);
            for quarter in FIRST..END {
                let codes = _mm512_and_si512(packed, masks[quarter]);
                for n in 0..N {
                    let values = _mm512_set1_epi32(values[n][block][LINES * quarter + at]);
                    let sum = &mut lanes[n][block % own][quarter];
                    *sum = _mm512_dpbusd_epi32(*sum, codes, values);
                }
            }
        }
    }
    let mut sums = [_mm512_setzero_si512(); N];
    for n in 0..N {
        let [mut a, mut b, mut c, mut d] = lanes[n][0];
        for lanes in &lanes[n][1..own] {
            a = _mm512_add_epi32(a, lanes[0]);
            b = _mm512_add_epi32(b, lanes[1]);
            c = _mm512_add_epi32(c, lanes[2]);
            d = _mm512_add_epi32(d, lanes[3]);
        }
        let high = _mm512_add_epi32(_mm512_srai_epi32::<6>(a), _mm512_srai_epi32::<4>(b));
        let low = _mm512_add_epi32(_mm512_srai_epi32::<2>(c), d);
        sums[n] = match (FIRST, END) {
            (0, 2) => high,
            (2, 4) => low,
            _ => _mm512_add_epi32(high, low),
        };
    }
    sums
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn zero() -> __m512 {
    _mm512_setzero_ps()
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn load_scales(scales: &[u16; PANEL_ROWS]) -> __m512 {
    wide::load_f16(scales)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn add_scaled(total: __m512, sums: Sums, of_token: i32, scales: __m512, step: f32) -> __m512 {
    let exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, _mm512_set1_epi32(of_token)));
    _mm512_fmadd_ps(exact, _mm512_mul_ps(scales, _mm512_set1_ps(step)), total)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn store_totals(to: &mut [f32; PANEL_ROWS], totals: __m512) {
    wide::store(to, totals);
}

/// Two panels at a time: 32 rows are unpacked once for all tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn many_tokens<const SIZE: usize>(tile: &Grouped, out: &mut [f32]) {
    let mut panels = [Panel::new(), Panel::new()];
    let whole = tile.tile.rows / PANEL_ROWS * PANEL_ROWS;
    for row in (0..whole).step_by(2 * PANEL_ROWS) {
        for cols in Panel::col_ranges(tile.tile.stride) {
            let [first, second] = &mut panels;
            let first = first.spread(tile.panel(row, &cols));
            if whole - row < 2 * PANEL_ROWS {
                all_tokens::<SIZE, 1>(tile, row, cols, [first], out);
            } else {
                let second = second.spread(tile.panel(row + PANEL_ROWS, &cols));
                all_tokens::<SIZE, 2>(tile, row, cols, [first, second], out);
            }
        }
    }
    few_tokens::<SIZE>(tile, whole..tile.tile.rows, out);
}

/// `P` panels times all tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn all_tokens<const SIZE: usize, const P: usize>(
    tile: &Grouped,
    row: usize,
    cols: Range<usize>,
    steps: [&[[u8; PANEL_ROWS * STEP_COLS]]; P],
    out: &mut [f32],
) {
    for first in (0..tile.tile.tokens).step_by(PANEL_TOKENS) {
        let at = PanelTokens { row, first, cols: cols.clone() };
        match tile.tile.tokens - first {
            1 => multiply_panels::<SIZE, P, 1>(tile, at, steps, out),
            2 => multiply_panels::<SIZE, P, 2>(tile, at, steps, out),
            3 => multiply_panels::<SIZE, P, 3>(tile, at, steps, out),
            4 => multiply_panels::<SIZE, P, 4>(tile, at, steps, out),
            5 => multiply_panels::<SIZE, P, 5>(tile, at, steps, out),
            _ => multiply_panels::<SIZE, P, PANEL_TOKENS>(tile, at, steps, out),
        }
    }
}

/// `P` panels times `N` tokens, added to `out` (or written there, by the first panels of the rows).
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply_panels<const SIZE: usize, const P: usize, const N: usize>(
    tile: &Grouped,
    at: PanelTokens,
    steps: [&[[u8; PANEL_ROWS * STEP_COLS]]; P],
    out: &mut [f32],
) {
    let mut values: [&[i32]; N] = [&[]; N];
    let mut tokens = [Token::default(); N];
    let mut totals = [[_mm512_setzero_ps(); P]; N];
    for n in 0..N {
        values[n] = tile.tile.quads(at.first + n, &at.cols);
        tokens[n] = tile.token(at.first + n);
        if at.cols.start > 0 {
            for p in 0..P {
                let out = &out[at.sums(&tile.tile, n).start + p * PANEL_ROWS..];
                totals[n][p] = wide::load(out.first_chunk().expect("whole panels"));
            }
        }
    }
    let steps_of_group = SIZE / STEP_COLS;
    for (i, group) in tile.panel_groups(&at.cols).enumerate() {
        let mut scales = [zero(); P];
        for p in 0..P {
            scales[p] = load_scales(&tile.scales(at.row + p * PANEL_ROWS)[group]);
        }
        // D - S from the start.
        let mut lanes = [[_mm512_setzero_si512(); P]; N];
        for n in 0..N {
            lanes[n] = [_mm512_set1_epi32(-tokens[n].sums[group]); P];
        }
        for step in i * steps_of_group..(i + 1) * steps_of_group {
            let mut codes = [_mm512_setzero_si512(); P];
            for p in 0..P {
                codes[p] = wide::load_u8(&steps[p][step]);
            }
            for n in 0..N {
                let values = _mm512_set1_epi32(values[n][step]);
                for p in 0..P {
                    lanes[n][p] = _mm512_dpbusd_epi32(lanes[n][p], codes[p], values);
                }
            }
        }
        for n in 0..N {
            let step = _mm512_set1_ps(tokens[n].steps[group]);
            for p in 0..P {
                let exact = _mm512_cvtepi32_ps(lanes[n][p]);
                totals[n][p] = _mm512_fmadd_ps(exact, _mm512_mul_ps(scales[p], step), totals[n][p]);
            }
        }
    }
    for n in 0..N {
        for p in 0..P {
            let out = &mut out[at.sums(&tile.tile, n).start + p * PANEL_ROWS..];
            wide::store(out.first_chunk_mut().expect("whole panels"), totals[n][p]);
        }
    }
}
