//! Ids in, ids and text out: the loop of an answer over the loaded segments of a plan.
//!
//! [`Generation`] is the loop of one answer without backends; [`Answer`] drives it in a
//! [`Session`](crate::session::Session) with a [`Sampler`] until a [`Finish`]; [`StopStrings`] and [`Stats`] serve it.
//! Nothing here prints.

mod answer;

mod batcher;

mod chooser;

#[cfg(feature = "grammar")]
mod constraint;

#[cfg(not(feature = "grammar"))]
#[path = "no_constraint.rs"]
mod constraint;

mod draft;

mod embedding;

mod generation;

mod logprobs;

mod perplexity;

mod reasoning;

mod sampler;

mod stats;

mod stop;

pub use answer::{Answer, AnswerOptions, Event, Finish, NoText, TextDecoder};
pub use batcher::{AnswerId, Batcher, FinishedAnswer, PlaceState};
pub use chooser::Chooser;
pub use constraint::Constraint;
#[cfg(feature = "grammar")]
pub use constraint::{Grammar, GrammarVocabulary};
pub use draft::Drafter;
pub use embedding::{Pooling, Prompts, embedding, embeddings};
pub use generation::{Fed, Generation, Need};
pub use logprobs::Logprobs;
pub(crate) use perplexity::negative_log_likelihood;
pub use perplexity::{Likelihood, losses, perplexity, perplexity_by};
pub use reasoning::{ReasoningLimit, prompt_end};
pub use sampler::{Breaker, Dry, Mirostat, Needed, Recommended, SampleOptions, Sampler, Xtc, uniform};
pub use stats::Stats;
pub use stop::{StopStrings, Stopped};
