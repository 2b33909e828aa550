//! The parameters of each kernel: at most 64 bytes, given as immediates or through a uniform buffer.
//!
//! Each struct of the table has the fields of `struct Params` of its shader in the same order;
//! `tests/gpu/shaders_valid.rs` compares the names. The first four words change from step to step ([`Dynamic`]), the rest
//! is fixed at load.

use bytemuck::{Pod, Zeroable};

/// Bytes reserved for the parameters of a dispatch: what every implementation of immediates offers.
pub const PARAM_BYTES: usize = 64;

/// Words that change from step to step; the first of every kernel's parameters.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Dynamic {
    /// Tokens of the step, or rows of the head's input.
    pub tokens: u32,
    /// Row of the head's input that those of this step begin with.
    pub normed: u32,
    /// Parts the keys are divided into by attention_decode.
    pub splits: u32,
    /// First token whose logits are wanted.
    pub first: u32,
}

/// The parameter bytes of one dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params(pub(super) [u8; PARAM_BYTES]);

impl Params {
    /// The bytes with the changing words filled in.
    pub fn with(&self, dynamic: &Dynamic) -> [u8; PARAM_BYTES] {
        let mut bytes = self.0;
        let words = bytemuck::bytes_of(dynamic);
        bytes[..words.len()].copy_from_slice(words);
        bytes
    }
}

/// Structs of parameters, each with the changing words first.
macro_rules! params {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
        #[allow(missing_docs, reason = "documented in the shader")]
        pub struct $name {
            pub dynamic: Dynamic,
            $(pub $field: $ty,)*
        }

        impl $name {
            /// Field names in order, as the shader must have them.
            pub const FIELDS: &[&str] = &["tokens", "normed", "splits", "first", $(stringify!($field)),*];
        }

        const _: () = assert!(size_of::<$name>() <= PARAM_BYTES);

        impl From<$name> for Params {
            fn from(params: $name) -> Self {
                let mut bytes = [0; PARAM_BYTES];
                bytes[..size_of::<$name>()].copy_from_slice(bytemuck::bytes_of(&params));
                Self(bytes)
            }
        }
    )*};
}

pub(super) use params;
