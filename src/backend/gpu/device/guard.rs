//! The first look at the graphics drivers, in a process of its own: a driver may crash, abort or hang when it is asked for
//! its devices, which must not take this program along.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

use crate::cache_dir::Cache;

/// A driver that says nothing for so long hangs; the slowest known needs two seconds, on a GPU that sleeps.
const PATIENCE: Duration = Duration::from_secs(10);

/// The area of the user's cache that knows which drivers have answered.
const ANSWERED: &str = "drivers";

/// Variables that lead to other drivers, or to other devices of theirs.
const VARIABLES: [&str; 8] = [
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
    "VK_ADD_DRIVER_FILES",
    "VK_INSTANCE_LAYERS",
    "VK_LAYER_PATH",
    "WGPU_BACKEND",
    "XDG_DATA_HOME",
    "LD_LIBRARY_PATH",
];

/// Folders of the Vulkan loader (Linux), in which each driver has a file.
const FOLDERS: [&str; 4] =
    ["/etc/vulkan/icd.d", "/usr/local/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/usr/share/vulkan/icd.d"];

static CHILD: OnceLock<fn() -> io::Result<Command>> = OnceLock::new();
static VERDICT: OnceLock<Result<(), String>> = OnceLock::new();

/// From now on the drivers are asked for their devices by the command first, which is this program in the role of
/// [`adapters`](super::adapters). Without it, as in a library, they are asked in this process only.
pub fn look_first_by(command: fn() -> io::Result<Command>) {
    let _ = CHILD.set(command);
}

/// Whether the drivers may be asked; else what they did, in a sentence. Found out once.
pub(super) fn verdict() -> Result<(), String> {
    VERDICT.get_or_init(find).clone()
}

fn find() -> Result<(), String> {
    let Some(command) = CHILD.get() else { return Ok(()) };
    let files = driver_files();
    // Where the system names its drivers in files, those that have answered once are not asked twice.
    let cache = if cfg!(target_os = "linux") { Cache::of_user() } else { Cache::none() };
    let key = key(&files);
    if cache.get::<bool>(ANSWERED, &key) == Some(true) {
        return Ok(());
    }
    let ask = |only: Option<&Path>| -> Option<String> {
        let mut command = command().ok()?;
        if let Some(file) = only {
            command.env("VK_DRIVER_FILES", file).env("VK_ICD_FILENAMES", file).env_remove("VK_ADD_DRIVER_FILES");
        }
        // A system without room for a process has none for a driver that crashes either: it is asked directly.
        // The pipe ends with this process, which tells the child.
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        failure(child)
    };
    let Some(what) = ask(None) else {
        cache.put(ANSWERED, &key, &true);
        return Ok(());
    };
    let hangs = what.starts_with("hangs");
    // Each by itself, unless that would take long.
    let culprits = files.iter().filter(|file| files.len() == 1 || (!hangs && ask(Some(file)).is_some()));
    let names: Vec<String> = culprits.map(|file| file.display().to_string()).collect();
    let names = if names.is_empty() { String::new() } else { format!(" {}", names.join(", ")) };
    Err(format!("the graphics driver{names} {what} when it is asked for its devices"))
}

/// The failure of the child; `None` where it ended well.
fn failure(mut child: Child) -> Option<String> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return None,
            Ok(Some(status)) => return Some(format!("crashes ({})", ending(status))),
            Ok(None) if start.elapsed() > PATIENCE => {
                let _ = child.kill();
                let _ = child.wait();
                return Some(format!("hangs ({} s)", PATIENCE.as_secs()));
            }
            Ok(None) => thread::sleep(Duration::from_millis(2)),
            Err(_) => return None,
        }
    }
}

fn ending(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return format!("signal {signal}");
    }
    status.to_string()
}

/// The files by which the Vulkan loader finds drivers.
fn driver_files() -> Vec<PathBuf> {
    let named = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].iter().find_map(env::var_os);
    let places: Vec<PathBuf> = match named.filter(|named| !named.is_empty()) {
        Some(named) => env::split_paths(&named).collect(),
        None => FOLDERS.iter().map(PathBuf::from).collect(),
    };
    let added = env::var_os("VK_ADD_DRIVER_FILES").unwrap_or_default();
    let places = places.into_iter().chain(env::split_paths(&added).filter(|path| path.is_file()));
    let mut files: Vec<PathBuf> = places
        .flat_map(|place| match fs::read_dir(&place) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(_) => vec![place],
        })
        .filter(|file| file.extension().is_some_and(|ending| ending == "json") && file.is_file())
        .collect();
    files.sort();
    files.dedup();
    files
}

/// Everything that the answer depends on: variables, and the drivers' files, which packages replace with the drivers.
fn key(files: &[PathBuf]) -> String {
    let mut key = env!("CARGO_PKG_VERSION").to_owned();
    for name in VARIABLES {
        key += &format!("\n{name}={:?}", env::var_os(name));
    }
    for file in files {
        let meta = fs::metadata(file).and_then(|meta| meta.modified());
        let changed = meta.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_nanos());
        key += &format!("\n{} {changed:?} {:?}", file.display(), fs::read_to_string(file).unwrap_or_default());
    }
    key
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_the_child_is_told() {
        let of = |script: &str| failure(Command::new("sh").args(["-c", script]).spawn().unwrap());
        assert_eq!(of("exit 0"), None);
        assert_eq!(of("kill -SEGV $$").unwrap(), "crashes (signal 11)");
        assert!(of("exit 3").unwrap().contains("3"));
    }

    #[test]
    fn another_driver_is_another_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("driver.json");
        let keys: Vec<String> = ["{}", "{ }"]
            .map(|text| {
                fs::write(&file, text).unwrap();
                key(std::slice::from_ref(&file))
            })
            .into();
        assert!(keys[0] != keys[1] && keys[0] != key(&[]));
    }
}
