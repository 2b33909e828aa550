//! Five weights a byte: [`Layout::Base3`](super::Layout::Base3), packed from and unpacked to rows of
//! [`Layout::I2sP128`](super::Layout::I2sP128).

use super::{I2S_BLOCK_BYTES, padded_cols};
#[cfg(target_arch = "x86_64")]
use crate::isa::Avx2;

/// Columns that a vector of 64 bytes holds one digit of.
pub const BASE3_RUN: usize = 64;

/// Columns of one block.
pub const BASE3_BLOCK: usize = 5 * BASE3_RUN;

/// Bytes of one block: a cache line.
pub const BASE3_BLOCK_BYTES: usize = BASE3_RUN;

/// Bytes of a row; `usize::MAX` if that is too large a number.
pub fn row_bytes(cols: usize) -> usize {
    cols.div_ceil(BASE3_BLOCK).saturating_mul(BASE3_BLOCK_BYTES)
}

/// The code of 0, which fills a row's last block, and stands where a byte is no five digits.
pub const ZERO: u8 = 1;

/// First byte of those that hold the last 17 of the 81 numbers of four digits.
pub const ABOVE: u8 = 192;

/// A byte for the digits of four columns as a number 0 .. 80, and that of a fifth.
const fn byte_of(four: u8, fifth: u8) -> u8 {
    if four < 64 { fifth << 6 | four } else { ABOVE + 17 * fifth + (four - 64) }
}

/// Tables that decode a byte for the kernels, 64 entries each: bytes from `ABOVE` on by their lower 6 bits, others by
/// these too, except for their fifth code, which is the upper 2 bits.
pub struct Digits {
    /// The codes of four columns where a byte of I2_S has them, 2 bits each, the first at the top; of bytes below.
    pub fours: [u8; 64],
    /// As `fours`, for bytes above.
    pub fours_above: [u8; 64],
    /// 64 times the code of the fifth column, of bytes above.
    pub fifths_above: [u8; 64],
}

/// See [`Digits`].
pub static DIGITS: Digits = {
    let mut digits = Digits { fours: [0; 64], fours_above: [ZERO * 0b01_01_01_01; 64], fifths_above: [ZERO << 6; 64] };
    let mut four = 0;
    while four < 81 {
        let codes = 64 * (four / 27) + 16 * (four / 9 % 3) + 4 * (four / 3 % 3) + four % 3;
        if four < 64 {
            digits.fours[four as usize] = codes;
        } else {
            let mut fifth = 0;
            while fifth < 3 {
                let at = (byte_of(four, fifth) - ABOVE) as usize;
                (digits.fours_above[at], digits.fifths_above[at]) = (codes, fifth << 6);
                fifth += 1;
            }
        }
        four += 1;
    }
    digits
};

impl Digits {
    /// Code number `run` of the five of a byte.
    pub fn code(&self, byte: u8, run: usize) -> u8 {
        let (at, above) = (usize::from(byte & 63), byte >= ABOVE);
        match (run, above) {
            (4, false) => byte >> 6,
            (4, true) => self.fifths_above[at] >> 6,
            (_, false) => self.fours[at] >> (6 - 2 * run) & 3,
            (_, true) => self.fours_above[at] >> (6 - 2 * run) & 3,
        }
    }
}

/// Packs one row of I2_S; false if it has a code 3, for which there is no digit. A model is packed while it is loaded.
pub fn pack_row(plain: &[u8], packed: &mut [u8]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = Avx2::detect() {
        return pack_row_avx2(avx2, plain, packed);
    }
    pack_row_plain(plain, packed)
}

#[cfg(target_arch = "x86_64")]
fn pack_row_avx2(_: Avx2, plain: &[u8], packed: &mut [u8]) -> bool {
    #[target_feature(enable = "avx2")]
    fn with_avx2(plain: &[u8], packed: &mut [u8]) -> bool {
        pack_row_plain(plain, packed)
    }
    // SAFETY: the capability token proves the features.
    unsafe { with_avx2(plain, packed) }
}

/// Inlined into functions with target features, so that each gets the vectors it may use.
#[inline(always)]
fn pack_row_plain(plain: &[u8], packed: &mut [u8]) -> bool {
    const ZEROS: [u8; I2S_BLOCK_BYTES] = [ZERO * 0b01_01_01_01; I2S_BLOCK_BYTES];
    let plain = plain.as_chunks::<I2S_BLOCK_BYTES>().0;
    let mut found = 0;
    for (block, packed) in packed.as_chunks_mut::<BASE3_BLOCK_BYTES>().0.iter_mut().enumerate() {
        // Five runs are two and a half blocks of I2_S.
        let first = 5 * block / 2;
        let from = [0, 1, 2].map(|at| plain.get(first + at).unwrap_or(&ZEROS));
        let [low, high] = packed.as_chunks_mut().0 else { unreachable!("two halves") };
        found |= if block % 2 == 0 {
            pack_half::<0, 6>(from, low) | pack_half::<0, 4>(from, high)
        } else {
            pack_half::<1, 6>(from, low) | pack_half::<1, 4>(from, high)
        };
    }
    found == 0
}

/// Packs half a block: 32 columns of each of five runs, of which the first is number `SKIP` in `from`. `SHIFT` is that
/// of these columns in an even run. Shifts that the compiler knows and no branches become vector instructions.
#[inline(always)]
fn pack_half<const SKIP: usize, const SHIFT: u32>(
    from: [&[u8; I2S_BLOCK_BYTES]; 3],
    packed: &mut [u8; I2S_BLOCK_BYTES],
) -> u8 {
    let mut found = 0;
    for at in 0..I2S_BLOCK_BYTES {
        let code = |run: usize| {
            let byte = from[(SKIP + run) / 2][at];
            3 & if (SKIP + run).is_multiple_of(2) { byte >> SHIFT } else { byte >> (SHIFT - 4) }
        };
        let (a, b, c, d, e) = (code(0), code(1), code(2), code(3), code(4));
        found |= (a & a >> 1) | (b & b >> 1) | (c & c >> 1) | (d & d >> 1) | (e & e >> 1);
        // A code 3, which is told, may give any byte.
        packed[at] = five_in_a_byte([a, b, c, d, e]);
    }
    found
}

/// The byte of five codes, without branches or multiplications: loops over it become vector instructions.
#[inline(always)]
pub fn five_in_a_byte([a, b, c, d, e]: [u8; 5]) -> u8 {
    let triple = |x: u8| x.wrapping_add(x).wrapping_add(x);
    let four = triple(triple(triple(a) + b) + c) + d;
    let above = (e << 4).wrapping_add(e).wrapping_add(ABOVE - 64).wrapping_add(four);
    if four < 64 { e << 6 | four } else { above }
}

/// Unpacks one row of `cols` columns into a row of I2_S.
pub fn unpack_row(packed: &[u8], cols: usize, plain: &mut [u8]) {
    plain.fill(0);
    let runs = padded_cols(cols) / BASE3_RUN;
    let rows = packed.as_chunks::<BASE3_BLOCK_BYTES>().0;
    for run in 0..runs.min(5 * rows.len()) {
        let out = &mut plain[run / 2 * I2S_BLOCK_BYTES..][..I2S_BLOCK_BYTES];
        let codes = rows[run / 5].map(|byte| DIGITS.code(byte, run % 5));
        let (first, second) = codes.split_at(I2S_BLOCK_BYTES);
        let shift = 6 - 4 * (run % 2);
        for ((out, first), second) in out.iter_mut().zip(first).zip(second) {
            *out |= first << shift | second << (shift - 2);
        }
    }
    // Columns of a block of I2_S that the last block here does not reach.
    for run in 5 * rows.len()..runs {
        let ones = if run % 2 == 0 { 0b01_01_00_00 } else { 0b00_00_01_01 };
        plain[run / 2 * I2S_BLOCK_BYTES..][..I2S_BLOCK_BYTES].iter_mut().for_each(|byte| *byte |= ones);
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "x86_64")]
    use super::*;
    use crate::format::{FormatError, Layout, pack, repack, ternary_bytes, unpack};
    #[cfg(target_arch = "x86_64")]
    use crate::testing::Rng;

    /// By hand: of columns 64 apart, 27 a + 9 b + 3 c + d, and 64 e more; from 64 on 192 + 17 e + (that - 64).
    #[test]
    fn bytes_are_five_digits() {
        let mut codes = vec![1; 320];
        (codes[0], codes[64], codes[128], codes[192], codes[256]) = (2, 1, 0, 2, 1);
        (codes[1], codes[65], codes[129], codes[193], codes[257]) = (2, 1, 0, 0, 2);
        (codes[63], codes[127], codes[191], codes[255], codes[319]) = (0, 0, 2, 0, 2);
        (codes[62], codes[126], codes[190], codes[254], codes[318]) = (2, 2, 2, 2, 2);
        let mut expected = [64 + 40; 64];
        expected[0] = 192 + 17 + 1;
        expected[1] = 128 + 63;
        expected[62] = 192 + 34 + 16;
        expected[63] = 128 + 6;
        assert_eq!(pack(Layout::Base3, 1, 320, &codes), expected);
    }

    #[test]
    fn every_combination_of_five_digits_has_its_byte() {
        let mut codes = vec![0; 4 * 320];
        for number in 0..243 {
            let (block, at) = (number / 64, number % 64);
            for (run, digit) in [81, 27, 9, 3, 1].into_iter().enumerate() {
                codes[block * 320 + run * 64 + at] = (number / digit % 3) as u8;
            }
        }
        let packed = pack(Layout::Base3, 2, 640, &codes);
        let mut bytes = packed[..243].to_vec();
        bytes.sort_unstable();
        assert!(bytes.into_iter().eq(0..243));
        assert_eq!(unpack(Layout::Base3, 2, 640, &packed), codes);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn vectors_pack_as_plain_loops_do() {
        let Some(avx2) = Avx2::detect() else { return };
        let mut rng = Rng::new(21);
        for cols in [128, 320, 384, 640, 2560, 6912] {
            let mut plain = pack(Layout::I2sP128, 1, cols, &rng.codes(cols));
            for code_3 in [None, Some(cols / 128 * 32 - 1)] {
                if let Some(byte) = code_3 {
                    plain[byte] |= 3;
                }
                let mut packed = [0, 0].map(|_| vec![0; row_bytes(cols)]);
                let [by_loops, by_vectors] = &mut packed;
                let fine = [pack_row_plain(&plain, by_loops), pack_row_avx2(avx2, &plain, by_vectors)];
                assert_eq!(fine, [code_3.is_none(); 2], "{cols} columns");
                assert!(by_loops == by_vectors, "{cols} columns");
            }
        }
    }

    #[test]
    fn a_byte_that_is_no_five_digits_means_zeros() {
        for byte in 243..=255 {
            assert_eq!(unpack(Layout::Base3, 1, 320, &[byte; 64]), [1; 320]);
        }
        assert_eq!(unpack(Layout::Base3, 1, 320, &[242; 64]), [2; 320]);
    }

    #[test]
    fn a_code_3_is_refused_by_its_place() {
        for place in [0, 31, 100, 319, 320, 500, 639, 1000] {
            let mut plain = pack(Layout::I2sP128, 2, 640, &[2; 1280]);
            let (block, col) = (place / 128, place % 128);
            plain[32 * block + col % 32] |= 3 << (6 - 2 * (col / 32));
            assert_eq!(repack(&plain, 2, 640, Layout::Base3), Err(FormatError::Code { element: place }));
        }
    }

    #[test]
    fn a_row_takes_a_line_for_320_columns() {
        assert_eq!(ternary_bytes(Layout::Base3, 3, 2560), 3 * 512);
        assert_eq!(ternary_bytes(Layout::Base3, 1, 6912), 22 * 64);
        assert_eq!(ternary_bytes(Layout::Base3, usize::MAX, 321), usize::MAX);
    }
}
