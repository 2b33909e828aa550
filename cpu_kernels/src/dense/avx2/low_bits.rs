//! How the types of 4 and 2 bits become f32; as [`super::types`].

use std::arch::x86_64::*;

use super::{Weight, Weights};
use crate::{
    format::dense::{
        PTQ1_0_BYTES, Q2_0_BYTES, Q2_0_G128_BYTES, Q4_0_BYTES, Q4K_BYTES, TQ1_0_BYTES, TQ2_0_BYTES, ptq1_0_codes,
        q4k_scales, tq1_0_codes,
    },
    x86::{load_i8x8, load_u8, load_u8x16},
};

/// A scale and 32 nibbles.
pub struct Q4_0;

impl Weight for Q4_0 {
    const BYTES: usize = Q4_0_BYTES;
    const STEPS: usize = 1;
    type Unit<'a> = &'a [u8];

    #[inline(always)]
    unsafe fn unit(bytes: &[u8]) -> &[u8] {
        bytes
    }

    #[inline(always)]
    unsafe fn step(unit: &&[u8], _: usize) -> Weights {
        let (d, values) = unit.split_at(2);
        // SAFETY: the caller's promise.
        unsafe {
            let d = _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes([d[0], d[1]])));
            let packed = load_u8x16(values.first_chunk().expect("16 bytes of values"));
            let nibbles = |x| _mm_sub_epi8(_mm_and_si128(x, _mm_set1_epi8(15)), _mm_set1_epi8(8));
            let (low, high) = (nibbles(packed), nibbles(_mm_srli_epi16::<4>(packed)));
            let weights = |x| _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)));
            [weights(low), weights(_mm_srli_si128::<8>(low)), weights(high), weights(_mm_srli_si128::<8>(high))]
        }
    }
}

/// 256 nibbles in eight runs, each with a factor and a minimum.
pub struct Q4K;

/// A block of [`Q4K`].
pub struct Q4KBlock<'a> {
    values: &'a [[u8; 32]],
    factors: [f32; 8],
    minima: [f32; 8],
}

impl Weight for Q4K {
    const BYTES: usize = Q4K_BYTES;
    const STEPS: usize = 8;
    type Unit<'a> = Q4KBlock<'a>;

    #[inline(always)]
    unsafe fn unit(bytes: &[u8]) -> Q4KBlock<'_> {
        let (scales, values) = bytes[4..].split_first_chunk().expect("144 bytes");
        let (factors, minima) = q4k_scales([bytes[0], bytes[1]], [bytes[2], bytes[3]], scales);
        Q4KBlock { values: &values.as_chunks().0[..4], factors, minima }
    }

    #[inline(always)]
    unsafe fn step(block: &Q4KBlock, step: usize) -> Weights {
        // SAFETY: the caller's promise.
        unsafe {
            let packed = load_u8(&block.values[step / 2]);
            let nibbles = if step.is_multiple_of(2) { packed } else { _mm256_srli_epi16::<4>(packed) };
            let nibbles = _mm256_and_si256(nibbles, _mm256_set1_epi8(15));
            let (low, high) = (_mm256_castsi256_si128(nibbles), _mm256_extracti128_si256::<1>(nibbles));
            let (factor, minimum) = (_mm256_set1_ps(block.factors[step]), _mm256_set1_ps(block.minima[step]));
            // Rounded twice, as the reference does.
            let weights = |x| {
                let q = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x));
                _mm256_sub_ps(_mm256_mul_ps(factor, q), minimum)
            };
            [weights(low), weights(_mm_srli_si128::<8>(low)), weights(high), weights(_mm_srli_si128::<8>(high))]
        }
    }
}

/// A block of codes of two bits and the values they stand for.
pub struct Codes<'a> {
    codes: &'a [u8],
    /// -d, 0, d, 2d, twice: the third bit of an index is the next code's.
    values: __m256,
}

/// The codes of a block with the scale `d`.
///
/// # Safety
/// - The processor has AVX2 and F16C.
#[inline(always)]
unsafe fn codes(codes: &[u8], d: [u8; 2]) -> Codes<'_> {
    // SAFETY: the caller's promise.
    unsafe { Codes { codes, values: values(d) } }
}

/// -d, 0, d, 2d, twice.
///
/// # Safety
/// - The processor has AVX2 and F16C.
#[inline(always)]
unsafe fn values(d: [u8; 2]) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let d = _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(d)));
        _mm256_mul_ps(d, _mm256_setr_ps(-1.0, 0.0, 1.0, 2.0, -1.0, 0.0, 1.0, 2.0))
    }
}

/// 256 codes, those of a step in the same bits of 32 bytes.
pub struct TQ2_0;

impl Weight for TQ2_0 {
    const BYTES: usize = TQ2_0_BYTES;
    const STEPS: usize = 8;
    type Unit<'a> = Codes<'a>;

    #[inline(always)]
    unsafe fn unit(bytes: &[u8]) -> Codes<'_> {
        // SAFETY: the caller's promise.
        unsafe { codes(&bytes[..64], [bytes[64], bytes[65]]) }
    }

    #[inline(always)]
    unsafe fn step(block: &Codes, step: usize) -> Weights {
        let eights = &block.codes.as_chunks().0[4 * (step / 4)..][..4];
        // SAFETY: the caller's promise.
        unsafe {
            let shift = _mm_cvtsi32_si128(2 * (step % 4) as i32);
            let weights =
                |part: usize| _mm256_permutevar8x32_ps(block.values, _mm256_srl_epi32(load_i8x8(&eights[part]), shift));
            [weights(0), weights(1), weights(2), weights(3)]
        }
    }
}

/// Codes in order, four to a byte, `BYTES` with the scale in front.
pub struct InOrder<const BYTES: usize>;

/// Blocks of 64.
pub type Q2_0 = InOrder<Q2_0_BYTES>;

/// Blocks of 128.
pub type Q2_0G128 = InOrder<Q2_0_G128_BYTES>;

impl<const B: usize> Weight for InOrder<B> {
    const BYTES: usize = B;
    const STEPS: usize = (B - 2) / 8;
    type Unit<'a> = Codes<'a>;

    #[inline(always)]
    unsafe fn unit(bytes: &[u8]) -> Codes<'_> {
        // SAFETY: the caller's promise.
        unsafe { codes(&bytes[2..], [bytes[0], bytes[1]]) }
    }

    #[inline(always)]
    unsafe fn step(block: &Codes, step: usize) -> Weights {
        let pairs: &[[u8; 2]] = &block.codes.as_chunks().0[4 * step..][..4];
        // SAFETY: the caller's promise.
        unsafe {
            let shifts = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
            let weights = |part: usize| {
                let eight = _mm256_set1_epi32(i32::from(u16::from_le_bytes(pairs[part])));
                _mm256_permutevar8x32_ps(block.values, _mm256_srlv_epi32(eight, shifts))
            };
            [weights(0), weights(1), weights(2), weights(3)]
        }
    }
}

/// A block of five weights a byte, its codes one by one, and the values they stand for.
pub struct Digits<const N: usize> {
    codes: [u8; N],
    values: __m256,
}

impl<const N: usize> Digits<N> {
    /// # Safety
    /// - The processor has AVX2.
    #[inline(always)]
    unsafe fn step(&self, step: usize) -> Weights {
        let eights = &self.codes.as_chunks().0[4 * step..][..4];
        // SAFETY: the caller's promise.
        unsafe {
            let weights = |part: usize| _mm256_permutevar8x32_ps(self.values, load_i8x8(&eights[part]));
            [weights(0), weights(1), weights(2), weights(3)]
        }
    }
}

/// 256 weights.
pub struct TQ1_0;

impl Weight for TQ1_0 {
    const BYTES: usize = TQ1_0_BYTES;
    const STEPS: usize = 8;
    type Unit<'a> = Digits<256>;

    #[inline(always)]
    unsafe fn unit(bytes: &[u8]) -> Digits<256> {
        let block = bytes.first_chunk().expect("a block");
        // SAFETY: the caller's promise.
        Digits { codes: tq1_0_codes(block), values: unsafe { values([block[52], block[53]]) } }
    }

    #[inline(always)]
    unsafe fn step(block: &Digits<256>, step: usize) -> Weights {
        // SAFETY: the caller's promise.
        unsafe { block.step(step) }
    }
}

/// 128 weights.
pub struct PTQ1_0;

impl Weight for PTQ1_0 {
    const BYTES: usize = PTQ1_0_BYTES;
    const STEPS: usize = 4;
    type Unit<'a> = Digits<128>;

    #[inline(always)]
    unsafe fn unit(bytes: &[u8]) -> Digits<128> {
        let block = bytes.first_chunk().expect("a block");
        // SAFETY: the caller's promise.
        Digits { codes: ptq1_0_codes(block), values: unsafe { values([block[26], block[27]]) } }
    }

    #[inline(always)]
    unsafe fn step(block: &Digits<128>, step: usize) -> Weights {
        // SAFETY: the caller's promise.
        unsafe { block.step(step) }
    }
}
