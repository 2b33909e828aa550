//! What several test files need.
#![allow(dead_code, reason = "each test file uses its own part of this module")]

use std::path::{Path, PathBuf};

/// The path of shared test data, or `None` with a printed note where it is not beside the checkout.
pub fn shared(name: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("BITNET_SHARED") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
    };
    let path = root.join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no shared data at {}", path.display());
    None
}
