//! The sums of three weights and three values of a token, for all weights.

use std::{arch::x86_64::*, ops::Range};

use super::{LOOKED_UP, Tile};
use crate::{
    format::I2S_BLOCK,
    x86::{
        load_u8x16,
        wide::{load_i8, store_i16, store_i32},
    },
};

/// Sums a x + b y + c z of three values x, y, z by 9 (a + 1) + 3 (b + 1) + c + 1; the last five are not used.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Table(pub [i16; 32]);

/// Tables of the tokens of a tile and some blocks of columns.
pub struct Tables {
    /// (tokens, blocks); room for the most so far
    tables: Vec<[Table; LOOKED_UP]>,
    /// (tokens) sums of the values that are looked up
    offsets: Vec<i32>,
    blocks: usize,
}

/// The number 9 a + 3 b + c in a table of the codes a, b, c of three weights, which are the six lower bits of a byte; for
/// a code 3 the highest bit alone.
pub const NUMBERS: [u8; 64] = {
    let mut numbers = [0x80; 64];
    let mut codes = 0;
    while codes < 64 {
        let (a, b, c) = (codes >> 4, codes >> 2 & 3, codes & 3);
        if a < 3 && b < 3 && c < 3 {
            numbers[codes] = (9 * a + 3 * b + c) as u8;
        }
        codes += 1;
    }
    numbers
};

/// Factors of the bytes x + 128, y + 128, and of z + 128, 128: the last one takes away all that 128 adds.
const FACTORS: [[i8; 64]; 2] = {
    let mut factors = [[0; 64]; 2];
    let mut number = 0;
    while number < 27 {
        let (a, b, c) = ((number / 9) as i8 - 1, (number / 3 % 3) as i8 - 1, (number % 3) as i8 - 1);
        factors[0][2 * number] = a;
        factors[0][2 * number + 1] = b;
        factors[1][2 * number] = c;
        factors[1][2 * number + 1] = -(a + b + c);
        number += 1;
    }
    factors
};

impl Tables {
    pub const fn new() -> Self {
        Self { tables: Vec::new(), offsets: Vec::new(), blocks: 0 }
    }

    /// The tables of a token, by blocks.
    pub fn of(&self, token: usize) -> &[[Table; LOOKED_UP]] {
        &self.tables[token * self.blocks..][..self.blocks]
    }

    /// The sum of the values of a token that are looked up.
    pub fn offset(&self, token: usize) -> i32 {
        self.offsets[token]
    }

    /// Makes those of all tokens of `tile` and some blocks. Room stays for the next.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
    pub fn make(&mut self, tile: &Tile, blocks: Range<usize>) {
        self.blocks = blocks.len();
        let len = tile.tokens * self.blocks;
        if self.tables.len() < len {
            self.tables.resize(len, [Table([0; 32]); LOOKED_UP]);
        }
        self.offsets.clear();
        for (token, tables) in self.tables[..len].chunks_exact_mut(self.blocks).enumerate() {
            let mut offset = 0;
            for (values, tables) in tile.token(token)[blocks.clone()].iter().zip(tables) {
                offset += of_block(values, tables);
            }
            self.offsets.push(offset);
        }
    }
}

/// The tables of a block, number j of columns 32 + j, 64 + j and 96 + j; returns the sum of their values.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn of_block(values: &[i8; I2S_BLOCK], tables: &mut [Table; LOOKED_UP]) -> i32 {
    let bytes: &[[u8; LOOKED_UP]; I2S_BLOCK / LOOKED_UP] = bytemuck::cast_ref(values);
    let above = _mm_set1_epi8(i8::MIN);
    let x = _mm_xor_si128(load_u8x16(&bytes[2]), above);
    let y = _mm_xor_si128(load_u8x16(&bytes[4]), above);
    let z = _mm_xor_si128(load_u8x16(&bytes[6]), above);
    let (first, second) = (spread(x, y), spread(z, above));
    let factors = [load_i8(&FACTORS[0]), load_i8(&FACTORS[1])];
    for (j, table) in tables.iter_mut().enumerate() {
        let first = _mm512_maddubs_epi16(_mm512_set1_epi32(first[j]), factors[0]);
        let second = _mm512_maddubs_epi16(_mm512_set1_epi32(second[j]), factors[1]);
        store_i16(&mut table.0, _mm512_add_epi16(first, second));
    }
    let mut sums = _mm_setzero_si128();
    for values in [x, y, z] {
        sums = _mm_add_epi64(sums, _mm_sad_epu8(values, _mm_setzero_si128()));
    }
    let sum = _mm_cvtsi128_si64(sums) + _mm_extract_epi64::<1>(sums);
    sum as i32 - 128 * 3 * LOOKED_UP as i32
}

/// Bytes of `a` and `b` as a, b, a, b.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn spread(a: __m128i, b: __m128i) -> [i32; LOOKED_UP] {
    let pairs = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(_mm_unpacklo_epi8(a, b)), _mm_unpackhi_epi8(a, b));
    let words = _mm512_cvtepu16_epi32(pairs);
    let mut spread = [0; LOOKED_UP];
    store_i32(&mut spread, _mm512_or_si512(words, _mm512_slli_epi32::<16>(words)));
    spread
}
