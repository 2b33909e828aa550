//! A Hugging Face directory -> the GGUF file that `convert` would write, in memory: what runs without a file.
//!
//! Projections are packed, at 2 bits a weight; tables and norms keep their numbers, tables in place.

use std::{
    io,
    num::NonZero,
    path::Path,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use super::{
    ConvertOptions, Head, Progress, ProgressFn,
    fit::fit,
    hf,
    outline::{Content, Outline, Output, bytes},
    source::{Description, Source},
};
use crate::{
    bytes::Bytes,
    error::{Error, Result},
    gguf::File,
    machine::workers,
    model::dialect::blame,
};

/// Reads the model in `dir`. The embedding table and the head stay what they are, as [`Head::Keep`] has them.
///
/// `progress` is told of every tensor; `Break` from it ends the work.
///
/// # Errors
/// As those of [`convert`](super::convert()).
pub fn in_memory(dir: &Path, progress: Option<&ProgressFn<'_>>) -> Result<File> {
    let options = ConvertOptions { head: Some(Head::Keep), ..Default::default() };
    let directory = hf::Directory::open(dir, &options)?;
    let work = || -> Result<File> {
        let (source, description) = directory.source(dir)?;
        let outline = Outline::new(&description, &source, &options)?;
        let (data, warnings): (_, Vec<_>) =
            read_all(dir, &outline, &description, &source, progress)?.into_iter().unzip();
        let specs = outline.specs().into_iter().zip::<Vec<Bytes>>(data).collect();
        let warnings = warnings.into_iter().flatten().chain(description.warnings).collect();
        Ok(File::in_memory(outline.metadata, specs)?.with_warnings(warnings))
    };
    work().map_err(|e| e.in_file(dir.display().to_string()))
}

/// A tensor's data, and what is odd about it.
type Read = (Bytes, Option<String>);

/// All tensors, a few at a time: each core holds one matrix before it is packed.
fn read_all(
    dir: &Path,
    outline: &Outline,
    description: &Description,
    source: &dyn Source,
    progress: Option<&ProgressFn<'_>>,
) -> Result<Vec<Read>> {
    let outputs = &outline.outputs;
    let cores = thread::available_parallelism().map_or(1, NonZero::get).min(outputs.len());
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut data: Vec<Option<Result<Read>>> = Vec::new();
    data.resize_with(outputs.len(), || None);
    let mut broken = false;
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let (next, stopped) = (&next, &stopped);
        let work = move || {
            while !stopped.load(Ordering::Relaxed) {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(output) = outputs.get(at) else { break };
                // The receiver is there until all senders are gone.
                let _ = sender.send((at, read(output, description, source)));
            }
        };
        if workers::start(scope, cores, work.clone()).is_empty() {
            work();
        }
        // The last sender, of which the threads have their own.
        drop(work);
        let mut done_bytes = 0;
        for (at, result) in receiver {
            let failed = result.is_err();
            data[at] = Some(result);
            done_bytes += bytes(&outputs[at].spec);
            let tensor = &outputs[at].spec.name;
            let told = Progress { tensor, done_bytes, total_bytes: outline.data_bytes() };
            broken |= progress.is_some_and(|report| report(&told).is_break());
            if failed || broken {
                stopped.store(true, Ordering::Relaxed);
            }
        }
    });
    if broken {
        return Err(Error::io("read", dir, io::ErrorKind::Interrupted.into()));
    }
    // The first error in the order of the tensors; after one, some are not there.
    data.into_iter().flatten().collect()
}

fn read(output: &Output, description: &Description, source: &dyn Source) -> Result<Read> {
    match &output.content {
        Content::Copy => Ok((source.bytes(output.input)?, None)),
        Content::Ternary(codec) => {
            let origin = &description.inputs[output.input].origin;
            let matrix = source.ternary(output.input)?;
            let (scales, _) = fit(origin, &matrix, codec, false)?;
            let packed = codec.encode(&matrix.codes, &scales).map_err(|e| blame(origin, codec.cols(), e))?;
            Ok((Bytes::from(packed), matrix.warning))
        }
        Content::Factor | Content::Table(_) => {
            unreachable!("I2_S holds its scale itself, and the tables are kept")
        }
    }
}
