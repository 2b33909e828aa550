//! Models split into several files, as llama.cpp's `llama-gguf-split` writes them: `NAME-00001-of-00003.gguf` and so on.
//!
//! Each part is a GGUF file with its own tensors and the keys `split.no` (from 0), `split.count` and
//! `split.tensors.count`. The first part has all other keys of the model; the others have none.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::{
    read::{File, index_names},
    tensor::TensorInfo,
    types::Metadata,
};
use crate::{
    bytes::Access,
    error::{Error, Result, shown},
};

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// Upstream keeps the count in 16 bits.
const MAX_PARTS: u64 = u16::MAX as u64;

/// A file of a split model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// How many tensors it holds.
    pub tensors: usize,
}

/// What a part says about the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// From 0.
    no: u64,
    count: u64,
    tensors: Option<u64>,
}

impl Split {
    /// What the metadata says; `None` of a whole file, which a count of 1 is too.
    pub fn of(metadata: &Metadata) -> Result<Option<Self>> {
        let count = match metadata.uint(COUNT)? {
            None | Some(0 | 1) => return Ok(None),
            Some(count @ ..=MAX_PARTS) => count,
            Some(count) => return Err(Error::malformed(format!("key {COUNT}"), format!("1 to {MAX_PARTS}"), count)),
        };
        let no = metadata.uint(NO)?.ok_or_else(|| Error::missing(format!("key {NO}"), "the order of the parts"))?;
        if no >= count {
            return Err(Error::malformed(
                format!("key {NO}"),
                format!("0 to {}, as there are {count} parts", count - 1),
                no,
            ));
        }
        Ok(Some(Self { no, count, tensors: metadata.uint(TENSORS)? }))
    }

    /// Why a part alone is no model.
    pub fn refusal(self) -> Error {
        let reason = format!("this is part {} of {}, and the others are not at hand", self.no + 1, self.count);
        Error::unsupported(format!("key {COUNT}"), reason)
    }

    /// Opens the other parts beside `path`, which is this one and is open as `given`.
    pub fn join(self, path: &Path, given: File, access: Access<'_>) -> Result<File> {
        let names = Names::of(path, self).map_err(|e| e.in_file(path.display().to_string()))?;
        let mut given = Some(given);
        let mut whole: Option<File> = None;
        for no in 0..self.count {
            let path = names.path(no);
            let part = match given.take_if(|_| no == self.no) {
                Some(part) => part,
                None if !path.exists() => {
                    let needed_for = format!("the model is split into {} files", self.count);
                    return Err(Error::missing(path.display().to_string(), needed_for));
                }
                None => File::open_part(&path, access)?,
            };
            let in_part = |e: Error| e.in_file(path.display().to_string());
            self.check_part(no, &part).map_err(in_part)?;
            match &mut whole {
                None => whole = Some(begin(path, part)),
                Some(whole) => append(whole, path.clone(), part).map_err(in_part)?,
            }
        }
        let whole = whole.unwrap_or_else(|| unreachable!("there are at least two parts"));
        self.finish(whole).map_err(|e| e.in_file(path.display().to_string()))
    }

    /// What the part says about the whole has to be what the first one opened says.
    fn check_part(self, no: u64, part: &File) -> Result<()> {
        let keys = [(NO, Some(no)), (COUNT, Some(self.count)), (TENSORS, self.tensors)];
        for (key, expected) in keys {
            let found = part.metadata.uint(key)?;
            if found != expected {
                let text = |value: Option<u64>| value.map_or_else(|| "no such key".to_owned(), |v| v.to_string());
                return Err(Error::malformed(format!("key {key}"), text(expected), text(found)));
            }
        }
        Ok(())
    }

    fn finish(self, mut whole: File) -> Result<File> {
        let found = whole.tensors.len() as u64;
        if let Some(expected) = self.tensors
            && expected != found
        {
            return Err(Error::malformed("tensors of all parts", format!("{expected} by key {TENSORS}"), found));
        }
        whole.by_name = index_names(&whole.tensors)?;
        for key in [NO, COUNT, TENSORS] {
            whole.metadata.remove(key);
        }
        Ok(whole)
    }
}

/// The first part, with the metadata of the model.
fn begin(path: PathBuf, mut part: File) -> File {
    part.warnings = named_warnings(&path, part.warnings);
    part.parts.push(Part { path, bytes: part.bytes[0].len() as u64, tensors: part.tensors.len() });
    part
}

fn named_warnings(path: &Path, warnings: Vec<String>) -> Vec<String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    warnings.into_iter().map(|warning| format!("{}: {warning}", shown(&name))).collect()
}

/// Adds a part. Other writers repeat keys of the model in every part: these have to be the same.
fn append(whole: &mut File, path: PathBuf, part: File) -> Result<()> {
    for (key, value) in part.metadata.iter().filter(|(key, _)| ![NO, COUNT, TENSORS].contains(key)) {
        if whole.metadata.get(key) != Some(value) {
            let found = if whole.metadata.get(key).is_some() { "another one" } else { "one that the first has not" };
            return Err(Error::malformed(format!("key {}", shown(key)), "the value of the first part", found));
        }
    }
    let types: HashMap<u32, _> = whole.tensors.iter().map(|info| (info.id, info.ty)).collect();
    let names: HashMap<&str, usize> = whole.tensors.iter().map(|info| (info.name.as_str(), info.part)).collect();
    for info in &part.tensors {
        let tensor = || format!("tensor {}", shown(&info.name));
        if let Some(&other) = names.get(info.name.as_str()) {
            return Err(Error::malformed(tensor(), "each name once", format!("it in part {} as well", other + 1)));
        }
        // Ids 39 and 42 stand for several types, and each part was read by its own distances.
        if let Some(&ty) = types.get(&info.id)
            && ty != info.ty
        {
            let expected = format!("{}, as type id {} is in the other parts", ty.name(), info.id);
            return Err(Error::malformed(tensor(), expected, info.ty.name()));
        }
    }
    let at = whole.parts.len();
    whole.warnings.extend(named_warnings(&path, part.warnings));
    whole.parts.push(Part { path, bytes: part.bytes[0].len() as u64, tensors: part.tensors.len() });
    whole.bytes.extend(part.bytes);
    whole.tensors.extend(part.tensors.into_iter().map(|info| TensorInfo { part: at, ..info }));
    Ok(())
}

/// The names of the parts.
struct Names {
    folder: PathBuf,
    prefix: String,
    count: u64,
}

impl Names {
    /// Splits the name of one part.
    fn of(path: &Path, Split { no, count, .. }: Split) -> Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let ending = ending(no, count);
        let prefix = name.strip_suffix(&ending).ok_or_else(|| {
            let expected = format!("one that ends in {ending}, as this is part {} of {count}", no + 1);
            Error::malformed("name of the file", expected, shown(name))
        })?;
        Ok(Self { folder: path.parent().unwrap_or(Path::new("")).to_path_buf(), prefix: prefix.to_owned(), count })
    }

    fn path(&self, no: u64) -> PathBuf {
        self.folder.join(format!("{}{}", self.prefix, ending(no, self.count)))
    }
}

/// Files count from 1.
fn ending(no: u64, count: u64) -> String {
    format!("-{:05}-of-{count:05}.gguf", no + 1)
}
