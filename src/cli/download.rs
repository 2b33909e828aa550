//! Downloads from the Hugging Face Hub with a progress bar: for `pull`, and for a model that another command names.

use std::{borrow::Cow, env, path::Path};

use indicatif::ProgressBar;

use super::{format, output, progress};
use crate::{
    engine::located,
    error::{Remedy, Result},
    hub::{Cache, Hub, ModelName, PullEvent, Pulled, pull},
};

/// The path itself, or where the model of that name lies, which is downloaded where it is not here. What is here is used
/// without a look at the network.
pub fn fetched(path: &Path) -> Result<Cow<'_, Path>> {
    let missing = match located(path) {
        Err(error) if !is_offline() && !has_folder(path) => error,
        other => return other,
    };
    let Some(Remedy::Pull(name)) = missing.remedy() else { return Err(missing) };
    let name = ModelName::parse(name)?;
    output::note(format_args!("{name} is not here: it is downloaded from the Hugging Face Hub"));
    let pulled = download(&Cache::of_user()?, &name)?;
    output::note(summary(&name.to_string(), &pulled));
    Ok(Cow::Owned(pulled.path))
}

/// True for a path into a folder that is there: it names a file that is not, and no model of the Hub.
fn has_folder(path: &Path) -> bool {
    path.parent().is_some_and(|folder| !folder.as_os_str().is_empty() && folder.is_dir())
}

/// Brings the model into the cache.
pub fn download(cache: &Cache, name: &ModelName) -> Result<Pulled> {
    let mut bar: Option<(String, ProgressBar)> = None;
    let pulled = pull(&Hub::of_user()?, cache, name, &mut |event| {
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
    pulled
}

/// "org/name: 1 file, 1.8 MiB fetched".
pub fn summary(name: &str, pulled: &Pulled) -> String {
    let (files, bytes) = (format::count(pulled.files, "file"), format::bytes(pulled.fetched_bytes));
    format!("{name}: {files}, {bytes} fetched")
}

/// As huggingface_hub reads the variable.
pub fn is_offline() -> bool {
    let value = env::var("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_lowercase();
    ["1", "true", "yes", "on"].contains(&value.as_str())
}

fn file_bar(file: &str, total_bytes: Option<u64>) -> ProgressBar {
    let template = match total_bytes {
        Some(_) => "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{msg} {bytes} {bytes_per_sec}",
    };
    progress::bar(total_bytes, template).with_message(file.to_owned())
}
