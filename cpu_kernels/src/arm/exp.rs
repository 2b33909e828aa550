//! e^x on 4 lanes.

use std::arch::aarch64::*;

/// e^x for x up to 88, within 2 units in the last place; 0 below -87.3. NaN gives NaN.
///
/// With n = round(x / ln 2) and r = x - n ln 2, |r| <= 0.347: e^x = 2^n e^r, and e^r by its Taylor polynomial of
/// degree 7, whose remainder is below r^8 / 8! = 5e-9.
#[inline]
#[target_feature(enable = "neon")]
pub fn exp(x: float32x4_t) -> float32x4_t {
    const LOWEST: f32 = -87.3;
    // ln 2 in two parts, the first with so few bits that n times it is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// 1 / k! from k = 7 down to 0.
    const TAYLOR: [f32; 8] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

    let n = vrndnq_f32(vmulq_n_f32(x, std::f32::consts::LOG2_E));
    let r = vfmsq_n_f32(x, n, LN2_HIGH);
    let r = vfmsq_n_f32(r, n, LN2_LOW);
    let mut e = vdupq_n_f32(TAYLOR[0]);
    for coefficient in &TAYLOR[1..] {
        e = vfmaq_f32(vdupq_n_f32(*coefficient), e, r);
    }
    // From LOWEST to 88, n is within -126 ..= 127: adding it to the exponent stays among the normal numbers.
    let power = vshlq_n_s32::<23>(vcvtnq_s32_f32(n));
    let e = vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(e), power));
    let e = vbslq_f32(vcltq_f32(x, vdupq_n_f32(LOWEST)), vdupq_n_f32(0.0), e);
    // The addition above may have turned the bits of a NaN into a number: take those lanes from x.
    vbslq_f32(vceqq_f32(x, x), e, x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arm;

    #[test]
    fn exp_is_within_two_units() {
        let apply = |x: f32| {
            let mut out = [0.0; 4];
            // SAFETY: every processor that runs this has NEON.
            unsafe { arm::store(&mut out, exp(vdupq_n_f32(x))) };
            assert!(out.iter().all(|y| y.to_bits() == out[0].to_bits()));
            out[0]
        };
        for i in -8_729..=8_800 {
            let x = i as f32 * 1e-2;
            let (y, expected) = (f64::from(apply(x)), f64::from(x).exp());
            assert!((y / expected - 1.0).abs() < 2.0 * f64::from(f32::EPSILON), "e^{x} = {y}, expected {expected}");
        }
        assert_eq!(apply(0.0), 1.0);
        assert_eq!([-87.4, -1000.0, f32::MIN, f32::NEG_INFINITY].map(apply), [0.0; 4]);
        assert!(apply(f32::NAN).is_nan() && apply(-f32::NAN).is_nan());
    }
}
