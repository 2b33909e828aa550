//! The engine of a model that was made for embeddings: texts in, vectors out, one after the other.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use tokio::sync::oneshot;

use super::queue::JobReceiver;
use crate::{
    error::Result,
    generate::{Pooling, embedding},
    model::Model,
    session::Session,
};

/// How often it looks whether the server ends.
const LOOK_AROUND: Duration = Duration::from_millis(100);

/// Texts of one request, and who waits for their vectors.
pub struct EmbeddingJob {
    /// Token ids, none empty.
    pub texts: Vec<Vec<u32>>,
    /// (texts, dim), each of length 1.
    pub reply: oneshot::Sender<Result<Vec<Vec<f32>>>>,
}

/// Serves until `others` is told to stop.
pub fn run(mut session: Session, model: &Model, pooling: Pooling, jobs: &Receiver<EmbeddingJob>, others: &JobReceiver) {
    while !others.is_stopped() {
        let job = match jobs.recv_timeout(LOOK_AROUND) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut vectors = Vec::with_capacity(job.texts.len());
        let done = job.texts.iter().try_for_each(|ids| {
            // Nobody waits any more.
            if !job.reply.is_closed() {
                vectors.push(embedding(&mut session, model, ids, pooling)?);
            }
            Ok(())
        });
        // The client may have gone away.
        let _ = job.reply.send(done.map(|()| vectors));
    }
}
