//! The models of a server: which are loaded, and how they come and go.

mod about;

mod keep_alive;

mod listed;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{sleep, timeout_at},
};

pub use self::{
    about::{About, Facts},
    keep_alive::{KeepAlive, seconds},
    listed::{Listed, Phase},
};
use super::{
    app::App,
    error::{ApiError, ApiResult},
    host::{self, Host, Starting},
    offer::{Catalogue, Offer, Opened, short_name},
};
use crate::error::{Error, Result};

/// How often it is looked for models that have idled long enough.
const LOOK_AROUND: Duration = Duration::from_millis(500);

/// Time for the threads of the models to end, at the end of the server.
const LAST_STEP: Duration = Duration::from_secs(5);

/// What a failed load leaves: a message for each request that waits.
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
    Leaving(watch::Receiver<()>),
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
            State::Here { gone, .. } | State::Leaving(gone) => gone.has_changed().is_err(),
        };
        if is_away {
            self.state = State::Away;
        }
    }

    fn host(&self) -> Option<&Arc<Host>> {
        match &self.state {
            State::Here { host, .. } => Some(host),
            _ => None,
        }
    }

    /// Unloads it when it has answered what it was sent; gives who tells that.
    fn leave(&mut self) -> Option<watch::Receiver<()>> {
        let State::Here { gone, .. } = &self.state else { return None };
        let gone = gone.clone();
        self.state = State::Leaving(gone.clone());
        Some(gone)
    }
}

impl Models {
    pub fn new(offer: Offer, names: &[String]) -> Self {
        let mut entries = BTreeMap::new();
        let (mut only, mut catalogue) = (None, None);
        match offer {
            Offer::One(opened) => {
                let path = opened.file.name().to_owned();
                let mut names = names.iter().cloned();
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
        let models = Self { entries, catalogue, only, failure, turn: tokio::sync::Mutex::new(()) };
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
                [name, plain].into_iter().find(|name| entries.contains_key(*name)).map(str::to_owned)
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
        entries.retain(|_, entry| !matches!(entry.state, State::Away) || entry.path.exists());
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
            State::Leaving(_) => Phase::Unloaded,
        };
        let created = fs::metadata(&path).and_then(|found| found.modified()).ok();
        Some(Listed::new(key, &entry.aliases, created, about, phase))
    }

    /// Asks the threads of all loaded models to end.
    pub fn stop(&self) {
        for host in self.lock().values().filter_map(Entry::host) {
            host.jobs.stop();
        }
    }

    /// Waits until they have, so that devices are left in order.
    pub async fn ended(&self) {
        let gone: Vec<_> = self
            .lock()
            .values()
            .filter_map(|entry| match &entry.state {
                State::Here { gone, .. } | State::Leaving(gone) => Some(gone.clone()),
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
            if let State::Leaving(gone) = &entry.state {
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
        entries.values().filter(|entry| matches!(entry.state, State::Here { .. } | State::Leaving(_))).count()
    }
}

/// The model that a request means. It is loaded where it is not; requests that come meanwhile wait for the same load.
///
/// # Errors
/// If there is none of that name, or it cannot be loaded.
pub async fn host(app: &Arc<App>, name: Option<&str>) -> ApiResult<Arc<Host>> {
    enum Wait {
        Loading(watch::Receiver<Option<Outcome>>),
        Leaving(watch::Receiver<()>),
    }
    let key = app.models.key(name)?;
    loop {
        let wait = {
            let mut entries = app.models.lock();
            let entry = entries.get_mut(&key).ok_or_else(|| ApiError::no_model(&key))?;
            entry.settle();
            match &entry.state {
                State::Here { host, .. } => {
                    host.touch();
                    return Ok(Arc::clone(host));
                }
                State::Loading(news) => Wait::Loading(news.clone()),
                State::Leaving(gone) => Wait::Leaving(gone.clone()),
                State::Away => {
                    let news = begin_to_load(app, &key);
                    entry.state = State::Loading(news.clone());
                    Wait::Loading(news)
                }
            }
        };
        match wait {
            Wait::Loading(mut news) => {
                let outcome = news.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
                return outcome.unwrap_or_else(|| Err(ApiError::internal("loading the model met a bug of the server")));
            }
            Wait::Leaving(gone) => closed(gone).await,
        }
    }
}

/// Loads the only model, and returns when its thread has ended or it could not be loaded.
pub async fn only_ended(app: &Arc<App>) {
    if host(app, None).await.is_err() {
        return;
    }
    let gone = app.models.lock().values().find_map(|entry| match &entry.state {
        State::Here { gone, .. } => Some(gone.clone()),
        _ => None,
    });
    if let Some(gone) = gone {
        closed(gone).await;
    }
}

/// Loads a model beside its requests, which may go away meanwhile.
fn begin_to_load(app: &Arc<App>, key: &str) -> watch::Receiver<Option<Outcome>> {
    let (tell, news) = watch::channel(None);
    let (app, key) = (Arc::clone(app), key.to_owned());
    tokio::spawn(async move {
        let loaded = load(&app, &key).await;
        let models = &app.models;
        let (state, outcome) = match loaded {
            Ok((host, gone)) => (State::Here { host: Arc::clone(&host), gone }, Ok(host)),
            Err(error) => {
                let message = format!("the model `{key}` cannot be loaded: {error}");
                if models.are_several() {
                    app.log.request(&message.escape_debug().to_string());
                }
                *models.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                (State::Away, Err(ApiError::internal(message)))
            }
        };
        if let Some(entry) = models.lock().get_mut(&key) {
            entry.state = state;
        }
        tell.send_replace(Some(outcome));
    });
    news
}

async fn load(app: &Arc<App>, key: &str) -> Result<(Arc<Host>, watch::Receiver<()>)> {
    let models = &app.models;
    let _turn = models.turn.lock().await;
    let (path, aliases) = {
        let entries = models.lock();
        let entry = entries.get(key).ok_or_else(|| Error::missing(key, "loading it"))?;
        (entry.path.clone(), entry.aliases.clone())
    };
    let only = models.only.lock().unwrap_or_else(PoisonError::into_inner).take();
    let opened = match only {
        Some(opened) => *opened,
        None => {
            let opened = beside(app, move |app| match &app.models.catalogue {
                Some(catalogue) => (catalogue.open)(&path),
                None => Err(Error::Usage("the model has ended".into())),
            });
            make_room(app, opened.await?).await?
        }
    };
    let names = std::iter::once(key.to_owned()).chain(aliases).collect();
    let Starting { loaded, gone } = host::start(app, names, opened)?;
    let host = loaded.await.unwrap_or_else(|_| Err(Error::Usage("the engine met a bug".into())))?;
    Ok((host, gone))
}

/// Unloads models until this one has room, or none is left.
async fn make_room(app: &Arc<App>, opened: Opened) -> Result<Opened> {
    let opened = Arc::new(opened);
    loop {
        let loaded = app.models.loaded_count();
        let most = app.models.catalogue.as_ref().and_then(|catalogue| catalogue.most_loaded);
        let is_full = most.is_some_and(|most| loaded >= most.get());
        if loaded == 0 {
            break;
        }
        let looked_at = Arc::clone(&opened);
        if !is_full && beside(app, move |_| looked_at.fits()).await? {
            break;
        }
        let Some((name, gone)) = app.models.evict() else { break };
        app.log.request(&format!("{name} makes room for {}", opened.file.name().escape_debug()));
        closed(gone).await;
    }
    Arc::into_inner(opened).ok_or_else(|| Error::Usage("the model is looked at".into()))
}

/// Runs what takes long on a thread of its own.
async fn beside<T: Send + 'static>(app: &Arc<App>, work: impl FnOnce(&App) -> Result<T> + Send + 'static) -> Result<T> {
    let app = Arc::clone(app);
    let done = spawn_blocking(move || work(&app)).await;
    done.unwrap_or_else(|_| Err(Error::Usage("opening the model met a bug".into())))
}

/// Unloads models that have idled for their time, for ever.
pub async fn watch_idle(app: Arc<App>) {
    loop {
        sleep(LOOK_AROUND).await;
        for (key, entry) in app.models.lock().iter_mut() {
            entry.settle();
            let Some(host) = entry.host() else { continue };
            // A request that is being prepared holds it, too.
            if host.is_busy() || Arc::strong_count(host) > 1 {
                host.touch();
            } else if entry.keep_alive.left(host.idle()).is_some_and(|left| left.is_zero()) {
                app.log.request(&format!("{key} is unloaded: no request came"));
                entry.leave();
            }
        }
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
        let is_first = file.rsplit_once("-of-").is_none_or(|(start, _)| start.ends_with("-00001"));
        let is_file = path.is_file() && file.ends_with(".gguf") && is_first && !file.starts_with("mmproj");
        let is_model = is_file || path.join("config.json").is_file();
        is_model.then(|| (short_name(file), path.clone()))
    };
    entries.flatten().filter_map(|entry| model(entry.path())).collect()
}
