//! Runs ternary (1.58-bit) language models on any GPU through wgpu, or on the CPU with SIMD kernels.
//!
//! ```
//! use bitnet_gpu::{AnswerOptions, Engine, EngineOptions, Purpose, SampleOptions};
//!
//! # fn main() -> bitnet_gpu::Result<()> {
//! let model = bitnet_gpu::open("assets/llama-stories-ternary-4m.gguf")?;
//! let engine = Engine::new(&model, EngineOptions::default());
//! let sample = SampleOptions::default();
//! let mut session = engine.session(&Purpose::Sample(&sample))?;
//! let mut options = AnswerOptions::default();
//! options.max_tokens = Some(20);
//! for event in session.answer("Once upon a time", &options)? {
//!     print!("{}", event?.text);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`open`] takes a GGUF file, a Hugging Face directory, or the name of a model that was fetched from its Hub. An [`Engine`]
//! decides what runs where. A [`TextSession`] takes and gives text, a [`Session`] token ids and logits, a [`Runtime`] many
//! sequences side by side, which a [`Batcher`] drives. Progress and decisions go to an [`Observer`]. [`chat`] turns
//! conversations into prompts, [`embedding`] texts into vectors, [`perplexity`] scores them. A [`Runtime`] also forks its
//! [`Sequence`]s, rewinds them, and saves them as a [`SavedSequence`], which a [`SavedForm`] writes and reads. `docs/library.md`
//! says which of these serves what, and `examples/` has programs.
//!
//! The library builds without default features: models in GGUF files, on the CPU.
//!
//! Everything that is not named here is for the program and the tests of this package, and may change at any time. The
//! modules stand in the order data flows through them; imports point upwards only.
#![deny(unsafe_code)]

#[doc(hidden)]
pub mod error;

#[doc(hidden)]
pub mod cache_dir;

mod machine;

mod numbers;

mod steady;

#[doc(hidden)]
pub mod bytes;

#[doc(hidden)]
pub mod hub;

#[doc(hidden)]
pub mod gguf;

#[doc(hidden)]
pub mod model;

#[doc(hidden)]
pub mod tokenizer;

pub mod chat;

#[doc(hidden)]
pub mod inspect;

#[doc(hidden)]
pub mod graph;

#[doc(hidden)]
pub mod plan;

#[doc(hidden)]
pub mod backend;

#[doc(hidden)]
pub mod session;

#[doc(hidden)]
pub mod generate;

#[doc(hidden)]
pub mod probe;

#[cfg(feature = "gpu")]
#[doc(hidden)]
pub mod verify;

#[cfg(feature = "convert")]
#[doc(hidden)]
pub mod convert;

#[cfg(feature = "convert")]
#[doc(hidden)]
pub mod dummy;

#[doc(hidden)]
pub mod engine;

#[cfg(feature = "server")]
#[doc(hidden)]
pub mod serve;

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;

pub use backend::{Candidates, Limits, Rest, RowOutput, Scored, Want, cpu::Kernel};
#[doc(hidden)]
pub use engine::{Budget, Placement};
pub use engine::{
    Engine, EngineOptions, HeadScreen, I2sLayout, ModelFile, ModelSource, Notice, Observer, OpenOptions, Purpose,
    TextSession, open,
};
pub use error::{Error, ErrorKind, Remedy, Result};
pub use generate::{
    Answer, AnswerId, AnswerOptions, Batcher, Breaker, Chooser, Constraint, Drafter, Dry, Event, Fed, Finish,
    FinishedAnswer, Generation, Likelihood, Logprobs, Mirostat, Need, NoText, PlaceState, Pooling, ReasoningLimit,
    Recommended, SampleOptions, Sampler, Stats, TextDecoder, Xtc, embedding, embeddings, perplexity,
};
#[cfg(feature = "grammar")]
pub use generate::{Grammar, GrammarVocabulary};
pub use model::{Config, I2sPacking, Model};
pub use plan::{BackendKind, KvType, Plan, Prefer, Request, Segment, Sizes};
pub use session::{Phase, Runtime, SavedForm, SavedSequence, Sequence, Session, Takeover, Work};
pub use tokenizer::{EncodeOptions, TokenStream, Tokenizer};
