//! Safetensors container: bytes -> tensors. Knows no model.
//!
//! A file is a u64 length, that many bytes of JSON `{name: {dtype, shape, data_offsets}}`, and the data, which the
//! tensors cover without gap or overlap (<https://github.com/huggingface/safetensors>, "Format"). The `safetensors`
//! crate supplies the types; the table is checked here because its own check accepts a name that stands twice,
//! adds sizes up without looking for overflow, and does not say which tensor is wrong.

use std::{collections::HashMap, fmt};

use safetensors::{Dtype, tensor::TensorInfo};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use crate::{
    bytes::Bytes,
    error::{Error, Result, shown},
    gguf,
};

/// Longest tensor name accepted: real ones have under 100 bytes, and every message repeats them.
const MAX_NAME_BYTES: usize = 256;
/// The length that the format's own reader allows for the header.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A tensor of a checkpoint; its data is still in the memory map.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Bytes,
}

impl Tensor {
    /// Number of elements; the size check made the product safe.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The entries of the header in file order, a name that stands twice included twice.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<HashMap<String, String>>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// Reads the tensor table of a whole file.
pub(super) fn parse(file: &Bytes) -> Result<Vec<Tensor>> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(Error::malformed("file", "at least 8 bytes", format!("{} bytes", file.len())));
    };
    let length = u64::from_le_bytes(*length);
    let most = MAX_HEADER_BYTES.min(rest.len() as u64);
    if length > most {
        // What is saved as .safetensors by accident reads as an absurd length.
        if rest.first() != Some(&b'{')
            && let Some(found) = gguf::recognise(file)
        {
            return Err(Error::malformed("file", "a safetensors file", found));
        }
        return Err(Error::malformed("header length", format!("at most {most} bytes"), length));
    }
    let (header, data) = rest.split_at(length as usize);
    let header: Header = serde_json::from_slice(header)
        .map_err(|e| Error::malformed("header", "a JSON table of tensors", shown(&e.to_string())))?;

    let mut entries = header.0;
    check_names(&entries)?;
    entries.sort_by_key(|(_, info)| info.data_offsets);
    let data_start = file.len() - data.len();
    let mut covered = 0;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, info) in entries {
        let (begin, end) = info.data_offsets;
        check_size(&name, &info)?;
        if begin != covered {
            let problem = if begin < covered { "overlaps the tensor before it" } else { "leaves a gap" };
            return Err(wrong_offsets(&name, format!("data from byte {covered}"), format!("{begin}: {problem}")));
        }
        if end > data.len() {
            let hint = "is the file complete?";
            return Err(wrong_offsets(
                &name,
                format!("data within {} bytes", data.len()),
                format!("an end at {end}: {hint}"),
            ));
        }
        covered = end;
        let data = file.slice(data_start + begin..data_start + end).expect("the range was checked against the data");
        tensors.push(Tensor { name, dtype: info.dtype, shape: info.shape, data });
    }
    if covered != data.len() {
        let found = format!("{} bytes", data.len());
        return Err(Error::malformed("data section", format!("{covered} bytes, as the tensors declare"), found));
    }
    Ok(tensors)
}

fn check_names(entries: &[(String, TensorInfo)]) -> Result<()> {
    let mut seen = std::collections::HashSet::with_capacity(entries.len());
    for (name, _) in entries {
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            let expected = format!("1 to {MAX_NAME_BYTES} bytes without control characters");
            return Err(Error::malformed("tensor name", expected, format!("\"{}\"", shown(name))));
        }
        if !seen.insert(name.as_str()) {
            return Err(Error::malformed(format!("tensor {name}"), "one entry", "the name twice"));
        }
    }
    Ok(())
}

/// The declared byte range must have the size that shape and dtype ask for.
fn check_size(name: &str, info: &TensorInfo) -> Result<()> {
    let (begin, end) = info.data_offsets;
    let Some(declared) = end.checked_sub(begin) else {
        return Err(wrong_offsets(name, "begin <= end", format!("[{begin}, {end}]")));
    };
    let bits = info
        .shape
        .iter()
        .try_fold(1_usize, |product, &size| product.checked_mul(size))
        .and_then(|elements| elements.checked_mul(info.dtype.bitsize()))
        .ok_or_else(|| Error::malformed(format!("tensor {name}"), "a size below 2^64 bits", shape(&info.shape)))?;
    if bits % 8 != 0 || bits / 8 != declared {
        let expected = format!("{} bytes for {} of {}", bits.div_ceil(8), shape(&info.shape), info.dtype);
        return Err(Error::malformed(format!("tensor {name}"), expected, declared));
    }
    Ok(())
}

fn wrong_offsets(name: &str, expected: impl ToString, found: impl ToString) -> Error {
    Error::malformed(format!("data_offsets of tensor {name}"), expected, found)
}

/// A shape for a message: `[256, 640]`, cut when a hostile file has thousands of dimensions.
pub(super) fn shape(sizes: &[usize]) -> String {
    match sizes.len() {
        0..=8 => format!("{sizes:?}"),
        many => format!("a shape of {many} dimensions"),
    }
}
