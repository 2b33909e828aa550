//! Tensors of the layout -> the GGUF file, a few rows at a time.

use std::{
    fs,
    io::{self, BufWriter, Write},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use bitnet_cpu_kernels::format::{I2S_BLOCK, Layout, pack};
use tempfile::NamedTempFile;

use super::{
    ConvertOptions, Progress,
    config::SourceConfig,
    dense,
    layout::{Content, Item, Projection},
    safetensors::Tensor,
    ternary::Origin,
};
use crate::{
    error::{Error, Result},
    gguf::{Metadata, Writer},
};

/// Elements converted at a time.
const CHUNK_ELEMENTS: usize = 1 << 16;
/// What follows the codes of an I2_S tensor: the scale as f32, and zeros.
const I2S_TRAILER_BYTES: usize = 32;

/// A file that takes its name only when it is complete; until then it is a temporary file beside it, which
/// vanishes when this is dropped.
pub(super) struct Target {
    path: PathBuf,
    force: bool,
    file: NamedTempFile,
}

impl Target {
    /// Refuses a path that must not be written, then opens the temporary file.
    pub fn create(path: &Path, inputs: &[PathBuf], force: bool) -> Result<Self> {
        if let Ok(found) = fs::metadata(path) {
            let shown = path.display();
            if !found.is_file() {
                return Err(Error::Usage(format!("{shown} is not a regular file, so the model cannot go there")));
            }
            let same = |input: &PathBuf| fs::canonicalize(input).ok() == fs::canonicalize(path).ok();
            if inputs.iter().any(same) {
                return Err(Error::Usage(format!("{shown} is part of the input; choose another output")));
            }
            if !force {
                return Err(Error::Usage(format!("{shown} exists; --force overwrites it")));
            }
        }
        let name = path.file_name().ok_or_else(|| {
            Error::Usage(format!("the output has to be the path of a file, not \"{}\"", path.display()))
        })?;
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let prefix = format!(".{}.", name.to_string_lossy());
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".part");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // What an ordinary new file gets; the system takes the user's umask off. Temporary files are private.
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(folder).map_err(|e| Error::io("write", path, e))?;
        Ok(Self { path: path.to_path_buf(), force, file })
    }

    /// Writes the whole model and gives the file its name. Returns its size.
    pub fn write(
        self,
        metadata: &Metadata,
        items: &[Item],
        config: &SourceConfig,
        options: &ConvertOptions,
        findings: &mut Findings,
    ) -> Result<u64> {
        self.fill(metadata, items, config, options, findings)?;
        let failed = |e| Error::io("write", &self.path, e);
        // Without this, a power cut after the rename could leave the name without the data.
        self.file.as_file().sync_all().map_err(failed)?;
        let bytes = self.file.as_file().metadata().map_err(failed)?.len();
        let kept = if self.force { self.file.persist(&self.path) } else { self.file.persist_noclobber(&self.path) };
        kept.map_err(|e| Error::io("write", &self.path, e.error))?;
        Ok(bytes)
    }

    fn fill(
        &self,
        metadata: &Metadata,
        items: &[Item],
        config: &SourceConfig,
        options: &ConvertOptions,
        findings: &mut Findings,
    ) -> Result<()> {
        let specs = items.iter().map(|item| item.spec.clone()).collect();
        let out = BufWriter::with_capacity(1 << 20, self.file.as_file());
        let writer = Writer::create(metadata, specs, out).map_err(|e| renamed(e, &self.path))?.named(&self.path);
        let total = items.iter().map(Item::bytes).sum();
        let mut run = Run { writer, config, options, findings, path: &self.path, total, done: 0 };
        for item in items {
            run.write(item)?;
        }
        run.writer.finish()?;
        Ok(())
    }
}

/// An error of the writer's first step, which does not know the file's name yet.
fn renamed(error: Error, path: &Path) -> Error {
    match error {
        Error::Io { action, source, .. } => Error::io(action, path, source),
        other => other.in_file(path.display().to_string()),
    }
}

/// What is learnt about the matrices on the way.
#[derive(Default)]
pub(super) struct Findings {
    pub rounded: usize,
    pub warnings: Vec<String>,
}

struct Run<'a, W: Write> {
    writer: Writer<W>,
    config: &'a SourceConfig,
    options: &'a ConvertOptions<'a>,
    findings: &'a mut Findings,
    path: &'a Path,
    total: u64,
    done: u64,
}

impl<W: Write> Run<'_, W> {
    fn write(&mut self, item: &Item) -> Result<()> {
        let name = &item.spec.name;
        match &item.content {
            Content::Table(tensor) => self.reals(name, tensor, dense::push_f16),
            Content::Norm(tensor) => self.reals(name, tensor, dense::push_f32),
            Content::Computed(values) => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                self.put(name, &bytes)
            }
            Content::Projection(projection) => self.projection(name, projection),
        }
    }

    fn reals(
        &mut self,
        name: &str,
        tensor: &Tensor,
        push: impl Fn(&Tensor, usize, &[f32], &mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let elements = tensor.elements();
        let mut values = vec![0.0; CHUNK_ELEMENTS.min(elements)];
        let mut bytes = Vec::new();
        for start in (0..elements).step_by(CHUNK_ELEMENTS) {
            let values = &mut values[..CHUNK_ELEMENTS.min(elements - start)];
            dense::read(tensor, start, values);
            bytes.clear();
            push(tensor, start, values, &mut bytes)?;
            self.put(name, &bytes)?;
        }
        Ok(())
    }

    /// Codes in blocks of 128 over the flattened matrix, then the scale (formats.md 2.1).
    fn projection(&mut self, name: &str, projection: &Projection) -> Result<()> {
        let may_round = self.config.masters_are_ternary || self.options.ternarise;
        let matrix = projection.open(self.config, may_round)?;
        self.findings.rounded += usize::from(matches!(matrix.origin, Origin::Rounded { .. }));
        if matrix.scale_is_odd() {
            let weight = &projection.weight.name;
            self.findings.warnings.push(format!("tensor {weight} has the unusual scale {}", matrix.scale));
        }
        let cols = projection.cols;
        let mut values = vec![0.0; cols];
        let mut codes = Vec::with_capacity(CHUNK_ELEMENTS + cols);
        for row in 0..projection.rows {
            let start = codes.len();
            codes.resize(start + cols, 0);
            matrix.row(projection.source_row(row), &mut values, &mut codes[start..])?;
            let last = row + 1 == projection.rows;
            if codes.len() >= CHUNK_ELEMENTS || last {
                let whole = codes.len() / I2S_BLOCK * I2S_BLOCK;
                self.put(name, &pack(Layout::I2sP128, 1, whole, &codes[..whole]))?;
                codes.drain(..whole);
            }
        }
        let mut trailer = [0; I2S_TRAILER_BYTES];
        trailer[..4].copy_from_slice(&matrix.scale.to_le_bytes());
        self.put(name, &trailer)
    }

    fn put(&mut self, name: &str, chunk: &[u8]) -> Result<()> {
        self.writer.write_tensor(name, chunk)?;
        self.done += chunk.len() as u64;
        let progress = Progress { tensor: name, done_bytes: self.done, total_bytes: self.total };
        match self.options.progress.map(|report| report(&progress)) {
            Some(ControlFlow::Break(())) => Err(Error::io("write", self.path, io::ErrorKind::Interrupted.into())),
            Some(ControlFlow::Continue(())) | None => Ok(()),
        }
    }
}
