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
