//! Code shared by the GPU suites: opening a device (a software one counts), and small helpers on bytes.

pub mod model;

use std::sync::Arc;

use bitnet_cpu_kernels::{Cpu, Isa, testing::Rng};
use bitnet_gpu::{
    Error,
    backend::gpu::{Gpu, GpuBackend, OpenOptions, Tuning},
};

/// The options of all suites: software adapters count.
pub fn options(tuning: Tuning) -> OpenOptions {
    OpenOptions { software_allowed: true, tuning, ..OpenOptions::default() }
}

/// `None`, and a line that says so, on a machine without any adapter; `BITNET_REQUIRE_GPU=1` makes that a failure.
fn or_skip<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(opened) => Some(opened),
        Err(Error::NoAdapter { reason }) if std::env::var("BITNET_REQUIRE_GPU").is_ok_and(|v| v == "1") => {
            panic!("BITNET_REQUIRE_GPU=1, but no usable GPU adapter: {reason}")
        }
        Err(Error::NoAdapter { reason }) => {
            eprintln!("skipped: no usable GPU adapter: {reason}");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

pub fn open_gpu(tuning: Tuning) -> Option<Gpu> {
    or_skip(Gpu::open(&options(tuning)))
}

pub fn open_backend(tuning: Tuning) -> Option<GpuBackend> {
    // Without the self-test: each suite is one, and a more thorough one.
    or_skip(Gpu::open(&options(tuning)).map(|gpu| GpuBackend::on(Arc::new(gpu))))
}

/// Devices that a test opens more than once: kernels are compiled once for each.
#[derive(Default)]
pub struct Devices(Vec<(Tuning, Arc<Gpu>)>);

impl Devices {
    /// As [`open_backend`], on the device that was opened for this `tuning`.
    pub fn backend(&mut self, tuning: Tuning) -> Option<GpuBackend> {
        if let Some((_, gpu)) = self.0.iter().find(|(of, _)| *of == tuning) {
            return Some(GpuBackend::on(Arc::clone(gpu)));
        }
        let gpu = Arc::new(open_gpu(tuning.clone())?);
        self.0.push((tuning, Arc::clone(&gpu)));
        Some(GpuBackend::on(gpu))
    }
}

/// The reference.
pub fn scalar() -> Cpu {
    Cpu::new(Isa::Scalar, 1)
}

pub fn bytes(values: &[f32]) -> &[u8] {
    bytemuck::cast_slice(values)
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(bytes)
}

/// The largest difference, relative to the norm of the reference over the root of its length: 1 is an element
/// as wrong as a typical one is large. A wrong formula gives 0.1 to 1; rounding gives below 1e-4.
pub fn worst(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "lengths");
    let typical = (expected.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / expected.len() as f64).sqrt();
    let most = found
        .iter()
        .zip(expected)
        .map(|(&a, &b)| if a.is_finite() { (f64::from(a) - f64::from(b)).abs() } else { f64::INFINITY })
        .fold(0.0, f64::max);
    most / typical.max(f64::MIN_POSITIVE)
}

/// The norm of the difference over the norm of the reference.
pub fn relative_l2(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "lengths");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    difference / norm(&mut expected.iter().map(|&b| f64::from(b)))
}

/// Activations with a few large values, as real ones have.
pub fn activations(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.f32() * if rng.below(50) == 0 { 20.0 } else { 1.0 }).collect()
}
