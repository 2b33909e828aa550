//! 512-bit vectors from slices and back.

use std::arch::x86_64::*;

use super::load_u8x16;

/// 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn load_u8(from: &[u8; 64]) -> __m512i {
    // SAFETY: the array has 64 bytes; unaligned loads are allowed.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

/// 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn load_i8(from: &[i8; 64]) -> __m512i {
    // SAFETY: the array has 64 bytes; unaligned loads are allowed.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

/// 16 x i32.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn load_i32(from: &[i32; 16]) -> __m512i {
    // SAFETY: the array has 64 bytes; unaligned loads are allowed.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

/// 32 x i16.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn load_i16(from: &[i16; 32]) -> __m512i {
    load_u8(bytemuck::cast_ref(from))
}

/// 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn store_u8(to: &mut [u8; 64], x: __m512i) {
    // SAFETY: the array has 64 bytes; unaligned stores are allowed.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}

/// 32 x i16.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn store_i16(to: &mut [i16; 32], x: __m512i) {
    store_u8(bytemuck::cast_mut(to), x);
}

/// 16 x i32.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn store_i32(to: &mut [i32; 16], x: __m512i) {
    // SAFETY: the array has 64 bytes; unaligned stores are allowed.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}

/// 16 x f32.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn load(from: &[f32; 16]) -> __m512 {
    // SAFETY: the array has 64 bytes; unaligned loads are allowed.
    unsafe { _mm512_loadu_ps(from.as_ptr()) }
}

/// 16 x i8 as f32.
#[inline]
#[target_feature(enable = "avx2,avx512f")]
pub fn load_i8x16_as_f32(from: &[u8; 16]) -> __m512 {
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_u8x16(from)))
}

/// 16 x f32.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn store(to: &mut [f32; 16], x: __m512) {
    // SAFETY: the array has 64 bytes; unaligned stores are allowed.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
}

/// Two halves of a vector.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn join(low: __m256i, high: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// 16 x binary16 as f32.
#[inline]
#[target_feature(enable = "avx2,avx512f")]
pub fn load_f16(from: &[u16; 16]) -> __m512 {
    _mm512_cvtph_ps(super::load_u8(bytemuck::cast_ref(from)))
}

/// 16 x f32, to what is there.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn add_to(to: &mut [f32; 16], x: __m512) {
    let sum = _mm512_add_ps(load(to), x);
    store(to, sum);
}

/// The sum of the lanes of each.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512vl")]
pub fn sum_each(x: [__m512; 4]) -> __m128 {
    let [a, b, c, d] = x;
    // In each quarter: a0 + a2, b0 + b2, a1 + a3, b1 + b3.
    let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    let (low, high) = (_mm512_shuffle_ps::<0b01_00_01_00>(ab, cd), _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd));
    let quarters = _mm512_add_ps(low, high);
    let halves = _mm256_add_ps(_mm512_castps512_ps256(quarters), upper_half(quarters));
    _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves))
}

/// As [`sum_each`], of 16 x i32.
#[inline]
#[target_feature(enable = "avx2,avx512f")]
pub fn sum_each_i32(x: [__m512i; 4]) -> __m128i {
    let [low, high] = sum_halves_i32(x);
    _mm_add_epi32(low, high)
}

/// The sums of 16 vectors of 16 x i32 each, in their order.
#[inline]
#[target_feature(enable = "avx2,avx512f")]
pub fn sum_sixteen_i32(x: &[[__m512i; 4]; 4]) -> __m512i {
    let low = sum_pairs_i32(sum_quarters_i32(x[0]), sum_quarters_i32(x[1]));
    let high = sum_pairs_i32(sum_quarters_i32(x[2]), sum_quarters_i32(x[3]));
    sum_pairs_i32(low, high)
}

/// The first quarter of a plus the second, the third plus the fourth, and those of b.
#[inline]
#[target_feature(enable = "avx2,avx512f")]
fn sum_pairs_i32(a: __m512i, b: __m512i) -> __m512i {
    _mm512_add_epi32(_mm512_shuffle_i32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b))
}

/// In each quarter, the sums of that quarter of each vector.
#[inline]
#[target_feature(enable = "avx2,avx512f")]
fn sum_quarters_i32([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}

/// The sum of the lower lanes of each, and that of the upper ones.
#[inline]
#[target_feature(enable = "avx2,avx512f")]
pub fn sum_halves_i32(x: [__m512i; 4]) -> [__m128i; 2] {
    let quarters = sum_quarters_i32(x);
    let halves = [_mm512_castsi512_si256(quarters), _mm512_extracti64x4_epi64::<1>(quarters)];
    halves.map(|half| _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half)))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn upper_half(x: __m512) -> __m256 {
    _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(x)))
}
