//! Listening, connections, and the end of the server.

use std::{io, pin::pin, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::timeout};

use super::{
    Log, ServeOptions, app::App, connection::serve, ids, metrics::Metrics, models::Models, offer::Offer, router::router,
};
use crate::error::{Error, Result};

/// Time for the last words, after answers were ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Connections at the same time at most; more wait for one to end.
const MOST_CONNECTIONS: usize = 4096;

pub fn run(options: ServeOptions, offer: Offer, log: Arc<dyn Log>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| network_error("start threads for", &options, error))?;
    let metrics = Arc::new(Metrics::default());
    let models = Arc::new(Models::new(offer, &options, &metrics, &log));
    let app = Arc::new(App { options, models, metrics, log: Arc::clone(&log), started: ids::now() });
    let listener = runtime.block_on(TcpListener::bind((app.options.host.trim_matches(['[', ']']), app.options.port)));
    let listener = listener.map_err(|error| network_error("listen on", &app.options, error))?;
    let address = listener.local_addr().map_err(|error| network_error("listen on", &app.options, error))?;
    log.listening(address);
    let (ended, only_ended) = watch::channel(false);
    if app.models.are_several() {
        runtime.spawn(Arc::clone(&app.models).watch_idle());
    } else {
        let models = Arc::clone(&app.models);
        runtime.spawn(async move {
            models.only_ended().await;
            let _ = ended.send(true);
        });
    }
    let asked = runtime.block_on(accept(listener, &app, only_ended));
    // Where one is loading still, the process ends without it.
    runtime.block_on(app.models.ended());
    runtime.shutdown_timeout(Duration::from_millis(100));
    match app.models.failure() {
        Some(error) if !asked => Err(error),
        None if !asked => Err(Error::Usage("the engine met a bug".into())),
        _ => Ok(()),
    }
}

fn network_error(action: &'static str, options: &ServeOptions, error: io::Error) -> Error {
    Error::io(action, format!("{}:{}", options.host, options.port), error)
}

/// Serves connections until the process is asked to end, then ends in order.
///
/// False where the only model has ended instead.
async fn accept(listener: TcpListener, app: &Arc<App>, mut only_ended: watch::Receiver<bool>) -> bool {
    let routes = router(app);
    let (ending, end) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut asked_to_end = pin!(asked_to_end());
    let asked = loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                Ok((stream, _)) => _ = connections.spawn(serve(stream, routes.clone(), end.clone())),
                // No more handles: those that are open end at some time.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = &mut asked_to_end => break true,
            Ok(()) = only_ended.changed() => break false,
        }
    };
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
        app.models.stop();
        let _ = timeout(LAST_WORDS, &mut all_ended).await;
    }
    app.models.stop();
    asked
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
