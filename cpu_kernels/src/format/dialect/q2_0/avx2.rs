//! A run at a time: the 32 code bytes of a block fill a vector.

use std::{arch::x86_64::*, ops::Range};

use super::{BLOCKS, Blocks5, Quads, each_run};
use crate::{
    format::base3::ABOVE,
    isa::Avx2,
    x86::{load_u8, store_u8},
};

/// As [`super::pack_rows16`].
pub fn pack_rows16<const B: usize, const N: usize>(
    _: Avx2,
    bytes: &[u8],
    cols: usize,
    rows: Range<usize>,
    out: &mut [u8],
) -> bool {
    #[target_feature(enable = "avx2")]
    fn with_avx2<const B: usize, const N: usize>(
        bytes: &[u8],
        cols: usize,
        rows: Range<usize>,
        out: &mut [u8],
    ) -> bool {
        each_run::<B, N>(bytes, cols, rows, out, |blocks, quads| pack_run(blocks, quads))
    }
    // SAFETY: the capability token proves the features.
    unsafe { with_avx2::<B, N>(bytes, cols, rows, out) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn pack_run(blocks: &Blocks5, quads: &mut Quads) -> u8 {
    let mut rest = [_mm256_setzero_si256(); BLOCKS];
    for at in 0..BLOCKS {
        rest[at] = load_u8(&blocks[at]);
    }
    let three = _mm256_set1_epi8(3);
    let mut threes = _mm256_setzero_si256();
    let mut columns = [_mm256_setzero_si256(); 4];
    for column in &mut columns {
        let mut codes = [_mm256_setzero_si256(); BLOCKS];
        for at in 0..BLOCKS {
            // Bits that come from the byte beside are cut off.
            codes[at] = _mm256_and_si256(rest[at], three);
            rest[at] = _mm256_srli_epi16::<2>(rest[at]);
            threes = _mm256_or_si256(threes, _mm256_and_si256(codes[at], _mm256_srli_epi16::<1>(codes[at])));
        }
        *column = five_in_a_byte(codes);
    }
    // Byte m of each column becomes quad m.
    let [a, b, c, d] = columns;
    let (low_ab, high_ab) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
    let (low_cd, high_cd) = (_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d));
    // Each has four quads in its lower half, and those 16 further on in its upper half.
    let fours = [
        _mm256_unpacklo_epi16(low_ab, low_cd),
        _mm256_unpackhi_epi16(low_ab, low_cd),
        _mm256_unpacklo_epi16(high_ab, high_cd),
        _mm256_unpackhi_epi16(high_ab, high_cd),
    ];
    let eights = quads.as_flattened_mut().as_chunks_mut().0;
    for at in 0..2 {
        let (first, second) = (fours[2 * at], fours[2 * at + 1]);
        store_u8(&mut eights[at], _mm256_permute2x128_si256::<0x20>(first, second));
        store_u8(&mut eights[2 + at], _mm256_permute2x128_si256::<0x31>(first, second));
    }
    u8::from(_mm256_testz_si256(threes, _mm256_set1_epi8(1)) == 0)
}

/// As [`five_in_a_byte`](crate::format::base3::five_in_a_byte).
#[inline]
#[target_feature(enable = "avx2")]
fn five_in_a_byte([a, b, c, d, e]: [__m256i; BLOCKS]) -> __m256i {
    let four = add(triple(add(triple(add(triple(a), b)), c)), d);
    let above =
        add(add(_mm256_slli_epi16::<4>(e), e), add(four, _mm256_set1_epi8(ABOVE.wrapping_sub(64).cast_signed())));
    let below = _mm256_or_si256(_mm256_slli_epi16::<6>(e), four);
    _mm256_blendv_epi8(above, below, _mm256_cmpgt_epi8(_mm256_set1_epi8(64), four))
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi8(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
fn triple(x: __m256i) -> __m256i {
    add(add(x, x), x)
}
