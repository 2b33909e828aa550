//! Failures of a device: wgpu's callbacks note them, and the next check makes an error of them.

use std::sync::{Arc, Mutex};

use crate::{
    backend::gpu::common::{lock, one_line},
    error::{Error, Result},
};

/// An operation that wgpu or the driver refused.
#[derive(Debug)]
pub struct Failure {
    pub out_of_memory: bool,
    pub reason: String,
}

impl Failure {
    pub fn new(error: &wgpu::Error) -> Self {
        let out_of_memory = matches!(error, wgpu::Error::OutOfMemory { .. });
        Self { out_of_memory, reason: one_line(&error.to_string()) }
    }

    pub fn error(self, action: String) -> Error {
        let Self { out_of_memory, reason } = self;
        if out_of_memory { Error::GpuMemory { action, reason } } else { Error::Gpu { action, reason } }
    }
}

#[derive(Debug, Default)]
struct Noted {
    lost: Option<String>,
    failure: Option<Failure>,
}

/// Failures since the last check.
#[derive(Debug, Default)]
pub struct Health(Mutex<Noted>);

impl Health {
    /// The health of a device, which reports to it from now on.
    pub fn of(device: &wgpu::Device) -> Arc<Self> {
        let health = Arc::new(Self::default());
        let errors = Arc::clone(&health);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| errors.note(Failure::new(&error))));
        let losses = Arc::clone(&health);
        device.set_device_lost_callback(move |reason, message| {
            losses.lose(one_line(&format!("{reason:?} {message}")));
        });
        health
    }

    /// Notes a failure; the first one counts.
    pub fn note(&self, failure: Failure) {
        lock(&self.0).failure.get_or_insert(failure);
    }

    /// Notes that the device is lost; the first reason counts.
    pub fn lose(&self, reason: String) {
        lock(&self.0).lost.get_or_insert(reason);
    }

    /// The first failure since the last check. A lost device stays lost.
    pub fn check(&self, action: &str) -> Result<()> {
        let mut noted = lock(&self.0);
        if let Some(reason) = &noted.lost {
            return Err(Error::DeviceLost { reason: reason.clone() });
        }
        match noted.failure.take() {
            Some(failure) => Err(failure.error(action.to_owned())),
            None => Ok(()),
        }
    }
}
