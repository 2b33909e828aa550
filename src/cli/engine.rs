//! Flags as [`EngineOptions`], and segments in words and in JSON.

use serde_json::{Value as Json, json};

use super::args::{EngineArgs, NO_DEVICE};
use crate::{
    engine::EngineOptions,
    plan::{BackendKind, Segment},
};

impl From<&EngineArgs> for EngineOptions {
    fn from(args: &EngineArgs) -> Self {
        Self {
            request: args.request(),
            prefer: args.prefer.into(),
            device: args.device.clone().filter(|device| device != NO_DEVICE),
            gpu_memory: args.gpu_memory,
            threads: args.threads.asked(),
            context_tokens: args.ctx_size.map(|tokens| tokens as usize),
            batch_tokens: args.batch_size as usize,
            k_type: args.cache_type_k.into(),
            v_type: args.cache_type_v.into(),
            kernel: args.kernel.forced(),
            head: args.head_screen.into(),
            ..Self::default()
        }
    }
}

/// "CPU (avx2, 2 threads): layers 0-3 and the head (reason)".
pub fn segment_line(segment: &Segment, device: &str) -> String {
    segment.to_string().replacen(&segment.backend.to_string(), device, 1)
}

/// The segments for `--json`: half-open layer ranges.
pub fn segments_json<'a>(segments: impl Iterator<Item = (&'a Segment, &'a str)>) -> Vec<Json> {
    segments
        .map(|(s, device)| {
            json!({
                "layers": [s.layers.start, s.layers.end],
                "backend": match s.backend { BackendKind::Cpu => "cpu", BackendKind::Gpu => "gpu" },
                "device": device,
                "embed": s.embed,
                "head": s.head,
                "reason": s.reason,
            })
        })
        .collect()
}
