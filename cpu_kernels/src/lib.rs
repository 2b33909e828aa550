//! SIMD kernels for ternary (1.58-bit) language models.

pub mod attention;

pub mod format;
