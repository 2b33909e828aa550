//! A model -> a GGUF file whose ternary matrices, embedding table and head have the types that are asked for.
//!
//! In: a Hugging Face directory (`hf`) or a GGUF file (`from_gguf`). Either gives a description and its tensors one
//! at a time; `outline` decides what becomes of each, `write`(mod@write) writes them, and `verify` reads the file
//! back and compares it with the input before it gets its name. In memory is a matrix, and those that were read as far as
//! they have room (`remember`).

mod fit;
mod from_gguf;
pub(crate) mod hf;
mod kinds;
mod memory;
pub(crate) mod metadata;
pub(crate) mod outline;
mod remember;
mod report;
mod source;
pub(crate) mod target;
mod verify;
mod write;

use std::{io, ops::ControlFlow, path::Path};

pub use kinds::{Head, TernaryType};
pub use memory::in_memory;
use outline::Outline;
use remember::Remembering;
pub use report::Report;
use source::{Description, Source};

use crate::{
    error::{Error, Result},
    gguf::Writer,
    machine,
    model::{self, OpenOptions},
};

/// How to convert. The default is right for every Hugging Face directory that says what it is.
#[derive(Clone, Copy, Default)]
pub struct ConvertOptions<'a> {
    /// Type of the ternary matrices; by default that of the input for a GGUF file, and for a directory I2_S, or PQ2_0 or
    /// Q2_0 where its matrices have a scale for each 128 or 64 columns.
    pub ty: Option<TernaryType>,
    /// Type of the embedding table and the head; by default F16 for a directory, and that of the input for a GGUF file.
    pub head: Option<Head>,
    /// How to read a GGUF file, where it does not say.
    pub open: OpenOptions,
    /// Let f16 scales differ from the f32 ones they stand for. Otherwise what changes a weight is refused.
    pub lossy: bool,
    /// Plan and size everything, and write nothing.
    pub dry_run: bool,
    /// `general.name`; by default that of the input: of a directory, the last part of `_name_or_path` in `config.json`.
    pub name: Option<&'a str>,
    /// Overwrite an existing output.
    pub force: bool,
    /// Round real-valued projections to ternary even where nothing says that the model was trained for it.
    pub ternarise: bool,
    /// Called after every part of a tensor; `Break` ends the conversion and leaves no file behind.
    pub progress: Option<&'a ProgressFn<'a>>,
}

/// Is told how far the work is; `Break` ends it.
pub type ProgressFn<'a> = dyn Fn(&Progress) -> ControlFlow<()> + 'a;

/// How far a conversion is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The tensor being written or read back.
    pub tensor: &'a str,
    /// Bytes of tensor data written and read back.
    pub done_bytes: u64,
    /// Bytes of tensor data to write and to read back.
    pub total_bytes: u64,
}

/// Converts the model `src`, a Hugging Face directory or a GGUF file, to the GGUF file `out`.
///
/// `out` appears only when it is complete and its matrices have been read back and compared with the input; after an
/// error there is nothing. The same input gives the same bytes, however it is divided into shards.
///
/// # Errors
/// If something is wrong with the input, does not fit the type that is asked for, or would change its value.
pub fn convert(src: &Path, out: &Path, options: &ConvertOptions) -> Result<Report> {
    let in_source = |e: Error| e.in_file(src.display().to_string());
    if src.is_file() {
        let (source, description) = from_gguf::GgufSource::open(src, options)?;
        run(&source, description, out, options, in_source, room())
    } else {
        let directory = hf::Directory::open(src, options)?;
        let (source, description) = directory.source(src).map_err(in_source)?;
        run(&source, description, out, options, in_source, room())
    }
}

/// Bytes that matrices may take until they have been compared: half of what is free, as the files that are read want to
/// stay in memory, too.
fn room() -> u64 {
    machine::free_memory_bytes().unwrap_or(0) / 2
}

/// The type that the ternary matrices of a directory are written in where none is asked for: one that holds them as they
/// are.
///
/// # Errors
/// As those of [`convert`](fn@convert).
pub fn default_type(dir: &Path) -> Result<TernaryType> {
    let directory = hf::Directory::open(dir, &ConvertOptions::default())?;
    let (_, description) = directory.source(dir).map_err(|e| e.in_file(dir.display().to_string()))?;
    Ok(description.default_type)
}

fn run(
    source: &dyn Source,
    description: Description,
    out: &Path,
    options: &ConvertOptions,
    in_source: impl Fn(Error) -> Error,
    room: u64,
) -> Result<Report> {
    let source = &Remembering::new(source, room);
    let outline = Outline::new(&description, source, options).map_err(&in_source)?;
    let mut report = Report::new(out.to_path_buf(), &outline.metadata, &outline.specs());
    report.matrices = outline.outputs.iter().filter(|o| matches!(o.content, outline::Content::Ternary(_))).count();
    report.bytes_in = description.bytes;
    report.warnings = description.warnings.clone();
    if options.dry_run {
        let writer = Writer::create(&outline.metadata, outline.specs(), io::sink()).map_err(&in_source)?;
        report.bytes_out = writer.file_bytes();
        report.dry_run = true;
        return Ok(report);
    }
    let target = target::Target::create(out, &description.files, options.force)?;
    target.check_space(outline.data_bytes())?;
    let mut meter = write::Meter { options, path: out, total: write::work(&outline), done: 0 };
    let findings = write::write(&target, &outline, &description, source, &mut meter).map_err(&in_source)?;
    verify::verify(&target, &outline, &description, source, &mut meter).map_err(&in_source)?;
    report.bytes_out = target.finish()?;
    report.rounded = findings.rounded;
    report.warnings.extend(findings.warnings);
    report.warnings.extend(model::zero_warning(&findings.zeros));
    Ok(report)
}
