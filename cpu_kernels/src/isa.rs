//! Which instruction sets this processor has.
//!
//! A variant of a kernel takes a capability token, [`Avx2`] say. Its field is private and its only constructor asks
//! the processor, so a token in hand proves that the instructions exist: the `unsafe` calls cite it.

use std::{fmt, sync::OnceLock};

/// Proof that the processor has AVX2, FMA and F16C (Intel Haswell 2013, AMD Excavator 2015 and later).
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// Asks the processor.
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c"))
            .then_some(Self(()))
    }
}

/// Proof that the processor has AVX-VNNI, the 256-bit `vpdpbusd` without AVX-512 (Intel Alder Lake 2021, AMD Zen 5
/// 2024), and what [`Avx2`] proves.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvxVnni(Avx2);

#[cfg(target_arch = "x86_64")]
impl AvxVnni {
    /// Asks the processor.
    pub fn detect() -> Option<Self> {
        is_x86_feature_detected!("avxvnni").then(Avx2::detect).flatten().map(Self)
    }
}

/// Proof that the processor has AVX-512 F, BW, VL and VNNI (Intel Cascade Lake 2019, AMD Zen 4 2022), and what
/// [`Avx2`] proves.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512Vnni(Avx2);

#[cfg(target_arch = "x86_64")]
impl Avx512Vnni {
    /// Asks the processor.
    pub fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        all.then(Avx2::detect).flatten().map(Self)
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx512Vnni {
    /// The proof of AVX-512 VBMI, where the processor has that as well.
    pub fn vbmi(self) -> Option<Avx512Vbmi> {
        is_x86_feature_detected!("avx512vbmi").then_some(Avx512Vbmi(self))
    }
}

/// Proof that the processor has AVX-512 VBMI, tables of bytes in registers (Intel Ice Lake 2019, AMD Zen 4 2022), and
/// what [`Avx512Vnni`] proves. No variant of its own: two kernels use it.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512Vbmi(Avx512Vnni);

#[cfg(target_arch = "x86_64")]
impl Avx512Vbmi {
    /// The proof of AVX-512 VNNI, which comes with it.
    pub fn vnni(self) -> Avx512Vnni {
        self.0
    }
}

/// Proof that the processor has NEON, as every aarch64 target of this program has.
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neon(());

/// Proof that the processor has NEON and the dot product of bytes (Arm Cortex-A55 2018 and later, all Apple M).
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeonDot(Neon);

#[cfg(target_arch = "aarch64")]
impl NeonDot {
    /// Asks the processor.
    pub fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("dotprod").then_some(Self(Neon(())))
    }
}

/// Proof that the processor has products of small matrices of bytes (Armv8.6: Neoverse V1 and N2, Apple M2 and later),
/// and what [`NeonDot`] proves.
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeonI8mm(NeonDot);

#[cfg(target_arch = "aarch64")]
impl NeonI8mm {
    /// Asks the processor.
    pub fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("i8mm").then(NeonDot::detect).flatten().map(Self)
    }

    /// The proof of [`NeonDot`]'s instructions, which comes with it.
    pub fn dot(self) -> NeonDot {
        self.0
    }
}

/// The variant that the kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// The reference: plain loops.
    Scalar,
    /// 256-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// 256-bit vectors, and one instruction for four products and their sum.
    #[cfg(target_arch = "x86_64")]
    AvxVnni(AvxVnni),
    /// 512-bit vectors, and the same instruction.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512Vnni),
    /// 128-bit vectors.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    /// 128-bit vectors, and one instruction for four products and their sum.
    #[cfg(target_arch = "aarch64")]
    NeonDot(NeonDot),
    /// 128-bit vectors, and one instruction for 32 products and their sums.
    #[cfg(target_arch = "aarch64")]
    NeonI8mm(NeonI8mm),
}

/// The variants that have every operation; the others have their own kernels only where it pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The reference: plain loops.
    Scalar,
    /// 256-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// 128-bit vectors.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

/// Set once, as weights are packed for the kernels of one variant.
static CHOSEN: OnceLock<Isa> = OnceLock::new();

impl Isa {
    /// The one of [`Self::choose`], else the best one here.
    pub fn detect() -> Self {
        *CHOSEN.get_or_init(|| *Self::available().last().expect("the scalar variant is always there"))
    }

    /// Makes [`Self::detect`] give this one from now on, to measure or to try what another processor would run. False if
    /// that has given another one before.
    pub fn choose(self) -> bool {
        *CHOSEN.get_or_init(|| self) == self
    }

    /// All that run here, slowest first.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "other processors have only the reference")]
        let mut found = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            found.extend(Avx2::detect().map(Self::Avx2));
            found.extend(AvxVnni::detect().map(Self::AvxVnni));
            found.extend(Avx512Vnni::detect().map(Self::Avx512Vnni));
        }
        #[cfg(target_arch = "aarch64")]
        {
            found.push(Self::Neon(Neon(())));
            found.extend(NeonDot::detect().map(Self::NeonDot));
            found.extend(NeonI8mm::detect().map(Self::NeonI8mm));
        }
        found
    }

    /// Names of all variants this program was built with, whether they run here or not; slowest first.
    pub const NAMES: &[&str] = &[
        "scalar",
        #[cfg(target_arch = "x86_64")]
        "avx2",
        #[cfg(target_arch = "x86_64")]
        "avxvnni",
        #[cfg(target_arch = "x86_64")]
        "avx512vnni",
        #[cfg(target_arch = "aarch64")]
        "neon",
        #[cfg(target_arch = "aarch64")]
        "neondot",
        #[cfg(target_arch = "aarch64")]
        "neoni8mm",
    ];

    /// The name that [`Isa::by_name`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(_) => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(_) => "avx512vnni",
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => "neon",
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot(_) => "neondot",
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm(_) => "neoni8mm",
        }
    }

    /// The instruction set for operations that this variant has no own kernel for.
    pub fn base(self) -> Base {
        match self {
            Self::Scalar => Base::Scalar,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(avx2) | Self::AvxVnni(AvxVnni(avx2)) | Self::Avx512Vnni(Avx512Vnni(avx2)) => Base::Avx2(avx2),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(neon) | Self::NeonDot(NeonDot(neon)) | Self::NeonI8mm(NeonI8mm(NeonDot(neon))) => {
                Base::Neon(neon)
            }
        }
    }

    /// `None` if there is no such variant or this processor cannot run it.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::available().into_iter().find(|isa| isa.name() == name)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_variant_is_found_by_its_name() {
        for isa in Isa::available() {
            assert_eq!(Isa::by_name(isa.name()), Some(isa));
            assert!(Isa::NAMES.contains(&isa.name()));
        }
        assert_eq!(Isa::by_name("no such variant"), None);
    }

    #[test]
    fn the_best_variant_is_the_last_available_one() {
        let order = |isa: Isa| Isa::NAMES.iter().position(|&name| name == isa.name());
        assert!(Isa::available().into_iter().all(|isa| order(isa) <= order(Isa::detect())));
    }
}
