//! Contents of a GGUF file, model or vocabulary: facts for people (`Display`) and programs (`Serialize`).
//!
//! Reads the header only, and the scale of each tensor that has one; with `check` all weights once, front to back.

mod check;
mod display;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value as Json, json};

pub use check::{Codes, Scales};

use crate::{
    gguf::{self, Array, File, Metadata, TensorInfo, Value},
    model::{
        OpenOptions,
        dialect::{Dialects, blame},
    },
};

/// Elements of an array that are listed.
const LISTED_ELEMENTS: usize = 8;

/// Characters of a string that are listed. Enough for names; chat templates are cut.
const LISTED_CHARS: usize = 200;

/// The contents of a file.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// GGUF version.
    pub version: u32,
    /// Length of the file, or of all its parts.
    pub file_bytes: u64,
    /// The files of a split model, and how many tensors each has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// `general.architecture`, where it is a proper string.
    pub architecture: Option<String>,
    /// `general.name`.
    pub name: Option<String>,
    /// The file's facts about its tokenizer; `None` where it has no tokens.
    pub tokenizer: Option<Tokenizer>,
    /// All keys in file order, long values cut.
    pub metadata: Vec<Entry>,
    /// All tensors in file order.
    pub tensors: Vec<Tensor>,
    /// Sums by type.
    pub types: BTreeMap<&'static str, TypeCount>,
    /// True when all weights were read.
    pub checked: bool,
    /// Oddities and faults, one line each.
    pub warnings: Vec<String>,
}

/// A file of a split model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Its name, without the folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Tensors in it.
    pub tensors: usize,
}

/// The tokenizer as the metadata describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tokenizer {
    /// `tokenizer.ggml.model`.
    pub model: Option<String>,
    /// `tokenizer.ggml.pre`: how text is split before merging.
    pub pre: Option<String>,
    /// Number of tokens.
    pub tokens: usize,
    /// Number of merges.
    pub merges: usize,
    /// Whether `tokenizer.chat_template` is there.
    pub chat_template: bool,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The format's name of the type.
    #[serde(rename = "type")]
    pub type_name: &'static str,
    /// Elements of an array, characters of a string.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
    /// The value; of an array the first elements, of a string the first characters. NaN and infinities are strings.
    pub value: Json,
}

/// A tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Fastest dimension first.
    pub dims: Vec<u64>,
    /// The format's name of the type.
    #[serde(rename = "type")]
    pub type_name: &'static str,
    /// The type id in the file.
    pub type_id: u32,
    /// Why a ternary tensor is taken for what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Which of the files of a split model it lies in, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<usize>,
    /// Where its data begins in the file.
    pub offset: u64,
    /// Length of its data.
    pub bytes: u64,
    /// The one scale of an I2_S, TL1 or TL2 tensor; NaN and infinities serialize as null and are warned of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// The scales of other ternary tensors, where they were looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scales: Option<Scales>,
    /// How often each weight occurs, where the tensor is ternary and they were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codes: Option<Codes>,
}

/// Tensors of one type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TypeCount {
    /// How many.
    pub tensors: usize,
    /// Elements in all of them.
    pub elements: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// Describes a file; with `check`, decodes every ternary tensor, counts its weights, and looks for numbers that are not
/// finite. `options` say what the file does not.
pub fn inspect(file: &File, check: bool, options: &OpenOptions) -> Report {
    let metadata = file.metadata();
    let mut warnings = file.warnings().to_vec();
    let architecture = match metadata.architecture() {
        Ok(arch) => Some(arch.to_owned()),
        Err(error) => {
            warnings.push(error.to_string());
            None
        }
    };
    let dialects = match Dialects::of(metadata, options) {
        Ok(dialects) => Some(dialects),
        Err(error) => {
            warnings.push(error.to_string());
            None
        }
    };
    let mut types = BTreeMap::<_, TypeCount>::new();
    let mut tensors = Vec::with_capacity(file.tensors().len());
    for info in file.tensors() {
        let count = types.entry(info.ty.name()).or_default();
        count.tensors += 1;
        count.elements = count.elements.saturating_add(info.elements());
        count.bytes += info.len_bytes;
        tensors.push(describe(file, info, check, dialects.as_ref(), &mut warnings));
    }
    Report {
        version: file.version(),
        file_bytes: file.len_bytes(),
        parts: file.parts().iter().map(part).collect(),
        architecture,
        name: text(metadata, "general.name"),
        tokenizer: tokenizer(metadata),
        metadata: metadata.iter().map(|(key, value)| entry(key, value)).collect(),
        tensors,
        types,
        checked: check,
        warnings,
    }
}

impl Report {
    /// The weights of all ternary tensors together; `None` where none were counted.
    pub fn codes(&self) -> Option<Codes> {
        self.tensors.iter().filter_map(|tensor| tensor.codes).reduce(Codes::plus)
    }
}

fn part(part: &gguf::Part) -> Part {
    let name = part.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Part { name, bytes: part.bytes, tensors: part.tensors }
}

fn text(metadata: &Metadata, key: &str) -> Option<String> {
    match metadata.get(key) {
        Some(Value::String(text)) => Some(text.clone()),
        _ => None,
    }
}

fn tokenizer(metadata: &Metadata) -> Option<Tokenizer> {
    let len = |key| match metadata.get(key) {
        Some(Value::Array(array)) => array.len(),
        _ => 0,
    };
    metadata.get("tokenizer.ggml.tokens").map(|_| Tokenizer {
        model: text(metadata, "tokenizer.ggml.model"),
        pre: text(metadata, "tokenizer.ggml.pre"),
        tokens: len("tokenizer.ggml.tokens"),
        merges: len("tokenizer.ggml.merges"),
        chat_template: metadata.get("tokenizer.chat_template").is_some(),
    })
}

fn describe(
    file: &File,
    info: &TensorInfo,
    check: bool,
    dialects: Option<&Dialects>,
    warnings: &mut Vec<String>,
) -> Tensor {
    let data = file.data(info);
    let scale = check::one_scale(info.ty, &data);
    if let Some(wrong) = scale.and_then(check::wrong_scale) {
        warnings.push(format!("tensor {}: {wrong}", info.name));
    }
    let mut codes = if check { check::codes(info.ty, &data) } else { None };
    if let Some(Codes { three, .. }) = codes
        && three > 0
    {
        warnings.push(format!("tensor {}: {three} codes are 3, which stands for no ternary weight", info.name));
    }
    if check && let Some((bad @ 1.., of, what)) = check::not_finite(info.ty, &data) {
        warnings.push(format!("tensor {}: {bad} of {of} {what} not finite", info.name));
    }
    let mut scales = None;
    // What cannot be decoded for its shape or its tiles is worth knowing without `check`, too.
    match dialects.map(|dialects| dialects.codec(info)) {
        None | Some(Ok(None)) => {}
        Some(Err(error)) => warnings.push(error.to_string()),
        Some(Ok(Some(codec))) if check => {
            let blame = |error| blame(&info.name, codec.cols(), error).to_string();
            match codec.scales(&data) {
                Ok(read) => scales = Scales::of(&codec, &read),
                // Counted above where the type has f16 scales in blocks, said above where it has one scale.
                Err(error) if scale.is_none() && check::not_finite(info.ty, &data).is_none() => {
                    warnings.push(blame(error));
                }
                Err(_) => {}
            }
            if codes.is_none() {
                match check::decoded_codes(&codec, &data) {
                    Ok(counted) => codes = Some(counted),
                    Err(error) => warnings.push(blame(error)),
                }
            }
        }
        Some(Ok(Some(_))) => {}
    }
    let tensor = Tensor {
        name: info.name.clone(),
        dims: info.dims.clone(),
        type_name: info.ty.name(),
        type_id: info.id,
        why: dialects.and_then(|dialects| dialects.why(info)),
        part: (!file.parts().is_empty()).then_some(info.part + 1),
        offset: info.offset,
        bytes: info.len_bytes,
        scale,
        scales,
        codes,
    };
    if tensor.is_zero() {
        warnings.push(format!("tensor {}: all its weights are zero", tensor.name));
    }
    tensor
}

impl Tensor {
    /// Whether it is ternary and has nothing but zeros, by its codes or its scales; false where these were not read.
    pub fn is_zero(&self) -> bool {
        let by_codes = self.codes.is_some_and(|codes| codes.zero > 0 && codes.zero == codes.total());
        by_codes || self.scales.as_ref().is_some_and(|scales| scales.least == 0.0 && scales.greatest == 0.0)
    }
}

fn entry(key: &str, value: &Value) -> Entry {
    let length = match value {
        Value::String(text) => Some(text.chars().count()),
        Value::Array(array) => Some(array.len()),
        _ => None,
    };
    Entry { key: key.to_owned(), type_name: value.type_name(), length, value: listed(value) }
}

fn listed(value: &Value) -> Json {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::F32(v) => float(v),
        Value::Bool(v) => json!(v),
        Value::String(v) => cut(v),
        Value::Array(v) => listed_array(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F64(v) => float(v),
    }
}

fn listed_array(array: &Array) -> Json {
    fn first<T>(values: &[T], listed: impl Fn(&T) -> Json) -> Json {
        values.iter().take(LISTED_ELEMENTS).map(listed).collect()
    }
    match array {
        Array::U8(v) => first(v, |v| json!(v)),
        Array::I8(v) => first(v, |v| json!(v)),
        Array::U16(v) => first(v, |v| json!(v)),
        Array::I16(v) => first(v, |v| json!(v)),
        Array::U32(v) => first(v, |v| json!(v)),
        Array::I32(v) => first(v, |v| json!(v)),
        Array::F32(v) => first(v, float),
        Array::Bool(v) => first(v, |v| json!(v)),
        Array::String(v) => first(v, |v| cut(v)),
        Array::U64(v) => first(v, |v| json!(v)),
        Array::I64(v) => first(v, |v| json!(v)),
        Array::F64(v) => first(v, float),
    }
}

fn cut(text: &str) -> Json {
    text.chars().take(LISTED_CHARS).collect::<String>().into()
}

/// The shortest decimal that reads back as the same number: an f32 of 0.1 is listed as 0.1. JSON has no NaN.
fn float(value: &impl ToString) -> Json {
    let text = value.to_string();
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => json!(number),
        _ => text.into(),
    }
}
