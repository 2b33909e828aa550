//! A Hugging Face directory -> one GGUF file with I2_S projections.
//!
//! In: `config.json`, `model.safetensors` or its shards, and the tokenizer's files where there are any. Out: a file
//! that this program and others read in place. Nothing is held in memory but a few rows and the tokenizer.

mod checkpoint;
pub(crate) mod config;
mod dense;
pub(crate) mod json;
pub(crate) mod layout;
pub(crate) mod metadata;
mod names;
mod report;
mod safetensors;
pub(crate) mod target;
mod ternary;
mod tokens;
mod write;

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

pub use report::Report;

use crate::{
    error::{Error, Result},
    model::Config,
};

/// How to convert. The default is right for every model that says what it is.
#[derive(Clone, Copy, Default)]
pub struct ConvertOptions<'a> {
    /// `general.name`; by default the last part of `_name_or_path` in `config.json`, if that is set.
    pub name: Option<&'a str>,
    /// Overwrite an existing output.
    pub force: bool,
    /// Round real-valued projections to ternary even where nothing says that the model was trained for it.
    pub ternarise: bool,
    /// Called after every few rows; `Break` ends the conversion and leaves no file behind.
    pub progress: Option<&'a ProgressFn<'a>>,
}

/// Is told how far the work is; `Break` ends it.
pub type ProgressFn<'a> = dyn Fn(&Progress) -> ControlFlow<()> + 'a;

/// How far a conversion is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The tensor being written.
    pub tensor: &'a str,
    /// Bytes of tensor data written.
    pub done_bytes: u64,
    /// Bytes of tensor data in all.
    pub total_bytes: u64,
}

/// Converts the model in the directory `src` to the GGUF file `out`.
///
/// `out` appears only when it is complete; after an error there is nothing. The same input gives the same bytes,
/// however it is divided into shards.
pub fn convert(src: &Path, out: &Path, options: &ConvertOptions) -> Result<Report> {
    if src.is_file() {
        return Err(Error::Usage(format!(
            "{} is a file; convert takes the directory that holds config.json and model.safetensors",
            src.display()
        )));
    }
    let config_path = src.join("config.json");
    let json = json::read_json(&config_path)?
        .ok_or_else(|| Error::missing(config_path.display().to_string(), "the model's architecture"))?;
    let mut config = config::read_config(&json).map_err(|e| e.in_file(config_path.display().to_string()))?;
    if let Some(name) = options.name {
        config.model.name = name.to_owned();
    }

    let in_source = |e: Error| e.in_file(src.display().to_string());
    let checkpoint = checkpoint::Checkpoint::open(src)?;
    let (items, mut warnings) = layout::layout(&config, &checkpoint).map_err(in_source)?;
    let mut metadata = metadata::describe(&config.model);
    let tokens = tokens::read(src, config.model.vocab).map_err(in_source)?;
    for (key, value) in tokens.pairs {
        metadata.set(key, value);
    }
    warnings.extend(tokens.warnings);

    // What is written has to be what this program runs; its own checks know the limits.
    Config::from_metadata(&metadata, config.model.vocab).map_err(in_source)?;

    let mut inputs: Vec<PathBuf> = checkpoint.files.clone();
    inputs.push(config_path);
    inputs.extend(tokens.files);
    let target = target::Target::create(out, &inputs, options.force)?;
    let mut findings = write::Findings::default();
    let bytes_out = write::write(target, &metadata, &items, &config, options, &mut findings).map_err(in_source)?;

    let mut report = Report::new(out.to_path_buf(), &config.model, items.iter().map(|item| &item.spec));
    report.rounded = findings.rounded;
    report.bytes_in = checkpoint.bytes;
    report.bytes_out = bytes_out;
    report.warnings = warnings;
    report.warnings.extend(findings.warnings);
    Ok(report)
}
