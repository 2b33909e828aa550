//! The line to a client. While a request is answered it is listened to as well: a client that ends its side may still wait for
//! the answer, or may be gone. Only what is sent to it tells, so answers send a little then (`respond`).

use std::{
    future::{pending, poll_fn},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::extract::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::{sleep, sleep_until},
};

use super::{clock::Clock, listener::Stream};

/// Bytes of a next request that are read while one is answered.
const AHEAD_BYTES: usize = 4096;

/// Time between the first two things that are sent to a client that may be gone; it doubles up to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Time that a client which has ended its side gets before anything is done about it: most answers take less.
const PATIENCE: Duration = Duration::from_secs(1);

/// The line, which is read and written by the connection, and listened to beside it, in one task.
#[derive(Clone)]
pub struct Line(Arc<Mutex<Inner>>);

struct Inner {
    stream: Stream,
    /// Bytes that came while a request was answered.
    ahead: Vec<u8>,
    /// Told when the client has ended its side.
    ended: watch::Sender<bool>,
    clock: Arc<Clock>,
}

impl Line {
    /// A line to a client that has said nothing yet. `clock` is told of what comes.
    pub fn new(stream: Stream, clock: Arc<Clock>) -> (Self, ClientSide) {
        let (ended, told) = watch::channel(false);
        let inner = Inner { stream, ahead: Vec::new(), ended, clock };
        (Self(Arc::new(Mutex::new(inner))), ClientSide { ended: Some(told), next: None, pause: Duration::ZERO })
    }

    /// Returns when the client is gone while it is answered.
    pub async fn broken(&self) {
        poll_fn(|context| self.lock().listen(context)).await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Reads on while a request is answered, as far as there is room; ready when the line is broken.
    fn listen(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.clock.is_answering() && !*self.ended.borrow() && self.ahead.len() < AHEAD_BYTES {
            let mut room = [0; AHEAD_BYTES];
            let mut room = ReadBuf::new(&mut room);
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut room)) {
                Err(_) => return Poll::Ready(()),
                Ok(()) if room.filled().is_empty() => _ = self.ended.send_replace(true),
                Ok(()) => self.ahead.extend_from_slice(room.filled()),
            }
            // The connection may wait for it.
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        let before = into.filled().len();
        if !inner.ahead.is_empty() {
            let len = inner.ahead.len().min(into.remaining());
            into.put_slice(&inner.ahead[..len]);
            inner.ahead.drain(..len);
        } else if !*inner.ended.borrow() {
            ready!(Pin::new(&mut inner.stream).poll_read(context, into))?;
        }
        if into.filled().len() > before {
            inner.clock.read(Instant::now());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.lock().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.lock().stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.lock().stream).poll_write_vectored(context, parts)
    }
}

/// Tells when the client of a request has ended its side of the line.
#[derive(Clone, Default)]
pub struct ClientSide {
    ended: Option<watch::Receiver<bool>>,
    /// When something is to be sent.
    next: Option<Instant>,
    pause: Duration,
}

impl ClientSide {
    /// The client of a request.
    pub fn of(request: &Request) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// Returns some time after the client has ended its side.
    pub async fn ended_long(&mut self) {
        let Some(ended) = &mut self.ended else { return pending().await };
        if ended.wait_for(|&ended| ended).await.is_err() {
            // The line is gone, and the request with it.
            return pending().await;
        }
        sleep(PATIENCE).await;
    }

    /// Returns each time something is to be sent to a client that has ended its side, to see whether it is there.
    pub async fn time_to_probe(&mut self) {
        let next = match self.next {
            Some(next) => next,
            None => {
                let Some(ended) = &mut self.ended else { return pending().await };
                if ended.wait_for(|&ended| ended).await.is_err() {
                    // The line is gone, and the request with it.
                    return pending().await;
                }
                Instant::now()
            }
        };
        self.next = Some(next);
        sleep_until(next.into()).await;
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.next = Some(Instant::now() + self.pause);
    }
}
