//! A loaded model and the thread that runs it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use super::{
    Log, ServeOptions, embedding,
    engine::EngineThread,
    metrics::Metrics,
    model::Served,
    offer::Opened,
    queue::{self, JobReceiver, JobSender},
};
use crate::{
    engine::{ModelFile, Purpose},
    error::{Error, Result},
    generate::{Batcher, PlaceState, Pooling},
    session::Runtime,
};

/// A loaded model. Its thread answers what it was sent and ends when all of these are dropped.
pub struct Host {
    pub served: Arc<Served>,
    pub jobs: JobSender,
    /// The slots after the last step.
    pub places: Arc<Mutex<Vec<PlaceState>>>,
    used: Mutex<Instant>,
}

impl Host {
    /// True while answers are written or wait.
    pub fn is_busy(&self) -> bool {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        self.jobs.waiting() > 0 || places.iter().any(|place| place.answer.is_some())
    }

    /// Begins the time of idleness anew.
    pub fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Time since it was last used.
    pub fn idle(&self) -> Duration {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// A model on its way.
pub struct Starting {
    /// Tells that it is loaded, or why not.
    pub loaded: oneshot::Receiver<Result<Arc<Host>>>,
    /// Closed when the thread has ended and the memory of the model is free again.
    pub gone: watch::Receiver<()>,
}

/// Loads a model in a thread of its own, which then serves.
pub fn start(
    (options, metrics, log): (&ServeOptions, &Arc<Metrics>, &Arc<dyn Log>),
    names: Vec<String>,
    opened: Opened,
) -> Result<Starting> {
    let (told, loaded) = oneshot::channel();
    let (is_there, gone) = watch::channel(());
    let queue = queue::queue(options.queue);
    let (prefix_bytes, metrics, log) = (options.prefix_bytes, Arc::clone(metrics), Arc::clone(log));
    let saves_slots = options.slot_folder.is_some();
    let work = move || {
        let (jobs, receiver) = queue;
        let places = Arc::new(Mutex::new(Vec::new()));
        let host = |served| {
            let used = Mutex::new(Instant::now());
            Arc::new(Host { served: Arc::new(served), jobs, places: Arc::clone(&places), used })
        };
        match load(opened, names, saves_slots) {
            Err(error) => _ = told.send(Err(error)),
            Ok(Loaded::Vectors(served, runtime, pooling, file)) => {
                log.ready(&format!("{} on {}: embeddings", served.name, runtime.devices()));
                // Nobody waits for it where the server ends already.
                let _ = told.send(Ok(host(served)));
                run_vectors(*runtime, &file, pooling, &receiver, &*log);
            }
            Ok(Loaded::Text(served, runtime)) => {
                let Served { name, slots, context_tokens, .. } = &served;
                log.ready(&format!("{name} on {}: {slots} slots of {context_tokens} tokens", runtime.devices()));
                let batcher = Batcher::new(*runtime).keeping_prefixes(prefix_bytes);
                let thread = EngineThread::new(batcher, receiver, metrics, Arc::clone(&places), log);
                let _ = told.send(Ok(host(served)));
                thread.run();
            }
        }
        drop(is_there);
    };
    let started = thread::Builder::new().name("engine".into()).spawn(work);
    started.map_err(|error| Error::io("start", "a thread of the engine", error))?;
    Ok(Starting { loaded, gone })
}

fn run_vectors(runtime: Runtime, file: &ModelFile, pooling: Pooling, jobs: &JobReceiver, log: &dyn Log) {
    // It was loaded a moment ago.
    if let Ok(model) = file.model() {
        embedding::run(runtime, model, pooling, jobs, log);
    }
}

enum Loaded {
    Text(Served, Box<Runtime>),
    Vectors(Served, Box<Runtime>, Pooling, ModelFile),
}

fn load(opened: Opened, names: Vec<String>, saves_slots: bool) -> Result<Loaded> {
    if let Some(pooling) = opened.pooling()? {
        let runtime = opened.engine.runtime(&Purpose::Hidden)?;
        let file = opened.file.clone();
        return Ok(Loaded::Vectors(
            Served::new(opened, names, &runtime, saves_slots)?,
            Box::new(runtime),
            pooling,
            file,
        ));
    }
    let runtime = opened.engine.runtime(&Purpose::Sample(&opened.sample))?;
    let served = Served::new(opened, names, &runtime, saves_slots)?;
    Ok(Loaded::Text(served, Box::new(runtime)))
}

impl Opened {
    /// How vectors are made, where the model was made for those.
    fn pooling(&self) -> Result<Option<Pooling>> {
        self.file.pooling()
    }

    /// Whether the free memory of each device holds what the model would take there.
    pub fn fits(&self) -> Result<bool> {
        let purpose = match self.pooling()? {
            Some(_) => Purpose::Hidden,
            None => Purpose::Sample(&self.sample),
        };
        self.engine.fits(&purpose)
    }
}
