//! GPUs that gave no answer.

use std::{sync::Mutex, time::Duration};

use crate::backend::gpu::common::lock;

/// They are kept: the last handle of a queue waits for the GPU when it is dropped, for ever if that hangs.
static ABANDONED: Mutex<Vec<(wgpu::Device, wgpu::Queue)>> = Mutex::new(Vec::new());

/// Keeps the handles of a GPU that gave no answer.
pub fn abandon(device: &wgpu::Device, queue: &wgpu::Queue) {
    lock(&ABANDONED).push((device.clone(), queue.clone()));
}

/// Gives GPUs that gave no answer in time a last chance to end what they compute, before the program ends: a driver that
/// is unloaded in the middle of its work may crash (Mesa's software driver did, in one of some thirty runs).
pub fn settle() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    for (device, _) in lock(&ABANDONED).iter() {
        // Late or not, the program ends.
        let _ = device.poll(wgpu::PollType::Wait { submission_index: None, timeout: Some(TIMEOUT) });
    }
}
