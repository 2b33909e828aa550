//! Requests of one connection, and the time that it has for them: little for the head of a request that has begun, more
//! where none has.

use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
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

use super::{line::Line, listener::Stream};

/// Time for the head of a request, from its first byte on: a client that is slower only holds the connection.
const HEAD_TIME: Duration = Duration::from_secs(20);

/// Time between requests. Clients keep their connections for up to 75 s, and fail on one that ends while they use it.
const IDLE_TIME: Duration = Duration::from_secs(120);

/// How often both are looked at.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// Serves requests, one after the other, until either side has enough.
pub async fn serve(stream: Stream, routes: Router, mut end: watch::Receiver<bool>) {
    let clock = Arc::new(Clock::new(Instant::now()));
    let (service, of_requests) = (TowerToHyperService::new(routes), Arc::clone(&clock));
    let (line, client) = Line::new(stream, Arc::clone(&clock));
    let service = service_fn(move |mut request: Request<Incoming>| {
        of_requests.set(State::Answering);
        request.extensions_mut().insert(client.clone());
        let (answer, clock) = (service.call(request), Arc::clone(&of_requests));
        async move { answer.await.map(|response| response.map(|body| Answering { body, clock })) }
    });
    let mut http = http1::Builder::new();
    // A client may have nothing more to say and wait for its answer.
    http.half_close(true).keep_alive(true).title_case_headers(true);
    let mut connection = pin!(http.serve_connection(TokioIo::new(line.clone()), service));
    let ended = tokio::select! {
        // The line is listened to from the moment a request is being answered.
        biased;
        _ = connection.as_mut() => true,
        () = line.broken() => true,
        () = over(&clock) => true,
        _ = end.changed() => false,
    };
    if !ended {
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            biased;
            // A client that went away is nobody's concern.
            _ = connection => {}
            () = line.broken() => {}
        }
    }
}

/// Returns when the time of a head, or between two requests, is over.
async fn over(clock: &Clock) {
    while !clock.is_over(Instant::now()) {
        sleep(LOOK_AROUND).await;
    }
}

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between requests, since then.
    Idle(Instant),
    /// A head arrives, since then.
    Head(Instant),
    Answering,
}

pub(super) struct Clock(Mutex<State>);

impl Clock {
    fn new(now: Instant) -> Self {
        Self(Mutex::new(State::Idle(now)))
    }

    fn set(&self, state: State) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Bytes came: a head begins, unless they belong to a request that is known.
    pub(super) fn read(&self, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Idle(_) = *state {
            *state = State::Head(now);
        }
    }

    /// True while a request is being answered.
    pub(super) fn is_answering(&self) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) == State::Answering
    }

    fn is_over(&self, now: Instant) -> bool {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Idle(since) => now - since >= IDLE_TIME,
            State::Head(since) => now - since >= HEAD_TIME,
            State::Answering => false,
        }
    }
}

/// The body of a response. Where it ends, the time until the next request begins.
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
        self.clock.set(State::Idle(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_less_time_than_a_pause_and_an_answer_has_all() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let clock = Clock::new(start);
        assert!(!clock.is_over(after(119)) && clock.is_over(after(120)));
        clock.read(after(100));
        // A byte now and then does not help.
        clock.read(after(110));
        assert!(!clock.is_over(after(119)) && clock.is_over(after(120)));
        clock.set(State::Answering);
        clock.read(after(130));
        assert!(!clock.is_over(after(10_000)));
        clock.set(State::Idle(after(200)));
        assert!(!clock.is_over(after(319)) && clock.is_over(after(320)));
    }
}
