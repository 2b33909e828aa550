//! Helpers of the test binaries: each area's `main.rs` includes this folder once.
#![allow(dead_code, reason = "each test binary uses its part of this")]

pub mod cli;

pub mod gguf_builder;

pub mod gpu;

pub mod hostile;

pub mod hybrid;

pub mod tiny_vocab;

pub mod touch;

pub mod watchdog;

use std::path::{Path, PathBuf};

/// Options of a base with other values of some fields: the option structs leave room for more, so they are no literals
/// outside the library.
#[allow(unused_macros, reason = "each test binary uses its part of this")]
macro_rules! with {
    ($base:expr, $($field:ident: $value:expr),+) => {{
        let mut options = $base;
        $(options.$field = $value;)+
        options
    }};
}

/// The path of shared test data, or `None` with a printed note where it is not beside the checkout;
/// `BITNET_REQUIRE_SHARED=1` makes that a failure.
pub fn shared(name: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("BITNET_SHARED") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
    };
    let path = root.join(name);
    if path.exists() {
        return Some(path);
    }
    let required = std::env::var("BITNET_REQUIRE_SHARED").is_ok_and(|value| value == "1");
    assert!(!required, "BITNET_REQUIRE_SHARED=1, but no shared data at {}", path.display());
    eprintln!("skipped: no shared data at {}", path.display());
    None
}
