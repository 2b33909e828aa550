//! Contents of the cache: its models with their sizes, and the bytes that go when one of them is removed.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    cache::{Cache, files_of},
    choose::{choose, models},
    name::ModelName,
};
use crate::error::{Error, Result};

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name, with a file where the repository has several models here.
    pub name: ModelName,
    /// The GGUF file, or the directory to run.
    pub path: PathBuf,
    /// Length of its files.
    pub bytes: u64,
    /// When the last of them came.
    pub modified: SystemTime,
}

/// Files that would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// All of them, or folders with all that is in them.
    paths: Vec<PathBuf>,
    /// Bytes on the disk that they take.
    pub bytes: u64,
}

impl Cache {
    /// All models that are here, by name. Repositories without any are left out, and so are those that cannot be read.
    ///
    /// # Errors
    /// If the folder of the cache cannot be read.
    pub fn list(&self) -> Result<Vec<Stored>> {
        let entries = match fs::read_dir(self.root()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("read", self.root(), error)),
        };
        let names = entries.flatten().filter_map(|entry| repository(entry.file_name().to_str()?));
        let mut stored: Vec<Stored> = names.filter_map(|name| self.stored(&name).ok()).flatten().collect();
        stored.sort_by_key(|model| model.name.to_string());
        Ok(stored)
    }

    /// The models of one repository.
    fn stored(&self, name: &ModelName) -> Result<Vec<Stored>> {
        let Some(snapshot) = self.snapshot(name)? else { return Ok(Vec::new()) };
        let files = files_of(&snapshot).map_err(|e| Error::io("read", &snapshot, e))?;
        let found = models(&files);
        let is_alone = found.len() == 1;
        let stored = found.iter().map(|model| {
            let parts = model.files().iter().filter_map(|file| fs::metadata(snapshot.join(file)).ok());
            let (mut bytes, mut modified) = (0, SystemTime::UNIX_EPOCH);
            for part in parts {
                bytes += part.len();
                modified = modified.max(part.modified().unwrap_or(SystemTime::UNIX_EPOCH));
            }
            let first = model.gguf();
            let file = first.filter(|_| !is_alone).map(str::to_owned);
            let path = first.map_or_else(|| snapshot.clone(), |file| snapshot.join(file));
            Stored { name: ModelName { file, ..name.clone() }, path, bytes, modified }
        });
        Ok(stored.collect())
    }

    /// Everything of a repository, or of one model in it where the name has a file, that no other model needs.
    ///
    /// # Errors
    /// If there is none of that name, or several could be meant.
    pub fn removal(&self, name: &ModelName) -> Result<Removal> {
        let missing = || Error::missing(format!("{name} in {}", self.root().display()), "removing it");
        let folder = self.folder(name);
        if !folder.is_dir() {
            return Err(missing());
        }
        let Some(wanted) = &name.file else { return whole(folder) };
        let snapshot = self.snapshot(name)?.ok_or_else(missing)?;
        let files = files_of(&snapshot).map_err(|e| Error::io("read", &snapshot, e))?;
        let chosen = choose(name, &files)?.ok_or_else(missing)?;
        let rest: Vec<String> = files.into_iter().filter(|file| !chosen.files().contains(file)).collect();
        if models(&rest).is_empty() {
            return whole(folder);
        }
        let blobs = folder.join("blobs");
        // Systems without links keep no contents apart.
        let blobs = if blobs.is_dir() { canonical(&blobs)? } else { blobs };
        let mut paths = Vec::new();
        let (mut unneeded, mut needed) = (BTreeSet::new(), BTreeSet::new());
        let snapshots = folder.join("snapshots");
        for file in files_of(&snapshots).map_err(|e| Error::io("read", &snapshots, e))? {
            let path = snapshots.join(&file);
            let target = canonical(&path)?;
            // The first folder is the commit.
            let is_chosen = file.split_once('/').is_some_and(|(_, file)| chosen.files().iter().any(|one| one == file));
            if is_chosen {
                paths.push(path);
                unneeded.insert(target);
            } else {
                needed.insert(target);
            }
        }
        if paths.is_empty() {
            return Err(Error::missing(format!("{wanted} in {}", name.repo()), "removing it"));
        }
        // A link that leads elsewhere takes nothing from there.
        let contents: Vec<PathBuf> =
            unneeded.difference(&needed).filter(|at| at.starts_with(&blobs)).cloned().collect();
        paths.extend(contents);
        let files = paths.iter().filter_map(|path| fs::symlink_metadata(path).ok()).filter(|found| found.is_file());
        let bytes = files.map(|found| found.len()).sum();
        Ok(Removal { paths, bytes })
    }
}

impl Removal {
    /// Removes them.
    ///
    /// # Errors
    /// If one of them cannot be removed; the others may be gone then.
    pub fn run(self) -> Result<()> {
        for path in &self.paths {
            let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            removed.map_err(|e| Error::io("remove", path, e))?;
        }
        Ok(())
    }
}

/// The name that `models--org--name` stands for. A name may have two dashes itself, an organisation has none.
fn repository(folder: &str) -> Option<ModelName> {
    let (org, name) = folder.strip_prefix("models--")?.split_once("--")?;
    ModelName::parse(&format!("{org}/{name}")).ok()
}

fn whole(folder: PathBuf) -> Result<Removal> {
    let bytes = bytes_below(&folder).map_err(|e| Error::io("read", &folder, e))?;
    Ok(Removal { paths: vec![folder], bytes })
}

/// Links count nothing, and files with two names twice, which only a system without links has.
fn bytes_below(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        bytes += match (kind.is_dir(), kind.is_file()) {
            (true, _) => bytes_below(&entry.path())?,
            (_, true) => entry.metadata()?.len(),
            _ => 0,
        };
    }
    Ok(bytes)
}

fn canonical(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(|e| Error::io("read", path, e))
}
