//! The error of what a device cannot bind.

use crate::error::Error;

pub fn too_large(what: &str, bytes: u64, max_binding: u64) -> Error {
    Error::unsupported(what, format!("it has {bytes} bytes, and this GPU binds at most {max_binding} at once"))
}
