//! Runs ternary (1.58-bit) language models on any GPU through wgpu, or on the CPU with SIMD kernels.
//!
//! The modules below stand in the order data flows through them; imports point upwards only.
#![deny(unsafe_code)]

pub mod error;

pub mod cache_dir;

mod machine;

mod numbers;

pub mod bytes;

pub mod hub;

pub mod gguf;

pub mod model;

pub mod tokenizer;

pub mod chat;

pub mod inspect;

pub mod graph;

pub mod plan;

pub mod backend;

pub mod session;

pub mod generate;

pub mod probe;

#[cfg(feature = "gpu")]
pub mod verify;

#[cfg(feature = "convert")]
pub mod convert;

#[cfg(feature = "convert")]
pub mod dummy;

pub mod engine;

#[cfg(feature = "cli")]
pub mod cli;

pub use error::{Error, ErrorKind, Remedy, Result};
