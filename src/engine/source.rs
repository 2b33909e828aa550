//! Where a model comes from: a file, a directory that is converted in memory, the cache of the Hub, or the program itself.

use std::{
    borrow::Cow,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
};

use super::{
    Observer,
    fingerprint::fingerprint,
    observe::{Loading, Notice},
};
use crate::{
    bytes::{Access, Bytes},
    error::{Error, ErrorKind, Remedy, Result, shown},
    generate::{Pooling, Recommended},
    gguf::{File, part_of_stem},
    hub::{self, ModelName},
    machine,
    model::{self, I2sPacking, Model},
    numbers,
    probe::{self, Packing},
    tokenizer::Tokenizer,
};

/// The model that is part of the program. Aligned as a memory map is, as some kernels read wide words.
static BUILT_IN: &Aligned<[u8]> = &Aligned(*include_bytes!("../../assets/llama-stories-ternary-4m.gguf"));
const BUILT_IN_NAME: &str = "built-in story model";

#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

/// How a model is opened. Change the fields of [`OpenOptions::default`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenOptions {
    /// Copy the weights into memory instead of mapping the file, which may then change or go.
    pub copy: bool,
    /// How I2_S matrices are packed.
    pub i2s: I2sLayout,
}

/// How I2_S matrices are packed, which no file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum I2sLayout {
    /// The usual way, unless something in the file speaks for another: then as [`Try`](Self::Try).
    #[default]
    Usual,
    /// The one that explains a short text best.
    Try,
    /// This one.
    Given(I2sPacking),
}

/// An opened model: its file, and what is read of it when it is asked for. Cheap to clone: clones share the file.
#[derive(Clone)]
pub struct ModelFile(Arc<Opened>);

struct Opened {
    name: String,
    file: File,
    i2s: I2sLayout,
    observer: Arc<dyn Observer>,
    packing: OnceLock<Packing>,
    sampling: OnceLock<Recommended>,
    tokenizer: OnceLock<Arc<Tokenizer>>,
    model: OnceLock<Arc<Model>>,
}

/// Opens a GGUF file (any part of a split one), a Hugging Face directory of safetensors, or `org/name[:file]` from the
/// cache of the Hugging Face Hub.
///
/// # Errors
/// If it is not there or is none of these. Whether it can run shows when it is loaded.
pub fn open(place: impl AsRef<Path>) -> Result<ModelFile> {
    ModelFile::open(place, &OpenOptions::default(), Arc::new(()))
}

impl ModelFile {
    /// As [`open`], in another way, and telling `observer`.
    ///
    /// # Errors
    /// As those of [`open`].
    pub fn open(place: impl AsRef<Path>, options: &OpenOptions, observer: Arc<dyn Observer>) -> Result<Self> {
        let path = &*located(place.as_ref())?;
        let file = match (path.is_dir(), options.copy) {
            (true, false) => convert_in_memory(path, &observer)?,
            (true, true) => {
                let converted = convert_in_memory(path, &observer)?;
                told(&observer, |progress| converted.detached(progress))?
            }
            (false, false) => File::open(path)?,
            (false, true) => {
                check_memory(path)?;
                told(&observer, |progress| File::open_with(path, Access::Copy(progress)))?
            }
        };
        Ok(Self::from_file(path.display().to_string(), file, options, observer).with_warnings_told())
    }

    fn with_warnings_told(self) -> Self {
        for warning in self.file().warnings() {
            self.notice(&Notice::File { name: self.name().into(), warning: warning.clone() });
        }
        self
    }

    /// The small story model inside the program.
    pub fn built_in(options: &OpenOptions, observer: Arc<dyn Observer>) -> Result<Self> {
        let file = File::parse(Bytes::from_static(&BUILT_IN.0))?;
        Ok(Self::from_file(BUILT_IN_NAME.into(), file, options, observer))
    }

    /// A GGUF file that is in memory: part of a program, or from where no path leads. `name` is its name in messages.
    ///
    /// # Errors
    /// If it is no GGUF file, or only a part of one. Whether it can run shows when it is loaded.
    pub fn from_bytes(
        name: impl Into<String>,
        bytes: Vec<u8>,
        options: &OpenOptions,
        observer: Arc<dyn Observer>,
    ) -> Result<Self> {
        let name = name.into();
        let file = File::parse(Bytes::from(bytes)).map_err(|error| error.in_file(&name))?;
        Ok(Self::from_file(name, file, options, observer).with_warnings_told())
    }

    /// A file that is open already, and what to call it.
    #[doc(hidden)]
    pub fn from_file(name: String, file: File, options: &OpenOptions, observer: Arc<dyn Observer>) -> Self {
        let i2s = options.i2s;
        let (packing, sampling) = (OnceLock::new(), OnceLock::new());
        let (tokenizer, model) = (OnceLock::new(), OnceLock::new());
        Self(Arc::new(Opened { name, file, i2s, observer, packing, sampling, tokenizer, model }))
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The file itself.
    #[doc(hidden)]
    pub fn file(&self) -> &File {
        &self.0.file
    }

    /// Who is told.
    pub(super) fn observer(&self) -> &Arc<dyn Observer> {
        &self.0.observer
    }

    fn notice(&self, notice: &Notice) {
        self.0.observer.notice(notice);
    }

    /// Its tokenizer.
    ///
    /// # Errors
    /// If it has none that works.
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>> {
        once(&self.0.tokenizer, || {
            let tokenizer = Tokenizer::from_gguf(self.file().metadata()).map_err(|e| self.named(e))?;
            for note in tokenizer.notes() {
                self.notice(&Notice::Tokenizer { name: self.name().into(), note: note.clone() });
            }
            Ok(Arc::new(tokenizer))
        })
    }

    /// Sampling options that it recommends; those of a directory's `generation_config.json` as well. A program takes them
    /// where its user does not say otherwise.
    pub fn recommended(&self) -> &Recommended {
        self.0.sampling.get_or_init(|| {
            let recommended = Recommended::from_gguf(self.file().metadata());
            for note in &recommended.notes {
                self.notice(&Notice::File { name: self.name().into(), warning: note.clone() });
            }
            recommended
        })
    }

    /// A number that tells models of one shape apart, and is the same wherever the file lies: a hash of all keys that results
    /// depend on, and of names, types, sizes and samples of all tensors.
    pub fn fingerprint(&self) -> u64 {
        fingerprint(self.file())
    }

    /// How a model that was made for embeddings pools them; `None` for one that writes text.
    ///
    /// # Errors
    /// If the model cannot run, or its pooling is not known.
    pub fn pooling(&self) -> Result<Option<Pooling>> {
        Pooling::stated(&self.model()?.config, self.file().metadata()).map_err(|error| self.named(error))
    }

    /// The model.
    ///
    /// # Errors
    /// If it cannot run.
    pub fn model(&self) -> Result<&Arc<Model>> {
        once(&self.0.model, || {
            let model = Model::from_gguf_with(self.file(), &self.model_options()?);
            let zeros = model.and_then(|model| Ok((model.zero_matrices()?, model)));
            let (zeros, model) = zeros.map_err(|e| self.named(e))?;
            if let Some(warning) = model::zero_warning(&zeros) {
                self.notice(&Notice::File { name: self.name().into(), warning });
            }
            Ok(Arc::new(model))
        })
    }

    /// Options for what the file does not state about itself.
    #[doc(hidden)]
    pub fn model_options(&self) -> Result<model::OpenOptions> {
        Ok(model::OpenOptions { i2s: self.packing()?.packing, ..Default::default() })
    }

    /// How I2_S matrices are read, and why so.
    #[doc(hidden)]
    pub fn packing(&self) -> Result<&Packing> {
        once(&self.0.packing, || self.find_packing().map_err(|e| self.named(e)))
    }

    /// As asked for, or by trying, where that is asked for or there is a sign that the usual packing may not be the one.
    fn find_packing(&self) -> Result<Packing> {
        match self.0.i2s {
            I2sLayout::Given(packing) => return Ok(Packing { packing, reason: "asked for".into() }),
            I2sLayout::Usual if !probe::is_doubtful(self.file()) => {
                let reason = "the usual one; nothing in the file speaks for another".into();
                return Ok(Packing { packing: I2sPacking::P128, reason });
            }
            I2sLayout::Usual | I2sLayout::Try => {}
        }
        let found = probe::i2s_packing(self.file(), machine::cores().threads)?;
        let Packing { packing, reason } = found.clone();
        self.notice(&Notice::I2sPacking { name: self.name().into(), packing, reason });
        Ok(found)
    }

    fn named(&self, error: Error) -> Error {
        error.in_file(self.name())
    }
}

/// The value in `cell`, made by `make` the first time it succeeds.
fn once<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(made) = cell.get() {
        return Ok(made);
    }
    let made = make()?;
    Ok(cell.get_or_init(|| made))
}

/// The path itself, or where the cache of the Hugging Face Hub has the model of that name.
pub fn located(path: &Path) -> Result<Cow<'_, Path>> {
    if path.is_dir() && !path.join("config.json").exists() {
        return in_folder(path).map(Cow::Owned);
    }
    let name = path.to_str().filter(|_| !path.exists()).and_then(|text| ModelName::parse(text).ok());
    let Some(name) = name else { return Ok(Cow::Borrowed(path)) };
    let found = hub::Cache::of_user()?.find(&name).map_err(|error| match error.kind() {
        // Another file of the repository is here.
        ErrorKind::Missing => error.with_remedy(Remedy::Pull(name.to_string())),
        _ => error,
    })?;
    match found {
        Some(found) => Ok(Cow::Owned(found)),
        // A mistyped path looks like a name, too: opening it gives the system's reason.
        None if name.file.is_none() && path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) => {
            Ok(Cow::Borrowed(path))
        }
        None => {
            let missing = Error::missing(format!("{name} as a file and in the cache"), "running it");
            Err(missing.with_remedy(Remedy::Pull(name.to_string())))
        }
    }
}

/// The one model of a folder of GGUF files; the folder itself where it has none.
fn in_folder(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io("open", folder, e))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let is_gguf = |path: &PathBuf| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    // Of a model in parts the first one stands for all.
    let is_later = |path: &PathBuf| {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        part_of_stem(stem).is_some_and(|(_, number, _)| number != 1)
    };
    files.retain(|path| is_gguf(path) && !is_later(path));
    files.sort();
    match files.as_slice() {
        [] => Ok(folder.to_path_buf()),
        [one] => Ok(one.clone()),
        several => {
            let names = several.iter().filter_map(|path| path.file_name()).map(|name| shown(&name.to_string_lossy()));
            let names: Vec<_> = names.take(8).collect();
            let expected = "one GGUF file, or the file named";
            Err(Error::malformed(format!("the folder {}", folder.display()), expected, names.join(", ")))
        }
    }
}

/// The directory as it would be converted, without a file.
#[cfg(feature = "convert")]
fn convert_in_memory(path: &Path, observer: &Arc<dyn Observer>) -> Result<File> {
    use std::ops::ControlFlow;

    use crate::convert::{Progress, in_memory};

    told(observer, |told| {
        let progress = |at: &Progress<'_>| {
            told(at.done_bytes, at.total_bytes);
            ControlFlow::Continue(())
        };
        in_memory(path, Some(&progress))
    })
}

#[cfg(not(feature = "convert"))]
fn convert_in_memory(path: &Path, _observer: &Arc<dyn Observer>) -> Result<File> {
    let reason = "this program was built without the feature convert, so it reads GGUF files only";
    Err(Error::unsupported(format!("the directory {}", path.display()), reason))
}

/// The result of `read`, while it tells bytes so far, and of all. A split file tells those of each part.
fn told(observer: &Arc<dyn Observer>, read: impl FnOnce(&dyn Fn(u64, u64)) -> Result<File>) -> Result<File> {
    let loading: Mutex<Option<Loading<'_>>> = Mutex::new(None);
    read(&|done, all| {
        let mut loading = loading.lock().unwrap_or_else(|broken| broken.into_inner());
        loading.get_or_insert_with(|| Loading::new(observer, all)).set(done, all);
    })
}

/// The system may grant more than there is, and end the process without a word once it is used.
fn check_memory(path: &Path) -> Result<()> {
    let len = fs::metadata(path).map_err(|e| Error::io("open", path, e))?.len();
    match machine::free_memory_bytes() {
        Some(free) if len > free => Err(Error::TooLarge {
            thing: format!("copy of {}", path.display()),
            expected: format!("at most the free memory, {}", numbers::bytes(free)),
            found: numbers::bytes(len),
        }
        .with_remedy(Remedy::MapFile)),
        _ => Ok(()),
    }
}
