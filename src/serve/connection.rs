//! Requests of one connection.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
};
use hyper::{
    Request,
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{sync::watch, time::sleep};

use super::{
    clock::{Clock, State},
    line::Line,
    listener::{Stream, Way},
};

/// How often both are looked at.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// Serves requests, one after the other, until either side has enough.
pub async fn serve((stream, way): (Stream, Way), routes: Router, mut end: watch::Receiver<bool>) {
    let clock = Arc::new(Clock::new(Instant::now()));
    let (service, of_requests) = (TowerToHyperService::new(routes), Arc::clone(&clock));
    let (line, client) = Line::new(stream, Arc::clone(&clock));
    let of_service = line.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        of_requests.set(State::Answering);
        let client = of_service.begin(&request, &client);
        request.extensions_mut().insert(client);
        request.extensions_mut().insert(way);
        let (answer, clock) = (service.call(request), Arc::clone(&of_requests));
        async move { answer.await.map(|response| response.map(|body| Answering { body, clock })) }
    });
    let mut http = http1::Builder::new();
    // A client may have nothing more to say and wait for its answer.
    http.half_close(true).keep_alive(true).title_case_headers(true);
    let mut connection = pin!(http.serve_connection(TokioIo::new(line.clone()), service));
    let end_of_line = tokio::select! {
        // The line is listened to from the moment a request is being answered.
        biased;
        // A client that went away is nobody's concern.
        _ = connection.as_mut() => End::Said,
        () = line.broken() => End::Gone,
        () = over(&clock) => End::Gone,
        _ = end.changed() => End::Asked,
    };
    match end_of_line {
        End::Gone => {}
        End::Said => tokio::select! {
            () = line.drain() => {}
            _ = end.changed() => {}
        },
        End::Asked => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                _ = connection => {}
                () = line.broken() => {}
            }
        }
    }
}

/// Why a connection ends.
enum End {
    /// One side has said so.
    Said,
    /// The client is gone, or has had its time.
    Gone,
    /// The server ends.
    Asked,
}

/// Returns when the time of a head, or between two requests, is over.
async fn over(clock: &Clock) {
    while !clock.is_over(Instant::now()) {
        sleep(LOOK_AROUND).await;
    }
}

/// The body of a response. Where it ends, what is left to do is to send it.
struct Answering {
    body: Body,
    clock: Arc<Clock>,
}

impl hyper::body::Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.clock.set(State::Sending);
    }
}
