//! The models of a server: which are loaded, and how they come and go.

mod keep_alive;

mod listed;

mod loading;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::timeout_at};

pub use self::{
    keep_alive::{KeepAlive, seconds},
    listed::{Listed, Phase},
};
use super::{
    Log, ServeOptions,
    about::About,
    error::{ApiError, ApiResult},
    host::Host,
    metrics::Metrics,
    offer::{Catalogue, Offer, Opened, short_name},
    queue::Stopper,
};
use crate::{error::Error, gguf::part_of_stem};

/// Time for the threads of the models to end, at the end of the server.
const LAST_STEP: Duration = Duration::from_secs(5);

/// The loaded model, or a message for each request that waits for it.
type Outcome = ApiResult<Arc<Host>>;

/// All models, by name.
pub struct Models {
    entries: Mutex<BTreeMap<String, Entry>>,
    catalogue: Option<Catalogue>,
    /// The only model until it is loaded.
    only: Mutex<Option<Box<Opened>>>,
    /// Why the only model could not be loaded.
    failure: Mutex<Option<Error>>,
    /// Held while a model is loaded: two at once would count on the same memory.
    turn: tokio::sync::Mutex<()>,
    options: ServeOptions,
    metrics: Arc<Metrics>,
    log: Arc<dyn Log>,
}

struct Entry {
    /// More names that it goes by.
    aliases: Vec<String>,
    path: PathBuf,
    state: State,
    keep_alive: KeepAlive,
    about: Option<Arc<About>>,
}

enum State {
    Away,
    Loading(watch::Receiver<Option<Outcome>>),
    Here {
        host: Arc<Host>,
        gone: watch::Receiver<()>,
    },
    /// It answers what it was sent, and is unloaded then.
    Leaving {
        gone: watch::Receiver<()>,
        stopper: Stopper,
    },
}

impl Entry {
    fn new(path: PathBuf, aliases: Vec<String>, keep_alive: KeepAlive) -> Self {
        Self { aliases, path, state: State::Away, keep_alive, about: None }
    }

    /// Notices that its thread has ended.
    fn settle(&mut self) {
        let is_away = match &self.state {
            State::Away => false,
            State::Loading(news) => news.has_changed().is_err() && news.borrow().is_none(),
            State::Here { gone, .. } | State::Leaving { gone, .. } => gone.has_changed().is_err(),
        };
        if is_away {
            self.state = State::Away;
        }
    }

    /// True where there is nothing left to load.
    fn is_gone(&self) -> bool {
        matches!(self.state, State::Away) && !self.path.exists()
    }

    fn host(&self) -> Option<&Arc<Host>> {
        match &self.state {
            State::Here { host, .. } => Some(host),
            _ => None,
        }
    }

    /// Unloads it when it has answered what it was sent; gives who tells that.
    fn leave(&mut self) -> Option<watch::Receiver<()>> {
        let State::Here { host, gone } = &self.state else { return None };
        let (gone, stopper) = (gone.clone(), host.jobs.stopper());
        self.state = State::Leaving { gone: gone.clone(), stopper };
        Some(gone)
    }
}

impl Models {
    pub fn new(offer: Offer, options: &ServeOptions, metrics: &Arc<Metrics>, log: &Arc<dyn Log>) -> Self {
        let mut entries = BTreeMap::new();
        let (mut only, mut catalogue) = (None, None);
        match offer {
            Offer::One(opened) => {
                let path = opened.file.name().to_owned();
                let mut names = options.names.iter().cloned();
                let name = names.next().unwrap_or_else(|| short_name(&path));
                entries.insert(name, Entry::new(path.into(), names.collect(), KeepAlive::FOREVER));
                only = Some(opened);
            }
            Offer::Several(several) => {
                let keep_alive = KeepAlive(several.keep_alive);
                for (name, path) in &several.models {
                    entries.insert(name.clone(), Entry::new(path.clone(), Vec::new(), keep_alive));
                }
                catalogue = Some(several);
            }
        }
        let (entries, only, failure) = (Mutex::new(entries), Mutex::new(only), Mutex::new(None));
        let (turn, options) = (tokio::sync::Mutex::new(()), options.clone());
        let (metrics, log) = (Arc::clone(metrics), Arc::clone(log));
        let models = Self { entries, catalogue, only, failure, turn, options, metrics, log };
        models.look_into_folder();
        models
    }

    /// False while the only model is being loaded.
    pub fn is_ready(&self) -> bool {
        self.catalogue.is_some() || self.lock().values().any(|entry| entry.host().is_some())
    }

    /// True where models come and go.
    pub fn are_several(&self) -> bool {
        self.catalogue.is_some()
    }

    /// Why the only model could not be loaded.
    pub fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loaded model that a request without effects means; `None` where it is not loaded.
    pub fn loaded(&self, name: Option<&str>) -> ApiResult<Option<Arc<Host>>> {
        let key = self.key(name)?;
        Ok(self.lock().get(&key).and_then(|entry| entry.host().cloned()))
    }

    /// The key of the model that a request means. Of one model every name will do; without a name, of several the one
    /// that was used last.
    fn key(&self, name: Option<&str>) -> ApiResult<String> {
        if let Some(name) = name.filter(|_| self.are_several()) {
            // Clients of ollama add a tag.
            let plain = name.strip_suffix(":latest").unwrap_or(name);
            let found = || {
                let entries = self.lock();
                let is_there = |name: &&str| entries.get(*name).is_some_and(|entry| !entry.is_gone());
                [name, plain].into_iter().find(is_there).map(str::to_owned)
            };
            return found()
                .or_else(|| {
                    self.look_into_folder();
                    found()
                })
                .ok_or_else(|| ApiError::no_model(name));
        }
        let entries = self.lock();
        let last = entries.iter().filter_map(|(key, entry)| Some((entry.host()?.idle(), key))).min();
        let key = last.map(|(_, key)| key).or_else(|| entries.keys().next());
        key.cloned().ok_or_else(|| ApiError::no_model(name.unwrap_or_default()))
    }

    /// Takes up what is new in the folder, and forgets what is gone.
    fn look_into_folder(&self) {
        let Some(catalogue) = &self.catalogue else { return };
        let Some(folder) = &catalogue.folder else { return };
        let found = models_in(folder);
        let mut entries = self.lock();
        entries.retain(|_, entry| !entry.is_gone());
        for (name, path) in found {
            entries.entry(name).or_insert_with(|| Entry::new(path, Vec::new(), KeepAlive(catalogue.keep_alive)));
        }
    }

    /// Sets how long a model stays without a request. The only one stays.
    pub fn keep(&self, name: Option<&str>, keep_alive: KeepAlive) {
        if !self.are_several() {
            return;
        }
        let Ok(key) = self.key(name) else { return };
        if let Some(entry) = self.lock().get_mut(&key) {
            entry.keep_alive = keep_alive;
        }
    }

    /// Unloads a model when it has answered what it was sent.
    pub fn unload(&self, name: Option<&str>) -> ApiResult<()> {
        let key = self.key(name)?;
        if self.are_several()
            && let Some(entry) = self.lock().get_mut(&key)
        {
            entry.leave();
        }
        Ok(())
    }

    /// All models. Headers of files are read the first time.
    pub fn list(&self) -> Vec<Listed> {
        self.look_into_folder();
        let keys: Vec<String> = self.lock().keys().cloned().collect();
        keys.into_iter().filter_map(|key| self.one(&key)).collect()
    }

    /// The model of this name, or one that goes by it.
    pub fn find(&self, name: &str) -> ApiResult<Listed> {
        let plain = name.strip_suffix(":latest").unwrap_or(name);
        let is_meant = |listed: &Listed| listed.name == plain || listed.aliases.iter().any(|alias| alias == name);
        self.list().into_iter().find(is_meant).ok_or_else(|| ApiError::no_model(name))
    }

    fn one(&self, key: &str) -> Option<Listed> {
        let (path, known) = {
            let mut entries = self.lock();
            let entry = entries.get_mut(key)?;
            entry.settle();
            (entry.path.clone(), entry.about.clone())
        };
        // A file is read beside the lock.
        let about = known.or_else(|| About::of_path(&path).map(Arc::new));
        let mut entries = self.lock();
        let entry = entries.get_mut(key)?;
        entry.about.clone_from(&about);
        let phase = match &entry.state {
            State::Away => Phase::Unloaded,
            State::Loading(_) => Phase::Loading,
            State::Here { host, .. } => {
                Phase::Loaded { served: Arc::clone(&host.served), left: entry.keep_alive.left(host.idle()) }
            }
            State::Leaving { .. } => Phase::Unloaded,
        };
        let created = fs::metadata(&path).and_then(|found| found.modified()).ok();
        Some(Listed::new(key, &entry.aliases, &self.options.tags, created, about, phase))
    }

    /// Asks the threads of all models to end, also of those that only answer what they were sent.
    pub fn stop(&self) {
        for entry in self.lock().values() {
            match &entry.state {
                State::Here { host, .. } => host.jobs.stopper().stop(),
                State::Leaving { stopper, .. } => stopper.stop(),
                State::Away | State::Loading(_) => {}
            }
        }
    }

    /// Waits until they have, so that devices are left in order.
    pub async fn ended(&self) {
        let gone: Vec<_> = self
            .lock()
            .values()
            .filter_map(|entry| match &entry.state {
                State::Here { gone, .. } | State::Leaving { gone, .. } => Some(gone.clone()),
                _ => None,
            })
            .collect();
        let until = Instant::now() + LAST_STEP;
        for gone in gone {
            let _ = timeout_at(until.into(), closed(gone)).await;
        }
    }

    /// Chooses a model that makes room: one that idles before one that is busy, then the one that was used longest ago.
    fn evict(&self) -> Option<(String, watch::Receiver<()>)> {
        let mut entries = self.lock();
        for (key, entry) in entries.iter_mut() {
            entry.settle();
            if let State::Leaving { gone, .. } = &entry.state {
                return Some((key.clone(), gone.clone()));
            }
        }
        let worth = |entry: &Entry| entry.host().map(|host| (!host.is_busy(), host.idle()));
        let (key, entry) =
            entries.iter_mut().filter(|(_, entry)| entry.host().is_some()).max_by_key(|(_, entry)| worth(entry))?;
        entry.leave().map(|gone| (key.clone(), gone))
    }

    /// Models in memory.
    fn loaded_count(&self) -> usize {
        let mut entries = self.lock();
        entries.values_mut().for_each(Entry::settle);
        entries.values().filter(|entry| matches!(entry.state, State::Here { .. } | State::Leaving { .. })).count()
    }
}

/// Waits for the end of a thread.
async fn closed(mut gone: watch::Receiver<()>) {
    while gone.changed().await.is_ok() {}
}

/// GGUF files and model directories in a folder, by name. Of split files the first part counts.
fn models_in(folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let model = |path: PathBuf| {
        let file = path.file_name()?.to_str()?;
        let is_first = |stem: &str| part_of_stem(stem).is_none_or(|(_, number, _)| number == 1);
        let is_gguf = file.strip_suffix(".gguf").is_some_and(is_first);
        // macOS puts files named `._` and so on beside those that it copies elsewhere.
        let is_file = path.is_file() && is_gguf && !file.starts_with("mmproj") && !file.starts_with('.');
        let is_model = is_file || path.join("config.json").is_file();
        is_model.then(|| (short_name(file), path.clone()))
    };
    entries.flatten().filter_map(|entry| model(entry.path())).collect()
}
