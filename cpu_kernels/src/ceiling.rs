//! Ceilings of the machine: the figures that kernels are measured against, in the same run.

use std::{
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{Cpu, Isa, isa::Base};

/// Reads all of `data` once, on all threads, and returns the sum of its bytes. A stretch much larger than the caches
/// takes the time that a decode step over as many bytes of weights needs at least: lines are fetched ahead as the kernels
/// do it, without which one core of an Intel Xeon reads a third less.
pub fn read(cpu: &Cpu, data: &[u8]) -> u64 {
    /// Small enough to share out evenly, large enough to stream.
    const CHUNK: usize = 256 << 10;
    let total = AtomicU64::new(0);
    cpu.pool().run(data.len().div_ceil(CHUNK), |chunk| {
        let part = &data[chunk * CHUNK..data.len().min((chunk + 1) * CHUNK)];
        let sum = match cpu.isa().base() {
            Base::Scalar => part.iter().map(|&byte| u64::from(byte)).sum(),
            #[cfg(target_arch = "x86_64")]
            Base::Avx2(avx2) => x86::read(avx2, part),
            // The compiler turns the plain loop into NEON as it is.
            #[cfg(target_arch = "aarch64")]
            Base::Neon(_) => part.iter().map(|&byte| u64::from(byte)).sum(),
        };
        total.fetch_add(sum, Ordering::Relaxed);
    });
    total.into_inner()
}

/// Values that a round of [`multiply_add`] goes through, in the first-level cache: a multiple of what each loop takes.
const VALUES: usize = 3072;

/// They begin on a cache line, so that no load touches two.
#[repr(align(64))]
struct Values([i8; VALUES]);

/// Runs the multiply-add instructions of the ternary kernels, and nothing else, on all threads; returns how many
/// products of a code and a value were added.
pub fn multiply_add(cpu: &Cpu, rounds: usize) -> u64 {
    /// Rounds of a chunk: 5 us or more, so that claiming it does not show; with 64, a fifth of the time went there.
    const ROUNDS: usize = 1024;
    cpu.pool().run(rounds.div_ceil(ROUNDS), |chunk| {
        let rounds = ROUNDS.min(rounds - chunk * ROUNDS);
        match cpu.isa() {
            Isa::Scalar => multiply_add_scalar(rounds),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(avx2) => x86::multiply_add(avx2, rounds),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni(vnni) => x86::multiply_add_vnni(vnni, rounds),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni(vnni) => x86::multiply_add_512(vnni, rounds),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(neon) => arm::multiply_add(neon, rounds),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot(neon) => arm::multiply_add_dot(neon, rounds),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm(neon) => arm::multiply_add_i8mm(neon, rounds),
        }
    });
    (rounds * VALUES) as u64
}

fn multiply_add_scalar(rounds: usize) {
    let (codes, values) = ([1_u8; VALUES], [3_i8; VALUES]);
    for _ in 0..rounds {
        let products = black_box(&codes).iter().zip(black_box(&values));
        black_box(products.map(|(&c, &q)| i32::from(c) * i32::from(q)).sum::<i32>());
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{arch::x86_64::*, hint::black_box};

    use super::{VALUES, Values};
    use crate::{
        isa::{Avx2, Avx512Vnni, AvxVnni},
        x86::{AHEAD, load_i8, load_u8, prefetch_ahead, wide},
    };

    pub fn read(_: Avx2, data: &[u8]) -> u64 {
        // SAFETY: the capability token proves the features.
        unsafe { read_avx2(data) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn read_avx2(data: &[u8]) -> u64 {
        let mut sums = [_mm256_setzero_si256(); 8];
        let (lines, tail) = data.as_chunks::<256>();
        for line in lines {
            for line in line.as_chunks::<64>().0 {
                prefetch_ahead::<AHEAD, _>(line);
            }
            for (sum, part) in sums.iter_mut().zip(line.as_chunks().0) {
                *sum = _mm256_add_epi64(*sum, _mm256_sad_epu8(load_u8(part), _mm256_setzero_si256()));
            }
        }
        let sum = sums.into_iter().fold(_mm256_setzero_si256(), |sum, part| _mm256_add_epi64(sum, part));
        let halves = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let sum = _mm_extract_epi64::<0>(halves) + _mm_extract_epi64::<1>(halves);
        sum as u64 + tail.iter().map(|&byte| u64::from(byte)).sum::<u64>()
    }

    pub fn multiply_add(_: Avx2, rounds: usize) {
        // SAFETY: the capability token proves the features.
        unsafe { multiply_add_avx2(rounds) }
    }

    /// maddubs and a 16-bit addition for each 32 products; the sums wrap.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn multiply_add_avx2(rounds: usize) {
        let values = Values([3; VALUES]);
        let codes = black_box(_mm256_set1_epi8(2));
        let mut sums = [_mm256_setzero_si256(); 8];
        for _ in 0..rounds {
            for values in black_box(&values).0.as_chunks::<256>().0 {
                for (sum, values) in sums.iter_mut().zip(values.as_chunks().0) {
                    *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(codes, load_i8(values)));
                }
            }
        }
        black_box(sums);
    }

    pub fn multiply_add_vnni(_: AvxVnni, rounds: usize) {
        // SAFETY: the capability token proves the features.
        unsafe { multiply_add_avxvnni(rounds) }
    }

    /// vpdpbusd for each 32 products.
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    fn multiply_add_avxvnni(rounds: usize) {
        let values = Values([3; VALUES]);
        let codes = black_box(_mm256_set1_epi8(2));
        let mut sums = [_mm256_setzero_si256(); 12];
        for _ in 0..rounds {
            for values in black_box(&values).0.as_chunks::<384>().0 {
                for (sum, values) in sums.iter_mut().zip(values.as_chunks().0) {
                    *sum = _mm256_dpbusd_avx_epi32(*sum, codes, load_i8(values));
                }
            }
        }
        black_box(sums);
    }

    pub fn multiply_add_512(_: Avx512Vnni, rounds: usize) {
        // SAFETY: the capability token proves the features.
        unsafe { multiply_add_avx512vnni(rounds) }
    }

    /// vpdpbusd for each 64 products.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    fn multiply_add_avx512vnni(rounds: usize) {
        let values = Values([3; VALUES]);
        let codes = black_box(_mm512_set1_epi8(2));
        let mut sums = [_mm512_setzero_si512(); 12];
        for _ in 0..rounds {
            for values in black_box(&values).0.as_chunks::<768>().0 {
                for (sum, values) in sums.iter_mut().zip(values.as_chunks().0) {
                    *sum = _mm512_dpbusd_epi32(*sum, codes, wide::load_i8(values));
                }
            }
        }
        black_box(sums);
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::{arch::aarch64::*, hint::black_box};

    use super::{VALUES, Values};
    use crate::{
        arm::{dot, load_i8, matrix_product},
        isa::{Neon, NeonDot, NeonI8mm},
    };

    pub fn multiply_add(_: Neon, rounds: usize) {
        // SAFETY: the capability token proves the feature.
        unsafe { multiply_add_neon(rounds) }
    }

    /// Two smlal for each 16 products; the sums wrap.
    #[target_feature(enable = "neon")]
    fn multiply_add_neon(rounds: usize) {
        let values = Values([3; VALUES]);
        let codes = black_box(vdupq_n_s8(2));
        let mut sums = [vdupq_n_s16(0); 16];
        for _ in 0..rounds {
            for values in black_box(&values).0.as_chunks::<128>().0 {
                for (sums, values) in sums.as_chunks_mut::<2>().0.iter_mut().zip(values.as_chunks().0) {
                    let values = load_i8(values);
                    sums[0] = vmlal_s8(sums[0], vget_low_s8(codes), vget_low_s8(values));
                    sums[1] = vmlal_high_s8(sums[1], codes, values);
                }
            }
        }
        black_box(sums);
    }

    pub fn multiply_add_dot(_: NeonDot, rounds: usize) {
        // SAFETY: the capability token proves the feature.
        unsafe { multiply_add_neondot(rounds) }
    }

    /// sdot for each 16 products.
    #[target_feature(enable = "neon,dotprod")]
    fn multiply_add_neondot(rounds: usize) {
        let values = Values([3; VALUES]);
        let codes = black_box(vdupq_n_s8(2));
        let mut sums = [vdupq_n_s32(0); 16];
        for _ in 0..rounds {
            for values in black_box(&values).0.as_chunks::<256>().0 {
                for (sum, values) in sums.iter_mut().zip(values.as_chunks().0) {
                    *sum = dot(*sum, codes, load_i8(values));
                }
            }
        }
        black_box(sums);
    }

    pub fn multiply_add_i8mm(_: NeonI8mm, rounds: usize) {
        // SAFETY: the capability token proves the features.
        unsafe { multiply_add_neoni8mm(rounds) }
    }

    /// smmla for each 32 products: each value meets the codes of two rows.
    #[target_feature(enable = "neon,dotprod,i8mm")]
    fn multiply_add_neoni8mm(rounds: usize) {
        let values = Values([3; VALUES]);
        let codes = black_box(vdupq_n_s8(2));
        let mut sums = [vdupq_n_s32(0); 16];
        for _ in 0..rounds.div_ceil(2) {
            for values in black_box(&values).0.as_chunks::<256>().0 {
                for (sum, values) in sums.iter_mut().zip(values.as_chunks().0) {
                    *sum = matrix_product(*sum, codes, load_i8(values));
                }
            }
        }
        black_box(sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, cpus};

    #[test]
    fn every_byte_is_read_once_and_every_product_counted() {
        for n in [0, 3, 255, 256, 257, 600_001] {
            let data: Vec<u8> = Rng::new(16).i8s(n).iter().map(|&x| x as u8).collect();
            let expected: u64 = data.iter().map(|&byte| u64::from(byte)).sum();
            for cpu in cpus() {
                assert_eq!(read(&cpu, &data), expected, "{cpu:?}: {n} bytes");
            }
        }
        for cpu in cpus() {
            assert_eq!(multiply_add(&cpu, 100), 100 * VALUES as u64, "{cpu:?}");
        }
    }
}
