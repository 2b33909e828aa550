//! The line to a client. While a request is answered it is listened to as well: a client that ends its side may still wait for
//! the answer, or may be gone. Only what is sent to it tells: interim responses before the answer, which leave its status open,
//! and a little between the parts of a stream (`respond`). Clients of HTTP/1.0, which has no interim responses, get white space
//! (`late`).

use std::{
    future::{pending, poll_fn},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::http::{Request, Version};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::{sleep, sleep_until, timeout},
};

use super::{clock::Clock, error::ErrorForm, listener::Stream};

/// Response to a client that may be gone before its answer. All clients of HTTP/1.1 skip it (RFC 9110, 15.2).
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Bytes of a next request that are read while one is answered.
const AHEAD_BYTES: usize = 4096;

/// Time between the first two things that are sent to a client that may be gone; it doubles up to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Time that a client which has ended its side gets before anything is done about it: most answers take less.
const PATIENCE: Duration = Duration::from_secs(1);

/// Time for what a client goes on sending after the end of its last answer.
const DRAIN_TIME: Duration = Duration::from_secs(10);

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
    /// Whether a response has yet to begin that interim ones may precede.
    is_before_head: bool,
    /// Whether all that the connection wrote is on its way.
    is_flushed: bool,
    /// The rest of an interim response.
    interim: &'static [u8],
}

impl Line {
    /// A line to a client that has said nothing yet. `clock` is told of what comes.
    pub fn new(stream: Stream, clock: Arc<Clock>) -> (Self, ClientSide) {
        let (ended, told) = watch::channel(false);
        let inner =
            Inner { stream, ahead: Vec::new(), ended, clock, is_before_head: false, is_flushed: true, interim: &[] };
        let client = ClientSide { ended: Some(told), takes_interim: true, ..ClientSide::default() };
        (Self(Arc::new(Mutex::new(inner))), client)
    }

    /// A request begins to be answered; returns its client, from `client` of the line.
    pub fn begin<B>(&self, request: &Request<B>, client: &ClientSide) -> ClientSide {
        let takes_interim = request.version() >= Version::HTTP_11;
        self.lock().is_before_head = takes_interim;
        ClientSide { takes_interim, error_form: ErrorForm::of_path(request.uri().path()), ..client.clone() }
    }

    /// Returns when the client is gone while it is answered.
    pub async fn broken(&self) {
        tokio::select! {
            () = poll_fn(|context| self.lock().listen(context)) => {}
            () = self.probe_before_head() => {}
        }
    }

    /// Ends this side and reads on, for a while, until the client ends its own. Where a line is closed with bytes that
    /// nobody has read, the end of the answer is lost, too (RFC 9112, 9.6): a client that sends a body which was refused would
    /// not see why.
    pub async fn drain(&self) {
        // The connection leaves that to others where it was asked for another protocol (an upgrade, HTTP/2).
        let _ = poll_fn(|context| Pin::new(&mut self.lock().stream).poll_shutdown(context)).await;
        let drained = poll_fn(|context| {
            let mut inner = self.lock();
            loop {
                let mut room = [0; AHEAD_BYTES];
                let mut room = ReadBuf::new(&mut room);
                match ready!(Pin::new(&mut inner.stream).poll_read(context, &mut room)) {
                    Ok(()) if !room.filled().is_empty() => {}
                    _ => return Poll::Ready(()),
                }
            }
        });
        // Whoever has more to say than that is cut off.
        let _ = timeout(DRAIN_TIME, drained).await;
    }

    /// Sends interim responses to a client that has ended its side. Returns when one cannot be sent.
    async fn probe_before_head(&self) {
        let mut ended = self.lock().ended.subscribe();
        if ended.wait_for(|&ended| ended).await.is_err() {
            return pending().await;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            if poll_fn(|context| Poll::Ready(self.lock().probe(context))).await.is_err() {
                return;
            }
        }
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

impl Inner {
    /// Sends an interim response where one may stand.
    fn probe(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.is_before_head && self.is_flushed && self.interim.is_empty() && self.clock.is_answering() {
            self.interim = INTERIM;
        }
        match self.send_interim(context) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Ok(()),
        }
    }

    /// Sends the rest of an interim response: nothing may come between its bytes.
    fn send_interim(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, self.interim))?;
            self.interim = &self.interim[sent..];
        }
        Poll::Ready(Ok(()))
    }

    /// Notes what became of bytes that the connection wrote, the first of which are `first`.
    fn wrote(&mut self, first: &[u8], written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.is_flushed = false;
        // The connection itself asks for bodies that clients announce.
        self.is_before_head &= first == INTERIM;
        match &written {
            Poll::Ready(_) => self.clock.moved(),
            Poll::Pending => self.clock.stuck(Instant::now()),
        }
        written
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
        let mut inner = self.lock();
        ready!(inner.send_interim(context))?;
        let written = Pin::new(&mut inner.stream).poll_write(context, bytes);
        inner.wrote(bytes, written)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        ready!(Pin::new(&mut inner.stream).poll_flush(context))?;
        inner.is_flushed = true;
        inner.clock.flushed(Instant::now());
        Poll::Ready(Ok(()))
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
        let mut inner = self.lock();
        ready!(inner.send_interim(context))?;
        let written = Pin::new(&mut inner.stream).poll_write_vectored(context, parts);
        inner.wrote(if let [only] = parts { only } else { &[] }, written)
    }
}

/// Tells when the client of a request has ended its side of the line.
#[derive(Clone, Default)]
pub struct ClientSide {
    ended: Option<watch::Receiver<bool>>,
    /// Whether interim responses show if it is there, as long as its response has not begun.
    takes_interim: bool,
    error_form: ErrorForm,
    /// When something is to be sent.
    next: Option<Instant>,
    pause: Duration,
}

impl ClientSide {
    /// The client of a request.
    pub fn of<B>(request: &Request<B>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// Form in which it gets errors.
    pub fn error_form(&self) -> ErrorForm {
        self.error_form
    }

    /// Returns some time after the client has ended its side, if only the response shows whether it is there.
    pub async fn ended_long(&mut self) {
        if self.takes_interim {
            return pending().await;
        }
        let Some(ended) = &mut self.ended else { return pending().await };
        if ended.wait_for(|&ended| ended).await.is_err() {
            // The line is gone, and the request with it.
            return pending().await;
        }
        sleep(PATIENCE).await;
    }

    /// Returns when the response has to begin, whatever it is to be, to see whether the client is there.
    pub async fn time_to_begin(&mut self) {
        if self.takes_interim {
            return pending().await;
        }
        self.time_to_probe().await;
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
