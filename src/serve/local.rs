//! The server's routes without a network: requests of this process to a model in it.
//!
//! In: the path and the JSON of a request. Out: the JSON of its answer, or of each event of a stream.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, header},
};
use futures_util::StreamExt;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::{runtime, task::JoinHandle};

use super::{
    Log, ServeOptions,
    app::App,
    job::Loan,
    models::Models,
    offer::{Offer, Opened},
    router::router,
};
use crate::{
    error::{Error, Result},
    session::{Runtime, Sequence},
};

/// Threads that read and prepare requests: more would only take turns with the engine's.
const PREPARING_THREADS: usize = 4;

/// The end of a stream of OpenAI's, which is no JSON.
const DONE: &str = "[DONE]";

/// A loaded model that answers requests of this process as the server would.
pub struct Local {
    /// `None` once it is closed.
    tasks: Option<runtime::Runtime>,
    service: TowerToHyperService<Router>,
    models: Arc<Models>,
}

/// A request that is being answered. Dropped, it is cancelled.
pub struct Pending(JoinHandle<()>);

/// The result of work that the model was lent to.
pub struct Lent<T>(mpsc::Receiver<Result<T>>);

impl<T> Lent<T> {
    /// Waits for it.
    ///
    /// # Errors
    /// Those of the work; if the model was closed before it was done, or was made for embeddings.
    pub fn wait(self) -> Result<T> {
        self.0.recv().unwrap_or_else(|_| Err(closed()))
    }
}

fn closed() -> Error {
    Error::missing("the model", "a request: it is closed")
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Local {
    /// Loads the model. Of `options` those of the network are not looked at.
    ///
    /// # Errors
    /// If it cannot be loaded.
    pub fn start(options: ServeOptions, opened: Opened, log: Arc<dyn Log>) -> Result<Self> {
        // Nobody is behind a slow line.
        let never = Duration::from_secs(u64::from(u32::MAX));
        let options = ServeOptions { body_bytes: usize::MAX, queue: usize::MAX, ping: never, ..options };
        let tasks = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(PREPARING_THREADS)
            .thread_name("requests")
            .enable_time()
            .build();
        let tasks = tasks.map_err(|error| Error::io("start threads for", "requests", error))?;
        let app = Arc::new(App::new(options, Offer::One(Box::new(opened)), log));
        let models = Arc::clone(&app.models);
        if let Err(told) = tasks.block_on(models.host(None)) {
            return Err(models.failure().unwrap_or(Error::Usage(told.message)));
        }
        Ok(Self { tasks: Some(tasks), service: TowerToHyperService::new(router(&app)), models })
    }

    /// Posts the JSON `body` to the route `path`. `told` gets the JSON of the answer, or of each event of a stream (an error is
    /// an object under `error`), and `None` at the end; where the request is cancelled, or the model closed, it is dropped.
    ///
    /// # Errors
    /// If the path is none, or the model is closed.
    pub fn ask(
        &self,
        path: &str,
        body: String,
        mut told: impl FnMut(Option<String>) + Send + 'static,
    ) -> Result<Pending> {
        let request = Request::builder().method(Method::POST).uri(path).body(Body::from(body));
        let request =
            request.map_err(|_| Error::malformed("the path of a request", "one such as /completion", path))?;
        let tasks = self.tasks.as_ref().ok_or_else(closed)?;
        let answer = self.service.call(request);
        Ok(Pending(tasks.spawn(async move {
            let Ok(response) = answer.await;
            let content_type = response.headers().get(header::CONTENT_TYPE).cloned();
            let is_stream = content_type.is_some_and(|name| name == "text/event-stream");
            let mut pieces = response.into_body().into_data_stream();
            let mut whole = Vec::new();
            while let Some(Ok(piece)) = pieces.next().await {
                if is_stream {
                    // A piece is some whole events.
                    String::from_utf8_lossy(&piece).lines().filter_map(event).for_each(|json| told(Some(json)));
                } else {
                    whole.extend_from_slice(&piece);
                }
            }
            if !is_stream {
                told(Some(String::from_utf8_lossy(&whole).into_owned()));
            }
            told(None);
        })))
    }

    /// Lends the loaded model to `work`, with an empty sequence, between two steps of the answers. These wait meanwhile, so what
    /// takes long should come in pieces.
    ///
    /// # Errors
    /// If the model is closed.
    pub fn lend<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Runtime, &mut Sequence) -> Result<T> + Send + 'static,
    ) -> Result<Lent<T>> {
        let host = self.models.loaded(None).ok().flatten().ok_or_else(closed)?;
        let (tell, told) = mpsc::channel();
        // Nobody may wait any more.
        let work = move |runtime: &mut Runtime, sequence: &mut Sequence| _ = tell.send(work(runtime, sequence));
        host.jobs.submit_loan(Loan(Box::new(work))).map_err(|_| closed())?;
        Ok(Lent(told))
    }

    /// Ends all answers, and returns when the model is out of memory, or a last step takes too long to wait for.
    pub fn close(&mut self) {
        let Some(tasks) = self.tasks.take() else { return };
        self.models.stop();
        tasks.block_on(self.models.ended());
        tasks.shutdown_background();
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.models.stop();
        if let Some(tasks) = self.tasks.take() {
            tasks.shutdown_background();
        }
    }
}

/// The JSON of a line of server-sent events.
fn event(line: &str) -> Option<String> {
    line.strip_prefix("data: ").filter(|data| *data != DONE).map(str::to_owned)
}
