//! Requests to the engine of a model: answers, work on its slots, and vectors.

use std::time::Instant;

use tokio::sync::oneshot;

use super::answer::Reply;
use crate::{
    error::Result,
    generate::Generation,
    session::{Runtime, SavedSequence, Sequence},
};

/// Answers to one prompt, for one client.
pub struct Job {
    /// Name of the answer in the log.
    pub id: String,
    /// At least one.
    pub choices: Vec<Generation>,
    /// Number of the first one in the answer.
    pub first_choice: usize,
    /// The slot that has to answer.
    pub place: Option<usize>,
    /// Whether progress of the prompt is told, and times with each event.
    pub tells_progress: bool,
    pub tells_times: bool,
    pub reply: Reply,
    pub arrived: Instant,
}

/// Texts of one request for embeddings, and who waits for their vectors.
pub struct VectorsJob {
    /// Token ids, none empty.
    pub texts: Vec<Vec<u32>>,
    /// (texts, dim), each of length 1.
    pub reply: oneshot::Sender<Result<Vec<Vec<f32>>>>,
}

/// Work on the model itself, with an empty sequence.
type OnModel = dyn FnOnce(&mut Runtime, &mut Sequence) + Send;

/// Such work, which is done between two steps of the answers.
pub struct Loan(pub Box<OnModel>);

/// Work on a slot, which is done when no answer is in it.
pub struct SlotTask {
    pub place: usize,
    pub action: Action,
    pub reply: oneshot::Sender<Result<Done>>,
}

pub enum Action {
    Save,
    Restore(Box<SavedSequence>),
    Erase,
}

/// Result of an action.
pub enum Done {
    /// A copy of what the slot holds; `None` where it holds nothing.
    Saved(Option<Box<SavedSequence>>),
    Restored,
    /// So many tokens were forgotten.
    Erased(usize),
}
