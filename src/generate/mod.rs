//! Ids in, ids and text out: the loop of an answer over the loaded segments of a plan.
//!
//! [`Session`] runs tokens through the backends and keeps count of what their caches hold; [`Answer`]
//! drives a session with a [`Sampler`] until a [`Finish`]; [`StopStrings`] and [`Stats`] serve it.
//! Nothing here prints.

mod answer;

mod constraint;

mod draft;

mod embedding;

mod perplexity;

mod sampler;

mod session;

mod stats;

mod stop;

pub use answer::{Answer, AnswerOptions, Event, Finish, NoText, TextDecoder};
pub use constraint::{Constraint, Grammar};
pub use draft::Drafter;
pub use embedding::{Pooling, embedding};
pub(crate) use perplexity::negative_log_likelihood;
pub use perplexity::{Likelihood, perplexity};
pub use sampler::{Mirostat, SampleOptions, Sampler, uniform};
pub use session::{Session, Standby, Takeover};
pub use stats::Stats;
pub use stop::{StopStrings, Stopped};
