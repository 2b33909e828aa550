//! The outline -> the GGUF file, a tensor at a time, or a few rows of it.

use std::{
    io::{self, Write},
    num::NonZero,
    ops::ControlFlow,
    path::Path,
    thread,
};

use bitnet_cpu_kernels::format::{Codec, DenseType, dense::encode_row};

use super::{
    ConvertOptions, Progress,
    fit::fit,
    outline::{Content, Outline, Output, bytes},
    source::{Description, Input, Source},
    target::Target,
};
use crate::{
    error::{Error, Result},
    gguf::Writer,
    machine::workers,
    model::{
        codes_are_zero,
        dialect::{ROW_STEP, blame},
    },
};

/// Bytes handed to the writer at a time, between which the work can be ended.
const CHUNK_BYTES: usize = 4 << 20;
/// Numbers converted by a thread at a time.
const CHUNK_NUMBERS: usize = 1 << 18;

/// Facts learnt about the matrices on the way.
#[derive(Default)]
pub(super) struct Findings {
    pub rounded: usize,
    pub warnings: Vec<String>,
    /// Matrices of the source that have nothing but zeros.
    pub zeros: Vec<String>,
}

/// How much is done, and whether to go on.
pub(super) struct Meter<'a> {
    pub options: &'a ConvertOptions<'a>,
    /// The output, for messages.
    pub path: &'a Path,
    pub total: u64,
    pub done: u64,
}

impl Meter<'_> {
    /// Counts bytes of a tensor.
    ///
    /// # Errors
    /// If the work is to end.
    pub fn advance(&mut self, tensor: &str, bytes: u64) -> Result<()> {
        self.done += bytes;
        let progress = Progress { tensor, done_bytes: self.done, total_bytes: self.total };
        match self.options.progress.map(|report| report(&progress)) {
            Some(ControlFlow::Break(())) => Err(Error::io("write", self.path, io::ErrorKind::Interrupted.into())),
            Some(ControlFlow::Continue(())) | None => Ok(()),
        }
    }
}

/// Writes all tensors.
pub(super) fn write(
    target: &Target,
    outline: &Outline,
    description: &Description,
    source: &dyn Source,
    meter: &mut Meter,
) -> Result<Findings> {
    let writer = Writer::create(&outline.metadata, outline.specs(), target.buffered()).map_err(|e| target.blame(e))?;
    let mut run = Run { writer: writer.named(target.path()), source, meter, findings: Findings::default() };
    let mut factor = None;
    for output in &outline.outputs {
        let input = &description.inputs[output.input];
        match &output.content {
            Content::Ternary(codec) => factor = run.ternary(output, input, codec)?,
            Content::Factor => {
                let factor: f32 = factor.take().expect("a factor follows the matrix it was planned for");
                run.put(&output.spec.name, &factor.to_le_bytes())?;
            }
            Content::Table(ty) => run.table(output, input, *ty)?,
            Content::Copy => {
                let bytes = source.bytes(output.input)?;
                run.put(&output.spec.name, &bytes)?;
            }
        }
    }
    run.writer.finish()?;
    Ok(run.findings)
}

struct Run<'a, 'm, W: Write> {
    writer: Writer<W>,
    source: &'a dyn Source,
    meter: &'a mut Meter<'m>,
    findings: Findings,
}

impl<W: Write> Run<'_, '_, W> {
    /// Writes a matrix; gives the factor to be written beside it.
    fn ternary(&mut self, output: &Output, input: &Input, codec: &Codec) -> Result<Option<f32>> {
        let matrix = self.source.ternary(output.input)?;
        self.findings.rounded += usize::from(matrix.rounded);
        self.findings.warnings.extend(matrix.warning.clone());
        if codes_are_zero(&matrix.codes) || matrix.scales.collapsed() == Some(0.0) {
            self.findings.zeros.push(input.origin.clone());
        }
        let (scales, factor) = fit(&input.origin, &matrix, codec, self.meter.options.lossy)?;
        let bytes = codec.encode(&matrix.codes, &scales).map_err(|e| blame(&input.origin, codec.cols(), e))?;
        self.put(&output.spec.name, &bytes)?;
        Ok(factor)
    }

    fn table(&mut self, output: &Output, input: &Input, ty: DenseType) -> Result<()> {
        let [rows, cols] = input.sizes[..] else {
            return Err(Error::malformed(
                format!("tensor {}", input.origin),
                "two sizes",
                format!("{:?}", input.sizes),
            ));
        };
        let share = (CHUNK_NUMBERS / cols).next_multiple_of(ROW_STEP);
        let chunk = share * thread::available_parallelism().map_or(1, NonZero::get);
        let row_bytes = ty.row_bytes(cols);
        let mut encoded = vec![0; chunk.min(rows) * row_bytes];
        for start in (0..rows).step_by(chunk) {
            let encoded = &mut encoded[..chunk.min(rows - start) * row_bytes];
            let source = self.source;
            let parts: Vec<_> = encoded.chunks_mut(share * row_bytes).enumerate().collect();
            let results = workers::map(parts.len(), parts, |(part, out)| {
                table_rows(source, output.input, input, ty, start + part * share, out)
            });
            // The first error in the order of the rows, however the threads ran.
            results.into_iter().collect::<Result<()>>()?;
            self.put(&output.spec.name, encoded)?;
        }
        Ok(())
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        for chunk in bytes.chunks(CHUNK_BYTES) {
            self.writer.write_tensor(name, chunk)?;
            self.meter.advance(name, chunk.len() as u64)?;
        }
        Ok(())
    }
}

/// Encodes as many rows as `out` has room for, from row `first` on.
fn table_rows(
    source: &dyn Source,
    at: usize,
    input: &Input,
    ty: DenseType,
    first: usize,
    out: &mut [u8],
) -> Result<()> {
    let cols = input.sizes[1];
    let rows = out.len() / ty.row_bytes(cols);
    let mut values = vec![0.0; rows * cols];
    source.rows(at, first..first + rows, &mut values)?;
    let encoded = out.chunks_exact_mut(ty.row_bytes(cols)).zip(values.chunks_exact(cols)).enumerate();
    for (row, (out, values)) in encoded {
        encode_row(ty, values, out).map_err(|col| {
            let expected = match (values[col].is_finite(), ty) {
                (false, _) => "finite numbers".to_owned(),
                // As infinity it would make every logit infinite.
                (true, DenseType::F16) => "numbers that fit f16 (±65504)".to_owned(),
                (true, _) => format!("numbers that fit {ty:?}"),
            };
            let found = format!("{} at element {}", values[col], (first + row) * cols + col);
            Error::malformed(format!("tensor {}", input.origin), expected, found)
        })?;
    }
    Ok(())
}

/// Bytes that are written, and again those that are read back.
pub(super) fn work(outline: &Outline) -> u64 {
    let read_back = outline.outputs.iter().filter(|output| !matches!(output.content, Content::Table(_)));
    outline.data_bytes() + read_back.map(|output| bytes(&output.spec)).sum::<u64>()
}
