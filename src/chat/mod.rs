//! Conversations: messages in, a prompt as the model was trained on it out.
//!
//! [`Template`] writes the messages as text, by the Jinja template inside the model file or by a [`Format`] that
//! is built in; [`Conversation`] turns them into token ids so that the caches of earlier turns stay valid.

mod builtin;

mod conversation;

mod jinja;

mod reasoning;

mod saved;

mod template;

pub use builtin::Format;
pub use conversation::Conversation;
pub use reasoning::{AnswerParts, ReasoningFormat, ReasoningSplit, opens_reasoning};
pub use template::{Origin, Template};

use serde::{Deserialize, Serialize};

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation; the first message, if any.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// As templates and JSON spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who.
    pub role: Role,
    /// What.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}
