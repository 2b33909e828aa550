//! Typed access to the keys of an architecture.

use crate::{
    error::{Error, Result},
    gguf::{Metadata, Value},
};

/// Typed access to the keys of one architecture.
pub struct Keys<'a> {
    pub metadata: &'a Metadata,
    pub arch: &'a str,
}

impl Keys<'_> {
    pub fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    /// The raw value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(&self.name(key))
    }

    /// A non-negative integer.
    pub fn uint(&self, key: &str) -> Result<Option<u64>> {
        self.metadata.uint(&self.name(key))
    }

    pub fn wrong(&self, key: &str, expected: impl ToString, found: impl ToString) -> Error {
        Error::malformed(format!("key {}", self.name(key)), expected, found)
    }

    /// A count in 1 ..= `max`.
    pub fn count(&self, key: &str, default: Option<usize>, max: u64) -> Result<usize> {
        let name = self.name(key);
        match (self.metadata.uint(&name)?, default) {
            (Some(value), _) if (1..=max).contains(&value) => {
                usize::try_from(value).map_err(|_| self.wrong(key, "a count that fits this machine", value))
            }
            (Some(value), _) => Err(self.wrong(key, format!("1 to {max}"), value)),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Error::missing(format!("key {name}"), "the model's dimensions")),
        }
    }

    /// A finite number above zero that f32 can hold.
    pub fn positive(&self, key: &str, default: Option<f32>) -> Result<f32> {
        let name = self.name(key);
        match (self.metadata.float(&name)?, default) {
            (Some(value), _) if (value as f32).is_normal() && value > 0.0 => Ok(value as f32),
            (Some(value), _) => Err(self.wrong(key, "a finite number above 0", value)),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Error::missing(format!("key {name}"), "the model's formulas")),
        }
    }
}
