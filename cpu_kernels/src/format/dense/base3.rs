//! Tables of ternary weights, five a byte: the blocks of [`super::super::dialect`] read in place, one f16 scale d each.
//! Value = d * (code - 1); every byte has digits 0, 1 and 2 only.

use half::f16;

use super::super::dialect::{ptq1_0, tq1_0};

/// Bytes of a TQ1_0 block: 52 of codes, f16 d.
pub const TQ1_0_BYTES: usize = tq1_0::BYTES;

/// Bytes of a PTQ1_0 block: 26 of codes, f16 d.
pub const PTQ1_0_BYTES: usize = ptq1_0::BYTES;

/// The codes of a TQ1_0 block. Inlined into functions with target features.
#[inline(always)]
pub fn tq1_0_codes(block: &[u8; TQ1_0_BYTES]) -> [u8; 256] {
    let mut codes = [0; 256];
    tq1_0::unpack(block, &mut codes);
    codes
}

/// The codes of a PTQ1_0 block. Inlined into functions with target features.
#[inline(always)]
pub fn ptq1_0_codes(block: &[u8; PTQ1_0_BYTES]) -> [u8; 128] {
    let mut codes = [0; 128];
    ptq1_0::unpack(block, &mut codes);
    codes
}

pub(super) fn tq1_0(block: &[u8; TQ1_0_BYTES], out: &mut [f32; 256]) {
    values(&tq1_0_codes(block), [block[52], block[53]], out);
}

pub(super) fn ptq1_0(block: &[u8; PTQ1_0_BYTES], out: &mut [f32; 128]) {
    values(&ptq1_0_codes(block), [block[26], block[27]], out);
}

fn values(codes: &[u8], d: [u8; 2], out: &mut [f32]) {
    let d = f16::from_le_bytes(d).to_f32();
    for (x, &code) in out.iter_mut().zip(codes) {
        *x = d * (f32::from(code) - 1.0);
    }
}
