//! Small results worth keeping between runs: measurements, choices made by them, compiled pipelines.
//!
//! In: an area ("calibration"), a key that names everything the result depends on, and the result. Out: the same,
//! or `None`. Nothing here is an error: a cache that is absent, damaged or not writable only costs time.
//!
//! The folder is `BITNET_CACHE` (empty: nothing is kept), else the user's: `$XDG_CACHE_HOME/bitnet-gpu` or
//! `~/.cache/bitnet-gpu`, `~/Library/Caches/bitnet-gpu`, `%LOCALAPPDATA%\bitnet-gpu`.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{ErrorKind, Read, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The variable that moves the folder, or empties it when it is empty.
pub const VARIABLE: &str = "BITNET_CACHE";

/// Larger files are not ours: pipelines take a few MiB at most.
const MAX_BYTES: u64 = 64 << 20;

/// A folder of entries, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cache {
    folder: Option<PathBuf>,
}

/// An entry of JSON. The key is stored as well, so that a file can be told apart from another of the same name.
#[derive(Serialize, Deserialize)]
struct Entry<K, T> {
    key: K,
    value: T,
}

impl Cache {
    /// The user's, as the environment says.
    pub fn of_user() -> Self {
        Self { folder: folder(|name| env::var_os(name), env::consts::OS) }
    }

    /// One in `folder`, which is made at the first write.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()) }
    }

    /// Keeps nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// The file of an entry; `None` when nothing is kept.
    pub fn path(&self, area: &str, key: &str, extension: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(file_name(area, key, extension)))
    }

    /// The value kept under `key`.
    pub fn get<T: DeserializeOwned>(&self, area: &str, key: &str) -> Option<T> {
        let path = self.path(area, key, "json")?;
        let bytes = read(&path)?;
        match serde_json::from_slice::<Entry<String, T>>(&bytes) {
            Ok(entry) if entry.key == key => Some(entry.value),
            Ok(_) => None,
            Err(error) => {
                log::info!("ignored {}: {error}", path.display());
                None
            }
        }
    }

    /// Keeps `value` under `key`.
    pub fn put<T: Serialize>(&self, area: &str, key: &str, value: &T) {
        let Some(path) = self.path(area, key, "json") else { return };
        match serde_json::to_vec_pretty(&Entry { key, value }) {
            Ok(bytes) => write(&path, &bytes),
            Err(error) => log::info!("not kept in {}: {error}", path.display()),
        }
    }

    /// Raw bytes kept under `key`, whole and as they were given.
    pub fn get_bytes(&self, area: &str, key: &str) -> Option<Vec<u8>> {
        let path = self.path(area, key, "bin")?;
        let mut bytes = read(&path)?;
        let checksum = bytes.split_off(bytes.len().saturating_sub(CHECKSUM_BYTES));
        if checksum == checksum_of(key, &bytes) {
            return Some(bytes);
        }
        log::info!("ignored {}: it is damaged", path.display());
        None
    }

    /// Keeps raw bytes under `key`, with a checksum over both.
    pub fn put_bytes(&self, area: &str, key: &str, bytes: &[u8]) {
        if let Some(path) = self.path(area, key, "bin") {
            write(&path, &[bytes, &checksum_of(key, bytes)].concat());
        }
    }
}

/// "calibration-llvmpipe-vulkan-0123456789abcdef.json": readable, and different for different keys.
fn file_name(area: &str, key: &str, extension: &str) -> String {
    const READABLE: usize = 48;
    let mut words = String::new();
    for c in key.chars() {
        match c {
            c if c.is_ascii_alphanumeric() => words.push(c.to_ascii_lowercase()),
            _ if words.is_empty() || words.ends_with('-') => {}
            _ => words.push('-'),
        }
        if words.len() == READABLE {
            break;
        }
    }
    let hash = StableHash::new().with(key.as_bytes()).value();
    format!("{area}-{}-{hash:016x}.{extension}", words.trim_end_matches('-'))
}

/// A hash that is the same in every build, which the standard library's hasher does not promise: FNV-1a with a rotation, and
/// eight bytes at a time, for it is also taken of gigabytes. What is added in other pieces has another hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StableHash(u64);

impl StableHash {
    /// The hash of no bytes.
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// With more bytes.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<8>();
        let step = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
        let hash = words.iter().fold(self.0, |hash, word| step(hash, u64::from_le_bytes(*word)));
        Self(rest.iter().fold(hash, |hash, &byte| step(hash, byte.into())))
    }

    /// The number.
    pub fn value(self) -> u64 {
        self.0
    }
}

impl Default for StableHash {
    fn default() -> Self {
        Self::new()
    }
}

const CHECKSUM_BYTES: usize = 8;

fn checksum_of(key: &str, bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    StableHash::new().with(key.as_bytes()).with(bytes).value().to_le_bytes()
}

/// The folder that an environment asks for.
fn folder(variable: impl Fn(&str) -> Option<OsString>, os: &str) -> Option<PathBuf> {
    if let Some(own) = variable(VARIABLE) {
        return (!own.is_empty()).then(|| own.into());
    }
    // The XDG specification has relative paths ignored; elsewhere one would lie in whatever folder we run in.
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = match os {
        "windows" => absolute("LOCALAPPDATA"),
        "macos" | "ios" => absolute("HOME").map(|home| home.join("Library/Caches")),
        _ => absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache"))),
    };
    Some(base?.join("bitnet-gpu"))
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let length = fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if length as u64 > MAX_BYTES { Err(ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
    };
    match read() {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => {
            log::info!("ignored {}: {error}", path.display());
            None
        }
    }
}

/// Held while a file has a name of its own.
static WRITING: Mutex<()> = Mutex::new(());

/// Waits, for a moment at most, until no file is half written, and lets none begin: for a process that ends at once.
#[cfg(feature = "cli")]
pub(crate) fn stop_writing() {
    for _ in 0..100 {
        if let Ok(guard) = WRITING.try_lock() {
            std::mem::forget(guard);
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Under a name of its own first, so that nobody reads half a file, and two writers do not mix.
fn write(path: &Path, bytes: &[u8]) {
    let Some(folder) = path.parent() else { return };
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let write = || {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.persist(path)?;
        Ok::<_, std::io::Error>(())
    };
    if let Err(error) = write() {
        log::info!("not kept in {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_comes_back_under_its_key_only() {
        let temporary = tempfile::tempdir().unwrap();
        let cache = Cache::at(temporary.path().join("made/on/demand"));
        assert_eq!(cache.get::<Vec<f64>>("cost", "GPU 1"), None);
        cache.put("cost", "GPU 1", &[0.1, 1.0 / 3.0]);
        assert_eq!(cache.get::<Vec<f64>>("cost", "GPU 1"), Some(vec![0.1, 1.0 / 3.0]));
        assert_eq!(cache.get::<Vec<f64>>("cost", "GPU_1"), None);
        assert_eq!(cache.get::<Vec<f64>>("choice", "GPU 1"), None);
        cache.put("cost", "GPU 1", &[2.0]);
        assert_eq!(cache.get::<Vec<f64>>("cost", "GPU 1"), Some(vec![2.0]), "the newer one");
        cache.put_bytes("pipelines", "GPU 1", b"abc");
        assert_eq!(cache.get_bytes("pipelines", "GPU 1").as_deref(), Some(&b"abc"[..]));
        assert_eq!(cache.get_bytes("pipelines", "GPU 2"), None);
        assert_eq!(fs::read_dir(temporary.path().join("made/on/demand")).unwrap().count(), 2, "no leftovers");
    }

    #[test]
    fn damage_and_foreign_content_are_as_good_as_nothing() {
        let temporary = tempfile::tempdir().unwrap();
        let cache = Cache::at(temporary.path());
        cache.put("cost", "a", &1.5);
        let path = cache.path("cost", "a", "json").unwrap();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() - 1 {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(cache.get::<f64>("cost", "a"), None, "{length} bytes");
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(cache.get::<String>("cost", "a"), None, "another type");
        fs::copy(&path, cache.path("cost", "b", "json").unwrap()).unwrap();
        assert_eq!(cache.get::<f64>("cost", "b"), None, "another key");
        assert_eq!(cache.get::<f64>("cost", "a"), Some(1.5));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(cache.get::<f64>("cost", "a"), None, "a folder");

        cache.put_bytes("pipelines", "a", b"some bytes");
        let path = cache.path("pipelines", "a", "bin").unwrap();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(cache.get_bytes("pipelines", "a"), None, "{length} bytes");
            let mut changed = whole.clone();
            changed[length] ^= 1;
            fs::write(&path, &changed).unwrap();
            assert_eq!(cache.get_bytes("pipelines", "a"), None, "byte {length}");
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(cache.get_bytes("pipelines", "a").as_deref(), Some(&b"some bytes"[..]));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_no_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let cache = Cache::at(file.path().join("below a file"));
        cache.put("cost", "a", &1.0);
        assert_eq!(cache.get::<f64>("cost", "a"), None);
        Cache::none().put("cost", "a", &1.0);
        assert_eq!(Cache::none().get::<f64>("cost", "a"), None);
    }

    /// Where "/" begins an absolute path.
    #[cfg(unix)]
    #[test]
    fn the_folder_follows_the_environment() {
        let of = |os: &str, set: &[(&str, &str)]| {
            let value = |name: &str| set.iter().find(|(have, _)| *have == name).map(|(_, value)| value.into());
            folder(value, os).map(|path| path.to_string_lossy().replace('\\', "/"))
        };
        let home = ("HOME", "/home/me");
        assert_eq!(of("linux", &[home]).as_deref(), Some("/home/me/.cache/bitnet-gpu"));
        assert_eq!(of("linux", &[home, ("XDG_CACHE_HOME", "/c")]).as_deref(), Some("/c/bitnet-gpu"));
        assert_eq!(of("linux", &[home, ("XDG_CACHE_HOME", "c")]).as_deref(), Some("/home/me/.cache/bitnet-gpu"));
        assert_eq!(of("macos", &[home]).as_deref(), Some("/home/me/Library/Caches/bitnet-gpu"));
        assert_eq!(of("windows", &[("LOCALAPPDATA", "/l")]).as_deref(), Some("/l/bitnet-gpu"));
        assert_eq!(of("linux", &[home, (VARIABLE, "here")]).as_deref(), Some("here"));
        assert_eq!(of("linux", &[home, (VARIABLE, "")]), None, "switched off");
        assert_eq!(of("linux", &[]), None);
    }

    /// The value by a few lines of Python.
    #[test]
    fn the_hash_is_the_same_in_every_build() {
        assert_eq!(StableHash::new().with(b"eight by eight").value(), 0x0cf5_d364_ffe7_b64d);
        assert_eq!(StableHash::new().with(b"eight by").with(b" eight"), StableHash::new().with(b"eight by eight"));
    }

    #[test]
    fn names_are_readable_and_differ() {
        let name =
            file_name("cost", "  AMD Radeon\u{2122} 780M / RADV 24.1.0; a very long tail of words follows", "json");
        assert!(name.starts_with("cost-amd-radeon-780m-radv-24-1-0-a-very-long"), "{name}");
        assert!(name.len() < 80 && name.ends_with(".json"), "{name}");
        assert_ne!(file_name("a", "GPU 1", "json"), file_name("a", "gpu-1", "json"));
        assert!(file_name("a", "../../etc", "json").starts_with("a-etc-"));
    }
}
