//! Metadata of a GGUF file: keys and typed values.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use crate::error::{Error, Result, shown};

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are the format's own")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A metadata array; nested arrays are refused when read.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are the format's own")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::String(v) => v.len(),
            Self::U64(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8 array",
            Self::I8(_) => "i8 array",
            Self::U16(_) => "u16 array",
            Self::I16(_) => "i16 array",
            Self::U32(_) => "u32 array",
            Self::I32(_) => "i32 array",
            Self::F32(_) => "f32 array",
            Self::Bool(_) => "bool array",
            Self::String(_) => "string array",
            Self::U64(_) => "u64 array",
            Self::I64(_) => "i64 array",
            Self::F64(_) => "f64 array",
        }
    }
}

impl Value {
    /// The format's name of the value's type, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::Array(array) => array.type_name(),
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
    }
}

/// Key/value pairs in file order, with typed access that says what is wrong.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    /// Places in `entries`, ordered by key: a few bytes per key, however many a hostile file has.
    by_key: Vec<usize>,
}

impl Metadata {
    /// Pairs in file order; a key that occurs twice is an error.
    pub(super) fn from_entries(entries: Vec<(String, Value)>) -> Result<Self> {
        let mut by_key: Vec<usize> = (0..entries.len()).collect();
        by_key.sort_unstable_by(|&a, &b| entries[a].0.cmp(&entries[b].0));
        if let Some(pair) = by_key.windows(2).find(|pair| entries[pair[0]].0 == entries[pair[1]].0) {
            let key = shown(&entries[pair[0]].0);
            let [first, second] = [pair[0].min(pair[1]), pair[0].max(pair[1])];
            return Err(Error::malformed(
                format!("key {key}"),
                "each key once",
                format!("it at places {first} and {second}"),
            ));
        }
        Ok(Self { entries, by_key })
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.by_key.binary_search_by(|&at| self.entries[at].0.as_str().cmp(key))
    }

    /// Appends a pair; a key that exists keeps its place and takes the new value.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.find(&key) {
            Ok(found) => self.entries[self.by_key[found]].1 = value,
            Err(place) => {
                self.by_key.insert(place, self.entries.len());
                self.entries.push((key, value));
            }
        }
    }

    /// Takes a pair out; the others keep their order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let place = self.by_key.remove(self.find(key).ok()?);
        self.by_key.iter_mut().filter(|at| **at > place).for_each(|at| *at -= 1);
        Some(self.entries.remove(place).1)
    }

    /// All pairs in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The raw value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.find(key).ok().map(|found| &self.entries[self.by_key[found]].1)
    }

    /// `general.architecture`: the prefix of the model's own keys.
    pub fn architecture(&self) -> Result<&str> {
        const KEY: &str = "general.architecture";
        let arch =
            self.str(KEY)?.ok_or_else(|| Error::missing(format!("key {KEY}"), "choosing how to run the model"))?;
        if arch.is_empty() || arch.len() > 64 {
            return Err(Error::malformed(format!("key {KEY}"), "1 to 64 bytes", format!("{} bytes", arch.len())));
        }
        if arch.contains(char::is_control) {
            return Err(Error::malformed(
                format!("key {KEY}"),
                "no control characters",
                format!("\"{}\"", shown(arch)),
            ));
        }
        Ok(arch)
    }

    /// A non-negative integer of any integer type; `None` when absent.
    pub fn uint(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let signed = match *value {
            Value::U8(v) => return Ok(Some(v.into())),
            Value::U16(v) => return Ok(Some(v.into())),
            Value::U32(v) => return Ok(Some(v.into())),
            Value::U64(v) => return Ok(Some(v)),
            Value::I8(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::I64(v) => v,
            _ => return Err(Error::malformed(format!("key {key}"), "an integer", value.type_name())),
        };
        u64::try_from(signed)
            .map(Some)
            .map_err(|_| Error::malformed(format!("key {key}"), "a non-negative integer", signed))
    }

    /// A float (f32 or f64); `None` when absent.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::F32(v)) => Ok(Some((*v).into())),
            Some(Value::F64(v)) => Ok(Some(*v)),
            Some(other) => Err(Error::malformed(format!("key {key}"), "a float", other.type_name())),
        }
    }

    /// A boolean; `None` when absent.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(*v)),
            Some(other) => Err(Error::malformed(format!("key {key}"), "a bool", other.type_name())),
        }
    }

    /// A string; `None` when absent.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(v)) => Ok(Some(v)),
            Some(other) => Err(Error::malformed(format!("key {key}"), "a string", other.type_name())),
        }
    }

    /// A string array; `None` when absent.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::String(v))) => Ok(Some(v)),
            Some(other) => Err(Error::malformed(format!("key {key}"), "a string array", other.type_name())),
        }
    }

    /// An f32 array; `None` when absent.
    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::F32(v))) => Ok(Some(v)),
            Some(other) => Err(Error::malformed(format!("key {key}"), "an f32 array", other.type_name())),
        }
    }

    /// An i32 array; `None` when absent. A u32 array is refused: no writer makes one for these keys.
    pub fn ints(&self, key: &str) -> Result<Option<&[i32]>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::I32(v))) => Ok(Some(v)),
            Some(other) => Err(Error::malformed(format!("key {key}"), "an i32 array", other.type_name())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_found_until_it_is_removed() {
        let mut metadata = Metadata::default();
        for (key, value) in [("c", 1), ("a", 2), ("d", 3), ("b", 4)] {
            metadata.set(key, Value::U8(value));
        }
        metadata.set("a", Value::U8(5));
        assert_eq!(metadata.remove("c"), Some(Value::U8(1)));
        assert_eq!(metadata.remove("c"), None);
        let pairs: Vec<_> = metadata.iter().map(|(key, value)| (key, value.clone())).collect();
        assert_eq!(pairs, [("a", Value::U8(5)), ("d", Value::U8(3)), ("b", Value::U8(4))]);
        for (key, value) in pairs.clone() {
            assert_eq!(metadata.get(key), Some(&value));
        }
    }
}
