//! Models split into several files, as llama.cpp's `llama-gguf-split` writes them: `NAME-00001-of-00003.gguf` and so on.
//!
//! Each part is a GGUF file with its own tensors and the keys `split.no` (from 0), `split.count` and
//! `split.tensors.count`. The first part has all other keys of the model; the others have none.

use std::path::{Path, PathBuf};

use super::types::Metadata;
use crate::error::{Error, Result, shown};

pub(super) const NO: &str = "split.no";
pub(super) const COUNT: &str = "split.count";
pub(super) const TENSORS: &str = "split.tensors.count";

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

/// A part's facts about the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// From 0.
    pub no: u64,
    pub count: u64,
    pub tensors: Option<u64>,
}

impl Split {
    /// Reads them from the metadata; `None` of a whole file, which a count of 1 is too.
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
}

/// The names of the parts.
pub(super) struct Names {
    folder: PathBuf,
    prefix: String,
    count: u64,
}

impl Names {
    /// Splits the name of one part.
    pub fn of(path: &Path, Split { no, count, .. }: Split) -> Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let ending = ending(no, count);
        let prefix = name.strip_suffix(&ending).ok_or_else(|| {
            let expected = format!("one that ends in {ending}, as this is part {} of {count}", no + 1);
            Error::malformed("name of the file", expected, shown(name))
        })?;
        Ok(Self { folder: path.parent().unwrap_or(Path::new("")).to_path_buf(), prefix: prefix.to_owned(), count })
    }

    pub fn path(&self, no: u64) -> PathBuf {
        self.folder.join(format!("{}{}", self.prefix, ending(no, self.count)))
    }
}

/// `PREFIX-00002-of-00003`, the name of a part without `.gguf`, -> prefix, 2, 3.
pub(crate) fn part_of_stem(stem: &str) -> Option<(&str, u32, u32)> {
    let (stem, count) = stem.rsplit_once("-of-")?;
    let (prefix, no) = stem.rsplit_once('-')?;
    let number = |text: &str| if text.len() == 5 { text.parse().ok() } else { None };
    Some((prefix, number(no)?, number(count)?))
}

/// Files count from 1.
fn ending(no: u64, count: u64) -> String {
    format!("-{:05}-of-{count:05}.gguf", no + 1)
}
