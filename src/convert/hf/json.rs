//! Typed access to the JSON files of a checkpoint, with errors that name the key.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{
    bytes::Bytes,
    error::{Error, Result, shown},
};

/// An object and the path of keys that leads to it, for messages.
pub(super) struct Object<'a> {
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// The top of a file.
    pub fn top(value: &'a Value) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Self { path: String::new(), map }),
            other => Err(Error::malformed("file", "a JSON object", kind(other))),
        }
    }

    /// The name of a key as messages show it.
    pub fn key(&self, key: &str) -> String {
        format!("key {}{key}", self.path)
    }

    /// The value; `null` counts as absent, as transformers writes it for "not set".
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// A non-negative integer.
    pub fn uint(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a non-negative integer", Value::as_u64)
    }

    /// A positive integer that must be there.
    pub fn count(&self, key: &str) -> Result<usize> {
        self.optional_count(key)?.ok_or_else(|| Error::missing(self.key(key), "the model's shape"))
    }

    /// A positive integer below 2^31.
    pub fn optional_count(&self, key: &str) -> Result<Option<usize>> {
        match self.uint(key)? {
            None => Ok(None),
            Some(value @ 1..=0x7fff_ffff) => Ok(Some(value as usize)),
            Some(value) => Err(Error::malformed(self.key(key), "1 to 2147483647", value)),
        }
    }

    /// A number, integer or not.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// A finite number above zero, as f32 too.
    pub fn positive(&self, key: &str) -> Result<Option<f32>> {
        match self.float(key)? {
            None => Ok(None),
            Some(value) if value as f32 > 0.0 && (value as f32).is_finite() => Ok(Some(value as f32)),
            Some(value) => Err(Error::malformed(self.key(key), "a positive number", value)),
        }
    }

    /// A boolean.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// An object below this one.
    pub fn object(&self, key: &str) -> Result<Option<Self>> {
        let path = format!("{}{key}.", self.path);
        Ok(self.typed(key, "an object", Value::as_object)?.map(|map| Self { path, map }))
    }

    /// A list of strings.
    pub fn strings(&self, key: &str) -> Result<Vec<&'a str>> {
        let Some(list) = self.typed(key, "a list of strings", Value::as_array)? else { return Ok(Vec::new()) };
        list.iter()
            .map(|item| item.as_str().ok_or_else(|| Error::malformed(self.key(key), "a list of strings", kind(item))))
            .collect()
    }

    /// All pairs of an object of strings.
    pub fn strings_by_key(&self) -> Result<Vec<(&'a str, &'a str)>> {
        let pair = |(key, value): (&'a String, &'a Value)| match value.as_str() {
            Some(text) => Ok((key.as_str(), text)),
            None => Err(Error::malformed(self.key(&shown(key)), "a string", kind(value))),
        };
        self.map.iter().map(pair).collect()
    }

    /// A list of numbers that must be there.
    pub fn floats(&self, key: &str) -> Result<Vec<f32>> {
        const EXPECTED: &str = "a list of numbers";
        let list = self.typed(key, EXPECTED, Value::as_array)?;
        let list = list.ok_or_else(|| Error::missing(self.key(key), "RoPE scaling"))?;
        list.iter()
            .map(|item| match item.as_f64() {
                Some(number) => Ok(number as f32),
                None => Err(Error::malformed(self.key(key), EXPECTED, kind(item))),
            })
            .collect()
    }

    fn typed<T>(&self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| {
            let found = match value {
                Value::Number(number) => number.to_string(),
                other => kind(other).to_owned(),
            };
            Error::malformed(self.key(key), expected, found)
        })
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Reads a JSON file; `None` when it does not exist.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = Bytes::map(path)?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Error::malformed("file", "JSON", shown(&e.to_string())).in_file(path.display().to_string()))
}
