//! The engine of a model that was made for embeddings: the texts of a request in, their vectors out; a request after the other.

use super::{
    Log,
    job::VectorsJob,
    queue::{Command, JobReceiver, Received},
};
use crate::{
    generate::{Pooling, embeddings},
    model::Model,
    session::Runtime,
};

/// Serves until it is told to stop, or nobody is left who could send more.
pub fn run(mut runtime: Runtime, model: &Model, pooling: Pooling, jobs: &JobReceiver, log: &dyn Log) {
    loop {
        match jobs.receive(None) {
            Received::Command(Command::Vectors(job)) => {
                jobs.served(1);
                serve(&mut runtime, model, pooling, job, log);
            }
            // This model writes no text, which its requests are told before.
            Received::Command(Command::Answer(_)) => jobs.served(1),
            Received::Command(Command::Slot(_) | Command::Loan(_)) | Received::Nothing => {}
            Received::Closed | Received::Stopped => return,
        }
    }
}

fn serve(runtime: &mut Runtime, model: &Model, pooling: Pooling, job: VectorsJob, log: &dyn Log) {
    let VectorsJob { texts, reply } = job;
    let mut done = 0;
    // Where nobody waits any more, the rest is left.
    let vectors = embeddings(runtime, model, &texts, pooling, |count| {
        done = count;
        !reply.is_closed()
    });
    if reply.is_closed() {
        log.request(&format!("embeddings of {} texts, cancelled after {done}", texts.len()));
        return;
    }
    // The client may have gone away.
    let _ = reply.send(vectors);
}
