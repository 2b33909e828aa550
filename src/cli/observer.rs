//! Messages of an engine on standard error: bars where that is a terminal, and lines.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use indicatif::ProgressBar;

use super::{error_text, format, output, progress::progress_bar};
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
    /// The last message about the context: a comparison of backends plans more than once.
    context: Mutex<Option<String>>,
    threads: OnceLock<()>,
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
            Notice::ContextLimited { tokens, trained } => self.say_once(log::Level::Info, || {
                format!("context of {tokens} tokens; the model allows {trained} (-c 0)")
            }),
            Notice::BeyondTraining { trained } => self.say_once(log::Level::Warn, || {
                format!("the model was trained for {trained} tokens: text beyond may be poor")
            }),
            // Each backend starts threads of its own.
            Notice::FewerThreads { asked, granted } => {
                _ = self.threads.get_or_init(|| {
                    let granted = format::count(*granted, "thread");
                    log::warn!(
                        "{granted} instead of {asked}: the system refuses more (ulimit -u, or a container's limit)"
                    );
                })
            }
            Notice::SoftwareAdapter { name } => {
                log::warn!("{name} computes on the processor: --backend cpu is faster");
            }
            Notice::NoLayerOnGpu { reason } => log::warn!("no layer goes to the GPU: {reason}"),
            Notice::GpuNotUsed(error) => log::warn!("the GPU is not used: {}", error_text(error)),
            Notice::GpuFailed(error) => log::warn!("the GPU failed: {}: the CPU goes on", error_text(error)),
            Notice::CostsDisturbed => log::warn!(
                "something else uses this machine: what was measured for the plan differs from round to round, and is not \
                 kept"
            ),
            Notice::GpuFault { reason } => log::warn!("{reason}"),
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

impl Terminal {
    fn say_once(&self, level: log::Level, line: impl FnOnce() -> String) {
        let line = line();
        let mut last = lock(&self.context);
        if last.as_ref() != Some(&line) {
            log::log!(level, "{line}");
            *last = Some(line);
        }
    }
}
