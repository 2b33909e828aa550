//! Opening files: one by itself, or all parts of a split one.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::{
    read::{File, index_names},
    split::{COUNT, NO, Names, Part, Split, TENSORS},
    tensor::TensorInfo,
};
use crate::{
    bytes::{Access, Bytes},
    error::{Error, Result, shown},
};

impl File {
    /// Maps and parses a file, and where it is a part of a split one, all the others; errors name the file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, Access::Map)
    }

    /// As [`Self::open`], mapped or copied.
    pub fn open_with(path: &Path, access: Access<'_>) -> Result<Self> {
        let file = Self::open_part(path, access)?;
        match Split::of(&file.metadata).map_err(|e| e.in_file(path.display().to_string()))? {
            Some(split) => join(split, path, file, access),
            None => Ok(file),
        }
    }

    /// Opens and parses a file that may be a part.
    fn open_part(path: &Path, access: Access<'_>) -> Result<Self> {
        Self::parse_part(Bytes::open(path, access)?).map_err(|e| e.in_file(path.display().to_string()))
    }
}

/// Opens the other parts beside `path`, which is the one that says `split` and is open as `given`.
fn join(split: Split, path: &Path, given: File, access: Access<'_>) -> Result<File> {
    let names = Names::of(path, split).map_err(|e| e.in_file(path.display().to_string()))?;
    let mut given = Some(given);
    let mut whole: Option<File> = None;
    for no in 0..split.count {
        let path = names.path(no);
        let part = match given.take_if(|_| no == split.no) {
            Some(part) => part,
            None if !path.exists() => {
                let needed_for = format!("the model is split into {} files", split.count);
                return Err(Error::missing(path.display().to_string(), needed_for));
            }
            None => File::open_part(&path, access)?,
        };
        let in_part = |e: Error| e.in_file(path.display().to_string());
        check_part(split, no, &part).map_err(in_part)?;
        match &mut whole {
            None => whole = Some(begin(path, part)),
            Some(whole) => append(whole, path.clone(), part).map_err(in_part)?,
        }
    }
    let whole = whole.unwrap_or_else(|| unreachable!("there are at least two parts"));
    finish(split, whole).map_err(|e| e.in_file(path.display().to_string()))
}

/// Checks that the part agrees about the whole with the first one opened.
fn check_part(split: Split, no: u64, part: &File) -> Result<()> {
    let keys = [(NO, Some(no)), (COUNT, Some(split.count)), (TENSORS, split.tensors)];
    for (key, expected) in keys {
        let found = part.metadata.uint(key)?;
        if found != expected {
            let text = |value: Option<u64>| value.map_or_else(|| "no such key".to_owned(), |v| v.to_string());
            return Err(Error::malformed(format!("key {key}"), text(expected), text(found)));
        }
    }
    Ok(())
}

fn finish(split: Split, mut whole: File) -> Result<File> {
    let found = whole.tensors.len() as u64;
    if let Some(expected) = split.tensors
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
