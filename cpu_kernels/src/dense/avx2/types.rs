//! How each type of weights becomes f32; the layouts are those of `format::dense`.
//!
//! The functions have no target features of their own, because functions of a trait cannot; they are always inlined
//! into ones that do.

use std::arch::x86_64::*;

use super::{Weight, Weights, WideWeight, WideWeights};
use crate::{
    format::dense::{Q6K_BYTES, Q8_0_BYTES},
    x86::{load_i8x8, load_u8, load_u8x16, store, store_u8, wide},
};

/// Plain f32.
pub struct F32;

impl Weight for F32 {
    const BYTES: usize = 128;
    const STEPS: usize = 1;
    type Unit<'a> = &'a [u8];

    #[inline(always)]
    unsafe fn unit(bytes: &[u8]) -> &[u8] {
        bytes
    }

    #[inline(always)]
    unsafe fn step(unit: &&[u8], _: usize) -> Weights {
        let vectors = &unit.as_chunks().0[..4];
        // SAFETY: the caller's promise.
        unsafe {
            let weights = |part: usize| _mm256_castsi256_ps(load_u8(&vectors[part]));
            [weights(0), weights(1), weights(2), weights(3)]
        }
    }
}

/// IEEE binary16.
pub struct F16;

impl Weight for F16 {
    const BYTES: usize = 64;
    const STEPS: usize = 1;
    type Unit<'a> = &'a [u8];

    #[inline(always)]
    unsafe fn unit(bytes: &[u8]) -> &[u8] {
        bytes
    }

    #[inline(always)]
    unsafe fn step(unit: &&[u8], _: usize) -> Weights {
        let vectors = &unit.as_chunks().0[..4];
        // SAFETY: the caller's promise.
        unsafe {
            let weights = |part: usize| _mm256_cvtph_ps(load_u8x16(&vectors[part]));
            [weights(0), weights(1), weights(2), weights(3)]
        }
    }
}

/// The upper half of an f32.
pub struct BF16;

impl Weight for BF16 {
    const BYTES: usize = 64;
    const STEPS: usize = 1;
    type Unit<'a> = &'a [u8];

    #[inline(always)]
    unsafe fn unit(bytes: &[u8]) -> &[u8] {
        bytes
    }

    #[inline(always)]
    unsafe fn step(unit: &&[u8], _: usize) -> Weights {
        let vectors = &unit.as_chunks().0[..4];
        // SAFETY: the caller's promise.
        unsafe {
            let wide = |part: usize| _mm256_cvtepu16_epi32(load_u8x16(&vectors[part]));
            let weights = |part| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide(part)));
            [weights(0), weights(1), weights(2), weights(3)]
        }
    }
}

/// A scale and 32 values.
pub struct Q8_0;

impl Weight for Q8_0 {
    const BYTES: usize = Q8_0_BYTES;
    const STEPS: usize = 1;
    type Unit<'a> = &'a [u8];

    #[inline(always)]
    unsafe fn unit(bytes: &[u8]) -> &[u8] {
        bytes
    }

    #[inline(always)]
    unsafe fn step(unit: &&[u8], _: usize) -> Weights {
        let (d, values) = unit.split_at(2);
        let eights = &values.as_chunks().0[..4];
        // SAFETY: the caller's promise.
        unsafe {
            let d = _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes([d[0], d[1]])));
            let weights = |part: usize| _mm256_mul_ps(d, _mm256_cvtepi32_ps(load_i8x8(&eights[part])));
            [weights(0), weights(1), weights(2), weights(3)]
        }
    }
}

impl WideWeight for Q8_0 {
    #[inline(always)]
    unsafe fn wide_step(unit: &&[u8], _: usize) -> WideWeights {
        let (d, values) = unit.split_at(2);
        let sixteens = &values.as_chunks().0[..2];
        // SAFETY: the caller's promise.
        unsafe {
            let d = _mm512_cvtph_ps(_mm256_set1_epi16(i16::from_le_bytes([d[0], d[1]])));
            let weights = |part: usize| _mm512_mul_ps(d, wide::load_i8x16_as_f32(&sixteens[part]));
            [weights(0), weights(1)]
        }
    }
}

/// 256 values in two halves of four quarters, with a scale for each 16.
pub struct Q6K;

/// A block of [`Q6K`], its values put together.
pub struct Q6KBlock {
    values: [[u8; 32]; 8],
    /// The block's scale times those of its runs of 16.
    scales: [[f32; 8]; 2],
}

impl Weight for Q6K {
    const BYTES: usize = Q6K_BYTES;
    const STEPS: usize = 8;
    type Unit<'a> = Q6KBlock;

    #[inline(always)]
    unsafe fn unit(bytes: &[u8]) -> Q6KBlock {
        let mut block = Q6KBlock { values: [[0; 32]; 8], scales: [[0.0; 8]; 2] };
        let vectors = &bytes.as_chunks::<32>().0[..6];
        let (scales, d) = bytes[192..Q6K_BYTES].split_at(16);
        // SAFETY: the caller's promise.
        unsafe {
            for half in 0..2 {
                let (even, odd) = (load_u8(&vectors[2 * half]), load_u8(&vectors[2 * half + 1]));
                let pairs = load_u8(&vectors[4 + half]);
                // The low nibble of each value, and its bit pair at bits 4 and 5.
                let put = |to: &mut [u8; 32], nibbles, pairs| {
                    let nibbles = _mm256_and_si256(nibbles, _mm256_set1_epi8(0x0F));
                    let q = _mm256_or_si256(nibbles, _mm256_and_si256(pairs, _mm256_set1_epi8(0x30)));
                    store_u8(to, _mm256_sub_epi8(q, _mm256_set1_epi8(32)));
                };
                put(&mut block.values[4 * half], even, _mm256_slli_epi16::<4>(pairs));
                put(&mut block.values[4 * half + 1], odd, _mm256_slli_epi16::<2>(pairs));
                put(&mut block.values[4 * half + 2], _mm256_srli_epi16::<4>(even), pairs);
                put(&mut block.values[4 * half + 3], _mm256_srli_epi16::<4>(odd), _mm256_srli_epi16::<2>(pairs));
            }
            let d = _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes([d[0], d[1]])));
            for half in 0..2 {
                let scales = _mm256_cvtepi32_ps(load_i8x8(&scales.as_chunks().0[half]));
                store(&mut block.scales[half], _mm256_mul_ps(d, scales));
            }
        }
        block
    }

    #[inline(always)]
    unsafe fn step(block: &Q6KBlock, step: usize) -> Weights {
        let eights = block.values[step].as_chunks().0;
        let scales = block.scales.as_flattened();
        // SAFETY: the caller's promise.
        unsafe {
            let weights = |part: usize| {
                let scale = _mm256_set1_ps(scales[2 * step + part / 2]);
                _mm256_mul_ps(scale, _mm256_cvtepi32_ps(load_i8x8(&eights[part])))
            };
            [weights(0), weights(1), weights(2), weights(3)]
        }
    }
}

impl WideWeight for Q6K {
    #[inline(always)]
    unsafe fn wide_step(block: &Q6KBlock, step: usize) -> WideWeights {
        let sixteens = block.values[step].as_chunks().0;
        let scales = block.scales.as_flattened();
        // SAFETY: the caller's promise.
        unsafe {
            let weights = |part: usize| {
                let scale = _mm512_set1_ps(scales[2 * step + part]);
                _mm512_mul_ps(scale, wide::load_i8x16_as_f32(&sixteens[part]))
            };
            [weights(0), weights(1)]
        }
    }
}
