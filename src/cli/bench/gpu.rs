//! Costs of a test on the GPU: dispatches, recording, reading back, and the time of every kernel.

use serde_json::{Value as Json, json};

use super::{super::format, Test, measure};
use crate::{
    backend::gpu::{GpuBackend, KernelTime},
    error::Result,
    model::Model,
    session::Session,
};

/// Costs of one test, for each of its tokens.
pub struct Costs {
    dispatches: f64,
    objects_created: f64,
    readback_bytes: f64,
    record_us: f64,
    /// Tokens of the test.
    tokens: usize,
    /// Times of the kernels in one more run of the test; `None` when not asked for.
    kernels: Option<Vec<KernelTime>>,
}

/// The costs of the runs of `samples`; with `profile` the test is run once more to time the kernels.
pub fn costs(
    session: &mut Session,
    model: &Model,
    test: Test,
    profile: bool,
    samples: &measure::Samples,
) -> Result<Option<Costs>> {
    let Some(done) = samples.gpu else {
        if profile {
            log::warn!("no kernels are timed for {}: the GPU has no part in it", test.name());
        }
        return Ok(None);
    };
    let tokens = (samples.times.len() * test.tokens).max(1) as f64;
    Ok(Some(Costs {
        dispatches: done.dispatches as f64 / tokens,
        objects_created: done.objects_created as f64 / tokens,
        readback_bytes: done.readback_bytes as f64 / tokens,
        record_us: done.recording.as_secs_f64() * 1e6 / tokens,
        tokens: test.tokens,
        kernels: if profile { Some(time_kernels(session, model, test)?) } else { None },
    }))
}

fn time_kernels(session: &mut Session, model: &Model, test: Test) -> Result<Vec<KernelTime>> {
    if let Some(gpu) = measure::gpu(session) {
        gpu.start_profile()?;
    }
    let ran = measure::once(session, model, test, &mut Vec::new());
    let kernels = measure::gpu(session).map(GpuBackend::take_profile).unwrap_or_default();
    ran.map(|_| kernels)
}

/// Billions of bytes a second; `None` for kernels that stream nothing.
fn gb_s(kernel: &KernelTime) -> Option<f64> {
    (kernel.bytes > 0 && !kernel.time.is_zero()).then(|| kernel.bytes as f64 / kernel.time.as_secs_f64() / 1e9)
}

fn us(kernel: &KernelTime) -> f64 {
    kernel.time.as_secs_f64() * 1e6
}

impl Costs {
    /// A line, and the table of kernels where they were timed.
    pub fn to_text(&self, test: &str) -> String {
        let mut text = format!(
            "{test}: for each token {:.1} dispatches, {:.1} objects created, {:.0} µs to record, {} read back\n",
            self.dispatches,
            self.objects_created,
            self.record_us,
            format::bytes(self.readback_bytes.round() as u64)
        );
        let Some(kernels) = &self.kernels else { return text };
        let heading = [test, "calls/token", "µs/call", "µs/token", "share", "weights/call", "GB/s"];
        let mut table = vec![heading.map(String::from).to_vec()];
        let all_us: f64 = kernels.iter().map(us).sum();
        let tokens = self.tokens as f64;
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        for kernel in kernels {
            table.push(vec![
                kernel.name.into(),
                format!("{:.2}", kernel.calls as f64 / tokens),
                format!("{:.1}", us(kernel) / kernel.calls as f64),
                format!("{:.1}", us(kernel) / tokens),
                format!("{:.1} %", us(kernel) / all_us * 100.0),
                or_dash((kernel.weight_bytes_per_call > 0).then(|| format::bytes(kernel.weight_bytes_per_call))),
                or_dash(gb_s(kernel).map(|rate| format!("{rate:.2}"))),
            ]);
        }
        text += &format::table(&table);
        text
    }
}

/// Adds the fields of a row; null where no GPU has a part.
pub fn add_json(row: &mut Json, costs: Option<&Costs>) {
    row["dispatches_per_token"] = json!(costs.map(|c| c.dispatches));
    row["objects_created_per_token"] = json!(costs.map(|c| c.objects_created));
    row["readback_bytes_per_token"] = json!(costs.map(|c| c.readback_bytes));
    row["record_us_per_token"] = json!(costs.map(|c| c.record_us));
    let Some(kernels) = costs.and_then(|c| c.kernels.as_ref()) else { return };
    let all_us: f64 = kernels.iter().map(us).sum();
    let kernel = |kernel: &KernelTime| {
        json!({
            "name": kernel.name,
            "calls": kernel.calls,
            "us": us(kernel),
            "share": us(kernel) / all_us,
            "bytes": kernel.bytes,
            "weight_bytes_per_call": kernel.weight_bytes_per_call,
            "gb_s": gb_s(kernel),
        })
    };
    row["kernels"] = kernels.iter().map(kernel).collect();
}
