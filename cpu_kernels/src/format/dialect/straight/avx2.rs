//! A block of [`Layout::I2sP128`](crate::format::Layout::I2sP128) at a time, which fills a vector.

use std::arch::x86_64::*;

use super::{
    super::{super::I2S_BLOCK_BYTES, ptq1_0, q2_0, tq1_0},
    Block, each as each_plain,
};
use crate::{
    isa::Avx2,
    x86::{load_u8, load_u8x16, store_u8},
};

/// As [`super::each`].
pub fn each(
    _: Avx2,
    bytes: &[u8],
    row_bytes: usize,
    out: &mut [u8],
    row: impl Fn(&[u8], &mut [Block]) -> bool,
) -> bool {
    #[target_feature(enable = "avx2")]
    fn with_avx2(bytes: &[u8], row_bytes: usize, out: &mut [u8], row: impl Fn(&[u8], &mut [Block]) -> bool) -> bool {
        each_plain(bytes, row_bytes, out, row)
    }
    // SAFETY: the capability token proves the features.
    unsafe { with_avx2(bytes, row_bytes, out, row) }
}

/// Q2_0 in blocks of `B` bytes: as [`q2_0::plain_row`] of each row.
pub fn q2_0_rows<const B: usize>(_: Avx2, bytes: &[u8], row_bytes: usize, out: &mut [u8]) -> bool {
    #[target_feature(enable = "avx2")]
    fn with_avx2<const B: usize>(bytes: &[u8], row_bytes: usize, out: &mut [u8]) -> bool {
        let mut threes = _mm256_setzero_si256();
        each_plain(bytes, row_bytes, out, |row, out| {
            for (blocks, out) in row.chunks(I2S_BLOCK_BYTES / (B - 2) * B).zip(out) {
                let packed = exchange_fields(codes::<B>(blocks));
                let both = _mm256_and_si256(packed, _mm256_srli_epi16::<1>(packed));
                threes = _mm256_or_si256(threes, both);
                store_u8(out, packed);
            }
            true
        });
        _mm256_testz_si256(threes, _mm256_set1_epi8(0x55)) != 0
    }
    // SAFETY: the capability token proves the features.
    unsafe { with_avx2::<B>(bytes, row_bytes, out) }
}

/// The codes of a block of 128 columns, or of two of 64, the second of which may be missing.
#[inline]
#[target_feature(enable = "avx2")]
fn codes<const B: usize>(blocks: &[u8]) -> __m256i {
    let half = |at: usize| match blocks.get(at..) {
        Some(codes) => load_u8x16(codes.first_chunk().expect("codes behind a scale")),
        None => _mm_set1_epi8(q2_0::ZEROS.cast_signed()),
    };
    // Written in halves and read as a whole, they would wait for the memory.
    if B == q2_0::BYTES_64 { _mm256_set_m128i(half(B + 2), half(2)) } else { _mm256_set_m128i(half(18), half(2)) }
}

/// As [`q2_0::exchange_fields`].
#[inline]
#[target_feature(enable = "avx2")]
fn exchange_fields(codes: __m256i) -> __m256i {
    // Bytes n, 8 + n, 16 + n and 24 + n stand together, the last one first: by fours of bytes, then within each half.
    let halves = _mm256_permutevar8x32_epi32(codes, _mm256_setr_epi32(6, 4, 2, 0, 7, 5, 3, 1));
    let order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let mut fours = _mm256_shuffle_epi8(halves, _mm256_broadcastsi128_si256(order));
    let moved =
        _mm256_and_si256(_mm256_xor_si256(fours, _mm256_srli_epi32::<6>(fours)), _mm256_set1_epi32(0x00CC_00CC));
    fours = _mm256_xor_si256(fours, _mm256_xor_si256(moved, _mm256_slli_epi32::<6>(moved)));
    let moved =
        _mm256_and_si256(_mm256_xor_si256(fours, _mm256_srli_epi32::<12>(fours)), _mm256_set1_epi32(0x0000_F0F0));
    _mm256_xor_si256(fours, _mm256_xor_si256(moved, _mm256_slli_epi32::<12>(moved)))
}

/// PTQ1_0: as [`ptq1_0::plain_row`] of each row.
pub fn ptq1_0_rows(_: Avx2, bytes: &[u8], row_bytes: usize, out: &mut [u8]) -> bool {
    #[target_feature(enable = "avx2")]
    fn with_avx2(bytes: &[u8], row_bytes: usize, out: &mut [u8]) -> bool {
        each_plain(bytes, row_bytes, out, |row, out| {
            for (at, out) in out.iter_mut().enumerate() {
                store_u8(out, ptq1_0_block(first_bytes(&row[at * ptq1_0::BYTES..])));
            }
            true
        })
    }
    // SAFETY: the capability token proves the features.
    unsafe { with_avx2(bytes, row_bytes, out) }
}

/// Five digits of each of 16 and of 8 bytes, and four of each of 2.
#[inline]
#[target_feature(enable = "avx2")]
fn ptq1_0_block(bytes: __m256i) -> __m256i {
    let [a, b, c, d, e] = digits(bytes);
    let first = _mm256_permute2x128_si256::<0x20>(a, b);
    let second = _mm256_permute2x128_si256::<0x20>(c, d);
    // The upper halves: eight bytes of each digit, then two.
    let (of_ab, of_cd) = (_mm256_unpacklo_epi64(a, b), _mm256_unpacklo_epi64(c, d));
    let third = _mm256_blend_epi32::<0xF0>(e, of_ab);
    let twos = _mm256_unpacklo_epi32(_mm256_unpackhi_epi16(a, b), _mm256_unpackhi_epi16(c, d));
    let fourth = _mm256_permute2x128_si256::<0x31>(of_cd, _mm256_unpacklo_epi64(e, twos));
    from_quarters([first, second, third, fourth])
}

/// TQ1_0: as [`tq1_0::plain_row`] of each row.
pub fn tq1_0_rows(_: Avx2, bytes: &[u8], row_bytes: usize, out: &mut [u8]) -> bool {
    #[target_feature(enable = "avx2")]
    fn with_avx2(bytes: &[u8], row_bytes: usize, out: &mut [u8]) -> bool {
        each_plain(bytes, row_bytes, out, |row, out| {
            for (at, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let block = &row[at * tq1_0::BYTES..];
                let [a, b, c, d, e] = digits(first_bytes(block));
                store_u8(&mut out[0], from_quarters([a, b, c, d]));
                store_u8(&mut out[1], tq1_0_second(e, digits(first_bytes(&block[32..]))));
            }
            true
        })
    }
    // SAFETY: the capability token proves the features.
    unsafe { with_avx2(bytes, row_bytes, out) }
}

/// The second half of a block: the fifth digits of its first 32 bytes, five of each of 16, and four of each of 4.
#[inline]
#[target_feature(enable = "avx2")]
fn tq1_0_second(fifths: __m256i, [a, b, c, d, e]: [__m256i; 5]) -> __m256i {
    let second = _mm256_permute2x128_si256::<0x20>(a, b);
    let third = _mm256_permute2x128_si256::<0x20>(c, d);
    let fours = _mm256_unpacklo_epi64(_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
    from_quarters([fifths, second, third, _mm256_blend_epi32::<0xF0>(e, fours)])
}

/// The first 32 bytes of what is left of a row, of which the last ones may be missing, and are then not looked at.
#[inline]
#[target_feature(enable = "avx2")]
fn first_bytes(rest: &[u8]) -> __m256i {
    if let Some(whole) = rest.first_chunk() {
        return load_u8(whole);
    }
    let mut last = [0; 32];
    last[..rest.len()].copy_from_slice(rest);
    load_u8(&last)
}

/// As [`tq1_0::digits`].
#[inline]
#[target_feature(enable = "avx2")]
fn digits(bytes: __m256i) -> [__m256i; 5] {
    // Above 85 and above 170 by signed comparisons, of 128 less: so is three times the number then.
    let mut fraction = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
    let mut digits = [_mm256_setzero_si256(); 5];
    for digit in &mut digits {
        let one = _mm256_cmpgt_epi8(fraction, _mm256_set1_epi8(-43));
        let two = _mm256_cmpgt_epi8(fraction, _mm256_set1_epi8(42));
        *digit = _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_add_epi8(one, two));
        fraction = _mm256_add_epi8(fraction, _mm256_add_epi8(fraction, fraction));
    }
    digits
}

/// As [`super::from_quarters`].
#[inline]
#[target_feature(enable = "avx2")]
fn from_quarters([a, b, c, d]: [__m256i; 4]) -> __m256i {
    let high = _mm256_or_si256(_mm256_slli_epi16::<6>(a), _mm256_slli_epi16::<4>(b));
    _mm256_or_si256(high, _mm256_or_si256(_mm256_slli_epi16::<2>(c), d))
}
