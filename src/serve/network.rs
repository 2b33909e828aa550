//! Listening, connections, and the end of the server.

use std::{
    io,
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock,
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use super::{
    Log, ServeOptions,
    app::App,
    embedding::{self, EmbeddingJob},
    engine::{self, EngineThread, JobReceiver},
    metrics::Metrics,
    model::Served,
    router::router,
};
use crate::{
    chat::Template,
    engine::{Engine, ModelFile, Purpose},
    error::{Error, Result},
    generate::{Batcher, Pooling},
};

/// Time in which the head of a request has to arrive, which is also how long a connection may idle: clients keep theirs
/// for up to 75 s.
const HEAD_TIME: Duration = Duration::from_secs(120);

/// Time for the last words, after answers were ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Connections at the same time at most; more wait for one to end.
const MOST_CONNECTIONS: usize = 4096;

pub fn run(
    options: ServeOptions,
    file: &ModelFile,
    engine: Engine,
    template: Template,
    log: Arc<dyn Log>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| network_error("start threads for", &options, error))?;
    let (jobs, receiver) = engine::queue(options.queue);
    let (embeddings, embedding_jobs) = mpsc::channel();
    let app = Arc::new(App {
        options,
        model: OnceLock::new(),
        jobs,
        embeddings: Mutex::new(embeddings),
        metrics: Arc::new(Metrics::default()),
        places: Arc::new(Mutex::new(Vec::new())),
        log: Arc::clone(&log),
    });
    let listener = runtime.block_on(TcpListener::bind((app.options.host.trim_matches(['[', ']']), app.options.port)));
    let listener = listener.map_err(|error| network_error("listen on", &app.options, error))?;
    let address = listener.local_addr().map_err(|error| network_error("listen on", &app.options, error))?;
    log.listening(address);
    let (ended, engine_ended) = watch::channel(false);
    let worker = {
        let (app, file) = (Arc::clone(&app), file.clone());
        let work = move || {
            let served = serve_model(&app, &file, &engine, template, (receiver, embedding_jobs));
            // Whoever waits for the end learns of a failure to load.
            let _ = ended.send(true);
            served
        };
        thread::Builder::new().name("engine".into()).spawn(work)
    };
    let worker = worker.map_err(|error| network_error("start a thread for", &app.options, error))?;
    runtime.block_on(accept(listener, &app, engine_ended));
    runtime.shutdown_timeout(Duration::from_millis(100));
    // Where it is loading still, the process ends without it.
    if worker.is_finished() || app.model.get().is_some() {
        return worker.join().unwrap_or_else(|_| Err(Error::Usage("the engine met a bug".into())));
    }
    Ok(())
}

fn network_error(action: &'static str, options: &ServeOptions, error: io::Error) -> Error {
    Error::io(action, format!("{}:{}", options.host, options.port), error)
}

/// Loads the model and serves until the end: the engine's thread.
fn serve_model(
    app: &App,
    file: &ModelFile,
    engine: &Engine,
    template: Template,
    (jobs, embedding_jobs): (JobReceiver, Receiver<EmbeddingJob>),
) -> Result<()> {
    let model = file.model()?;
    if let Some(pooling) = Pooling::stated(&model.config, file.file().metadata())? {
        let session = engine.load(&Purpose::Hidden)?;
        let served = Served::new(file, &app.options, template, &session)?;
        app.log.ready(&format!("{} on {}: embeddings", served.name, session.devices()));
        // Nobody else sets it.
        let _ = app.model.set(Arc::new(served));
        embedding::run(session, model, pooling, &embedding_jobs, &jobs);
        return Ok(());
    }

    let runtime = engine.runtime(&Purpose::Sample(&app.options.sample))?;
    let served = Served::new(file, &app.options, template, &runtime)?;
    let Served { name, slots, context_tokens, .. } = &served;
    app.log.ready(&format!("{name} on {}: {slots} slots of {context_tokens} tokens", runtime.devices()));
    let batcher = Batcher::new(runtime).keeping_prefixes(app.options.prefix_bytes);
    let thread =
        EngineThread::new(batcher, jobs, Arc::clone(&app.metrics), Arc::clone(&app.places), Arc::clone(&app.log));
    // Nobody else sets it.
    let _ = app.model.set(Arc::new(served));
    thread.run();
    Ok(())
}

/// Serves connections until the process is asked to end, then ends in order.
async fn accept(listener: TcpListener, app: &Arc<App>, mut engine_ended: watch::Receiver<bool>) {
    let routes = router(app);
    let (ending, end) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut asked_to_end = pin!(asked_to_end());
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                Ok((stream, _)) => _ = connections.spawn(serve(stream, routes.clone(), end.clone())),
                // No more handles: those that are open end at some time.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = &mut asked_to_end => break,
            _ = engine_ended.changed() => break,
        }
    }
    drop(listener);
    // Idle connections close, others after their response.
    let _ = ending.send(true);
    tokio::spawn(async {
        self::asked_to_end().await;
        std::process::exit(INTERRUPTED);
    });
    let all_ended = async { while connections.join_next().await.is_some() {} };
    let mut all_ended = pin!(all_ended);
    if timeout(app.options.grace, &mut all_ended).await.is_err() {
        app.jobs.stop();
        let _ = timeout(LAST_WORDS, &mut all_ended).await;
    }
    app.jobs.stop();
}

/// Exit code after a second signal: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// SIGINT or SIGTERM.
async fn asked_to_end() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Requests of one connection, one after the other.
async fn serve(stream: TcpStream, routes: Router, mut end: watch::Receiver<bool>) {
    // Tokens are small: each is to arrive at once.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .keep_alive(true)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = end.changed() => None,
    };
    if ended.is_none() {
        connection.as_mut().graceful_shutdown();
        // A client that went away is nobody's concern.
        let _ = connection.await;
    }
}
