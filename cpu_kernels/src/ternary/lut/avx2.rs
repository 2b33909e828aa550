//! AVX2: a shuffle looks up 32 rows of TL2, or 16 rows in each of two tables of TL1. Builds the tables for AVX-512 too.

use std::arch::x86_64::*;

use super::{
    LOOKUP_ROWS,
    geometry::{Lookup, Run},
    tables::{PAIRS, Quad, TRIPLES, Tables, place},
};
use crate::{
    isa::Avx2,
    x86::{IN_LOOKUPS, load_i32, load_u8, load_u8x16, prefetch_ahead, store_i32, store_u8},
};

/// Quads of triples between widenings: a lane holds at most 16 * 4 * 3 * 128 = 24576.
const TRIPLE_QUADS: usize = 16;

/// Quads of pairs between widenings: at most 30 * 4 * 2 * 128 = 30720.
const PAIR_QUADS: usize = 30;

/// Adds the sums of the rows from `first` on.
pub fn look_up(_: Avx2, lookup: &Lookup, tables: &Tables, first: usize, sums: &mut [i32]) {
    // SAFETY: the capability token proves the features.
    unsafe { look_up_avx2(lookup, tables, first, sums) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn look_up_avx2(lookup: &Lookup, tables: &Tables, first: usize, sums: &mut [i32]) {
    let sums = sums.as_chunks_mut::<LOOKUP_ROWS>().0;
    lookup.runs(tables, first, sums.len(), |group, run| match run {
        Run::Triples { codes, signs, tables } => {
            let chunks = codes.chunks(TRIPLE_QUADS).zip(signs.chunks(TRIPLE_QUADS / 2));
            for ((codes, signs), tables) in chunks.zip(tables.chunks(TRIPLE_QUADS)) {
                look_up_triples(codes, signs, tables, &mut sums[group]);
            }
        }
        Run::Pairs { codes, tables, split } => {
            for (codes, tables) in codes.chunks(PAIR_QUADS).zip(tables.chunks(PAIR_QUADS)) {
                if split {
                    look_up_split_pairs(codes, tables, &mut sums[group]);
                } else {
                    look_up_pairs(codes, tables, &mut sums[group]);
                }
            }
        }
    });
}

/// The indices of two groups of each byte, high nibbles first.
#[inline]
#[target_feature(enable = "avx2")]
fn nibbles(codes: __m256i) -> [__m256i; 2] {
    let mask = _mm256_set1_epi8(15);
    [_mm256_and_si256(_mm256_srli_epi16::<4>(codes), mask), _mm256_and_si256(codes, mask)]
}

/// Entries of the table of a group: of rows 0-15, and of 16-31, where the bytes are in TL2's order.
#[inline]
#[target_feature(enable = "avx2")]
fn entries(tables: &Quad, group: usize, index: __m256i) -> [__m256i; 2] {
    let (pair, slot) = place(group);
    let table = |high: usize| _mm256_broadcastsi128_si256(load_u8x16(&tables.0[2 * pair + high].as_chunks().0[slot]));
    let (low, high) = (_mm256_shuffle_epi8(table(0), index), _mm256_shuffle_epi8(table(1), index));
    [_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn look_up_triples(codes: &[[u8; 64]], signs: &[[u8; 32]], tables: &[Quad], sums: &mut [i32; 32]) {
    let one = _mm256_set1_epi16(1);
    let mut all = [_mm256_setzero_si256(); 2];
    let units = codes.as_chunks::<2>().0.iter().zip(tables.as_chunks::<2>().0).zip(signs);
    for ((codes, tables), signs) in units {
        prefetch_ahead::<IN_LOOKUPS, _>(signs);
        let signs = load_u8(signs);
        // The bit of a group is shifted to the top of its word, and the words are kept from being zero: the sign of
        // such a word is what `sign` multiplies by. The lowest bit is the last group's own.
        let odd = _mm256_or_si256(signs, one);
        let mut index = [[[_mm256_setzero_si256(); 2]; 2]; 2];
        for quad in 0..2 {
            prefetch_ahead::<IN_LOOKUPS, _>(&codes[quad]);
            for (half, codes) in codes[quad].as_chunks().0.iter().enumerate() {
                index[quad][half] = nibbles(load_u8(codes));
            }
        }
        macro_rules! group {
            ($quad:literal, $group:literal, $low:expr, $high:expr) => {
                let entries = entries(&tables[$quad], $group, index[$quad][$group / 2][$group % 2]);
                all[0] = _mm256_add_epi16(all[0], _mm256_sign_epi16(entries[0], $low));
                all[1] = _mm256_add_epi16(all[1], _mm256_sign_epi16(entries[1], $high));
            };
        }
        group!(0, 0, odd, _mm256_slli_epi16::<1>(odd));
        group!(0, 1, _mm256_slli_epi16::<2>(odd), _mm256_slli_epi16::<3>(odd));
        group!(0, 2, _mm256_slli_epi16::<4>(odd), _mm256_slli_epi16::<5>(odd));
        group!(0, 3, _mm256_slli_epi16::<6>(odd), _mm256_slli_epi16::<7>(odd));
        group!(1, 0, _mm256_slli_epi16::<8>(odd), _mm256_slli_epi16::<9>(odd));
        group!(1, 1, _mm256_slli_epi16::<10>(odd), _mm256_slli_epi16::<11>(odd));
        group!(1, 2, _mm256_slli_epi16::<12>(odd), _mm256_slli_epi16::<13>(odd));
        group!(1, 3, _mm256_slli_epi16::<14>(odd), _mm256_or_si256(_mm256_slli_epi16::<15>(signs), one));
    }
    add_in_order(all, sums);
}

/// In the order of bytes of TL2.
#[inline]
#[target_feature(enable = "avx2")]
fn look_up_pairs(codes: &[[u8; 64]], tables: &[Quad], sums: &mut [i32; 32]) {
    let mut all = [_mm256_setzero_si256(); 2];
    for (codes, tables) in codes.iter().zip(tables) {
        prefetch_ahead::<IN_LOOKUPS, _>(codes);
        for (at, codes) in codes.as_chunks().0.iter().enumerate() {
            let index = nibbles(load_u8(codes));
            for group in 0..2 {
                let entries = entries(tables, 2 * at + group, index[group]);
                for half in 0..2 {
                    all[half] = _mm256_add_epi16(all[half], entries[half]);
                }
            }
        }
    }
    add_in_order(all, sums);
}

/// In that of TL1: 16 rows of two tables in a vector.
#[inline]
#[target_feature(enable = "avx2")]
fn look_up_split_pairs(codes: &[[u8; 64]], tables: &[Quad], sums: &mut [i32; 32]) {
    // By half of the rows, those whose number ends in 0 to 7 and in 8 to 15.
    let mut all = [[_mm256_setzero_si256(); 2]; 2];
    for (codes, tables) in codes.iter().zip(tables) {
        prefetch_ahead::<IN_LOOKUPS, _>(codes);
        for (half, codes) in codes.as_chunks().0.iter().enumerate() {
            let index = nibbles(load_u8(codes));
            for pair in 0..2 {
                let low = _mm256_shuffle_epi8(load_u8(&tables.0[2 * pair]), index[pair]);
                let high = _mm256_shuffle_epi8(load_u8(&tables.0[2 * pair + 1]), index[pair]);
                all[half][0] = _mm256_add_epi16(all[half][0], _mm256_unpacklo_epi8(low, high));
                all[half][1] = _mm256_add_epi16(all[half][1], _mm256_unpackhi_epi8(low, high));
            }
        }
    }
    let rows = all.map(|[a, b]| {
        // The two tables are in the two halves.
        let (first, second) = (_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b));
        _mm256_add_epi16(first, second)
    });
    add_in_order(rows, sums);
}

/// Adds 16 rows, and 16 more.
#[inline]
#[target_feature(enable = "avx2")]
fn add_in_order(rows: [__m256i; 2], sums: &mut [i32; 32]) {
    let sums = sums.as_chunks_mut::<8>().0;
    for half in 0..2 {
        let low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(rows[half]));
        let high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256::<1>(rows[half]));
        for (sums, more) in sums[2 * half..].iter_mut().zip([low, high]) {
            let sum = _mm256_add_epi32(load_i32(sums), more);
            store_i32(sums, sum);
        }
    }
}

/// Tables of triples: see [`super::tables`].
pub fn triples(_: Avx2, values: &[i8], quads: &mut [Quad]) {
    // SAFETY: the capability token proves the features.
    unsafe { fill(values, &TRIPLES, quads) }
}

/// Tables of pairs.
pub fn pairs(_: Avx2, values: &[i8], quads: &mut [Quad]) {
    // SAFETY: the capability token proves the features.
    unsafe { fill(values, &PAIRS, quads) }
}

/// Tables of groups of `N` columns; columns past the end of `values` are zeros.
#[target_feature(enable = "avx2")]
fn fill<const N: usize>(values: &[i8], weights: &[[i16; 16]; N], quads: &mut [Quad]) {
    let mut vectors = [_mm256_setzero_si256(); N];
    for i in 0..N {
        vectors[i] = load_u8(bytemuck::cast_ref(&weights[i]));
    }
    for (at, quad) in quads.iter_mut().enumerate() {
        let start = at * 4 * N;
        let mut padded = [[0; N]; 4];
        let values = values.get(start..start + 4 * N).unwrap_or_else(|| {
            let rest = values.get(start..).unwrap_or_default();
            padded.as_flattened_mut()[..rest.len()].copy_from_slice(rest);
            padded.as_flattened()
        });
        let mut tables = [_mm256_setzero_si256(); 4];
        for group in 0..4 {
            for i in 0..N {
                let value = _mm256_set1_epi16(i16::from(values[group * N + i]));
                let product = _mm256_sign_epi16(value, vectors[i]);
                tables[group] = _mm256_add_epi16(tables[group], product);
            }
        }
        let low = _mm256_set1_epi16(0xff);
        for pair in 0..2 {
            // `packus` takes halves in turn.
            let order = |packed| _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
            let (a, b) = (tables[pair], tables[pair + 2]);
            let low = _mm256_packus_epi16(_mm256_and_si256(a, low), _mm256_and_si256(b, low));
            let high = _mm256_packus_epi16(_mm256_srli_epi16::<8>(a), _mm256_srli_epi16::<8>(b));
            store_u8(&mut quad.0[2 * pair], order(low));
            store_u8(&mut quad.0[2 * pair + 1], order(high));
        }
    }
}
