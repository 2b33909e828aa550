//! Seeded numbers, and what tensors are filled with.

use bitnet_cpu_kernels::format::{I2S_BLOCK, I2S_BLOCK_BYTES, Layout, ternary_bytes};
use half::{bf16, f16};

/// SplitMix64 (Steele, Lea, Flood 2014): a counter and a mixing function.
#[derive(Clone)]
pub(super) struct Random(u64);

impl Random {
    /// Distinct streams for distinct numbers: the generator's outputs are a permutation of its counters.
    pub fn stream(seed: u64, number: u64) -> Self {
        Self(mix(seed).wrapping_add(mix(number)))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Between 7/8 and 9/8.
    pub fn near_one(&mut self) -> f32 {
        1.0 + self.signed() / 8.0
    }

    /// -1 or 1.
    pub fn sign(&mut self) -> f32 {
        if self.next() >> 63 == 0 { 1.0 } else { -1.0 }
    }

    /// Between -1 and 1.
    fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Numbers of a tensor that is no ternary matrix.
#[derive(Clone, Copy)]
pub(super) enum Numbers {
    /// F16 between -limit and +limit.
    Half { limit: f32 },
    /// Q8_0 between -limit and +limit.
    Bytes { limit: f32 },
    /// Q6_K between -limit and +limit.
    Sextets { limit: f32 },
    /// Q2_0: one of -limit, 0 and +limit.
    Ternary { limit: f32 },
    /// BF16 between -limit and +limit.
    Brain { limit: f32 },
    /// F32 in between.
    Floats { least: f32, most: f32 },
    /// F32 ones.
    Ones,
}

/// Fills whole blocks of a tensor.
pub(super) fn fill(chunk: &mut [u8], numbers: Numbers, random: &mut Random) {
    match numbers {
        Numbers::Half { limit } => {
            for value in chunk.as_chunks_mut::<2>().0 {
                *value = f16::from_f32(limit * random.signed()).to_le_bytes();
            }
        }
        Numbers::Bytes { limit } => {
            let scale = f16::from_f32(limit / 127.0).to_le_bytes();
            for block in chunk.as_chunks_mut::<34>().0 {
                let (head, quants) = block.split_at_mut(2);
                head.copy_from_slice(&scale);
                for quant in quants {
                    *quant = ((127.0 * random.signed()).round_ties_even() as i8).to_le_bytes()[0];
                }
            }
        }
        Numbers::Sextets { limit } => {
            // A value is d * SCALE * (q - 32), q from 0 to 63. With 4 as the scale of all 16 columns, d is a normal
            // f16 down to a limit of 0.008, that of 50000 columns.
            const SCALE: u8 = 4;
            let scale = f16::from_f32(limit / (32.0 * f32::from(SCALE))).to_le_bytes();
            for block in chunk.as_chunks_mut::<210>().0 {
                for quants in block[..192].as_chunks_mut::<8>().0 {
                    *quants = random.next().to_le_bytes();
                }
                block[192..208].fill(SCALE);
                block[208..].copy_from_slice(&scale);
            }
        }
        Numbers::Ternary { limit } => {
            let scale = f16::from_f32(limit).to_le_bytes();
            for block in chunk.as_chunks_mut::<18>().0 {
                let (head, codes) = block.split_at_mut(2);
                head.copy_from_slice(&scale);
                fill_codes(codes, random);
            }
        }
        Numbers::Brain { limit } => {
            for value in chunk.as_chunks_mut::<2>().0 {
                *value = bf16::from_f32(limit * random.signed()).to_le_bytes();
            }
        }
        Numbers::Floats { least, most } => {
            for value in chunk.as_chunks_mut::<4>().0 {
                *value = (least + (most - least) * (0.5 + 0.5 * random.signed())).to_le_bytes();
            }
        }
        Numbers::Ones => chunk.as_chunks_mut::<4>().0.fill(1.0_f32.to_le_bytes()),
    }
}

/// A matrix of codes of equal share as [`Layout::I2sP128`].
pub(super) fn codes(rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    let mut packed = vec![0; ternary_bytes(Layout::I2sP128, rows, cols)];
    fill_codes(&mut packed, random);
    let used = cols % I2S_BLOCK;
    if used > 0 {
        // The columns past the end of a row hold code 1.
        let (mut keep, mut ones) = ([0xff_u8; I2S_BLOCK_BYTES], [0_u8; I2S_BLOCK_BYTES]);
        for col in used..I2S_BLOCK {
            let (byte, shift) = (col % 32, 6 - 2 * (col / 32));
            keep[byte] &= !(3 << shift);
            ones[byte] |= 1 << shift;
        }
        for row in packed.chunks_exact_mut(ternary_bytes(Layout::I2sP128, 1, cols)) {
            let last = row.len() - I2S_BLOCK_BYTES;
            for (byte, (keep, ones)) in row[last..].iter_mut().zip(keep.iter().zip(ones)) {
                *byte = *byte & keep | ones;
            }
        }
    }
    packed
}

/// Four codes below 3 in each byte.
fn fill_codes(bytes: &mut [u8], random: &mut Random) {
    // Sixteen random bits choose one of the 81 such bytes.
    for part in bytes.chunks_mut(4) {
        let bits = random.next();
        for (at, byte) in part.iter_mut().enumerate() {
            let choice = (((bits >> (16 * at)) & 0xffff) * 81) >> 16;
            *byte = FOUR_CODES[choice as usize];
        }
    }
}

/// The bytes that hold four codes 0, 1 or 2.
const FOUR_CODES: [u8; 81] = {
    let mut bytes = [0; 81];
    let mut i = 0;
    while i < 81 {
        bytes[i] = ((i % 3) | ((i / 3 % 3) << 2) | ((i / 9 % 3) << 4) | ((i / 27) << 6)) as u8;
        i += 1;
    }
    bytes
};

#[cfg(test)]
mod tests {
    use bitnet_cpu_kernels::format::{pack, unpack};

    use super::*;

    #[test]
    fn the_generator_gives_the_published_sequence() {
        // SplitMix64 from seed 1234567, as listed by Rosetta Code and used to seed the xoshiro generators.
        let mut random = Random(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([random.next(), random.next(), random.next()], expected);
    }

    #[test]
    fn codes_are_ternary_and_equally_common() {
        let mut counts = [0_u32; 4];
        for byte in codes(512, 512, &mut Random(1)) {
            (0..4).for_each(|at| counts[usize::from(byte >> (2 * at) & 3)] += 1);
        }
        // 262144 codes: 87381 of each, with a standard deviation of 241.
        assert_eq!(counts[3], 0);
        assert!(counts[..3].iter().all(|&count| count.abs_diff(87_381) < 1_200), "{counts:?}");
    }

    #[test]
    fn rows_that_are_not_whole_blocks_are_padded_as_the_layout_is_defined() {
        for cols in [32, 160, 200] {
            let packed = codes(3, cols, &mut Random(2));
            let plain = unpack(Layout::I2sP128, 3, cols, &packed);
            assert_eq!(pack(Layout::I2sP128, 3, cols, &plain), packed, "{cols} columns");
        }
    }
}
