//! Text to token ids and back, and the prompts of chat templates.

#[path = "../common/mod.rs"]
mod common;

mod chat_template;
mod hostile;
mod json;
mod templates;
mod tiny;
mod vectors;
