//! 16 rows at a time, two in a vector: three codes of a column by a table, the fourth added, the fifth by a table again.

use std::arch::x86_64::*;

use super::{BLOCKS, RUN_BYTES, ZEROS, panel_bytes};
use crate::{
    format::{I2S_BLOCK_BYTES, base3::ABOVE, rows16::PANEL_ROWS},
    isa::Avx512Vbmi,
    x86::{load_u8, wide},
};

/// Lines of a run: four columns of 16 rows each.
const LINES: usize = RUN_BYTES / 4;

/// Lines of a quarter of a run, which has the columns of one bit position.
const QUARTER: usize = LINES / 4;

/// 27 a + 9 b + 3 c at a + 4 b + 16 c.
static THREES: [u8; 64] = {
    let mut table = [0; 64];
    let mut at = 0;
    while at < 64 {
        table[at] = (27 * (at % 4) + 9 * (at / 4 % 4) + 3 * (at / 16)) as u8;
        at += 1;
    }
    table
};

/// Number added for a fifth code e to four codes from 64 on: see [`five_in_a_byte`](crate::format::base3::five_in_a_byte).
static FIFTHS: [u8; 64] = {
    let mut table = [0; 64];
    let mut at = 0;
    while at < 3 {
        table[at] = ABOVE - 64 + 17 * at as u8;
        at += 1;
    }
    table
};

/// The bytes of each quarter, of two rows a vector.
type Columns = [[__m512i; PANEL_ROWS / 2]; 4];

/// As [`super::pack_rows`]; false if there is a code 3.
pub fn pack_rows(_: Avx512Vbmi, plain: &[u8], plain_bytes: usize, cols: usize, out: &mut [u8]) -> bool {
    // SAFETY: the capability token proves the features.
    unsafe { with_avx512(plain, plain_bytes, cols, out) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn with_avx512(plain: &[u8], plain_bytes: usize, cols: usize, out: &mut [u8]) -> bool {
    let mut threes = _mm512_setzero_si512();
    let panels = plain.chunks(PANEL_ROWS * plain_bytes).zip(out.chunks_exact_mut(panel_bytes(cols)));
    for (rows, out) in panels {
        let blocks = rows.as_chunks::<I2S_BLOCK_BYTES>().0;
        let of_row = plain_bytes / I2S_BLOCK_BYTES;
        for (run, lines) in out.as_chunks_mut::<64>().0.as_chunks_mut::<LINES>().0.iter_mut().enumerate() {
            let mut columns: Columns = [[_mm512_setzero_si512(); PANEL_ROWS / 2]; 4];
            for pair in 0..PANEL_ROWS / 2 {
                let mut two = [_mm512_setzero_si512(); BLOCKS];
                for (at, two) in two.iter_mut().enumerate() {
                    let number = run * BLOCKS + at;
                    let block = |row: usize| match number < of_row {
                        true => blocks.get(row * of_row + number).unwrap_or(&ZEROS),
                        false => &ZEROS,
                    };
                    *two = wide::join(load_u8(block(2 * pair)), load_u8(block(2 * pair + 1)));
                    let both = _mm512_and_si512(*two, _mm512_srli_epi16::<1>(*two));
                    threes = _mm512_or_si512(threes, both);
                }
                five_in_each(two, &mut columns, pair);
            }
            for (columns, lines) in columns.iter().zip(lines.as_chunks_mut::<QUARTER>().0) {
                store_lines(columns, lines);
            }
        }
    }
    _mm512_test_epi8_mask(threes, _mm512_set1_epi8(0x55)) == 0
}

/// The bytes of two rows of five blocks, one quarter after the other, as pair number `pair`. A code 3, which is told, may give
/// any byte.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn five_in_each([a, b, c, d, e]: [__m512i; BLOCKS], columns: &mut Columns, pair: usize) {
    let (threes, fifths) = (wide::load_u8(&THREES), wide::load_u8(&FIFTHS));
    let low = _mm512_set1_epi8(3);
    // Turned so that the codes of the first quarter stand where the tables have them, and two bits on for each of the others.
    let mut a = _mm512_ror_epi64::<6>(a);
    let mut b = _mm512_ror_epi64::<4>(b);
    let mut c = _mm512_ror_epi64::<2>(c);
    let mut d = _mm512_ror_epi64::<6>(d);
    let mut e = _mm512_ror_epi64::<6>(e);
    for columns in columns {
        // Each time: what is there, or b and c where their bits are.
        let index = _mm512_and_si512(a, low);
        let index = _mm512_ternarylogic_epi64::<0xF8>(index, b, _mm512_set1_epi8(0x0C));
        let index = _mm512_ternarylogic_epi64::<0xF8>(index, c, _mm512_set1_epi8(0x30));
        let four = _mm512_add_epi8(_mm512_permutexvar_epi8(index, threes), _mm512_and_si512(d, low));
        let fifth = _mm512_and_si512(e, low);
        let is_above = _mm512_cmpge_epu8_mask(four, _mm512_set1_epi8(64));
        let added = _mm512_mask_permutexvar_epi8(_mm512_slli_epi16::<6>(fifth), is_above, fifth, fifths);
        columns[pair] = _mm512_add_epi8(four, added);
        a = _mm512_rol_epi64::<2>(a);
        b = _mm512_rol_epi64::<2>(b);
        c = _mm512_rol_epi64::<2>(c);
        d = _mm512_rol_epi64::<2>(d);
        e = _mm512_rol_epi64::<2>(e);
    }
}

/// The place of four columns of a row in two vectors of four rows of each of two parities: those of the first half of a
/// quarter.
static PLACES: [i32; PANEL_ROWS] = [0, 8, 1, 9, 2, 10, 3, 11, 16, 24, 17, 25, 18, 26, 19, 27];

/// Writes a quarter: of pairs of rows, four columns after four columns, lines of four columns of 16 rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn store_lines(pairs: &[__m512i; PANEL_ROWS / 2], lines: &mut [[u8; 64]; QUARTER]) {
    let first_half = wide::load_i32(&PLACES);
    let second_half = _mm512_add_epi32(first_half, _mm512_set1_epi32(4));
    let upper = fours([pairs[0], pairs[1], pairs[2], pairs[3]]);
    let lower = fours([pairs[4], pairs[5], pairs[6], pairs[7]]);
    for line in 0..QUARTER / 2 {
        let (upper, lower) = (upper[line], lower[line]);
        wide::store_u8(&mut lines[line], _mm512_permutex2var_epi32(upper, first_half, lower));
        wide::store_u8(&mut lines[QUARTER / 2 + line], _mm512_permutex2var_epi32(upper, second_half, lower));
    }
}

/// Vector i of the result has, in each of its four lanes, element i of that lane of each of the vectors.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn fours([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (low_ab, low_cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    let (high_ab, high_cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(low_ab, low_cd),
        _mm512_unpackhi_epi64(low_ab, low_cd),
        _mm512_unpacklo_epi64(high_ab, high_cd),
        _mm512_unpackhi_epi64(high_ab, high_cd),
    ]
}
