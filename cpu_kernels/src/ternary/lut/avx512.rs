//! AVX-512: a shuffle looks up 16 rows in each of two tables, or 32 bytes of two row groups of TL1.

use std::arch::x86_64::*;

use super::{
    LOOKUP_ROWS,
    geometry::{Lookup, Run},
    tables::{Quad, Tables},
};
use crate::{
    isa::Avx512Vnni,
    x86::{IN_LOOKUPS, load_u8, prefetch_ahead, wide},
};

/// Quads of triples between widenings: a lane of two tables adds at most 2 * 16 * 2 * 3 * 128 = 24576 in both.
const TRIPLE_QUADS: usize = 16;

/// Quads of pairs between widenings: at most 30 * 4 * 2 * 128 = 30720.
const PAIR_QUADS: usize = 30;

/// Adds the sums of the rows from `first` on.
pub fn look_up(_: Avx512Vnni, lookup: &Lookup, tables: &Tables, first: usize, sums: &mut [i32]) {
    // SAFETY: the capability token proves the features.
    unsafe { look_up_avx512(lookup, tables, first, sums) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn look_up_avx512(lookup: &Lookup, tables: &Tables, first: usize, sums: &mut [i32]) {
    let bits = SignBits::new();
    let sums = sums.as_chunks_mut::<LOOKUP_ROWS>().0;
    lookup.runs(tables, first, sums.len(), |group, run| match run {
        Run::Triples { codes, signs, tables } => {
            let chunks = codes.chunks(TRIPLE_QUADS).zip(signs.chunks(TRIPLE_QUADS / 2));
            for ((codes, signs), tables) in chunks.zip(tables.chunks(TRIPLE_QUADS)) {
                triples(&bits, codes, signs, tables, &mut sums[group]);
            }
        }
        Run::Pairs { codes, tables, split } => {
            for (codes, tables) in codes.chunks(PAIR_QUADS).zip(tables.chunks(PAIR_QUADS)) {
                if split {
                    pairs::<true>(codes, tables, &mut sums[group]);
                } else {
                    pairs::<false>(codes, tables, &mut sums[group]);
                }
            }
        }
    });
}

/// By half of 24 columns, table pair and half of the rows: the bit of the sign words that belongs to each i16 lane.
struct SignBits([[[__m512i; 2]; 2]; 2]);

impl SignBits {
    #[target_feature(enable = "avx512f,avx512bw")]
    fn new() -> Self {
        let mut bits = [[[_mm512_setzero_si512(); 2]; 2]; 2];
        for quad in 0..2 {
            for pair in 0..2 {
                for half in 0..2 {
                    let bit = |slot: usize| 1_u16 << (15 - 2 * (4 * quad + pair + 2 * slot) - half);
                    let lanes = [0, 1].map(|slot| _mm512_set1_epi16(bit(slot).cast_signed()));
                    // The quarters of a vector are of tables 0 and 2, or 1 and 3, in turn.
                    bits[quad][pair][half] = _mm512_mask_blend_epi64(0b1100_1100, lanes[0], lanes[1]);
                }
            }
        }
        Self(bits)
    }
}

/// The indices of two groups of each byte, high nibbles first.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nibbles(codes: __m512i) -> [__m512i; 2] {
    let mask = _mm512_set1_epi8(15);
    [_mm512_and_si512(_mm512_srli_epi16::<4>(codes), mask), _mm512_and_si512(codes, mask)]
}

/// Entries of two tables, which stand in turn in the quarters: those of the low halves of the quarters of `index`, and
/// of the high ones.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw")]
fn entries(tables: &Quad, pair: usize, index: __m512i) -> [__m512i; 2] {
    let low = _mm512_shuffle_epi8(_mm512_broadcast_i64x4(load_u8(&tables.0[2 * pair])), index);
    let high = _mm512_shuffle_epi8(_mm512_broadcast_i64x4(load_u8(&tables.0[2 * pair + 1])), index);
    [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)]
}

/// The codes of TL2 with the tables of their bytes in turn in the quarters: rows 0-7 and 16-23 of the first two groups
/// and of the others, then rows 8-15 and 24-31.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn in_turn(codes: __m512i) -> __m512i {
    _mm512_shuffle_i64x2::<0b11_01_10_00>(codes, codes)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn triples(bits: &SignBits, codes: &[[u8; 64]], signs: &[[u8; 32]], tables: &[Quad], sums: &mut [i32; 32]) {
    let zero = _mm512_setzero_si512();
    let twice = _mm512_set_epi64(3, 2, 3, 2, 1, 0, 1, 0);
    let (mut all, mut negative) = ([zero; 2], [zero; 2]);
    let units = codes.as_chunks::<2>().0.iter().zip(tables.as_chunks::<2>().0).zip(signs);
    for ((codes, tables), signs) in units {
        let signs_twice = _mm512_permutexvar_epi64(twice, _mm512_castsi256_si512(load_u8(signs)));
        prefetch_ahead::<IN_LOOKUPS, _>(signs);
        for quad in 0..2 {
            prefetch_ahead::<IN_LOOKUPS, _>(&codes[quad]);
            let index = nibbles(in_turn(wide::load_u8(&codes[quad])));
            for pair in 0..2 {
                let entries = entries(&tables[quad], pair, index[pair]);
                for half in 0..2 {
                    let is_negative = _mm512_test_epi16_mask(signs_twice, bits.0[quad][pair][half]);
                    all[half] = _mm512_add_epi16(all[half], entries[half]);
                    negative[half] = _mm512_mask_add_epi16(negative[half], is_negative, negative[half], entries[half]);
                }
            }
        }
    }
    for half in 0..2 {
        // Each was added once and has to be subtracted.
        let sum = _mm512_sub_epi16(all[half], _mm512_slli_epi16::<1>(negative[half]));
        add(both_tables(sum), half, sums);
    }
}

/// `SPLIT`: the halves of a vector are rows 0-15 and 16-31, as in TL1.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn pairs<const SPLIT: bool>(codes: &[[u8; 64]], tables: &[Quad], sums: &mut [i32; 32]) {
    let mut all = [_mm512_setzero_si512(); 2];
    for (codes, tables) in codes.iter().zip(tables) {
        prefetch_ahead::<IN_LOOKUPS, _>(codes);
        let codes = wide::load_u8(codes);
        let index = nibbles(if SPLIT { codes } else { in_turn(codes) });
        for pair in 0..2 {
            let entries = entries(tables, pair, index[pair]);
            for half in 0..2 {
                all[half] = _mm512_add_epi16(all[half], entries[half]);
            }
        }
    }
    if SPLIT {
        // Rows 0-7 and 16-23, then 8-15 and 24-31.
        let [a, b] = all.map(|sum| both_tables(sum));
        add(_mm256_permute2x128_si256::<0x20>(a, b), 0, sums);
        add(_mm256_permute2x128_si256::<0x31>(a, b), 1, sums);
    } else {
        for half in 0..2 {
            add(both_tables(all[half]), half, sums);
        }
    }
}

/// The sums of the quarters 0 and 1, and of 2 and 3.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw")]
fn both_tables(sum: __m512i) -> __m256i {
    let sum = _mm512_add_epi16(sum, _mm512_shuffle_i64x2::<0b10_11_00_01>(sum, sum));
    _mm512_castsi512_si256(_mm512_shuffle_i64x2::<0b00_00_10_00>(sum, sum))
}

/// Adds 16 rows to one half of the sums.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw")]
fn add(rows: __m256i, half: usize, sums: &mut [i32; 32]) {
    let sums = &mut sums.as_chunks_mut::<16>().0[half];
    let sum = _mm512_add_epi32(wide::load_i32(sums), _mm512_cvtepi16_epi32(rows));
    wide::store_i32(sums, sum);
}
