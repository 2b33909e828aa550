//! Decisions of the engine on its way, kept as text until Python asks.

use std::sync::{Mutex, PoisonError};

use bitnet_gpu::{Notice, Observer, serve::Log};

/// Lines that nobody has asked for yet; more are left out.
const MOST_LINES: usize = 100;

/// Lines for `logging`.
#[derive(Default)]
pub struct Notices(Mutex<Vec<String>>);

impl Notices {
    /// The lines since the last call.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < MOST_LINES && lines.last() != Some(&line) {
            lines.push(line);
        }
    }
}

impl Observer for Notices {
    fn notice(&self, notice: &Notice) {
        self.add(match notice {
            Notice::File { name, warning } => format!("{name}: {warning}"),
            Notice::Tokenizer { name, note } => format!("{name}: {note}"),
            Notice::I2sPacking { name, packing, reason } => {
                format!("{name}: I2_S is read as {}: {reason}", packing.name())
            }
            Notice::ContextLimited { tokens, trained } => {
                format!("context of {tokens} tokens; the model allows {trained} (n_ctx=0)")
            }
            Notice::BeyondTraining { trained } => {
                format!("the model was trained for {trained} tokens: text beyond may be poor")
            }
            Notice::FewerThreads { asked, granted } => format!("{granted} threads instead of {asked}"),
            Notice::SoftwareAdapter { name } => format!("{name} computes on the processor: backend=\"cpu\" is faster"),
            Notice::NoLayerOnGpu { reason } => format!("no layer goes to the GPU: {reason}"),
            Notice::GpuNotUsed(error) => format!("the GPU is not used: {error}"),
            Notice::GpuFailed(error) => format!("the GPU failed: {error}: the CPU goes on"),
            Notice::CostsDisturbed => {
                "what was measured for the plan differs from round to round, and is not kept: something else uses this machine"
                    .into()
            }
            Notice::GpuFault { reason } | Notice::FewerLayers { reason, .. } => reason.clone(),
            Notice::TookOver { reason, .. } => format!("the GPU failed, and the CPU goes on: {reason}"),
            _ => return,
        });
    }
}

impl Log for Notices {
    fn listening(&self, _at: &str) {}

    fn ready(&self, summary: &str) {
        self.add(summary.to_owned());
    }

    /// A line for each request would be too much.
    fn request(&self, _line: &str) {}
}
