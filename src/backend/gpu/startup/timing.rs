//! How long dispatches take.

use std::time::{Duration, Instant};

use crate::{
    backend::gpu::{
        device::Gpu,
        kernels::params::Dynamic,
        record::encode::{Builder, Dispatch, Recorder, StepParams},
    },
    error::Result,
    steady::{self, Steady},
};

/// How long one candidate is run in a round, beside the warm-up.
const TIMED: Duration = Duration::from_micros(1300);

/// Microseconds of dispatches one after the other, each round several times all of them.
pub fn time_us(gpu: &Gpu, builder: Builder<'_>, dispatches: &[Dispatch], tokens: usize) -> Result<Steady<f64>> {
    let mut uniforms = builder.finish()?;
    let mut run = |times: usize| -> Result<Duration> {
        let begin = Instant::now();
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut recorder = Recorder::default();
        let step = StepParams::from(Dynamic { tokens: tokens as u32, ..Dynamic::default() });
        let all = std::iter::repeat_n(dispatches, times).flatten();
        recorder.record(&mut encoder, all.map(|dispatch| (&step, dispatch)), &mut uniforms);
        let recorded = recorder.finish(encoder);
        let submission = recorder.submit(gpu, recorded, &uniforms)?;
        gpu.wait(submission)?;
        Ok(begin.elapsed())
    };
    // The first run clears the buffers and compiles what the driver has put off.
    run(1)?;
    let one = run(1)?;
    let times = (TIMED.as_secs_f64() / one.as_secs_f64().max(1e-6)).clamp(1.0, 64.0) as usize;
    let all = steady::shortest(|| Ok(vec![run(times)?]))?;
    Ok(all.map(|all| all[0].as_secs_f64() * 1e6 / times as f64))
}
