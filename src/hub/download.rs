//! Files of the Hub -> the cache. What is cut off goes on where it ended, and nothing gets its name before its size and
//! its hash are right.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    path::{Component, Path, PathBuf},
    thread,
};

use sha2::{Digest, Sha256};

use super::{
    cache::Cache,
    choose::choose,
    client::{FileFacts, Hub, failed},
    name::ModelName,
    retry::{Again, Failure, Patience},
};
use crate::error::{Error, Result};

/// Bytes between two reports.
const CHUNK_BYTES: usize = 1 << 18;

/// How far a download is.
#[derive(Clone, Copy, Debug)]
pub struct PullProgress<'a> {
    /// The file.
    pub file: &'a str,
    /// Bytes of it that are here.
    pub done_bytes: u64,
    /// Its length, where the server tells it.
    pub total_bytes: Option<u64>,
}

/// News of a download.
#[derive(Debug)]
#[non_exhaustive]
pub enum PullEvent<'a> {
    /// More of a file is here.
    Progress(PullProgress<'a>),
    /// The connection failed, and the file is asked for again.
    Retry {
        /// The error.
        error: &'a Error,
        /// Bytes that are here.
        have: u64,
    },
    /// The server does not go on where it ended: all of the file comes again.
    StartsOver {
        /// The file.
        file: &'a str,
    },
}

/// A fetched model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The GGUF file, or the directory to run.
    pub path: PathBuf,
    /// The commit of the repository.
    pub commit: String,
    /// Files of the model.
    pub files: usize,
    /// Bytes that came over the network.
    pub fetched_bytes: u64,
}

/// Brings a model into the cache; what is there already is not fetched again.
///
/// # Errors
/// If the server, the network or the disk fails, or what came is not what was announced.
pub fn pull(hub: &Hub, cache: &Cache, name: &ModelName, told: &mut dyn FnMut(&PullEvent<'_>)) -> Result<Pulled> {
    let listing = hub.list(name)?;
    let choice = choose(name, &listing.files)?.ok_or_else(|| {
        let needed_for = "running it; it has neither a GGUF file nor config.json with model.safetensors";
        Error::missing(format!("a model in {}", name.repo()), needed_for)
    })?;
    let folder = cache.folder(name);
    let snapshot = folder.join("snapshots").join(&listing.commit);
    let mut fetched_bytes = 0;
    for file in choice.files() {
        let facts = hub.facts(name, &listing.commit, file)?;
        let mut transfer = Transfer { hub, name, commit: &listing.commit, file, facts: &facts, fetched_bytes: 0 };
        let blob = transfer.fetch_blob(&folder.join("blobs"), told)?;
        fetched_bytes += transfer.fetched_bytes;
        link(&blob, &folder, &snapshot.join(file))?;
    }
    // Last: what the branch leads to is complete.
    write_whole(&cache.reference(name), listing.commit.as_bytes())?;
    let path = cache.find(name)?.ok_or_else(|| Error::missing(snapshot.display().to_string(), "what was fetched"))?;
    Ok(Pulled { path, commit: listing.commit, files: choice.files().len(), fetched_bytes })
}

/// One file on its way.
struct Transfer<'a> {
    hub: &'a Hub,
    name: &'a ModelName,
    commit: &'a str,
    file: &'a str,
    facts: &'a FileFacts,
    fetched_bytes: u64,
}

impl Transfer<'_> {
    /// The path of the contents, which are fetched unless they are there.
    fn fetch_blob(&mut self, blobs: &Path, told: &mut dyn FnMut(&PullEvent<'_>)) -> Result<PathBuf> {
        let blob = blobs.join(&self.facts.etag);
        if blob.exists() {
            return Ok(blob);
        }
        fs::create_dir_all(blobs).map_err(|e| Error::io("create", blobs, e))?;
        let path = blobs.join(format!("{}.incomplete", self.facts.etag));
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut out = opened.map_err(|e| Error::io("write", &path, e))?;
        match out.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let reason = "another program is fetching it now";
                return Err(Error::io("write", &path, io::Error::new(io::ErrorKind::WouldBlock, reason)));
            }
            // A file system without locks: two at once would be noticed by the hash.
            Err(TryLockError::Error(error)) => log::debug!("{}: not locked: {error}", path.display()),
        }
        // The other program may have finished between the look and the lock.
        if blob.exists() {
            let _ = fs::remove_file(&path);
            return Ok(blob);
        }
        let filled = self.fill(&mut out, &path, told);
        if filled.is_err() && out.metadata().is_ok_and(|found| found.len() == 0) {
            // Nothing to go on from.
            let _ = fs::remove_file(&path);
        }
        filled?;
        self.check(&mut out, &path)?;
        out.sync_all().map_err(|e| Error::io("write", &path, e))?;
        fs::rename(&path, &blob).map_err(|e| Error::io("write", &blob, e))?;
        Ok(blob)
    }

    /// Fetches what is missing, again and again while something comes.
    fn fill(&mut self, out: &mut File, path: &Path, told: &mut dyn FnMut(&PullEvent<'_>)) -> Result<()> {
        let on_disk = |e: io::Error| Error::io("write", path, e);
        let mut have = out.seek(SeekFrom::End(0)).map_err(on_disk)?;
        if self.facts.bytes.is_some_and(|bytes| have > bytes) {
            out.set_len(0).map_err(on_disk)?;
            have = 0;
        }
        if let Some(bytes) = self.facts.bytes {
            check_space(path, bytes - have)?;
        }
        let mut patience = Patience::default();
        while self.facts.bytes != Some(have) {
            let before = have;
            let outcome = self.fetch_from(&mut have, out, path, told);
            let failure = match outcome {
                // Without an announced length, the end of the answer is the end of the file.
                Ok(()) if self.facts.bytes.is_none_or(|bytes| bytes == have) => return Ok(()),
                Ok(()) => interrupted(self.file, format!("the connection ended after {have} bytes")),
                Err(failure) => failure,
            };
            if have > before {
                patience.renew();
            }
            let Some(pause) = patience.pause(&failure) else { return Err(failure.error) };
            told(&PullEvent::Retry { error: &failure.error, have });
            thread::sleep(pause);
        }
        Ok(())
    }

    fn fetch_from(
        &mut self,
        have: &mut u64,
        out: &mut File,
        path: &Path,
        told: &mut dyn FnMut(&PullEvent<'_>),
    ) -> Result<(), Failure> {
        let on_disk = |e: io::Error| Error::io("write", path, e);
        let Some((begins, mut body)) = self.hub.fetch(self.name, self.commit, self.file, *have)? else {
            // Nothing from there on, although more was announced: what is here is of another file.
            out.set_len(0).map_err(on_disk)?;
            *have = 0;
            return Err(interrupted(self.file, "the server has fewer bytes than were here"));
        };
        if begins != *have {
            told(&PullEvent::StartsOver { file: self.file });
            out.set_len(begins).map_err(on_disk)?;
            *have = begins;
        }
        out.seek(SeekFrom::Start(begins)).map_err(on_disk)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let room = self.facts.bytes.map_or(u64::MAX, |bytes| bytes - *have);
            let read = body.read(&mut chunk).map_err(|e| interrupted(self.file, e))?;
            if read == 0 {
                return Ok(());
            }
            if read as u64 > room {
                return Err(
                    Error::malformed(self.file, format!("{} bytes", *have + room), "more from the server").into()
                );
            }
            out.write_all(&chunk[..read]).map_err(on_disk)?;
            *have += read as u64;
            self.fetched_bytes += read as u64;
            let (done_bytes, total_bytes) = (*have, self.facts.bytes);
            told(&PullEvent::Progress(PullProgress { file: self.file, done_bytes, total_bytes }));
        }
    }

    /// Compares the SHA-256 with the announced one; what differs is not kept.
    fn check(&self, out: &mut File, path: &Path) -> Result<()> {
        let Some(expected) = self.facts.sha256() else { return Ok(()) };
        let unread = |e: io::Error| Error::io("read", path, e);
        out.seek(SeekFrom::Start(0)).map_err(unread)?;
        let mut reader = BufReader::with_capacity(CHUNK_BYTES, &*out);
        let mut hash = Sha256::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match reader.read(&mut chunk).map_err(unread)? {
                0 => break,
                read => hash.update(&chunk[..read]),
            }
        }
        let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if found.eq_ignore_ascii_case(expected) {
            return Ok(());
        }
        fs::remove_file(path).map_err(|e| Error::io("remove", path, e))?;
        Err(Error::malformed(format!("SHA-256 of {}, which is not kept", self.file), expected, found))
    }
}

/// A transfer that goes on with the next request; neither the disk nor a wrong answer gets better by asking again.
fn interrupted(file: &str, reason: impl ToString) -> Failure {
    Failure { error: failed(file, reason), again: Again::Soon }
}

fn check_space(path: &Path, needed: u64) -> Result<()> {
    let free = fs4::available_space(path).unwrap_or(u64::MAX);
    if free >= needed {
        return Ok(());
    }
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let reason = format!("{:.1} MB needed, {:.1} MB free on the disk", mb(needed), mb(free));
    Err(Error::io("write", path, io::Error::new(io::ErrorKind::StorageFull, reason)))
}

/// Gives the contents their name in the snapshot: a relative link, or a copy where links cannot be made.
fn link(blob: &Path, folder: &Path, name: &Path) -> Result<()> {
    let in_snapshot = |e: io::Error| Error::io("write", name, e);
    if fs::canonicalize(name).is_ok_and(|at| fs::canonicalize(blob).is_ok_and(|blob| at == blob)) {
        return Ok(());
    }
    if let Some(parent) = name.parent() {
        fs::create_dir_all(parent).map_err(in_snapshot)?;
    }
    if fs::symlink_metadata(name).is_ok() {
        fs::remove_file(name).map_err(in_snapshot)?;
    }
    // From the folder of the name up to that of the model, and down to the contents.
    let down = blob.strip_prefix(folder).unwrap_or(blob);
    let inside = name.parent().and_then(|parent| parent.strip_prefix(folder).ok()).unwrap_or(Path::new(""));
    let up: PathBuf = inside.components().map(|_| Component::ParentDir).collect();
    if symlink(&up.join(down), name).is_ok() {
        return Ok(());
    }
    fs::hard_link(blob, name).or_else(|_| fs::copy(blob, name).map(drop)).map_err(in_snapshot)
}

#[cfg(unix)]
fn symlink(to: &Path, name: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, name)
}

#[cfg(windows)]
fn symlink(to: &Path, name: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(to, name)
}

/// Other programs see the old contents or the new, nothing between. What is there already is not written, as in a cache that
/// may only be read.
fn write_whole(path: &Path, contents: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|found| found == contents) {
        return Ok(());
    }
    let failed = |e: io::Error| Error::io("write", path, e);
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| failed(e.kind().into()))?;
    file.write_all(contents).map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}
