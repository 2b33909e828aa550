//! Where a model runs, and with what sizes.

use std::num::NonZeroUsize;

use clap::{Args, ValueEnum};

use crate::{
    backend::cpu::Kernel,
    engine, machine,
    plan::{KvType, Prefer, Request},
};

/// Where the model runs, and with what sizes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    /// Backend that computes: auto measures and takes the faster, and never a software GPU
    #[arg(long, value_enum, default_value = "auto", env = "BITNET_BACKEND")]
    pub backend: BackendChoice,

    /// Goal of auto: the time of an answer, the memory beside the mapped file, or the energy of a token
    #[arg(long, value_enum, value_name = "WHAT", default_value = "speed", env = "BITNET_PREFER")]
    pub prefer: Preference,

    /// Layers on the GPU, from the end: a number, "all" that fit, or "auto" [llama.cpp: -ngl]
    #[arg(
        long,
        visible_alias = "gpu-layers",
        value_name = "N",
        default_value = "auto",
        value_parser = gpu_layers,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_N_GPU_LAYERS"
    )]
    pub n_gpu_layers: GpuLayers,

    /// GPU to use: its number in `devices`, or a part of its name; none = the CPU alone [llama.cpp: -dev]
    #[arg(long, value_name = "DEVICE", value_parser = device, env = "LLAMA_ARG_DEVICE")]
    pub device: Option<String>,

    /// Memory of the GPU to use at most, as 6G or 800M; without it what its driver says is free
    #[arg(long, value_name = "SIZE", value_parser = byte_size, env = "BITNET_GPU_MEMORY")]
    pub gpu_memory: Option<u64>,

    /// Kernel for ternary matrices on the CPU, a token at a time; the answers are the same. auto: the one that `tune`
    /// found, else base3 for a large model where the processor has AVX-512 VBMI and its copy fits, else i2_s
    #[arg(long, value_enum, default_value = "auto", env = "BITNET_KERNEL")]
    pub kernel: KernelChoice,

    #[command(flatten)]
    pub threads: ThreadsArgs,

    /// Tokens of prompt and answer together; 0 = what the model was trained for
    ///
    /// Without this flag that too, but at most 4096, or what `run` needs for its prompt.
    #[arg(
        short,
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(..=MAX_CONTEXT),
        allow_negative_numbers = true,
        env = "LLAMA_ARG_CTX_SIZE"
    )]
    pub ctx_size: Option<u32>,

    /// Most tokens of the prompt computed at once
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = 512,
        value_parser = clap::value_parser!(u32).range(1..=4096),
        allow_negative_numbers = true,
        env = "LLAMA_ARG_BATCH"
    )]
    pub batch_size: u32,

    /// Whether the highest logits are found by a copy of the output head in 6 bits (in 2, where it is ternary) that
    /// leaves out, by proof, the rows that cannot be among them: the answers stay the same. auto = where the copy is
    /// large and pays
    #[arg(long, value_enum, default_value = "auto", env = "BITNET_HEAD_SCREEN")]
    pub head_screen: HeadChoice,

    /// Type of the key cache; q8_0 takes half of f16 [llama.cpp: -ctk]
    #[arg(long, value_enum, value_name = "TYPE", default_value = "f16", env = "LLAMA_ARG_CACHE_TYPE_K")]
    pub cache_type_k: CacheType,

    /// Type of the value cache, likewise [llama.cpp: -ctv]
    #[arg(long, value_enum, value_name = "TYPE", default_value = "f16", env = "LLAMA_ARG_CACHE_TYPE_V")]
    pub cache_type_v: CacheType,
}

/// llama.cpp's word for doing without a device.
pub const NO_DEVICE: &str = "none";

/// One device: a model does not run on several GPUs here.
pub(super) fn device(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("expected the number or the name of a device".to_owned()),
        several if several.contains(',') => Err("expected one device: a model runs on one GPU".to_owned()),
        one => Ok(one.to_owned()),
    }
}

/// A bound for numbers that come from a user; no model of today comes near.
pub(super) const MAX_CONTEXT: i64 = 1 << 24;

/// More are refused.
pub(super) const MAX_THREADS: i64 = engine::EngineOptions::MOST_THREADS as i64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendChoice {
    Auto,
    Cpu,
    Gpu,
}

impl BackendChoice {
    /// Where no number of layers is given.
    pub fn request(self) -> Request {
        match self {
            Self::Auto => Request::Auto,
            Self::Cpu => Request::Cpu,
            Self::Gpu => Request::Gpu,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preference {
    Speed,
    Memory,
    Energy,
}

impl From<Preference> for Prefer {
    fn from(preference: Preference) -> Self {
        match preference {
            Preference::Speed => Self::Speed,
            Preference::Memory => Self::Memory,
            Preference::Energy => Self::Energy,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KernelChoice {
    Auto,
    /// Multiply and add; 2 bits a weight
    #[value(name = "i2_s", alias = "mad")]
    I2S,
    /// Look up pairs of weights; 2 bits a weight
    #[value(name = "tl1")]
    TL1,
    /// Look up triples of weights; 1.67 bits a weight
    #[value(name = "tl2")]
    TL2,
    /// Multiply and add, five weights a byte; 1.6 bits a weight. Fast with AVX-512 VBMI only
    #[value(name = "base3")]
    Base3,
}

impl KernelChoice {
    /// The one kernel that is asked for.
    pub fn forced(self) -> Option<Kernel> {
        match self {
            Self::Auto => None,
            Self::I2S => Some(Kernel::I2S),
            Self::TL1 => Some(Kernel::TL1),
            Self::TL2 => Some(Kernel::TL2),
            Self::Base3 => Some(Kernel::Base3),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuLayers {
    Auto,
    All,
    Count(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HeadChoice {
    Auto,
    On,
    Off,
}

impl From<HeadChoice> for engine::HeadScreen {
    fn from(choice: HeadChoice) -> Self {
        match choice {
            HeadChoice::Auto => Self::Auto,
            HeadChoice::On => Self::On,
            HeadChoice::Off => Self::Off,
        }
    }
}

/// llama.cpp's values: a count, "auto" or -1, "all" or -2.
fn gpu_layers(text: &str) -> Result<GpuLayers, String> {
    match text {
        "auto" | "-1" => Ok(GpuLayers::Auto),
        "all" | "-2" => Ok(GpuLayers::All),
        number => number
            .parse::<u32>()
            .map(|n| GpuLayers::Count(n as usize))
            .map_err(|_| "expected a number of layers, \"all\" or \"auto\"".to_owned()),
    }
}

/// "800M", "6G", "6GiB", a number of bytes; K, M, G count by 1024.
pub(super) fn byte_size(text: &str) -> Result<u64, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[number.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err("expected a size like 6G, 800M or a number of bytes".to_owned()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|count| count.checked_mul(1 << shift));
    bytes.ok_or_else(|| "expected a size like 6G, 800M or a number of bytes".to_owned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CacheType {
    F16,
    F32,
    #[value(name = "q8_0")]
    Q8_0,
}

impl From<CacheType> for KvType {
    fn from(ty: CacheType) -> Self {
        match ty {
            CacheType::F16 => Self::F16,
            CacheType::F32 => Self::F32,
            CacheType::Q8_0 => Self::Q8_0,
        }
    }
}

/// How many threads compute.
#[derive(Args, Clone, Copy, Debug)]
pub struct ThreadsArgs {
    /// CPU threads; 0 or -1 = one for each core that this program may use
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = -1,
        value_parser = clap::value_parser!(i64).range(-1..=MAX_THREADS),
        allow_negative_numbers = true,
        env = "LLAMA_ARG_THREADS"
    )]
    pub threads: i64,
}

impl ThreadsArgs {
    /// `None` where the number is up to the program.
    pub fn asked(self) -> Option<NonZeroUsize> {
        usize::try_from(self.threads).ok().and_then(NonZeroUsize::new)
    }

    /// The number itself.
    pub fn count(self) -> usize {
        self.asked().map_or_else(|| machine::cores().threads, NonZeroUsize::get)
    }
}

impl EngineArgs {
    /// `--backend`, `--device none` and `-ngl` as one request. The CPU wins, as `-ngl` may come from the environment.
    pub fn request(&self) -> Request {
        if self.device.as_deref() == Some(NO_DEVICE) {
            return Request::Cpu;
        }
        match (self.backend, self.n_gpu_layers) {
            (BackendChoice::Cpu, _) => Request::Cpu,
            (_, GpuLayers::Count(n)) => Request::GpuLayers(n),
            (_, GpuLayers::All) => Request::Gpu,
            (backend, GpuLayers::Auto) => backend.request(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::byte_size;

    #[test]
    fn sizes_have_units_of_1024() {
        assert_eq!(byte_size("77"), Ok(77));
        assert_eq!(byte_size("3k"), Ok(3072));
        assert_eq!(byte_size("800M"), Ok(800 << 20));
        assert_eq!(byte_size("6GiB"), Ok(6 << 30));
        for wrong in ["", "G", "1.5G", "-1", "6 G", "6T", "99999999999G"] {
            assert!(byte_size(wrong).is_err(), "{wrong}");
        }
    }
}
