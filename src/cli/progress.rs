//! Progress bars: on standard error, and only where that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

use super::output;

/// Files and weights below this load too fast for a progress bar to be read.
const PROGRESS_FROM_BYTES: u64 = 256 << 20;

/// A progress bar of bytes.
pub fn progress_bar(total_bytes: u64) -> ProgressBar {
    if total_bytes < PROGRESS_FROM_BYTES {
        return ProgressBar::hidden();
    }
    bar(Some(total_bytes), "{bar:40} {bytes}/{total_bytes} {eta}")
}

/// A progress bar of things that are counted, with a message.
pub fn count_bar(total: u64) -> ProgressBar {
    bar(Some(total), "{bar:40} {pos}/{len} {msg} {eta}")
}

/// A progress bar of that form, unless notes are left out.
pub fn bar(total: Option<u64>, template: &str) -> ProgressBar {
    if output::is_quiet() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    total.map_or_else(ProgressBar::no_length, ProgressBar::new).with_style(style)
}
