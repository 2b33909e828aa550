//! Loaded models: tokens through the segments of a plan, and the states they leave.
//!
//! [`Runtime`] runs batches of many [`Sequence`]s; [`Session`] is a runtime with a single one.

mod checkpoints;
mod checks;
mod phase;
mod recover;
mod runtime;
mod saved;
mod saved_form;
mod sequence;
mod single;
mod texts;

pub use phase::Phase;
pub use recover::{Standby, Takeover};
pub use runtime::{Runtime, Work};
pub use saved::SavedSequence;
pub use saved_form::SavedForm;
pub use sequence::Sequence;
pub use single::Session;
