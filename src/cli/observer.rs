//! What an engine tells, on standard error: bars where that is a terminal, and lines.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::ProgressBar;

use super::{format, output, progress::progress_bar};
use crate::{
    engine::{Notice, Observer},
    model::I2sPacking,
};

/// For a command.
pub fn observer() -> Arc<dyn Observer> {
    Arc::new(Terminal::default())
}

#[derive(Default)]
struct Terminal {
    /// The bar and its end.
    bar: Mutex<Option<(u64, ProgressBar)>>,
    /// What was said of the context: a comparison of backends plans more than once.
    context: Mutex<Option<Notice>>,
}

/// A panic elsewhere leaves neither of them half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Observer for Terminal {
    fn loading(&self, done: u64, total: u64) {
        let mut bar = lock(&self.bar);
        if done == total {
            if let Some((_, bar)) = bar.take() {
                bar.finish_and_clear();
            }
            return;
        }
        if bar.as_ref().is_none_or(|(of, _)| *of != total) {
            *bar = Some((total, progress_bar(total)));
        }
        if let Some((_, bar)) = &*bar {
            bar.set_position(done);
        }
    }

    fn notice(&self, notice: &Notice) {
        match notice {
            Notice::File { name, warning } => log::warn!("{name}: {warning}"),
            Notice::Tokenizer { name, note } => log::info!("{name}: {note}"),
            Notice::I2sPacking { name, packing, reason } => {
                let line = format!("{name}: I2_S is read as {}: {reason}", packing.name());
                match packing {
                    I2sPacking::P128 => log::info!("{line}"),
                    _ => log::warn!("{line}"),
                }
            }
            Notice::ContextLimited { .. } | Notice::BeyondTraining { .. } => {
                if lock(&self.context).replace(notice.clone()).as_ref() != Some(notice) {
                    say_context(notice);
                }
            }
            Notice::SoftwareAdapter { name } => {
                log::warn!("{name} computes on the processor: --backend cpu is faster");
            }
            Notice::NoLayerOnGpu { reason } => log::warn!("no layer goes to the GPU: {reason}"),
            Notice::GpuNotUsed { reason } => log::warn!("the GPU is not used: {reason}"),
            Notice::GpuFailed { reason } => log::warn!("the GPU failed: {reason}: the CPU goes on"),
            Notice::FewerLayers { tokens, reason } => {
                if tokens.is_some() {
                    output::break_line();
                }
                log::warn!("{reason}");
            }
            Notice::TookOver { tokens, reason } => {
                output::break_line();
                let so_far = format::count(*tokens, "token");
                log::warn!("the GPU failed after {so_far}: {reason}: the CPU goes on with the same text");
            }
        }
    }
}

fn say_context(notice: &Notice) {
    match notice {
        Notice::ContextLimited { tokens, trained } => {
            log::info!("context of {tokens} tokens; the model allows {trained} (-c 0)");
        }
        Notice::BeyondTraining { trained } => {
            log::warn!("the model was trained for {trained} tokens: text beyond may be poor");
        }
        _ => {}
    }
}
