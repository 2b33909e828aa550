//! e^x on 8 and on 16 lanes.

use std::arch::x86_64::*;

const LOWEST: f32 = -87.3;

// ln 2 in two parts, the first with so few bits that n times it is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// 1 / k! from k = 7 down to 0.
const TAYLOR: [f32; 8] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

/// e^x for x up to 88, within 2 units in the last place; 0 below -87.3. NaN gives NaN.
///
/// With n = round(x / ln 2) and r = x - n ln 2, |r| <= 0.347: e^x = 2^n e^r, and e^r by its Taylor polynomial of
/// degree 7, whose remainder is below r^8 / 8! = 5e-9.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn exp(x: __m256) -> __m256 {
    let log2_e = _mm256_set1_ps(std::f32::consts::LOG2_E);
    let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm256_mul_ps(x, log2_e));
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN2_HIGH), x);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN2_LOW), r);
    let mut e = _mm256_set1_ps(TAYLOR[0]);
    for coefficient in &TAYLOR[1..] {
        e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(*coefficient));
    }
    // From LOWEST to 88, n is within -126 ..= 127: adding it to the exponent stays among the normal numbers.
    let power = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(n));
    let e = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(e), power));
    let e = _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, _mm256_set1_ps(LOWEST)), e);
    // The addition above may have turned the bits of a NaN into a number: take those lanes from x.
    _mm256_blendv_ps(e, x, _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x))
}

/// As [`exp`], on 16 lanes.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn exp_wide(x: __m512) -> __m512 {
    let log2_e = _mm512_set1_ps(std::f32::consts::LOG2_E);
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm512_mul_ps(x, log2_e));
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2_HIGH), x);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2_LOW), r);
    let mut e = _mm512_set1_ps(TAYLOR[0]);
    for coefficient in &TAYLOR[1..] {
        e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(*coefficient));
    }
    let e = _mm512_scalef_ps(e, n);
    // -infinity less itself is NaN: those lanes, as all that are low, are 0. Of a NaN, nothing is low.
    let low = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_set1_ps(LOWEST));
    _mm512_mask_mov_ps(e, low, _mm512_setzero_ps())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        isa::{Avx2, Avx512Vnni},
        x86,
    };

    #[test]
    fn exp_is_within_two_units() {
        let Some(_avx2) = Avx2::detect() else { return eprintln!("not run: avx2 (this processor does not have it)") };
        check(|x| {
            let mut out = [0.0; 8];
            // SAFETY: the token proves AVX2 and FMA.
            unsafe { x86::store(&mut out, exp(_mm256_set1_ps(x))) };
            assert!(out.iter().all(|y| y.to_bits() == out[0].to_bits()));
            out[0]
        });
    }

    #[test]
    fn exp_of_16_lanes_is_too() {
        let Some(_avx512) = Avx512Vnni::detect() else {
            return eprintln!("not run: avx512vnni (this processor does not have it)");
        };
        check(|x| {
            let mut out = [0.0; 16];
            // SAFETY: the token proves AVX-512 F.
            unsafe { x86::wide::store(&mut out, exp_wide(_mm512_set1_ps(x))) };
            assert!(out.iter().all(|y| y.to_bits() == out[0].to_bits()));
            out[0]
        });
    }

    fn check(apply: impl Fn(f32) -> f32) {
        for i in -87_290..=88_000 {
            let x = i as f32 * 1e-3;
            let (y, expected) = (f64::from(apply(x)), f64::from(x).exp());
            assert!((y / expected - 1.0).abs() < 2.0 * f64::from(f32::EPSILON), "e^{x} = {y}, expected {expected}");
        }
        assert_eq!(apply(0.0), 1.0);
        assert_eq!([-87.4, -1000.0, f32::MIN, f32::NEG_INFINITY].map(&apply), [0.0; 4]);
        assert!(apply(f32::NAN).is_nan() && apply(-f32::NAN).is_nan());
    }
}
