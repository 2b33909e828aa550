//! How models come when requests name them, and make room for each other.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use super::{
    super::{
        error::{ApiError, ApiResult},
        host::{self, Host, Starting},
        offer::Opened,
    },
    Models, Outcome, State, closed,
};
use crate::error::{Error, Result};

/// How often it is looked for models that have idled long enough.
const LOOK_AROUND: Duration = Duration::from_millis(500);

impl Models {
    /// The model that a request means. It is loaded where it is not; requests that come meanwhile wait for the same load.
    ///
    /// # Errors
    /// If there is none of that name, or it cannot be loaded.
    pub async fn host(self: &Arc<Self>, name: Option<&str>) -> ApiResult<Arc<Host>> {
        enum Wait {
            Loading(watch::Receiver<Option<Outcome>>),
            Leaving(watch::Receiver<()>),
        }
        let key = self.key(name)?;
        loop {
            let wait = {
                let mut entries = self.lock();
                let entry = entries.get_mut(&key).ok_or_else(|| ApiError::no_model(&key))?;
                entry.settle();
                match &entry.state {
                    State::Here { host, .. } => {
                        host.touch();
                        return Ok(Arc::clone(host));
                    }
                    State::Loading(news) => Wait::Loading(news.clone()),
                    State::Leaving { gone, .. } => Wait::Leaving(gone.clone()),
                    State::Away => {
                        let news = self.begin_to_load(&key);
                        entry.state = State::Loading(news.clone());
                        Wait::Loading(news)
                    }
                }
            };
            match wait {
                Wait::Loading(mut news) => {
                    let outcome = news.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
                    return outcome
                        .unwrap_or_else(|| Err(ApiError::internal("loading the model met a bug of the server")));
                }
                Wait::Leaving(gone) => closed(gone).await,
            }
        }
    }

    /// Loads the only model, and returns when its thread has ended or it could not be loaded.
    pub async fn only_ended(self: &Arc<Self>) {
        if self.host(None).await.is_err() {
            return;
        }
        let gone = self.lock().values().find_map(|entry| match &entry.state {
            State::Here { gone, .. } => Some(gone.clone()),
            _ => None,
        });
        if let Some(gone) = gone {
            closed(gone).await;
        }
    }

    /// Loads a model beside its requests, which may go away meanwhile.
    fn begin_to_load(self: &Arc<Self>, key: &str) -> watch::Receiver<Option<Outcome>> {
        let (tell, news) = watch::channel(None);
        let (models, key) = (Arc::clone(self), key.to_owned());
        tokio::spawn(async move {
            let loaded = models.load(&key).await;
            let (state, outcome) = match loaded {
                Ok((host, gone)) => (State::Here { host: Arc::clone(&host), gone }, Ok(host)),
                Err(error) => {
                    let message = format!("the model `{key}` cannot be loaded: {error}");
                    if models.are_several() {
                        models.log.request(&message.escape_debug().to_string());
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

    async fn load(self: &Arc<Self>, key: &str) -> Result<(Arc<Host>, watch::Receiver<()>)> {
        let _turn = self.turn.lock().await;
        let (path, aliases) = {
            let entries = self.lock();
            let entry = entries.get(key).ok_or_else(|| Error::missing(key, "loading it"))?;
            (entry.path.clone(), entry.aliases.clone())
        };
        let only = self.only.lock().unwrap_or_else(PoisonError::into_inner).take();
        let opened = match only {
            Some(opened) => *opened,
            None => {
                let models = Arc::clone(self);
                let opened = beside(move || match &models.catalogue {
                    Some(catalogue) => (catalogue.open)(&path),
                    None => Err(Error::Usage("the model has ended".into())),
                });
                self.make_room(opened.await?).await?
            }
        };
        let names = std::iter::once(key.to_owned()).chain(aliases).collect();
        let Starting { loaded, gone } = host::start((&self.options, &self.metrics, &self.log), names, opened)?;
        let host = loaded.await.unwrap_or_else(|_| Err(Error::Usage("the engine met a bug".into())))?;
        Ok((host, gone))
    }

    /// Unloads models until this one has room, or none is left.
    async fn make_room(&self, opened: Opened) -> Result<Opened> {
        let opened = Arc::new(opened);
        loop {
            let loaded = self.loaded_count();
            let most = self.catalogue.as_ref().and_then(|catalogue| catalogue.most_loaded);
            let is_full = most.is_some_and(|most| loaded >= most.get());
            if loaded == 0 {
                break;
            }
            let looked_at = Arc::clone(&opened);
            if !is_full && beside(move || looked_at.fits()).await? {
                break;
            }
            let Some((name, gone)) = self.evict() else { break };
            self.log.request(&format!("{name} makes room for {}", opened.file.name().escape_debug()));
            closed(gone).await;
        }
        Arc::into_inner(opened).ok_or_else(|| Error::Usage("the model is looked at".into()))
    }

    /// Unloads models that have idled for their time, for ever.
    pub async fn watch_idle(self: Arc<Self>) {
        loop {
            sleep(LOOK_AROUND).await;
            for (key, entry) in self.lock().iter_mut() {
                entry.settle();
                let Some(host) = entry.host() else { continue };
                // A request that is being prepared holds it, too.
                if host.is_busy() || Arc::strong_count(host) > 1 {
                    host.touch();
                } else if entry.keep_alive.left(host.idle()).is_some_and(|left| left.is_zero()) {
                    self.log.request(&format!("{key} is unloaded: no request came"));
                    entry.leave();
                }
            }
        }
    }
}

/// Runs what takes long on a thread of its own.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Error::Usage("opening the model met a bug".into())))
}
