//! From a model and options to a loaded session, for any program: opens models, plans what runs where, loads it, and goes
//! on where a GPU fails.
//!
//! In: a path or a name of the Hugging Face Hub, [`EngineOptions`], a [`Purpose`]. Out: a [`Session`]. Progress and
//! decisions go to an [`Observer`]; nothing here prints.

mod calibrate;

#[cfg(feature = "gpu")]
mod device;

#[cfg(not(feature = "gpu"))]
#[path = "no_device.rs"]
mod device;

mod fallback;

mod fingerprint;

mod load;

mod observe;

mod options;

mod place;

mod purpose;

mod source;

mod text;

pub mod tuned;

use std::sync::Arc;

use bitnet_cpu_kernels::isa::Isa;

pub use observe::{Notice, Observer};
pub use options::{EngineOptions, HeadScreen};
pub use place::{Budget, Placement};
pub use purpose::{Needs, Purpose};
pub use source::{I2sLayout, ModelFile, OpenOptions, located, open};
pub use text::TextSession;

use crate::{
    backend::cpu::{CpuBackend, Kernel, Kernels, tune::CpuTuning},
    error::{Error, Result},
    machine,
    model::Model,
    plan::{Plan, Prefer},
    session::{Runtime, Session},
    tokenizer::Tokenizer,
};

/// Ternary weights that may stay in a processor's caches from one token to the next: fewer bytes gain nothing there.
const CACHED_BYTES: usize = 64 << 20;

/// A model, and how it is to run. Cheap to clone: clones share the model.
#[derive(Clone)]
pub struct Engine {
    model: ModelSource,
    options: EngineOptions,
    observer: Arc<dyn Observer>,
}

/// Where an [`Engine`] has its model from.
#[derive(Clone)]
pub struct ModelSource(Origin);

#[derive(Clone)]
enum Origin {
    Model(Arc<Model>),
    /// Read when it is needed.
    File(ModelFile),
}

impl From<&ModelFile> for ModelSource {
    fn from(file: &ModelFile) -> Self {
        Self(Origin::File(file.clone()))
    }
}

impl From<&Arc<Model>> for ModelSource {
    fn from(model: &Arc<Model>) -> Self {
        Self(Origin::Model(Arc::clone(model)))
    }
}

impl Engine {
    /// An engine for an opened file, which tells what the file's [`Observer`] is told, or for a model.
    pub fn new(model: impl Into<ModelSource>, options: EngineOptions) -> Self {
        let model = model.into();
        let observer = match &model.0 {
            Origin::Model(_) => Arc::new(()) as Arc<dyn Observer>,
            Origin::File(file) => Arc::clone(file.observer()),
        };
        Self { model, options, observer }
    }

    /// Tells `observer` from now on.
    #[must_use]
    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer, ..self }
    }

    /// An engine for this model with other options.
    #[must_use]
    pub fn with_options(&self, options: EngineOptions) -> Self {
        Self { options, ..self.clone() }
    }

    /// Where and how the model is to run.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// The model.
    ///
    /// # Errors
    /// If its file cannot run.
    pub fn model(&self) -> Result<&Arc<Model>> {
        match &self.model.0 {
            Origin::Model(model) => Ok(model),
            Origin::File(file) => file.model(),
        }
    }

    /// The file's tokenizer.
    ///
    /// # Errors
    /// If there is no file, or it has no tokenizer that works.
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>> {
        match &self.model.0 {
            Origin::Model(_) => Err(Error::missing("a tokenizer", "text: the engine was made of a model alone")),
            Origin::File(file) => file.tokenizer(),
        }
    }

    /// Plan of which layers would run where. [`Request::Auto`](crate::plan::Request::Auto) measures a few layers where
    /// there is a GPU.
    pub fn plan(&self, purpose: &Purpose<'_>) -> Result<Plan> {
        self.place(purpose).map(|placement| placement.plan)
    }

    /// Plans and loads. Where [`Request::Auto`](crate::plan::Request::Auto) chose a GPU that then fails to load the model,
    /// all goes to the CPU; with [`failover`](EngineOptions::failover) the CPU also goes on where a GPU fails later.
    pub fn load(&self, purpose: &Purpose<'_>) -> Result<Session> {
        self.runtime(purpose)?.try_into()
    }

    /// As [`load`](Self::load), with the file's tokenizer: a session that takes and gives text.
    pub fn session(&self, purpose: &Purpose<'_>) -> Result<TextSession> {
        TextSession::new(self, purpose)
    }

    /// As [`load`](Self::load), for as many sequences as the options say.
    pub fn runtime(&self, purpose: &Purpose<'_>) -> Result<Runtime> {
        self.load_for(self.job(purpose)?)
    }

    /// The kernels of the CPU.
    #[doc(hidden)]
    pub fn kernels(&self) -> Result<Kernels> {
        self.model().map(|model| self.kernels_of(model))
    }

    fn kernels_of(&self, model: &Model) -> Kernels {
        if let Some(kernel) = self.options.kernel {
            return Kernels::All(kernel);
        }
        if self.options.prefer == Prefer::Memory {
            return Kernels::AsLoaded;
        }
        // Repacked, a file whose rows interleave answers prompts faster; read as it is, it may be larger than memory.
        let plain: usize = model.weights.blocks.iter().map(|block| block.plain_bytes()).sum();
        if machine::memory_bytes().is_some_and(|memory| plain as u64 > memory / 2) {
            return Kernels::AsLoaded;
        }
        // Without `tune`, what was the fastest where it was measured (2B-4T on Zen 5: base3; without its instructions
        // I2_S was within a tenth).
        let tuned = tuned::load(model, self.options.thread_count()).map(|choice| Kernels::ByShape(choice.kernels));
        tuned.unwrap_or_else(|| {
            // Of group scales there is one form for answers and prompts.
            let fits = model.weights.act_group().is_some()
                || machine::memory_bytes().is_some_and(|memory| plain as u64 <= memory / 4);
            if plain > CACHED_BYTES && fits && Kernel::Base3.is_native(Isa::detect()) {
                Kernels::Preferred(Kernel::Base3)
            } else {
                Kernels::All(Kernel::I2S)
            }
        })
    }

    fn cpu_backend(&self, model: &Model) -> CpuBackend {
        let threads = self.options.thread_count();
        let backend = CpuBackend::with_kernels(Isa::detect(), threads, self.kernels_of(model));
        if backend.threads() < threads {
            self.observer.notice(&Notice::FewerThreads { asked: threads, granted: backend.threads() });
        }
        let Some(CpuTuning { mut split, .. }) = tuned::load(model, threads) else { return backend };
        if self.options.threads.is_some() {
            (split.decode_threads, split.prompt_threads) = (threads, threads);
        }
        backend.split_as(split)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_and_sessions_go_to_other_threads() {
        fn goes<T: Send>() {}
        fn is_shared<T: Send + Sync>() {}
        is_shared::<Engine>();
        is_shared::<ModelFile>();
        goes::<Session>();
        goes::<Runtime>();
        goes::<TextSession>();
    }
}
