//! Converting Hugging Face directories: what comes out, and what is refused.

#[path = "../common/mod.rs"]
mod common;

mod dialects;
mod golden;
mod graphs;
mod hostile;
mod hybrid;
mod mlx;
mod output;
mod reals;
mod refused;
mod support;
mod unigram;
