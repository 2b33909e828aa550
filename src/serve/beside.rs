//! Work beside the connections: on threads of its own, and in turns where it takes much memory or time.

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};

use super::error::{ApiError, ApiResult};

/// Turns of which so many are taken at once, while a bounded number of others wait for theirs.
pub struct Turns {
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

/// A turn, held as long as what it takes is in memory.
pub type Turn = Arc<(OwnedSemaphorePermit, OwnedSemaphorePermit)>;

impl Turns {
    /// `waiting`: most who may wait.
    pub fn new(at_once: usize, waiting: usize) -> Self {
        let places = at_once.saturating_add(waiting).min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(places)), turns: Arc::new(Semaphore::new(at_once)) }
    }

    /// The next turn. Who waits for one takes no thread, and goes away with its client.
    ///
    /// # Errors
    /// If too many wait.
    pub async fn next(&self) -> ApiResult<Turn> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| ApiError::busy())?;
        // Nobody closes it.
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| ApiError::stopping())?;
        Ok(Arc::new((place, turn)))
    }
}

/// Runs what takes long on a thread of its own, so that connections are served meanwhile. It goes on where its client goes
/// away, and what is `held` for it, a turn perhaps, until it ends.
pub async fn beside<T: Send + 'static>(
    held: impl Send + 'static,
    work: impl FnOnce() -> ApiResult<T> + Send + 'static,
) -> ApiResult<T> {
    let work = move || {
        let _held = held;
        work()
    };
    spawn_blocking(work).await.unwrap_or_else(|_| Err(ApiError::bug()))
}
