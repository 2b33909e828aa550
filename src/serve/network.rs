//! Listening, connections, and the end of the server.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::{
    Log, ServeOptions,
    app::App,
    connection::serve,
    listener::{Listener, accept, is_socket},
    offer::Offer,
    router::router,
};
use crate::error::{Error, Result};

/// Time for the last words, after answers were ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Connections at the same time at most; more wait for one to end.
const MOST_CONNECTIONS: usize = 4096;

pub fn run(options: ServeOptions, offer: Offer, log: Arc<dyn Log>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Error::io("start threads for", "the network", error))?;
    let signals = runtime.block_on(async { Signals::new() });
    let app = Arc::new(App::new(options, offer, Arc::clone(&log)));
    let listeners = runtime.block_on(listen(&app.options))?;
    for listener in &listeners {
        log.listening(&listener.url());
    }
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
    let asked = runtime.block_on(answer(listeners, &app, signals, only_ended));
    // Where one is loading still, the process ends without it.
    runtime.block_on(app.models.ended());
    runtime.shutdown_timeout(Duration::from_millis(100));
    match app.models.failure() {
        Some(error) if !asked => Err(error),
        None if !asked => Err(Error::Usage("the engine met a bug".into())),
        _ => Ok(()),
    }
}

/// Listens at all the places, with one port.
async fn listen(options: &ServeOptions) -> Result<Vec<Listener>> {
    let mut listeners: Vec<Listener> = Vec::with_capacity(options.hosts.len());
    for host in &options.hosts {
        // The first has chosen it for all.
        let port = listeners.iter().find_map(Listener::port).unwrap_or(options.port);
        let place = || if is_socket(host) { host.clone() } else { format!("{host}:{port}") };
        let listener = Listener::bind(host, port).await;
        listeners.push(listener.map_err(|error| Error::io("listen on", place(), error))?);
    }
    Ok(listeners)
}

/// Serves connections until the process is asked to end, then ends in order.
///
/// False where the only model has ended instead.
async fn answer(
    listeners: Vec<Listener>,
    app: &Arc<App>,
    mut signals: Signals,
    mut only_ended: watch::Receiver<bool>,
) -> bool {
    let routes = router(app);
    let (ending, end) = watch::channel(false);
    let mut connections = JoinSet::new();
    let asked = loop {
        tokio::select! {
            accepted = accept(&listeners), if connections.len() < MOST_CONNECTIONS => match accepted {
                Ok(accepted) => _ = connections.spawn(serve(accepted, routes.clone(), end.clone())),
                // No more handles: those that are open end at some time.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = signals.next() => break true,
            Ok(()) = only_ended.changed() => break false,
        }
    };
    drop(listeners);
    // Idle connections close, others after their response.
    let _ = ending.send(true);
    tokio::spawn(async move {
        std::process::exit(signals.next().await);
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

/// Exit codes after a second signal, as shells give them: 128 and its number.
const INTERRUPTED: i32 = 130;
#[cfg(unix)]
const TERMINATED: i32 = 143;

/// SIGINT and SIGTERM, which do not end the process from when this is made.
struct Signals {
    #[cfg(unix)]
    terminate: Option<tokio::signal::unix::Signal>,
    #[cfg(unix)]
    interrupt: Option<tokio::signal::unix::Signal>,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        Self { terminate: signal(SignalKind::terminate()).ok(), interrupt: signal(SignalKind::interrupt()).ok() }
    }

    #[cfg(not(unix))]
    fn new() -> Self {
        Self {}
    }

    /// The exit code of the next one.
    async fn next(&mut self) -> i32 {
        #[cfg(unix)]
        {
            async fn of(signal: &mut Option<tokio::signal::unix::Signal>) {
                match signal {
                    Some(signal) => _ = signal.recv().await,
                    None => std::future::pending().await,
                }
            }
            tokio::select! {
                () = of(&mut self.terminate) => TERMINATED,
                () = of(&mut self.interrupt) => INTERRUPTED,
            }
        }
        #[cfg(not(unix))]
        {
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
            INTERRUPTED
        }
    }
}
