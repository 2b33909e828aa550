//! Causal attention over a key/value cache.

/// Element type of a key or value cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// IEEE binary16, rounded to nearest even when written.
    F16,
    /// IEEE binary32.
    F32,
}
