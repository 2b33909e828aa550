//! AVX-512 VNNI: as [`super::avxvnni`], on two blocks of a row, or 32 rows, at a time.

use std::{arch::x86_64::*, ops::Range};

use super::{
    super::panel::{PANEL_ROWS, Panel, PanelTokens, STEP_COLS},
    Grouped, Token,
    few::{GROUPS, ROWS, blocks_of, few_tokens, prefetch, products, scaled, scales_by_group},
    many::panel_scales,
};
use crate::{
    format::I2S_BLOCK,
    isa::Avx512Vnni,
    x86::{
        load_i8, load_u8, store,
        wide::{self, join},
    },
};

/// Most tokens that are multiplied row by row, as for one scale per matrix.
const FEW: usize = 4;

/// Tokens that meet two panels in registers, as for one scale per matrix.
const PANEL_TOKENS: usize = 8;

products!(Avx512Vnni, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", few: FEW);
few_tokens!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni");

/// Sums D of a group of eight rows, one in a lane, for each of `N` tokens; and of the next group if half a block is one.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn group_dots<const BLOCKS: usize, const N: usize>(
    codes: &[&[[u8; 32]]; ROWS],
    values: &[&[[i8; I2S_BLOCK]]; N],
    group: usize,
) -> [[__m256i; N]; 2] {
    // Rows r and r + 4 in the halves of vector r.
    let mut lanes = [[[_mm512_setzero_si512(); ROWS / 2]; N]; 2];
    let second = usize::from(BLOCKS == 4);
    for block in blocks_of::<BLOCKS>(group) {
        for r in 0..ROWS / 2 {
            let unpacked = unpack(join(load_u8(&codes[r][block]), load_u8(&codes[r + 4][block])));
            for n in 0..N {
                let values = values[n][block].as_chunks().0;
                let product = |sum, part: usize| {
                    let values = _mm512_broadcast_i64x4(load_i8(&values[part]));
                    _mm512_dpbusd_epi32(sum, unpacked[part], values)
                };
                lanes[0][n][r] = product(product(lanes[0][n][r], 0), 1);
                lanes[second][n][r] = product(product(lanes[second][n][r], 2), 3);
            }
        }
    }
    let mut dots = [[_mm256_setzero_si256(); N]; 2];
    for n in 0..N {
        dots[0][n] = sum_each(lanes[0][n]);
        if BLOCKS == 4 {
            dots[1][n] = sum_each(lanes[1][n]);
        }
    }
    dots
}

/// The codes of two blocks, 32 columns of each a vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn unpack(blocks: __m512i) -> [__m512i; 4] {
    let mask = _mm512_set1_epi8(3);
    [
        _mm512_and_si512(_mm512_srli_epi16::<6>(blocks), mask),
        _mm512_and_si512(_mm512_srli_epi16::<4>(blocks), mask),
        _mm512_and_si512(_mm512_srli_epi16::<2>(blocks), mask),
        _mm512_and_si512(blocks, mask),
    ]
}

/// Lane i of the result is the sum of the lower lanes of vector i, lane 4 + i that of the upper ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn sum_each([a, b, c, d]: [__m512i; 4]) -> __m256i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    // Each 128 bits: the sums of four lanes of a, b, c and d.
    let fours = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let (low, high) = (_mm512_castsi512_si256(fours), _mm512_extracti64x4_epi64::<1>(fours));
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high))
}

/// Two panels at a time: 32 rows are unpacked once for all tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn many_tokens<const BLOCKS: usize>(tile: &Grouped, out: &mut [f32]) {
    let mut panels = [Panel::new(), Panel::new()];
    let whole = tile.tile.rows / PANEL_ROWS * PANEL_ROWS;
    for row in (0..whole).step_by(2 * PANEL_ROWS) {
        for cols in Panel::col_ranges(tile.tile.stride) {
            let [first, second] = &mut panels;
            let first = first.fill(&tile.tile, row, cols.clone());
            if whole - row < 2 * PANEL_ROWS {
                all_tokens::<BLOCKS, 1>(tile, row, cols, [first], out);
            } else {
                let second = second.fill(&tile.tile, row + PANEL_ROWS, cols.clone());
                all_tokens::<BLOCKS, 2>(tile, row, cols, [first, second], out);
            }
        }
    }
    few_tokens::<BLOCKS>(tile, whole..tile.tile.rows, out);
}

/// `P` panels times all tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn all_tokens<const BLOCKS: usize, const P: usize>(
    tile: &Grouped,
    row: usize,
    cols: Range<usize>,
    steps: [&[[u8; PANEL_ROWS * STEP_COLS]]; P],
    out: &mut [f32],
) {
    let groups = tile.panel_groups(&cols);
    let mut scales = [[_mm512_setzero_ps(); P]; 16];
    for p in 0..P {
        let of_panel = panel_scales(tile, row + p * PANEL_ROWS, groups.clone());
        for (scales, [low, high]) in scales.iter_mut().zip(of_panel) {
            let both = join(_mm256_castps_si256(low), _mm256_castps_si256(high));
            scales[p] = _mm512_castsi512_ps(both);
        }
    }
    for first in (0..tile.tile.tokens).step_by(PANEL_TOKENS) {
        let at = PanelTokens { row, first, cols: cols.clone() };
        match tile.tile.tokens - first {
            1 => multiply_panels::<BLOCKS, P, 1>(tile, at, steps, &scales, out),
            2 => multiply_panels::<BLOCKS, P, 2>(tile, at, steps, &scales, out),
            3 => multiply_panels::<BLOCKS, P, 3>(tile, at, steps, &scales, out),
            4 => multiply_panels::<BLOCKS, P, 4>(tile, at, steps, &scales, out),
            5 => multiply_panels::<BLOCKS, P, 5>(tile, at, steps, &scales, out),
            6 => multiply_panels::<BLOCKS, P, 6>(tile, at, steps, &scales, out),
            7 => multiply_panels::<BLOCKS, P, 7>(tile, at, steps, &scales, out),
            _ => multiply_panels::<BLOCKS, P, PANEL_TOKENS>(tile, at, steps, &scales, out),
        }
    }
}

/// `P` panels times `N` tokens, added to `out` (or written there, by the first panels of the rows). `scales` has those
/// of the panels' groups.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply_panels<const BLOCKS: usize, const P: usize, const N: usize>(
    tile: &Grouped,
    at: PanelTokens,
    steps: [&[[u8; PANEL_ROWS * STEP_COLS]]; P],
    scales: &[[__m512; P]],
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
    let steps_of_group = BLOCKS * I2S_BLOCK / GROUPS / STEP_COLS;
    for (i, (group, scales)) in tile.panel_groups(&at.cols).zip(scales).enumerate() {
        let mut lanes = [[_mm512_setzero_si512(); P]; N];
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
            let sums = _mm512_set1_epi32(tokens[n].sums[group]);
            let steps = _mm512_set1_ps(tokens[n].steps[group]);
            for p in 0..P {
                let exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(lanes[n][p], sums));
                let product = _mm512_mul_ps(exact, _mm512_mul_ps(scales[p], steps));
                // No fused multiply-add: it would round once where the reference rounds twice.
                totals[n][p] = _mm512_add_ps(totals[n][p], product);
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
