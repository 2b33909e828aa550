//! Arguments of Python as options of the engine, named after those of llama-cpp-python.

use std::num::NonZeroUsize;

use bitnet_gpu::{EngineOptions, Error, I2sLayout, I2sPacking, Kernel, KvType, Prefer, Request, Result};

/// Bounds for numbers that come from a user; no model or machine of today comes near.
const MOST_CONTEXT: i64 = 1 << 24;
const MOST_BATCH: i64 = 4096;
const MOST_THREADS: i64 = EngineOptions::MOST_THREADS as i64;
const MOST_SEQUENCES: i64 = 1024;

/// Where and how a model runs, as Python says it.
pub struct Arguments<'a> {
    pub backend: &'a str,
    pub n_gpu_layers: Option<i64>,
    pub device: Option<String>,
    pub gpu_memory: Option<u64>,
    pub n_ctx: Option<i64>,
    pub n_threads: Option<i64>,
    pub n_batch: i64,
    pub n_seqs: i64,
    pub type_k: &'a str,
    pub type_v: &'a str,
    pub kernel: Option<&'a str>,
    pub prefer: &'a str,
}

impl Arguments<'_> {
    /// Options of the engine.
    ///
    /// # Errors
    /// If a value is none of those that are known, or a number out of bounds.
    pub fn options(self) -> Result<EngineOptions> {
        let mut options = EngineOptions::default();
        options.request = self.request()?;
        options.prefer = one_of("prefer", self.prefer, &PREFERENCES)?;
        options.device = self.device;
        options.gpu_memory = self.gpu_memory;
        options.threads = match self.n_threads {
            None | Some(-1 | 0) => None,
            Some(threads) => NonZeroUsize::new(within("n_threads", threads, (1, MOST_THREADS))?),
        };
        options.context_tokens = self.n_ctx.map(|tokens| within("n_ctx", tokens, (0, MOST_CONTEXT))).transpose()?;
        options.batch_tokens = within("n_batch", self.n_batch, (1, MOST_BATCH))?;
        options.sequences = within("n_seqs", self.n_seqs, (1, MOST_SEQUENCES))?;
        options.k_type = one_of("type_k", self.type_k, &CACHE_TYPES)?;
        options.v_type = one_of("type_v", self.type_v, &CACHE_TYPES)?;
        options.kernel = match self.kernel {
            None | Some("auto") => None,
            Some(name) => Some(one_of("kernel", name, &Kernel::ALL.map(|kernel| (kernel.name(), kernel)))?),
        };
        Ok(options)
    }

    /// llama.cpp's numbers of layers, -1 for all, beside names of backends.
    fn request(&self) -> Result<Request> {
        let backend = one_of("backend", self.backend, &BACKENDS)?;
        Ok(match self.n_gpu_layers {
            _ if backend == Request::Cpu => backend,
            None => backend,
            Some(0) => Request::Cpu,
            Some(-1) => Request::Gpu,
            Some(layers) => Request::GpuLayers(within("n_gpu_layers", layers, (-1, i64::from(u32::MAX)))?),
        })
    }
}

/// How the I2_S matrices of a file are read.
///
/// # Errors
/// If there is no layout of that name.
pub fn i2s_layout(name: Option<&str>) -> Result<I2sLayout> {
    match name {
        None => Ok(I2sLayout::Usual),
        Some("auto") => Ok(I2sLayout::Try),
        Some(name) => {
            let packings = [I2sPacking::P128, I2sPacking::P64, I2sPacking::R4, I2sPacking::Seq];
            one_of("i2s_layout", name, &packings.map(|packing| (packing.name(), packing))).map(I2sLayout::Given)
        }
    }
}

const BACKENDS: [(&str, Request); 3] = [("auto", Request::Auto), ("cpu", Request::Cpu), ("gpu", Request::Gpu)];

const PREFERENCES: [(&str, Prefer); 3] =
    [("speed", Prefer::Speed), ("memory", Prefer::Memory), ("energy", Prefer::Energy)];

const CACHE_TYPES: [(&str, KvType); 3] = [("f16", KvType::F16), ("f32", KvType::F32), ("q8_0", KvType::Q8_0)];

fn one_of<T: Copy>(argument: &str, name: &str, known: &[(&str, T)]) -> Result<T> {
    let found = known.iter().find(|(known, _)| *known == name);
    found.map(|&(_, value)| value).ok_or_else(|| {
        let names: Vec<String> = known.iter().map(|(name, _)| format!("{name:?}")).collect();
        Error::Usage(format!("{argument}: expected one of {}, found {name:?}", names.join(", ")))
    })
}

fn within(argument: &str, number: i64, (least, most): (i64, i64)) -> Result<usize> {
    let found = usize::try_from(number).ok().filter(|_| (least..=most).contains(&number));
    found.ok_or_else(|| Error::Usage(format!("{argument}: expected {least} to {most}, found {number}")))
}
