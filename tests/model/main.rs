//! From a file to logits: every family, format and form of the weights.

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod dialect_hostile;
mod directory;
mod dummy;
mod embed;
mod engine;
mod families;
mod golden_logits;
mod head_screen;
mod hostile;
mod hybrid_hostile;
mod i2s_layout;
mod layouts;
mod no_mmap;
mod qwen35;
mod reals;
