//! AVX-512 VBMI: bytes become the codes of four blocks and of the fifth by tables, as in the
//! [kernel of rows one after the other](super::super::super::base3); from there on as in
//! [`super::super::avx512vnni`], with a sum for each of the five blocks.

use std::{arch::x86_64::*, ops::Range};

use super::super::{
    Grouped, Token, avx512vnni,
    few::{QUADS, prefetch_scales},
};
use crate::{
    format::{
        I2S_BLOCK,
        base3::{ABOVE, DIGITS},
        base3_rows16::{BLOCKS, RUN_BYTES},
        rows16::PANEL_ROWS,
    },
    isa::Avx512Vbmi,
    ternary::{
        LINE, LINES, MOST_PASSES, SMALL_BATCH,
        panel::{Panel, STEP_COLS},
    },
    x86::{AHEAD, prefetch_ahead, prefetch_at, wide},
};

/// Tokens that share decoded codes in registers.
const PASS_TOKENS: usize = 4;

/// Lines of a run of [`BLOCKS`] blocks of 16 rows.
const RUN_LINES: usize = RUN_BYTES / 4;

/// Columns of a run.
const RUN_COLS: usize = BLOCKS * I2S_BLOCK;

/// The values that meet blocks which a row's last run has not.
static NO_VALUES: [i32; QUADS] = [0; QUADS];

/// How often each block's codes count in its sum: they stay at their bit positions.
const SHIFTS: [u32; BLOCKS] = [6, 4, 2, 0, 6];

/// Products of each token and row, `out` (tokens, rows); `packed` are the rows of the tile. False, and nothing done, where
/// rows have to be unpacked to two bits first: many tokens and groups that runs cut.
pub fn products(_: Avx512Vbmi, tile: &Grouped, packed: &[u8], out: &mut [f32]) -> bool {
    // Where passes are as fast as panels, on Zen 5: in groups of 64 a pass has the sums of twice as many groups to scale.
    let most_passes = match tile.size {
        64 => SMALL_BATCH,
        128 => 2 * MOST_PASSES,
        _ => MOST_PASSES,
    };
    let is_few = tile.tile.tokens <= most_passes;
    // SAFETY: the capability token proves the features.
    unsafe {
        match tile.size {
            64 if is_few => in_passes::<64>(tile, packed, 0..tile.tile.rows, out),
            128 if is_few => in_passes::<128>(tile, packed, 0..tile.tile.rows, out),
            256 if is_few => in_passes::<256>(tile, packed, 0..tile.tile.rows, out),
            64 => in_panels::<64>(tile, packed, out),
            128 => in_panels::<128>(tile, packed, out),
            256 => return false,
            size => unreachable!("groups of {size}"),
        }
    }
    true
}

/// Two panels at a time: a run of 32 rows is decoded once for all tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn in_panels<const SIZE: usize>(tile: &Grouped, packed: &[u8], out: &mut [f32]) {
    let mut panels = [Panel::new(), Panel::new()];
    let whole = tile.tile.rows / PANEL_ROWS * PANEL_ROWS;
    for row in (0..whole).step_by(2 * PANEL_ROWS) {
        for run in 0..tile.tile.stride.div_ceil(RUN_COLS) {
            let cols = run * RUN_COLS..tile.tile.stride.min((run + 1) * RUN_COLS);
            let [first, second] = &mut panels;
            let first = decode(first, &runs_of(tile, packed, row)[run], &cols);
            if whole - row < 2 * PANEL_ROWS {
                avx512vnni::all_tokens::<SIZE, 1>(tile, row, cols, [first], out);
            } else {
                let second = decode(second, &runs_of(tile, packed, row + PANEL_ROWS)[run], &cols);
                avx512vnni::all_tokens::<SIZE, 2>(tile, row, cols, [first, second], out);
            }
        }
    }
    in_passes::<SIZE>(tile, packed, whole..tile.tile.rows, out);
}

/// The runs of 16 rows from `row` on, a multiple of 16.
fn runs_of<'a>(tile: &Grouped, packed: &'a [u8], row: usize) -> &'a [[[u8; LINE]; RUN_LINES]] {
    let runs = tile.tile.stride.div_ceil(RUN_COLS);
    &packed.as_chunks::<LINE>().0.as_chunks::<RUN_LINES>().0[row / PANEL_ROWS * runs..][..runs]
}

/// The codes of the columns `cols` of a run, all or the first blocks, as the steps of a panel.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn decode<'a>(
    panel: &'a mut Panel,
    run: &[[u8; LINE]; RUN_LINES],
    cols: &Range<usize>,
) -> &'a [[u8; PANEL_ROWS * STEP_COLS]] {
    let tables = Tables::load();
    let three = _mm512_set1_epi8(3);
    let steps = panel.steps_mut(cols.len());
    for (at, line) in run.iter().enumerate() {
        // The run that follows arrives while this one meets its tokens.
        prefetch_at(line.as_ptr(), size_of_val(run));
        let [fours, fifths] = tables.codes(line);
        let of_blocks = [
            _mm512_srli_epi16::<6>(fours),
            _mm512_srli_epi16::<4>(fours),
            _mm512_srli_epi16::<2>(fours),
            fours,
            _mm512_srli_epi16::<6>(fifths),
        ];
        for (codes, steps) in of_blocks.into_iter().zip(steps.chunks_exact_mut(QUADS)) {
            // Bits that come from the byte beside are cut off.
            wide::store_u8(&mut steps[at], _mm512_and_si512(codes, three));
        }
    }
    steps
}

/// Some rows, from a multiple of 16 on, with a few tokens at a time.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn in_passes<const SIZE: usize>(tile: &Grouped, packed: &[u8], rows: Range<usize>, out: &mut [f32]) {
    for first in (0..tile.tile.tokens).step_by(PASS_TOKENS) {
        match tile.tile.tokens - first {
            1 => pass::<SIZE, 1>(tile, packed, rows.clone(), first, out),
            2 => pass::<SIZE, 2>(tile, packed, rows.clone(), first, out),
            3 => pass::<SIZE, 3>(tile, packed, rows.clone(), first, out),
            _ => pass::<SIZE, PASS_TOKENS>(tile, packed, rows.clone(), first, out),
        }
    }
}

/// Some rows against `N` tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn pass<const SIZE: usize, const N: usize>(
    tile: &Grouped,
    packed: &[u8],
    rows: Range<usize>,
    first: usize,
    out: &mut [f32],
) {
    let tokens: [Token; N] = std::array::from_fn(|n| tile.token(first + n));
    let values: [&[[i32; QUADS]]; N] = tokens.map(|token| bytemuck::cast_slice(token.values));
    for row in rows.clone().step_by(PANEL_ROWS) {
        let panel = runs_of(tile, packed, row);
        let scales = tile.scales(row);
        let mut totals = [_mm512_setzero_ps(); N];
        // The sum of the first half of a group of 256.
        let mut pending = [_mm512_setzero_si512(); N];
        for (run, lines) in panel.iter().enumerate() {
            let values = values.map(|values| blocks_of(values, run));
            if SIZE == 64 {
                // The groups of both halves of each block, in their order.
                let halves = [dots::<0, N>(lines, &values), dots::<1, N>(lines, &values)];
                for at in 0..2 * BLOCKS {
                    let group = 2 * BLOCKS * run + at;
                    if group < scales.len() {
                        let sums = std::array::from_fn(|n| halves[at % 2][n][at / 2]);
                        add(&mut totals, sums, &tokens, group, &scales[group]);
                    }
                }
                continue;
            }
            let sums = dots::<2, N>(lines, &values);
            for block in 0..BLOCKS {
                let (number, of_block) = (BLOCKS * run + block, std::array::from_fn(|n| sums[n][block]));
                let group = number * 128 / SIZE;
                if group >= scales.len() {
                } else if SIZE == 128 {
                    add(&mut totals, of_block, &tokens, group, &scales[group]);
                } else if number % 2 == 0 {
                    pending = of_block;
                } else {
                    let whole = std::array::from_fn(|n| _mm512_add_epi32(pending[n], of_block[n]));
                    add(&mut totals, whole, &tokens, group, &scales[group]);
                }
            }
        }
        let count = PANEL_ROWS.min(rows.end - row);
        for n in 0..N {
            let mut products = [0.0; PANEL_ROWS];
            wide::store(&mut products, totals[n]);
            out[(first + n) * tile.tile.rows + row..][..count].copy_from_slice(&products[..count]);
        }
    }
}

/// The values of the blocks of a run.
#[inline]
fn blocks_of(values: &[[i32; QUADS]], run: usize) -> [&[i32; QUADS]; BLOCKS] {
    std::array::from_fn(|block| values.get(BLOCKS * run + block).unwrap_or(&NO_VALUES))
}

/// totals + (D - S) * (scale * step), of one group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn add<const N: usize>(
    totals: &mut [__m512; N],
    sums: [__m512i; N],
    tokens: &[Token; N],
    group: usize,
    scales: &[u16; PANEL_ROWS],
) {
    prefetch_scales(scales);
    let scales = wide::load_f16(scales);
    for n in 0..N {
        let exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[n], _mm512_set1_epi32(tokens[n].sums[group])));
        let factors = _mm512_mul_ps(scales, _mm512_set1_ps(tokens[n].steps[group]));
        totals[n] = _mm512_fmadd_ps(exact, factors, totals[n]);
    }
}

/// The sums D of each block of a run of 16 rows; of its first or second half for `HALF` 0 or 1, else of all of it.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn dots<const HALF: usize, const N: usize>(
    lines: &[[u8; LINE]; RUN_LINES],
    values: &[[&[i32; QUADS]; BLOCKS]; N],
) -> [[__m512i; BLOCKS]; N] {
    let masks =
        [_mm512_set1_epi8(0xC0_u8 as i8), _mm512_set1_epi8(0x30), _mm512_set1_epi8(0x0C), _mm512_set1_epi8(0x03)];
    let tables = Tables::load();
    let range = match HALF {
        0 => 0..RUN_LINES / 2,
        1 => RUN_LINES / 2..RUN_LINES,
        _ => 0..RUN_LINES,
    };
    let mut lanes = [[_mm512_setzero_si512(); BLOCKS]; N];
    for at in range {
        prefetch_ahead::<AHEAD, _>(&lines[at]);
        let [fours, fifths] = tables.codes(&lines[at]);
        for block in 0..BLOCKS {
            let codes = if block < 4 { _mm512_and_si512(fours, masks[block]) } else { fifths };
            for n in 0..N {
                let values = _mm512_set1_epi32(values[n][block][at]);
                lanes[n][block] = _mm512_dpbusd_epi32(lanes[n][block], codes, values);
            }
        }
    }
    for n in 0..N {
        for block in 0..BLOCKS {
            let shift = _mm_cvtsi32_si128(SHIFTS[block].cast_signed());
            lanes[n][block] = _mm512_sra_epi32(lanes[n][block], shift);
        }
    }
    lanes
}

/// The tables of [`DIGITS`] in registers.
#[derive(Clone, Copy)]
struct Tables {
    fours: __m512i,
    fours_above: __m512i,
    fifths_above: __m512i,
}

impl Tables {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
    fn load() -> Self {
        Self {
            fours: wide::load_u8(&DIGITS.fours),
            fours_above: wide::load_u8(&DIGITS.fours_above),
            fifths_above: wide::load_u8(&DIGITS.fifths_above),
        }
    }

    /// The first four codes of each byte, at their bit positions of I2_S, and 64 times the fifth.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
    fn codes(self, line: &[u8; LINE]) -> [__m512i; 2] {
        let bytes = wide::load_u8(line);
        let is_above = _mm512_cmpge_epu8_mask(bytes, _mm512_set1_epi8(ABOVE.cast_signed()));
        // Tables are indexed by the lower 6 bits.
        let fours = _mm512_permutexvar_epi8(bytes, self.fours);
        let fours = _mm512_mask_permutexvar_epi8(fours, is_above, bytes, self.fours_above);
        let fifths = _mm512_and_si512(bytes, _mm512_set1_epi8(0xC0_u8 as i8));
        [fours, _mm512_mask_permutexvar_epi8(fifths, is_above, bytes, self.fifths_above)]
    }
}

/// Panels of `panel_bytes` each as I2_S of 16 rows side by side, `out`.
pub fn unpack(_: Avx512Vbmi, packed: &[u8], panel_bytes: usize, out: &mut [u8]) {
    if out.is_empty() {
        return;
    }
    let out_bytes = out.len() / (packed.len() / panel_bytes);
    for (packed, out) in packed.chunks_exact(panel_bytes).zip(out.chunks_exact_mut(out_bytes)) {
        let runs = packed.as_chunks::<LINE>().0.as_chunks::<RUN_LINES>().0;
        let blocks = out.as_chunks_mut::<LINE>().0.as_chunks_mut::<LINES>().0;
        for (run, blocks) in runs.iter().zip(blocks.chunks_mut(BLOCKS)) {
            // SAFETY: the capability token proves the features.
            unsafe { unpack_run(run, blocks) }
        }
    }
}

/// Line l of a run has columns 4 l .. of its blocks: quarter l / 8 of each, line l % 8 of I2_S.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn unpack_run(run: &[[u8; LINE]; RUN_LINES], blocks: &mut [[[u8; LINE]; LINES]]) {
    let tables = Tables::load();
    let high = _mm512_set1_epi8(0xC0_u8 as i8);
    for line in 0..LINES {
        let quarters: [_; 4] = std::array::from_fn(|quarter| tables.codes(&run[LINES * quarter + line]));
        for (block, out) in blocks.iter_mut().enumerate() {
            let codes = quarters.map(|[fours, fifths]| match block {
                0 => _mm512_and_si512(fours, high),
                1 => _mm512_and_si512(_mm512_slli_epi16::<2>(fours), high),
                2 => _mm512_and_si512(_mm512_slli_epi16::<4>(fours), high),
                3 => _mm512_and_si512(_mm512_slli_epi16::<6>(fours), high),
                _ => fifths,
            });
            let [a, b, c, d] = codes;
            let upper = _mm512_or_si512(a, _mm512_srli_epi16::<2>(b));
            let lower = _mm512_or_si512(_mm512_srli_epi16::<4>(c), _mm512_srli_epi16::<6>(d));
            wide::store_u8(&mut out[line], _mm512_or_si512(upper, lower));
        }
    }
}
