//! The server as a process, over sockets: the built-in model answers.

#[path = "../common/mod.rs"]
mod common;

mod chat;
mod client;
mod completions;
mod embeddings;
mod fields;
mod hostile;
mod line;
mod listening;
mod local;
mod models;
mod open_webui;
mod others;
mod parallel;
mod routes;
mod schemas;
mod shutdown;
mod slots;
mod takeover;
mod tools;
