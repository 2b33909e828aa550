//! `pull`: brings a model of the Hugging Face Hub into the cache that all programs of this machine share.

use std::{env, path::Path};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{args::PullArgs, format, output};
use crate::{
    error::{Error, Result},
    hub::{Cache, Hub, ModelName, PullEvent, Pulled, pull},
};

pub fn run(args: &PullArgs) -> Result<()> {
    let name = ModelName::parse(&args.name)?;
    let cache = Cache::of_user()?;
    if is_offline() {
        let path = cache.find(&name)?.ok_or_else(|| {
            let needed_for = "working offline, as HF_HUB_OFFLINE asks";
            Error::missing(format!("{name} in {}", cache.root().display()), needed_for)
        })?;
        return print(args, &path, None);
    }
    let mut bar: Option<(String, ProgressBar)> = None;
    let pulled = pull(&Hub::of_user(), &cache, &name, &mut |event| {
        let at = match event {
            PullEvent::Progress(at) => at,
            PullEvent::Retry { error, have } => {
                log::warn!("{error}; trying again from byte {have}");
                return;
            }
            PullEvent::StartsOver { file } => {
                log::warn!("{file}: the server does not go on where it ended; all of it is fetched again");
                return;
            }
        };
        // A new file, a new bar.
        if bar.as_ref().is_none_or(|(file, _)| file != at.file) {
            bar.iter().for_each(|(_, bar)| bar.finish_and_clear());
            bar = Some((at.file.to_owned(), file_bar(at.file, at.total_bytes)));
        }
        bar.iter().for_each(|(_, bar)| bar.set_position(at.done_bytes));
    });
    bar.iter().for_each(|(_, bar)| bar.finish_and_clear());
    let pulled = pulled?;
    print(args, &pulled.path, Some(&pulled))
}

/// The path on standard output, so that a script can use it; the rest is for people.
fn print(args: &PullArgs, path: &Path, pulled: Option<&Pulled>) -> Result<()> {
    if args.json {
        return output::print_json(&json!({
            "name": args.name,
            "path": path,
            "commit": pulled.map(|pulled| &pulled.commit),
            "files": pulled.map(|pulled| pulled.files),
            "fetched_bytes": pulled.map_or(0, |pulled| pulled.fetched_bytes),
        }));
    }
    if let Some(pulled) = pulled {
        let (files, bytes) = (format::count(pulled.files, "file"), format::bytes(pulled.fetched_bytes));
        output::note(format_args!("{}: {files}, {bytes} fetched", args.name));
    }
    output::print(&format!("{}\n", path.display()))
}

/// As huggingface_hub reads the variable.
fn is_offline() -> bool {
    let value = env::var("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_lowercase();
    ["1", "true", "yes", "on"].contains(&value.as_str())
}

fn file_bar(file: &str, total_bytes: Option<u64>) -> ProgressBar {
    let template = match total_bytes {
        Some(_) => "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{msg} {bytes} {bytes_per_sec}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = total_bytes.map_or_else(ProgressBar::no_length, ProgressBar::new);
    bar.with_style(style).with_message(file.to_owned())
}
