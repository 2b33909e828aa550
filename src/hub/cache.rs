//! The folder that huggingface_hub and other programs share: `models--org--name/{blobs,refs,snapshots}`.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use super::{
    choose::choose,
    name::{BRANCH, ModelName, is_word},
};
use crate::error::{Error, Result, shown};

/// A cache of models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// A cache in that folder, which need not exist.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where huggingface_hub has it: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME/hub`,
    /// `XDG_CACHE_HOME/huggingface/hub`, `~/.cache/huggingface/hub`.
    ///
    /// # Errors
    /// If no variable says where the user's files are.
    pub fn of_user() -> Result<Self> {
        Self::by_variables(|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
    }

    fn by_variables(var: impl Fn(&str) -> Option<PathBuf>) -> Result<Self> {
        let root = var("HF_HUB_CACHE")
            .or_else(|| var("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| home(&var).map(|home| home.join("hub")));
        root.map(Self::at)
            .ok_or_else(|| Error::missing("environment variable HOME", "finding the cache; HF_HOME names one"))
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn folder(&self, name: &ModelName) -> PathBuf {
        self.root.join(format!("models--{}--{}", name.org, name.name))
    }

    /// The model's files here: a GGUF file, or a directory to run. `None` if there are none.
    ///
    /// # Errors
    /// If what is here does not settle which file is meant.
    pub fn find(&self, name: &ModelName) -> Result<Option<PathBuf>> {
        let Some(snapshot) = self.snapshot(name)? else { return Ok(None) };
        let files = files_of(&snapshot).map_err(|e| Error::io("read", &snapshot, e))?;
        match choose(name, &files)? {
            None => Ok(None),
            Some(choice) => Ok(Some(choice.gguf().map_or_else(|| snapshot.clone(), |file| snapshot.join(file)))),
        }
    }

    /// The folder of the commit that the branch was at when it was last looked up.
    pub(super) fn snapshot(&self, name: &ModelName) -> Result<Option<PathBuf>> {
        let reference = self.reference(name);
        let commit = match fs::read_to_string(&reference) {
            Ok(commit) => commit,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &reference, error)),
        };
        let commit = commit.trim();
        if !is_word(commit) {
            let found = format!("\"{}\"", shown(commit));
            return Err(Error::malformed("commit", "a hash", found).in_file(reference.display().to_string()));
        }
        let snapshot = self.folder(name).join("snapshots").join(commit);
        Ok(snapshot.is_dir().then_some(snapshot))
    }

    pub(super) fn reference(&self, name: &ModelName) -> PathBuf {
        self.folder(name).join("refs").join(BRANCH)
    }
}

/// The folder of huggingface_hub, which has the cache and the token: `HF_HOME`, `XDG_CACHE_HOME/huggingface`,
/// `~/.cache/huggingface`.
pub(super) fn home(var: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    var("HF_HOME")
        .or_else(|| var("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
        .or_else(|| var("HOME").or_else(|| var("USERPROFILE")).map(|home| home.join(".cache/huggingface")))
}

/// All files below a folder as paths with slashes, sorted. Links to blobs count as the files they lead to.
pub(super) fn files_of(folder: &Path) -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    let mut folders = vec![(folder.to_path_buf(), String::new())];
    while let Some((at, prefix)) = folders.pop() {
        for entry in fs::read_dir(at)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Not followed for folders: a snapshot has no links to them, and a loop would not end.
            if entry.file_type()?.is_dir() {
                folders.push((entry.path(), format!("{prefix}{name}/")));
            } else if fs::metadata(entry.path()).is_ok_and(|found| found.is_file()) {
                files.push(format!("{prefix}{name}"));
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_variable_that_is_set_says_where() {
        let order = [
            ("HF_HUB_CACHE", "x"),
            ("HUGGINGFACE_HUB_CACHE", "x"),
            ("HF_HOME", "x/hub"),
            ("XDG_CACHE_HOME", "x/huggingface/hub"),
            ("HOME", "x/.cache/huggingface/hub"),
            ("USERPROFILE", "x/.cache/huggingface/hub"),
        ];
        for (at, (first, expected)) in order.iter().enumerate() {
            let cache = Cache::by_variables(|name| {
                let set = order[at..].iter().any(|(other, _)| *other == name);
                set.then(|| PathBuf::from(if name == *first { "x" } else { "later" }))
            });
            assert_eq!(cache.unwrap().root(), Path::new(expected), "{first}");
        }
        assert!(Cache::by_variables(|_| None).is_err());
    }
}
