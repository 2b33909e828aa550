//! Notices of an engine while it works. It prints nothing itself.

use std::sync::Arc;

use crate::{error::Error, model::I2sPacking};

/// Is told of progress and of decisions. Calls come from whatever thread uses the engine or its session.
pub trait Observer: Send + Sync {
    /// Bytes read or loaded so far, of all. The last call of a load has `done == total`, also where it fails.
    fn loading(&self, _done: u64, _total: u64) {}

    /// Something a user may want to know.
    fn notice(&self, _notice: &Notice) {}
}

/// Nobody listens.
impl Observer for () {}

/// A decision or an event that changes nothing in the answers, but may change their speed or quality.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice {
    /// Something odd in a model file that does not keep it from running.
    File {
        /// The file.
        name: String,
        /// The oddity.
        warning: String,
    },
    /// A choice that the tokenizer made where the file leaves one.
    Tokenizer {
        /// The file.
        name: String,
        /// The choice.
        note: String,
    },
    /// How I2_S matrices are read, which no file says; found by trying.
    I2sPacking {
        /// The file.
        name: String,
        /// The packing.
        packing: I2sPacking,
        /// Why.
        reason: String,
    },
    /// The context is smaller than the model allows, as none was asked for.
    ContextLimited {
        /// Tokens of the context.
        tokens: usize,
        /// Tokens the model was trained for.
        trained: usize,
    },
    /// The context is larger than what the model was trained for.
    BeyondTraining {
        /// Tokens the model was trained for.
        trained: usize,
    },
    /// The system refused threads.
    FewerThreads {
        /// Threads that were to compute.
        asked: usize,
        /// Threads that do.
        granted: usize,
    },
    /// The GPU is a program on the processor.
    SoftwareAdapter {
        /// Its name.
        name: String,
    },
    /// Layers on the GPU were asked for, and none is there.
    NoLayerOnGpu {
        /// Why.
        reason: String,
    },
    /// The GPU that would have been used cannot load the model.
    GpuNotUsed(Error),
    /// The GPU failed before the first token, and the CPU does its work.
    GpuFailed(Error),
    /// What steps cost on either backend differed from round to round, as it does where something else uses the machine: the
    /// plan rests on it, but it is measured anew the next time.
    CostsDisturbed,
    /// The GPU gets something wrong, and does it in another way.
    GpuFault {
        /// What, and on which one.
        reason: String,
    },
    /// Memory of the GPU ran out: fewer layers are on it now.
    FewerLayers {
        /// Tokens run before that; `None` while loading.
        tokens: Option<usize>,
        /// Cause of the failure, and the layers that are left.
        reason: String,
    },
    /// The GPU failed in the middle, and the CPU goes on with the same text.
    TookOver {
        /// Tokens run before that; they run again.
        tokens: usize,
        /// The error.
        reason: String,
    },
}

/// Progress of one load: adds up what is done, and says that it has ended when it is dropped.
pub(super) struct Loading<'a> {
    observer: &'a Arc<dyn Observer>,
    done: u64,
    total: u64,
}

impl<'a> Loading<'a> {
    pub fn new(observer: &'a Arc<dyn Observer>, total: u64) -> Self {
        observer.loading(0, total);
        Self { observer, done: 0, total }
    }

    /// `bytes` more.
    pub fn add(&mut self, bytes: u64) {
        self.set(self.done + bytes, self.total);
    }

    /// So far, and of all; "of all" may change, as each part of a split file counts by itself.
    pub fn set(&mut self, done: u64, total: u64) {
        (self.done, self.total) = (done, total);
        if done < total {
            self.observer.loading(done, total);
        }
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        self.observer.loading(self.total, self.total);
    }
}
