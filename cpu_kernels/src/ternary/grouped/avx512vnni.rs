//! AVX-512 VNNI: as [`super::avxvnni`], on two blocks of a row, or 32 rows, at a time.

use std::{arch::x86_64::*, ops::Range};

use super::{
    super::panel::{PANEL_ROWS, Panel, PanelTokens, STEP_COLS},
    Grouped, Token,
    few::{GROUPS, ROWS, WAITING, add_in_order, few_tokens, scaled, sum_each_i32},
    many::{panel_groups, panel_scales},
};
use crate::{
    format::I2S_BLOCK,
    isa::Avx512Vnni,
    ternary::avx2,
    x86::{
        load, load_f16, load_i8, load_i32, load_u8, store,
        wide::{self, join},
    },
};

/// Most tokens that are multiplied row by row, as for one scale per matrix.
const FEW: usize = 4;

/// Tokens that meet two panels in registers, as for one scale per matrix.
const PANEL_TOKENS: usize = 8;

/// Products of each token and row, `out` (tokens, rows).
pub fn products(_: Avx512Vnni, tile: &Grouped, out: &mut [f32]) {
    // SAFETY: the capability token proves the features.
    unsafe {
        match tile.size {
            64 => products_of::<4>(tile, out),
            128 => products_of::<8>(tile, out),
            256 => products_of::<16>(tile, out),
            size => unreachable!("groups of {size}"),
        }
    }
}

/// For groups of which eight fill `BLOCKS` blocks.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn products_of<const BLOCKS: usize>(tile: &Grouped, out: &mut [f32]) {
    if tile.tile.tokens <= FEW {
        few_tokens::<BLOCKS>(tile, 0..tile.tile.rows, out);
    } else {
        many_tokens::<BLOCKS>(tile, out);
    }
}

few_tokens!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni");

/// Sums D of eight groups of a row and `N` tokens, each in its lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn octet_dots<const BLOCKS: usize, const N: usize>(
    codes: &[[u8; 32]; BLOCKS],
    values: [&[[i8; 128]; BLOCKS]; N],
) -> [__m256i; N] {
    // Vector i: 8 lanes of sums of each of two groups, or of two parts of the same group of 256.
    let mut lanes = [[_mm512_setzero_si512(); 8]; N];
    for pair in 0..BLOCKS / 2 {
        let unpacked = unpack(join(load_u8(&codes[2 * pair]), load_u8(&codes[2 * pair + 1])));
        for n in 0..N {
            let (first, second) = (values[n][2 * pair].as_chunks().0, values[n][2 * pair + 1].as_chunks().0);
            for part in 0..4 {
                let at = if BLOCKS == 4 { 2 * pair + part / 2 } else { pair };
                let values = join(load_i8(&first[part]), load_i8(&second[part]));
                lanes[n][at] = _mm512_dpbusd_epi32(lanes[n][at], unpacked[part], values);
            }
        }
    }
    let mut dots = [_mm256_setzero_si256(); N];
    for n in 0..N {
        let [a, b, c, d, e, f, g, h] = lanes[n];
        dots[n] = match BLOCKS {
            4 => halves_in_order(
                fours([a, b, c, d]),
                _mm512_setr_epi32(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15),
            ),
            8 => halves_in_order(
                fours([a, b, c, d]),
                _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15),
            ),
            _ => {
                let (a, b) = (halves(fours([a, b, c, d])), halves(fours([e, f, g, h])));
                _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
            }
        };
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

/// Element i of each 128 bits of the result is the sum of the four there in vector i.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn fours([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}

/// The lower half and the upper half added.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn halves(x: __m512i) -> __m256i {
    _mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x))
}

/// The halves added after the elements have been put in the given order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn halves_in_order(x: __m512i, order: __m512i) -> __m256i {
    halves(_mm512_permutexvar_epi32(order, x))
}

/// Sums D of one group of a row and `N` tokens, spread over lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn group_lanes<const BLOCKS: usize, const N: usize>(
    codes: &[[u8; 32]],
    tokens: &[Token; N],
    group: usize,
) -> [__m256i; N] {
    let parts = BLOCKS * 4 / GROUPS;
    let mut lanes = [_mm256_setzero_si256(); N];
    for block in group * parts / 4..(group * parts + parts).div_ceil(4) {
        let unpacked = avx2::unpack(load_u8(&codes[block]));
        for n in 0..N {
            let values = tokens[n].values[block].as_chunks().0;
            let product = |sum, part: usize| _mm256_dpbusd_epi32(sum, unpacked[part], load_i8(&values[part]));
            if parts >= 4 || group.is_multiple_of(2) {
                lanes[n] = product(product(lanes[n], 0), 1);
            }
            if parts >= 4 || !group.is_multiple_of(2) {
                lanes[n] = product(product(lanes[n], 2), 3);
            }
        }
    }
    lanes
}

/// Lane i of the result is the sum of the lanes of vector i.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn sum_each<const BLOCKS: usize>(vectors: &[__m256i; GROUPS]) -> __m256i {
    sum_each_i32(vectors)
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
    let groups = panel_groups(tile, &cols);
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
    for (i, (group, scales)) in panel_groups(tile, &at.cols).zip(scales).enumerate() {
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
