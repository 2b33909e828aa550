//! The engine of a model that was made for embeddings: texts in, vectors out, one after the other.

use super::{
    Log,
    job::VectorsJob,
    queue::{Command, JobReceiver, Received},
};
use crate::{
    error::Result,
    generate::{Pooling, embedding},
    model::Model,
    session::Session,
};

/// Serves until it is told to stop, or nobody is left who could send more.
pub fn run(mut session: Session, model: &Model, pooling: Pooling, jobs: &JobReceiver, log: &dyn Log) {
    loop {
        match jobs.receive(None) {
            Received::Command(Command::Vectors(job)) => {
                jobs.served(1);
                serve(&mut session, model, pooling, job, log);
            }
            // This model writes no text, which its requests are told before.
            Received::Command(Command::Answer(_)) => jobs.served(1),
            Received::Command(Command::Slot(_)) | Received::Nothing => {}
            Received::Closed | Received::Stopped => return,
        }
    }
}

fn serve(session: &mut Session, model: &Model, pooling: Pooling, job: VectorsJob, log: &dyn Log) {
    let VectorsJob { texts, reply } = job;
    let mut vectors = Vec::with_capacity(texts.len());
    let mut vector_of = |ids: &Vec<u32>| -> Result<()> {
        vectors.push(embedding(session, model, ids, pooling)?);
        Ok(())
    };
    // Where nobody waits any more, the rest is left.
    let done = texts.iter().take_while(|_| !reply.is_closed()).try_for_each(&mut vector_of);
    if reply.is_closed() {
        log.request(&format!("embeddings of {} texts, cancelled after {}", texts.len(), vectors.len()));
        return;
    }
    // The client may have gone away.
    let _ = reply.send(done.map(|()| vectors));
}
