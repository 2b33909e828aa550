//! Costs of steps, in numbers that do not depend on the machine.

use std::time::Duration;

/// Work of the steps so far; differences between two readings describe a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// wgpu objects created.
    pub objects_created: u64,
    /// Kernels started.
    pub dispatches: u64,
    /// Command buffers submitted.
    pub submits: u64,
    /// Bytes read back.
    pub readback_bytes: u64,
    /// Time of the processor spent on recording and submitting.
    pub recording: Duration,
}

impl Counters {
    /// Work done between `before` and this reading.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            objects_created: self.objects_created - before.objects_created,
            dispatches: self.dispatches - before.dispatches,
            submits: self.submits - before.submits,
            readback_bytes: self.readback_bytes - before.readback_bytes,
            recording: self.recording.saturating_sub(before.recording),
        }
    }
}
