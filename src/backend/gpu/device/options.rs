//! How a GPU is opened, and the departures from what it offers.

use std::ops::Range;

use super::geometry::Geometry;
use crate::{
    backend::gpu::kernels::pipelines::{Product, Tile},
    cache_dir::Cache,
};

/// How a GPU is looked for and opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Allow an adapter that runs on the processor (lavapipe, WARP): right, but slower than the CPU backend.
    pub software_allowed: bool,
    /// Take this adapter; else the variable `WGPU_ADAPTER_NAME` names it, else the order of
    /// [`AdapterCaps::rank`](super::AdapterCaps::rank) decides.
    pub device: Option<DeviceChoice>,
    /// Departures from what the device offers.
    pub tuning: Tuning,
    /// Time the kernels that differ, and take the fastest.
    pub measure: Measure,
    /// Where compiled kernels and what was measured are kept; nowhere by default.
    pub cache: Cache,
}

/// An adapter of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// By its place in the list of [`adapters`](super::adapters), which tells those of one name apart.
    Number(usize),
    /// The first one whose name contains this, ignoring case.
    Named(String),
}

impl From<&str> for DeviceChoice {
    /// `0`, and what other programs call their first device: `GPU0`, `Vulkan0`, `CUDA0`; else a name.
    fn from(text: &str) -> Self {
        const FAMILIES: [&str; 9] = ["", "gpu", "vulkan", "metal", "mtl", "dx12", "cuda", "rocm", "sycl"];
        let text = text.trim();
        let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
        let family = text[..text.len() - digits.len()].trim_end_matches([' ', ':']).to_ascii_lowercase();
        // Of "DX120" the family ends in digits.
        let (family, digits) = match digits.strip_prefix("12") {
            Some(rest) if family == "dx" => ("dx12".to_owned(), rest),
            _ => (family, digits),
        };
        match digits.parse() {
            Ok(number) if FAMILIES.contains(&family.as_str()) => Self::Number(number),
            _ => Self::Named(text.to_owned()),
        }
    }
}

/// On which adapters kernels are timed when they are opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// On none: the choices of [`AdapterCaps`](super::AdapterCaps) and [`Tuning`] hold.
    #[default]
    Never,
    /// On GPUs, where it takes tens of milliseconds.
    Hardware,
    /// On software adapters as well, where it takes seconds.
    Always,
}

/// Lowers what a device offers, or fixes a choice. For tests, benchmarks and work around drivers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Most bytes of one binding.
    pub max_binding_bytes: Option<u64>,
    /// Most bytes of one buffer of weights.
    pub max_arena_bytes: Option<u64>,
    /// Bytes of device memory that may be used.
    pub memory_bytes: Option<u64>,
    /// Most tokens computed together.
    pub chunk_tokens: Option<usize>,
    /// Subgroup operations or not.
    pub subgroups: Option<bool>,
    /// The twin of the ternary products.
    pub product: Option<Product>,
    /// The twin of their tiles.
    pub tile: Option<Tile>,
    /// Parameters as immediates or through a uniform buffer.
    pub immediates: Option<bool>,
    /// Weights straight into mapped buffers (true) or through staging memory.
    pub mapped_upload: Option<bool>,
    /// Norm and quantisation as part of the products of a decode step, or as kernels of their own.
    pub fold: Option<bool>,
    /// How products are cut, in place of what is measured.
    pub geometry: Option<Geometry>,
    /// Let wgpu add bounds checks to the shaders.
    pub checked_shaders: bool,
    /// Ask of the device no more than the kernels need: no features, and limits that every device has.
    pub least: bool,
    /// Bytes of device memory that turn out to be left when a model is loaded.
    #[cfg(feature = "fault-injection")]
    pub later_memory_bytes: Option<u64>,
    /// Bytes of the largest buffer that can be mapped for writing.
    #[cfg(feature = "fault-injection")]
    pub mappable_bytes: Option<u64>,
    /// Something that fails.
    #[cfg(feature = "fault-injection")]
    pub fault: Option<Fault>,
    /// It fails in segments that take more than so many bytes.
    #[cfg(feature = "fault-injection")]
    pub fault_above: u64,
}

#[cfg(feature = "fault-injection")]
impl Tuning {
    /// The fault of a segment of `bytes`; `None`: of any.
    pub fn fault_of(&self, bytes: Option<u64>) -> Option<Fault> {
        self.fault.filter(|_| bytes.is_none_or(|bytes| bytes > self.fault_above))
    }

    /// Bytes of device memory that turn out to be left when a model is loaded.
    pub fn later_memory_bytes(&self) -> Option<u64> {
        self.later_memory_bytes
    }

    /// Bytes of the largest buffer that can be mapped for writing.
    pub fn mappable_bytes(&self) -> Option<u64> {
        self.mappable_bytes
    }
}

/// Nothing fails on demand.
#[cfg(not(feature = "fault-injection"))]
impl Tuning {
    #[doc(hidden)]
    pub fn fault_of(&self, _bytes: Option<u64>) -> Option<Fault> {
        None
    }

    #[doc(hidden)]
    pub fn later_memory_bytes(&self) -> Option<u64> {
        None
    }

    #[doc(hidden)]
    pub fn mappable_bytes(&self) -> Option<u64> {
        None
    }
}

/// A failure on demand, with the feature `fault-injection`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A product of the self-test gives a wrong number.
    SelfTest,
    /// The allocation of the caches, for want of memory.
    Load,
    /// The device is destroyed before the step that runs this position, as after a driver reset.
    Lost(usize),
    /// The driver reports that memory ran out in that step.
    OutOfMemory(usize),
    /// A kernel of layer 0 notes a number that is not finite in that step.
    NotFinite(usize),
    /// That step is not waited for, as if it never ended.
    Silence(usize),
    /// The driver drops that step without a word.
    Dropped(usize),
}

impl Fault {
    /// True for the step that runs `positions`.
    pub fn hits(self, positions: &Range<usize>) -> bool {
        match self {
            Self::SelfTest | Self::Load => false,
            Self::Lost(at) | Self::OutOfMemory(at) | Self::NotFinite(at) | Self::Silence(at) | Self::Dropped(at) => {
                positions.contains(&at)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_numbers_and_names() {
        for (text, number) in [("0", 0), ("GPU 1", 1), ("Vulkan0", 0), ("CUDA2", 2), ("dx121", 1), ("Metal0", 0)] {
            assert_eq!(DeviceChoice::from(text), DeviceChoice::Number(number), "{text}");
        }
        for name in ["NVIDIA H200", "Radeon 780M", "llvmpipe", "Arc A770", ""] {
            assert_eq!(DeviceChoice::from(name), DeviceChoice::Named(name.into()));
        }
    }

    #[test]
    fn a_fault_hits_the_step_with_its_position() {
        assert!(Fault::Lost(5).hits(&(5..6)) && Fault::Lost(5).hits(&(0..8)));
        assert!(!Fault::Lost(5).hits(&(0..5)) && !Fault::Load.hits(&(0..9)));
    }
}
