//! 128-bit vectors from slices and back.
//!
//! The functions are safe to call where their target features are on: the arrays they take have the bytes they read.

pub mod exp;

use std::arch::{aarch64::*, asm};

/// f32 values of a vector.
pub const LANES: usize = 4;

/// 16 bytes.
#[inline]
#[target_feature(enable = "neon")]
pub fn load_u8(from: &[u8; 16]) -> uint8x16_t {
    // SAFETY: the array has 16 bytes; unaligned loads are allowed.
    unsafe { vld1q_u8(from.as_ptr()) }
}

/// 16 bytes.
#[inline]
#[target_feature(enable = "neon")]
pub fn load_i8(from: &[i8; 16]) -> int8x16_t {
    // SAFETY: the array has 16 bytes; unaligned loads are allowed.
    unsafe { vld1q_s8(from.as_ptr()) }
}

/// 16 bytes.
#[inline]
#[target_feature(enable = "neon")]
pub fn store_u8(to: &mut [u8; 16], x: uint8x16_t) {
    // SAFETY: the array has 16 bytes; unaligned stores are allowed.
    unsafe { vst1q_u8(to.as_mut_ptr(), x) }
}

/// 8 bytes.
#[inline]
#[target_feature(enable = "neon")]
pub fn store_i8x8(to: &mut [i8; 8], x: int8x8_t) {
    // SAFETY: the array has 8 bytes; unaligned stores are allowed.
    unsafe { vst1_s8(to.as_mut_ptr(), x) }
}

/// 4 x i32.
#[inline]
#[target_feature(enable = "neon")]
pub fn load_i32(from: &[i32; 4]) -> int32x4_t {
    // SAFETY: the array has 16 bytes; unaligned loads are allowed.
    unsafe { vld1q_s32(from.as_ptr()) }
}

/// 4 x i32.
#[inline]
#[target_feature(enable = "neon")]
pub fn store_i32(to: &mut [i32; 4], x: int32x4_t) {
    // SAFETY: the array has 16 bytes; unaligned stores are allowed.
    unsafe { vst1q_s32(to.as_mut_ptr(), x) }
}

/// 4 x f32.
#[inline]
#[target_feature(enable = "neon")]
pub fn load(from: &[f32; LANES]) -> float32x4_t {
    // SAFETY: the array has 16 bytes; unaligned loads are allowed.
    unsafe { vld1q_f32(from.as_ptr()) }
}

/// 4 x f32.
#[inline]
#[target_feature(enable = "neon")]
pub fn store(to: &mut [f32; LANES], x: float32x4_t) {
    // SAFETY: the array has 16 bytes; unaligned stores are allowed.
    unsafe { vst1q_f32(to.as_mut_ptr(), x) }
}

/// 4 pairs of f32: the first of each, then the second of each.
#[inline]
#[target_feature(enable = "neon")]
pub fn load_pairs(from: &[f32; 2 * LANES]) -> [float32x4_t; 2] {
    // SAFETY: the array has 32 bytes; unaligned loads are allowed.
    let pairs = unsafe { vld2q_f32(from.as_ptr()) };
    [pairs.0, pairs.1]
}

/// As [`load_pairs`].
#[inline]
#[target_feature(enable = "neon")]
pub fn store_pairs(to: &mut [f32; 2 * LANES], [a, b]: [float32x4_t; 2]) {
    // SAFETY: the array has 32 bytes; unaligned stores are allowed.
    unsafe { vst2q_f32(to.as_mut_ptr(), float32x4x2_t(a, b)) }
}

/// 4 x binary16 as f32. The conversion is in every ARMv8; its intrinsic waits for a stable f16.
#[inline]
#[target_feature(enable = "neon")]
pub fn load_f16(from: &[u16; LANES]) -> float32x4_t {
    // SAFETY: the array has 8 bytes; unaligned loads are allowed.
    let bits = unsafe { vld1_u16(from.as_ptr()) };
    let wide: float32x4_t;
    // SAFETY: an instruction of the base architecture that only touches the two registers named.
    unsafe {
        asm!("fcvtl {wide:v}.4s, {bits:v}.4h", wide = lateout(vreg) wide, bits = in(vreg) bits,
             options(pure, nomem, nostack, preserves_flags));
    }
    wide
}

/// Four products of bytes added to each lane of `sum`: `sdot`, whose intrinsic is not stable.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub fn dot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the target feature is on; the instruction only touches the registers named.
    unsafe {
        asm!("sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b", sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
             options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// Adds the products of two rows of eight bytes each to `sum`: lane 2i + j grows by row i of `a` times row j of `b`.
/// That is `smmla`, whose intrinsic is not stable.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
pub fn matrix_product(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the target feature is on; the instruction only touches the registers named.
    unsafe {
        asm!("smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b", sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
             options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// As [`dot`], with the four bytes of lane `LANE` of `b` for each lane.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub fn dot_lane<const LANE: i32>(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the target feature is on; the instruction only touches the registers named.
    unsafe {
        asm!("sdot {sum:v}.4s, {a:v}.16b, {b:v}.4b[{lane}]", sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
             lane = const LANE, options(pure, nomem, nostack, preserves_flags));
    }
    sum
}
