//! 256-bit vectors from slices and back.
//!
//! The functions are safe to call where their target features are on: the arrays they take have the bytes they read.
//! Kernels are written with them and with the register-only intrinsics, which are safe there too, so that `unsafe`
//! stands only here and where a capability token is turned into a call.

pub mod exp;

pub mod wide;

use std::arch::x86_64::*;

/// f32 values of a vector.
pub const LANES: usize = 8;

/// How far ahead of their use weights are fetched that are in no cache. The processor's own prefetching reaches less far,
/// and the loads that it holds back fill the window of instructions in flight. Decode steps of the 2B-4T shape on Zen 4
/// and two threads, tokens a second: without 35-37, at 2048 bytes 37-42, at 4096 45-48, at 8192 50-53, at 16384 44-46. What
/// is fetched past a piece is lost where another thread reads it.
pub const AHEAD: usize = 8192;

/// As [`AHEAD`], for the codes and signs of lookups.
pub const IN_LOOKUPS: usize = 2048;

/// Fetches the line `BYTES` after `from`, as [`prefetch_at`].
#[inline]
pub fn prefetch_ahead<const BYTES: usize, T>(from: &T) {
    prefetch_at(std::ptr::from_ref(from).cast(), BYTES);
}

/// Fetches the line at `bytes` after `from` into the second-level cache. Asked for in the first, Zen 4 brings nothing:
/// decode is as slow as without; to Zen 5 and to an Intel Xeon it makes no difference.
#[inline]
pub fn prefetch_at(from: *const u8, bytes: usize) {
    let at = from.cast::<i8>().wrapping_add(bytes);
    // SAFETY: a prefetch is a hint: whatever the address, it reads nothing into the program and does not fault.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at) }
}

/// 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub fn load_u8(from: &[u8; 32]) -> __m256i {
    // SAFETY: the array has 32 bytes; unaligned loads are allowed.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

/// 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub fn load_i8(from: &[i8; 32]) -> __m256i {
    // SAFETY: the array has 32 bytes; unaligned loads are allowed.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

/// 8 x i32.
#[inline]
#[target_feature(enable = "avx2")]
pub fn load_i32(from: &[i32; 8]) -> __m256i {
    // SAFETY: the array has 32 bytes; unaligned loads are allowed.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

/// 8 x i32.
#[inline]
#[target_feature(enable = "avx2")]
pub fn store_i32(to: &mut [i32; 8], x: __m256i) {
    // SAFETY: the array has 32 bytes; unaligned stores are allowed.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), x) }
}

/// 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub fn store_u8(to: &mut [u8; 32], x: __m256i) {
    // SAFETY: the array has 32 bytes; unaligned stores are allowed.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), x) }
}

/// 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub fn store_i8(to: &mut [i8; 32], x: __m256i) {
    // SAFETY: the array has 32 bytes; unaligned stores are allowed.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), x) }
}

/// 8 x f32.
#[inline]
#[target_feature(enable = "avx2")]
pub fn load(from: &[f32; LANES]) -> __m256 {
    // SAFETY: the array has 32 bytes; unaligned loads are allowed.
    unsafe { _mm256_loadu_ps(from.as_ptr()) }
}

/// 8 x f32.
#[inline]
#[target_feature(enable = "avx2")]
pub fn store(to: &mut [f32; LANES], x: __m256) {
    // SAFETY: the array has 32 bytes; unaligned stores are allowed.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), x) }
}

/// 4 x f32.
#[inline]
#[target_feature(enable = "avx2")]
pub fn store_four(to: &mut [f32; 4], x: __m128) {
    // SAFETY: the array has 16 bytes; unaligned stores are allowed.
    unsafe { _mm_storeu_ps(to.as_mut_ptr(), x) }
}

/// 8 x f32, to what is there.
#[inline]
#[target_feature(enable = "avx2")]
pub fn add_to(to: &mut [f32; LANES], x: __m256) {
    let sum = _mm256_add_ps(load(to), x);
    store(to, sum);
}

/// 8 x binary16 as f32.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub fn load_f16(from: &[u16; LANES]) -> __m256 {
    // SAFETY: the array has 16 bytes; unaligned loads are allowed.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.as_ptr().cast()) })
}

/// 8 x i8 as i32.
#[inline]
#[target_feature(enable = "avx2")]
pub fn load_i8x8(from: &[u8; 8]) -> __m256i {
    // SAFETY: the array has 8 bytes; unaligned loads are allowed.
    _mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(from.as_ptr().cast()) })
}

/// 16 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub fn load_u8x16(from: &[u8; 16]) -> __m128i {
    // SAFETY: the array has 16 bytes; unaligned loads are allowed.
    unsafe { _mm_loadu_si128(from.as_ptr().cast()) }
}

/// Sum of the lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub fn sum(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

/// The sum of the lanes of each.
#[inline]
#[target_feature(enable = "avx2")]
pub fn sum_each(x: [__m256; 4]) -> __m128 {
    let [a, b, c, d] = x;
    let x = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x))
}

/// Sum of the lanes of 4 x f64.
#[inline]
#[target_feature(enable = "avx2")]
pub fn sum_f64(x: __m256d) -> f64 {
    let x = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd::<1>(x));
    _mm_cvtsd_f64(_mm_add_sd(x, _mm_unpackhi_pd(x, x)))
}

/// Sum of the lanes of 8 x i32.
#[inline]
#[target_feature(enable = "avx2")]
pub fn sum_i32(x: __m256i) -> i32 {
    let x = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x)))
}

/// Largest lane; NaN lanes are skipped.
#[inline]
#[target_feature(enable = "avx2")]
pub fn max(x: __m256) -> f32 {
    let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
}

/// Lanes 0 .. n - 1 all ones, the others zero.
#[inline]
#[target_feature(enable = "avx2")]
pub fn first_lanes(n: usize) -> __m256 {
    let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n.min(LANES) as i32), lane))
}

/// Vector i of the result has element i (of 4 bytes) of each of the 8 vectors, in their order.
#[inline]
#[target_feature(enable = "avx2")]
pub fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    let mut out = [_mm256_setzero_si256(); 8];
    for i in 0..4 {
        // Elements i and i + 4 of rows 0..3 and of rows 4..7.
        let quad = |at: usize| {
            let (a, b, c, d) = (rows[at], rows[at + 1], rows[at + 2], rows[at + 3]);
            let (ab, cd) = if i < 2 {
                (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d))
            } else {
                (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d))
            };
            if i % 2 == 0 { _mm256_unpacklo_epi64(ab, cd) } else { _mm256_unpackhi_epi64(ab, cd) }
        };
        let (first, second) = (quad(0), quad(4));
        out[i] = _mm256_permute2x128_si256::<0x20>(first, second);
        out[i + 4] = _mm256_permute2x128_si256::<0x31>(first, second);
    }
    out
}
