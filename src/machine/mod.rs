//! Facts about the machine that the system tells in files (Linux); `None` elsewhere, except of cores.

mod cores;
mod memory;
pub mod workers;

use std::fs;

#[cfg(feature = "cli")]
pub use cores::Cores;
pub use cores::cores;
pub use memory::{free_memory_bytes, memory_bytes};

/// The unit in which files are mapped.
#[cfg(feature = "cli")]
pub fn page_bytes() -> Option<u64> {
    kib_in("/proc/self/smaps", "KernelPageSize:")
}

/// The most memory this process has held.
#[cfg(feature = "cli")]
pub fn peak_rss_bytes() -> Option<u64> {
    kib_in("/proc/self/status", "VmHWM:")
}

/// The version of the kernel.
#[cfg(feature = "cli")]
pub fn system_version() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/osrelease").ok()?.trim().to_owned())
}

/// The processor's name.
pub fn processor() -> Option<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(feature = "cli")]
fn kib_in(file: &str, field: &str) -> Option<u64> {
    kib(&fs::read_to_string(file).ok()?, field)
}

/// The first `field   123 kB`, in bytes.
fn kib(text: &str, field: &str) -> Option<u64> {
    let number = text.lines().find_map(|line| line.strip_prefix(field))?.trim().strip_suffix("kB")?;
    number.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_bytes() {
        let text = "MemTotal:       8000 kB\nMemFree: 5 pages\nBig: 99999999999999999 kB\n";
        assert_eq!(kib(text, "MemTotal:"), Some(8_192_000));
        assert_eq!((kib(text, "MemFree:"), kib(text, "Big:"), kib(text, "Swap:")), (None, None, None));
    }
}
