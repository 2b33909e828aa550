//! Converting Hugging Face directories: what comes out, and what is refused.

mod dialects;
mod golden;
mod hostile;
mod output;
mod refused;
mod support;
