//! The output: a temporary file that takes its name only when it is complete.

use std::{
    fs::{self, File},
    io::{self, BufWriter},
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::NamedTempFile;

use crate::{
    error::{Error, Remedy, Result},
    gguf,
};

/// End of the name of a temporary file.
const SUFFIX: &str = ".part";

/// Age from which on a temporary file has nobody who writes it.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes gathered before a system call.
const BUFFER_BYTES: usize = 1 << 20;

/// A file being written. It lies beside its final place, and vanishes when this is dropped unfinished.
pub(crate) struct Target {
    path: PathBuf,
    force: bool,
    file: NamedTempFile,
}

impl Target {
    /// Refuses a path that must not be written, then opens the temporary file.
    pub fn create(path: &Path, inputs: &[PathBuf], force: bool) -> Result<Self> {
        let shown = path.display();
        // Asked before following it: a link to nothing would look like a free name.
        let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
        match fs::metadata(path) {
            Err(_) if is_link && !force => {
                let error = Error::Usage(format!("{shown} is a symbolic link to a file that is not there"));
                return Err(error.with_remedy(Remedy::ReplaceLink));
            }
            Err(_) => {}
            Ok(found) => Self::check_existing(path, &found, inputs, force)?,
        }
        let name = path.file_name().ok_or_else(|| {
            Error::Usage(format!("the output has to be the path of a file, not \"{}\"", path.display()))
        })?;
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !folder.is_dir() {
            let reason = io::Error::new(io::ErrorKind::NotFound, format!("there is no folder {}", folder.display()));
            return Err(Error::io("write", path, reason));
        }
        let prefix = format!(".{}.", name.to_string_lossy());
        remove_leftovers(folder, &prefix);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(SUFFIX);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // What an ordinary new file gets; the system takes the user's umask off. Temporary files are private.
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        // The message of the error itself has the temporary name, which nobody knows.
        let file = builder.tempfile_in(folder).map_err(|e| Error::io("write", path, e.kind().into()))?;
        Ok(Self { path: path.to_path_buf(), force, file })
    }

    fn check_existing(path: &Path, found: &fs::Metadata, inputs: &[PathBuf], force: bool) -> Result<()> {
        let shown = path.display();
        if !found.is_file() {
            return Err(Error::Usage(format!("{shown} is not a regular file, so nothing can be put in its place")));
        }
        let same = |input: &PathBuf| fs::canonicalize(input).ok() == fs::canonicalize(path).ok();
        if inputs.iter().any(same) {
            return Err(Error::Usage(format!("{shown} is part of the input; choose another output")));
        }
        if !force {
            return Err(Error::Usage(format!("{shown} exists")).with_remedy(Remedy::Overwrite));
        }
        Ok(())
    }

    /// Refuses to begin what the disk cannot hold. Where the system does not tell, writing tells.
    pub fn check_space(&self, needed: u64) -> Result<()> {
        let free = fs4::available_space(self.file.path()).unwrap_or(u64::MAX);
        if free >= needed {
            return Ok(());
        }
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let reason = format!("{:.1} MB needed, {:.1} MB free on the disk", mb(needed), mb(free));
        Err(Error::io("write", &self.path, io::Error::new(io::ErrorKind::StorageFull, reason)))
    }

    /// The final path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where to write.
    pub fn buffered(&self) -> BufWriter<&File> {
        BufWriter::with_capacity(BUFFER_BYTES, self.file.as_file())
    }

    /// Opens what was written.
    pub fn reopen(&self) -> Result<gguf::File> {
        gguf::File::open(self.file.path())
    }

    /// Puts the final path in front of an error.
    pub fn blame(&self, error: Error) -> Error {
        match error {
            Error::Io { action, source, .. } => Error::io(action, &self.path, source),
            other => other.in_file(self.path.display().to_string()),
        }
    }

    /// Gives the complete file its name. Returns its size.
    pub fn finish(self) -> Result<u64> {
        let Self { path, force, file } = self;
        let failed = |e| Error::io("write", &path, e);
        // Without this, a power cut after the rename could leave the name without the data.
        file.as_file().sync_all().map_err(failed)?;
        let bytes = file.as_file().metadata().map_err(failed)?.len();
        let kept = if force { file.persist(&path) } else { file.persist_noclobber(&path) };
        kept.map_err(|e| failed(e.error))?;
        Ok(bytes)
    }
}

/// Removes what earlier programs left of the same output when they were killed. One that still writes touches its file
/// all the time. Where that fails nothing is lost but room on the disk.
fn remove_leftovers(folder: &Path, prefix: &str) {
    let is_old = |found: &fs::Metadata| {
        found.is_file()
            && found.modified().is_ok_and(|written| written.elapsed().is_ok_and(|since| since > LEFTOVER_AGE))
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| name.starts_with(prefix) && name.ends_with(SUFFIX));
        if is_ours && entry.metadata().is_ok_and(|found| is_old(&found)) && fs::remove_file(entry.path()).is_ok() {
            log::info!("removed {}, left by a program that was ended", entry.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_disk_cannot_hold_is_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::create(&folder.path().join("out.gguf"), &[], false).unwrap();
        target.check_space(1).unwrap();
        let error = target.check_space(u64::MAX).unwrap_err().to_string();
        assert!(error.contains("out.gguf: 18446744073709.6 MB needed"), "{error}");
        drop(target);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_program_left_goes_after_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let hours = |n: u64| std::time::SystemTime::now() - Duration::from_secs(n * 60 * 60);
        for (name, age) in
            [(".out.gguf.a.part", 25), (".out.gguf.b.part", 23), (".other.gguf.c.part", 25), ("out.gguf.part", 25)]
        {
            File::create(folder.path().join(name)).unwrap().set_modified(hours(age)).unwrap();
        }
        drop(Target::create(&folder.path().join("out.gguf"), &[], false).unwrap());
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".other.gguf.c.part", ".out.gguf.b.part", "out.gguf.part"]);
    }

    #[test]
    fn a_missing_folder_is_named_and_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none/out.gguf");
        let error = Target::create(&path, &[], false).err().unwrap().to_string();
        let missing = folder.path().join("none");
        assert_eq!(error, format!("cannot write {}: there is no folder {}", path.display(), missing.display()));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_nothing_is_replaced_only_by_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.gguf");
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &path).unwrap();
        let error = Target::create(&path, &[], false).err().unwrap();
        assert_eq!((error.kind(), error.remedy()), (crate::ErrorKind::Usage, Some(&Remedy::ReplaceLink)));
        Target::create(&path, &[], true).unwrap().finish().unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }
}
