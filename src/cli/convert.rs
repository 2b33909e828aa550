//! `convert` and `dummy`: make GGUF files.

use std::{cell::OnceCell, ops::ControlFlow, sync::atomic::Ordering};

use super::{
    args::{ConvertArgs, DummyArgs},
    interrupt, output,
    progress::progress_bar,
    source::packing,
};
use crate::{
    convert::{self, ConvertOptions, Progress, ProgressFn, Report},
    dummy::{self, DummyOptions, HeadType, Shape},
    engine::located,
    error::{Error, Result},
    model::OpenOptions,
};

pub fn convert(args: &ConvertArgs) -> Result<()> {
    let src = &*located(&args.src)?;
    let out = match &args.output {
        Some(out) => out.clone(),
        None if src.is_file() => {
            return Err(Error::Usage(format!("{} is a file, so -o has to name the output", src.display())));
        }
        None => {
            let ty = args.ty.map_or_else(|| convert::default_type(src), |ty| Ok(ty.into()))?;
            src.join(format!("ggml-model-{}.gguf", ty.name().to_lowercase()))
        }
    };
    let mut open = OpenOptions::default();
    if src.is_file() {
        open.i2s = packing(src, args.layout)?.packing;
    }
    with_progress(args.json, |progress| {
        let options = ConvertOptions {
            ty: args.ty.map(Into::into),
            head: args.head.map(Into::into),
            open,
            lossy: args.lossy,
            dry_run: args.dry_run,
            name: args.name.as_deref(),
            force: args.force,
            ternarise: args.ternarise,
            progress: Some(progress),
        };
        convert::convert(src, &out, &options)
    })
}

pub fn dummy(args: &DummyArgs) -> Result<()> {
    let shape = match (&args.size, &args.like, &args.config) {
        (Some(size), ..) => Shape::by_size(size)?,
        (_, Some(name), _) => Shape::like(name)?,
        (_, _, Some(path)) => Shape::from_config(path)?,
        _ => return Err(Error::Usage("a shape is needed: --size, --like or --config".into())),
    };
    let shape = if args.mtp { shape.with_mtp()? } else { shape };
    with_progress(args.json, |progress| {
        let options = DummyOptions {
            seed: args.seed,
            ty: args.ty.into(),
            head: args.head.map_or(if shape.grouped { HeadType::AsMatrices } else { HeadType::F16 }, HeadType::from),
            force: args.force,
            progress: Some(progress),
        };
        dummy::make(&shape, &args.output, &options)
    })
}

/// Shows a bar, lets Ctrl-C end the work, and prints the report.
fn with_progress(json: bool, work: impl FnOnce(&ProgressFn<'_>) -> Result<Report>) -> Result<()> {
    let cancel = interrupt::catch();
    let bar = OnceCell::new();
    let report = work(&|at: &Progress<'_>| {
        bar.get_or_init(|| progress_bar(at.total_bytes)).set_position(at.done_bytes);
        if cancel.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if let Some(bar) = bar.get() {
        bar.finish_and_clear();
    }
    let report = report?;
    if json { output::print_json(&report) } else { output::print(&format!("{report}\n")) }
}
