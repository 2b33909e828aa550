//! Treatment of bytes by the fuzz target and the mutation test: parse them as GGUF and read all that is found.

use bitnet_gpu::{
    Error,
    bytes::Bytes,
    gguf::{Array, File, Value},
};

/// Reads every key, every string and every byte of every tensor.
///
/// # Panics
/// When the reader breaks a promise: tensors out of order or out of the file, a message of several lines.
pub fn parse_and_touch(bytes: &[u8]) -> Result<u64, Error> {
    let file = File::parse(Bytes::from(bytes.to_vec())).inspect_err(|error| {
        let message = error.to_string();
        assert!(!message.contains(['\n', '\r']) && message.len() < 2000, "{message:?}");
    })?;
    let mut sum = 0u64;
    for (key, value) in file.metadata().iter() {
        assert_eq!(file.metadata().get(key).map(Value::type_name), Some(value.type_name()));
        sum += match value {
            Value::String(text) => text.len() as u64,
            Value::Array(Array::String(texts)) => texts.iter().map(|text| text.len() as u64).sum(),
            Value::Array(array) => array.len() as u64,
            _ => 1,
        };
    }
    let mut end = 0;
    for tensor in file.tensors() {
        assert!(tensor.offset >= end && tensor.gap_bytes >= tensor.len_bytes);
        assert_eq!(file.tensor(&tensor.name), Some(tensor));
        end = tensor.offset + tensor.len_bytes;
        let data = file.data(tensor);
        assert_eq!(data.len() as u64, tensor.len_bytes);
        sum = data.iter().fold(sum, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    }
    Ok(sum)
}
