//! Opens the model that the flags name.

use std::path::Path;

use super::{
    args::{LayoutArgs, ModelArgs},
    download::fetched,
    observer::observer,
};
use crate::{
    engine::{I2sLayout, ModelFile, OpenOptions},
    error::Result,
    gguf::File,
    probe::Packing,
};

/// The file of `-m`, or the built-in model.
pub fn open(args: &ModelArgs) -> Result<ModelFile> {
    match &args.model {
        Some(path) => open_path(path, args),
        None => ModelFile::built_in(&options(args.layout, false), observer()),
    }
}

/// As [`open`] for a command that looks at little of it: a file is mapped.
pub fn glance(args: &ModelArgs) -> Result<ModelFile> {
    open(&ModelArgs { model: args.model.clone(), no_mmap: false, ..*args })
}

/// A GGUF file, a Hugging Face directory, or a model of the Hub, which is downloaded where it is not here.
pub fn open_path(path: &Path, args: &ModelArgs) -> Result<ModelFile> {
    ModelFile::open(&*fetched(path)?, &options(args.layout, args.is_copied()), observer())
}

/// How the I2_S matrices of a file are read.
pub fn packing(path: &Path, layout: LayoutArgs) -> Result<Packing> {
    let name = path.display().to_string();
    let file = ModelFile::from_file(name, File::open(path)?, &options(layout, false), observer());
    file.packing().cloned()
}

fn options(layout: LayoutArgs, copy: bool) -> OpenOptions {
    let i2s = match layout.i2s_layout {
        None => I2sLayout::Usual,
        Some(layout) => layout.packing().map_or(I2sLayout::Try, I2sLayout::Given),
    };
    OpenOptions { copy, i2s }
}
