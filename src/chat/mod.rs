//! Conversations: messages in, a prompt as the model was trained on it out.
//!
//! Answers of models that think first are told apart by [`ReasoningSplit`]. [`Template`] writes the messages as text, by the Jinja template inside the model file or by a [`Format`] that
//! is built in; [`Conversation`] turns them into token ids so that the caches of earlier turns stay valid.

mod builtin;

mod conversation;

mod jinja;

mod reasoning;

mod saved;

mod template;

mod variables;

pub use builtin::Format;
pub use conversation::Conversation;
pub use reasoning::{AnswerParts, ReasoningFormat, ReasoningSplit, opens_reasoning};
pub use template::{Origin, Template};
pub use variables::Variables;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

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
    /// A function that the model called: what it returned.
    Tool,
}

impl Role {
    /// As templates and JSON spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
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
    /// Reasoning before it, without tags. Templates mostly leave it out of earlier turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// Name of the one who says it: of the function, where it is what a function returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The call that this is the result of, by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Functions that the model called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// A call of a function, written by the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// Its name among the calls of a conversation; some templates ask for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Which function.
    pub name: String,
    /// Its arguments by name: a JSON object.
    pub arguments: Json,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        let content = content.into();
        Self { role, content, reasoning: None, name: None, tool_call_id: None, tool_calls: Vec::new() }
    }
}
