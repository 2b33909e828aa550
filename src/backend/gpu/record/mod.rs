//! Dispatches and their recording, how much goes into one submit, and what each kernel costs.

pub mod encode;
pub mod pace;
pub mod profile;
pub mod proof;
