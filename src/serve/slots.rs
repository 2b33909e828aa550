//! `POST /slots/{id}?action=save|restore|erase`: what a slot holds goes to a file and comes back, also after a restart.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;
use tokio::sync::oneshot;

use super::{
    beside::{Turns, beside},
    error::{ApiError, ApiResult},
    fields::Fields,
    host::Host,
    job::{Action, Done, SlotTask},
};
use crate::{
    error::Error,
    session::{SavedForm, SavedSequence},
};

/// Bytes of a file's name at most.
const MOST_NAME_BYTES: usize = 255;

/// Actions that wait while one is done.
const MOST_WAITING: usize = 4;

/// Files that are being written begin with this, which no name of a request does.
const UNFINISHED: &str = ".bitnet-slot-";

/// Removes what servers that were killed left unfinished in the folder. Those that run hold a lock on theirs.
pub fn remove_leftovers(folder: &Path) {
    let is_unfinished = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(UNFINISHED);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten().filter(is_unfinished) {
        if File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok() && fs::remove_file(entry.path()).is_err())
        {
            log::warn!("{} was left by a server that is gone, and cannot be removed", entry.path().display());
        }
    }
}

/// A file in the folder that has no name yet, locked.
fn unfinished(folder: &Path) -> io::Result<NamedTempFile> {
    loop {
        let file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder)?;
        // There are file systems without locks: a leftover stays there.
        let _ = file.as_file().lock();
        // A server that began in between has taken it for one.
        if file.path().exists() {
            return Ok(file);
        }
    }
}

/// Turns of actions on slots: each may hold a whole context in memory.
pub fn turns() -> Turns {
    Turns::new(1, MOST_WAITING)
}

/// The action of a query.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Save,
    Restore,
    Erase,
}

/// Performs the action that `query` names. `folder` has the files.
///
/// # Errors
/// If there is no such slot, action or file, or too many actions wait.
pub async fn act(
    turns: &Turns,
    host: &Arc<Host>,
    folder: Option<&Path>,
    slot: &str,
    query: &str,
    fields: &Map<String, Value>,
) -> ApiResult<Value> {
    let Some(folder) = folder else {
        let message = "This server does not support slots action. Start it with `--slot-save-path`";
        return Err(ApiError::not_supported(message));
    };
    let place = slot.parse().ok().filter(|&slot: &usize| slot < host.served.slots);
    let place = place.ok_or_else(|| ApiError::bad_request("Invalid slot ID"))?;
    let verb = match query.split('&').find_map(|pair| pair.strip_prefix("action=")) {
        Some("save") => Verb::Save,
        Some("restore") => Verb::Restore,
        Some("erase") => Verb::Erase,
        _ => return Err(ApiError::bad_request("Invalid action: one of save, restore and erase")),
    };
    let turn = turns.next().await?;
    let begun = Instant::now();
    if verb == Verb::Erase {
        let Done::Erased(tokens) = done(host, place, Action::Erase).await? else { return Err(ApiError::bug()) };
        return Ok(json!({ "id_slot": place, "n_erased": tokens }));
    }
    let (name, path) = file(folder, fields)?;
    let of_task = Arc::clone(host);
    let (key, tokens, bytes) = if verb == Verb::Save {
        let Done::Saved(saved) = done(host, place, Action::Save).await? else { return Err(ApiError::bug()) };
        let saved = saved.ok_or_else(|| ApiError::bad_request(format!("slot {place} holds nothing to be saved")))?;
        let tokens = saved.tokens().len();
        ("n_saved", tokens, beside(turn, move || write(&of_task, &saved, &path)).await?)
    } else {
        let (saved, bytes) = beside(Arc::clone(&turn), move || read(&of_task, &path)).await?;
        let tokens = saved.tokens().len();
        done(host, place, Action::Restore(Box::new(saved))).await?;
        ("n_restored", tokens, bytes)
    };
    let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
    let (bytes_key, time_key) = if verb == Verb::Save { ("n_written", "save_ms") } else { ("n_read", "restore_ms") };
    Ok(json!({
        "id_slot": place,
        "filename": name,
        key: tokens,
        bytes_key: bytes,
        "timings": { time_key: milliseconds },
    }))
}

/// The file that a request names, in the folder and nowhere else.
fn file(folder: &Path, fields: &Map<String, Value>) -> ApiResult<(String, PathBuf)> {
    const NAME: &str = "filename";
    let name = Fields(fields).text(NAME)?.unwrap_or_default();
    // Names that mean something to a file system, of any system.
    let is_odd = |c: char| c.is_control() || "/\\:*?\"<>|".contains(c);
    let is_plain = !name.is_empty()
        && name.len() <= MOST_NAME_BYTES
        && !name.starts_with('.')
        && !name.ends_with(['.', ' '])
        && !name.contains(is_odd);
    if !is_plain {
        return Err(ApiError::bad_field(NAME, "Invalid filename"));
    }
    Ok((name.to_owned(), folder.join(name)))
}

/// The engine's reply.
async fn done(host: &Host, place: usize, action: Action) -> ApiResult<Done> {
    let (reply, done) = oneshot::channel();
    host.jobs.submit_slot(SlotTask { place, action, reply })?;
    Ok(done.await.map_err(|_| ApiError::stopping())??)
}

/// The file is replaced in one step or not at all. Gives its size.
fn write(host: &Host, saved: &SavedSequence, path: &Path) -> ApiResult<u64> {
    // A link that leads nowhere is something as well.
    if fs::symlink_metadata(path).is_ok() && !is_saved(path) {
        return Err(ApiError::bad_field("filename", "another file has this name: only saved slots are replaced"));
    }
    let written = || {
        let file = unfinished(path.parent().unwrap_or(Path::new(".")))?;
        let mut buffered = BufWriter::new(file.as_file());
        let bytes = host.served.saved_form.write(saved, host.served.fingerprint, &mut buffered)?;
        buffered.flush()?;
        drop(buffered);
        file.as_file().sync_all()?;
        file.persist(path).map(|_| bytes).map_err(|error| error.error)
    };
    // Not the whole of it, which has paths of this machine in it.
    written().map_err(|error: io::Error| ApiError::internal(format!("the slot cannot be saved: {}", error.kind())))
}

fn is_saved(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file())
        && File::open(path).is_ok_and(|mut file| SavedForm::begins(&mut file))
}

fn read(host: &Host, path: &Path) -> ApiResult<(SavedSequence, u64)> {
    // Not a pipe, which would make the server wait.
    if !fs::metadata(path).is_ok_and(|found| found.is_file()) {
        return Err(ApiError::bad_field("filename", "there is no such file"));
    }
    let file = File::open(path).map_err(|error| Error::io("open", "the file of a slot", error))?;
    Ok(host.served.saved_form.read(host.served.fingerprint, &mut BufReader::new(file))?)
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn a_few_wait_for_their_turn_and_more_are_told_so() {
        let turns = turns();
        let first = turns.next().await.unwrap();
        let mut waiting: Vec<_> = (0..MOST_WAITING).map(|_| Box::pin(turns.next())).collect();
        for one in &mut waiting {
            assert!(one.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        assert_eq!(turns.next().await.unwrap_err().status, 503);
        drop(first);
        assert!(waiting.remove(0).await.is_ok());
        assert!(waiting.remove(0).await.is_ok());
    }

    #[test]
    fn files_are_in_the_folder() {
        let path = |name: &str| {
            let fields = json!({ "filename": name });
            file(Path::new("slots"), fields.as_object().unwrap()).map(|(_, path)| path).ok()
        };
        for plain in ["slot1.bin", "a b", "größe", "x"] {
            assert_eq!(path(plain), Some(Path::new("slots").join(plain)), "{plain}");
        }
        let long = "x".repeat(256);
        for odd in ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "C:x", ".hidden", "x.", "a\0b", "a\nb", &long]
        {
            assert_eq!(path(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn leftovers_of_killed_servers_are_removed_and_work_of_others_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let names = || {
            let mut names: Vec<_> =
                fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        fs::write(folder.path().join("story.bin"), "saved").unwrap();
        fs::write(folder.path().join(".other"), "somebody's").unwrap();
        let working = unfinished(folder.path()).unwrap();
        let left = folder.path().join(format!("{UNFINISHED}left"));
        fs::write(&left, "half of it").unwrap();
        assert_eq!(names().len(), 4);
        remove_leftovers(folder.path());
        assert!(!left.exists() && names().len() == 3, "{:?}", names());
        working.persist(folder.path().join("new.bin")).unwrap();
        remove_leftovers(folder.path());
        assert_eq!(names(), [".other", "new.bin", "story.bin"]);
    }
}
