//! Tensors of the layout -> the GGUF file, a few rows at a time.

use std::{
    io::{self, Write},
    ops::ControlFlow,
    path::Path,
};

use bitnet_cpu_kernels::format::{I2S_BLOCK, Layout, pack};

use super::{
    ConvertOptions, Progress,
    config::SourceConfig,
    dense,
    layout::{Content, Item, Projection, bytes},
    safetensors::Tensor,
    target::Target,
    ternary::Origin,
};
use crate::{
    error::{Error, Result},
    gguf::{I2S_TRAILER_BYTES, Metadata, Writer},
};

/// Elements converted at a time.
const CHUNK_ELEMENTS: usize = 1 << 16;

/// Writes the whole model and gives the file its name. Returns its size.
pub(super) fn write(
    target: Target,
    metadata: &Metadata,
    items: &[Item],
    config: &SourceConfig,
    options: &ConvertOptions,
    findings: &mut Findings,
) -> Result<u64> {
    let total = items.iter().map(|item| bytes(&item.spec)).sum();
    target.check_space(total)?;
    let specs = items.iter().map(|item| item.spec.clone()).collect();
    {
        let writer = Writer::create(metadata, specs, target.buffered()).map_err(|e| target.blame(e))?;
        let writer = writer.named(target.path());
        let mut run = Run { writer, config, options, findings, path: target.path(), total, done: 0 };
        for item in items {
            run.write(item)?;
        }
        run.writer.finish()?;
    }
    target.finish()
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

    /// Codes in blocks of 128 over the flattened matrix, then the scale (bitnet.cpp's I2_S).
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
