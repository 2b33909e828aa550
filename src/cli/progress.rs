//! Progress bars: on standard error, and only where that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

use super::output;

/// Files and weights below this load too fast for a progress bar to be read.
const PROGRESS_FROM_BYTES: u64 = 256 << 20;

/// A progress bar of bytes.
pub fn progress_bar(total_bytes: u64) -> ProgressBar {
    if total_bytes < PROGRESS_FROM_BYTES || output::is_quiet() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {eta}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total_bytes).with_style(style)
}

/// A progress bar of things that are counted, with a message.
pub fn count_bar(total: u64) -> ProgressBar {
    if output::is_quiet() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} {eta}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}
