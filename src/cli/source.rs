//! Where a model comes from: a file, a directory that is converted in memory, the cache of the Hub, or the program itself.

use std::{
    borrow::Cow,
    cell::{OnceCell, RefCell},
    fs,
    ops::ControlFlow,
    path::Path,
    sync::Arc,
};

use indicatif::ProgressBar;

use super::{
    args::{I2sLayout, LayoutArgs, ModelArgs},
    format, machine,
    progress::progress_bar,
};
use crate::{
    bytes::{Access, Bytes},
    convert::{self, Progress},
    error::{Error, Result},
    gguf::File,
    hub::{self, ModelName},
    model::{self, Model},
    probe::{self, Packing},
    tokenizer::Tokenizer,
};

/// The model that is part of the program. Aligned as a memory map is, as some kernels read wide words.
static BUILT_IN: &Aligned<[u8]> = &Aligned(*include_bytes!("../../assets/llama-stories-ternary-4m.gguf"));
const BUILT_IN_NAME: &str = "built-in story model";

#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

/// A model file and what to call it.
pub struct Source {
    pub name: String,
    pub file: File,
    layout: LayoutArgs,
    packing: OnceCell<Packing>,
}

impl Source {
    /// The file of `-m`, or the built-in model.
    pub fn open(args: &ModelArgs) -> Result<Self> {
        match &args.model {
            Some(path) => Self::open_path(path, args),
            None => Ok(Self::new(BUILT_IN_NAME.into(), File::parse(Bytes::from_static(&BUILT_IN.0))?, args.layout)),
        }
    }

    fn new(name: String, file: File, layout: LayoutArgs) -> Self {
        Self { name, file, layout, packing: OnceCell::new() }
    }

    /// As [`Self::open`] for a command that looks at little of it: a file is mapped.
    pub fn glance(args: &ModelArgs) -> Result<Self> {
        Self::open(&ModelArgs { model: args.model.clone(), no_mmap: false, ..*args })
    }

    /// A GGUF file, or a Hugging Face directory.
    pub fn open_path(path: &Path, args: &ModelArgs) -> Result<Self> {
        let path = &*located(path)?;
        let file = match (path.is_dir(), args.is_copied()) {
            (true, false) => convert_in_memory(path)?,
            (true, true) => copied(|progress| convert_in_memory(path)?.detached(progress))?,
            (false, false) => File::open(path)?,
            (false, true) => {
                check_memory(path)?;
                copied(|progress| File::open_with(path, Access::Copy(progress)))?
            }
        };
        let source = Self::new(path.display().to_string(), file, args.layout);
        for warning in source.file.warnings() {
            log::warn!("{}: {warning}", source.name);
        }
        Ok(source)
    }

    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::from_gguf(self.file.metadata()).map_err(|e| self.named(e))?;
        for choice in tokenizer.notes() {
            log::info!("{}: {choice}", self.name);
        }
        Ok(tokenizer)
    }

    pub fn model(&self) -> Result<Arc<Model>> {
        Model::from_gguf_with(&self.file, &self.open_options()?).map(Arc::new).map_err(|e| self.named(e))
    }

    /// What the file does not say of itself.
    pub fn open_options(&self) -> Result<model::OpenOptions> {
        Ok(model::OpenOptions { i2s: self.packing()?.packing, ..Default::default() })
    }

    /// How I2_S matrices are read, and why so.
    pub fn packing(&self) -> Result<&Packing> {
        if let Some(packing) = self.packing.get() {
            return Ok(packing);
        }
        let packing = packing(&self.name, &self.file, self.layout).map_err(|e| self.named(e))?;
        Ok(self.packing.get_or_init(|| packing))
    }

    fn named(&self, error: Error) -> Error {
        error.in_file(self.name.clone())
    }
}

/// The path itself, or where the cache of the Hugging Face Hub has the model of that name.
pub fn located(path: &Path) -> Result<Cow<'_, Path>> {
    let name = path.to_str().filter(|_| !path.exists()).and_then(|text| ModelName::parse(text).ok());
    let Some(name) = name else { return Ok(Cow::Borrowed(path)) };
    match hub::Cache::of_user()?.find(&name)? {
        Some(found) => Ok(Cow::Owned(found)),
        // A mistyped path looks like a name, too: opening it gives the system's reason.
        None if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) => Ok(Cow::Borrowed(path)),
        None => {
            let needed_for = format!("running it; `bitnet-gpu pull {name}` fetches it from the Hugging Face Hub");
            Err(Error::missing(format!("{name} as a file and in the cache"), needed_for))
        }
    }
}

/// The directory as it would be converted, without a file.
fn convert_in_memory(path: &Path) -> Result<File> {
    let bar = OnceCell::new();
    let file = convert::in_memory(
        path,
        Some(&|at: &Progress<'_>| {
            bar.get_or_init(|| progress_bar(at.total_bytes)).set_position(at.done_bytes);
            ControlFlow::Continue(())
        }),
    );
    if let Some(bar) = bar.get() {
        bar.finish_and_clear();
    }
    file
}

/// What `read` gives, with a bar that follows what it tells: bytes so far, and of all. A split file has a bar for each
/// part.
fn copied(read: impl FnOnce(&dyn Fn(u64, u64)) -> Result<File>) -> Result<File> {
    let bar: RefCell<Option<(u64, ProgressBar)>> = RefCell::new(None);
    let file = read(&|done, all| {
        let mut bar = bar.borrow_mut();
        if bar.as_ref().is_none_or(|(of, _)| *of != all) {
            *bar = Some((all, progress_bar(all)));
        }
        if let Some((_, bar)) = &*bar {
            bar.set_position(done);
        }
    });
    if let Some((_, bar)) = bar.into_inner() {
        bar.finish_and_clear();
    }
    file
}

/// The system may grant more than there is, and end the process without a word once it is used.
fn check_memory(path: &Path) -> Result<()> {
    let len = fs::metadata(path).map_err(|e| Error::io("open", path, e))?.len();
    match machine::free_memory_bytes() {
        Some(free) if len > free => Err(Error::malformed(
            format!("copy of {}", path.display()),
            format!("at most the free memory, {}", format::bytes(free)),
            format!("{} (without --no-mmap it is read in place)", format::bytes(len)),
        )),
        _ => Ok(()),
    }
}

/// How the I2_S matrices of a file are read: as asked for, or by trying, where that is asked for or there is a sign
/// that the usual packing may not be the one.
pub fn packing(name: &str, file: &File, layout: LayoutArgs) -> Result<Packing> {
    let asked = layout.i2s_layout;
    if let Some(packing) = asked.and_then(I2sLayout::packing) {
        return Ok(Packing { packing, reason: "asked for with --i2s-layout".into() });
    }
    if asked.is_none() && !probe::is_doubtful(file) {
        let reason = "the usual one; nothing in the file speaks for another".into();
        return Ok(Packing { packing: model::I2sPacking::P128, reason });
    }
    let found = probe::i2s_packing(file, machine::cores().threads)?;
    let line = format!("{name}: I2_S is read as {}: {}", found.packing.name(), found.reason);
    match found.packing {
        model::I2sPacking::P128 => log::info!("{line}"),
        _ => log::warn!("{line}"),
    }
    Ok(found)
}
