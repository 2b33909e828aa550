//! `inspect`: what a model file holds, and whether it can run.

use serde::Serialize;

use super::{args::InspectArgs, engine::Source, format, output};
use crate::{
    error::{Error, Result},
    inspect::{Report, inspect},
    model::Config,
};

#[derive(Serialize)]
struct Answer<'a> {
    file: &'a str,
    runs: bool,
    /// Why not.
    reason: Option<String>,
    #[serde(flatten)]
    report: &'a Report,
}

pub fn run(args: &InspectArgs) -> Result<()> {
    let source = match &args.file {
        Some(path) => Source::open_path(path)?,
        None => Source::open(&args.model)?,
    };
    let report = inspect(&source.file, args.check);
    // A vocabulary or an unknown architecture is worth a look, too: only --check makes it an error.
    let model = source.model();
    if args.json {
        let reason = model.as_ref().err().map(ToString::to_string);
        output::print_json(&Answer { file: &source.name, runs: model.is_ok(), reason, report: &report })?;
    } else {
        let verdict = match &model {
            Ok(model) => describe(&model.config),
            Err(reason) => format!("cannot run: {reason}"),
        };
        output::print(&format!("{}\n{verdict}\n{report}", source.name.escape_debug()))?;
    }
    match model {
        Err(reason) if args.check => Err(reason),
        _ => invalid_code(&report).map_or(Ok(()), |error| Err(error.in_file(source.name))),
    }
}

/// Loading does not look at the codes of very large models; `--check` does.
fn invalid_code(report: &Report) -> Option<Error> {
    let damaged = report.tensors.iter().find(|tensor| tensor.codes.as_ref().is_some_and(|codes| codes.three > 0))?;
    Some(Error::malformed(format!("tensor {}", damaged.name), "codes 0, 1 and 2", "code 3"))
}

fn describe(c: &Config) -> String {
    format!(
        "runs as {:?}: {}, width {}, feed-forward {} ({:?}), {} of {}, {}, vocabulary {}, context {}",
        c.family,
        format::count(c.layers, "layer"),
        c.dim,
        c.ffn_dim,
        c.activation,
        format::count(c.heads, "head"),
        c.head_dim,
        format::count(c.kv_heads, "key/value head"),
        c.vocab,
        c.context
    )
}
