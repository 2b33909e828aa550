//! The parts a kernel is made of, and the choices for it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a kernel uses a storage buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    Write,
}

/// Activations that a kernel reads and may quantise itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Input {
    /// Codes by `norm_quantize`; or the kernel quantises nothing.
    #[default]
    Quantized,
    /// A slot of activations, which it norms and quantises itself.
    Slot,
    /// The result of attention, likewise.
    Parts,
    /// The result of attention in its splits, which it merges as well.
    Splits,
}

/// Which pieces a kernel takes that several dispatches use in different ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flavour {
    /// Where its input is from.
    pub input: Input,
    /// It quantises each group of columns with a scale of its own.
    pub grouped: bool,
    /// It rotates what it quantises.
    pub rotated: bool,
}

/// Which twin of the reductions: through subgroup operations or through workgroup memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Lanes {
    Subgroup,
    Workgroup,
}

/// Which twin of the ternary product. All give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Product {
    Int8,
    /// By the product of unsigned int8, for devices that have no signed one.
    Uint8,
    F32,
}

impl Product {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Uint8, Self::F32];
}

/// Which twin of the tile of a matrix product. Both give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Tile {
    /// Read by words.
    Words,
    /// Read by vectors of four words, for [`Product::Int8`] on devices that have it: elsewhere what is unpacked for the
    /// products of a vector does not fit in the registers.
    Vectors,
}

/// How parameters reach a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParamSource {
    /// `var<immediate>` (push constants, root constants).
    Immediate,
    /// A uniform buffer with a dynamic offset, for devices without immediates.
    Uniform,
}

/// Choices made once for a device, for all its kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Choices {
    pub lanes: Lanes,
    pub product: Product,
    pub tile: Tile,
    pub params: ParamSource,
}

impl Choices {
    /// These with each product and its tiles.
    pub fn products(self) -> [Self; 4] {
        let with = |product, tile| Self { product, tile, ..self };
        [
            with(Product::Int8, Tile::Words),
            with(Product::Int8, Tile::Vectors),
            with(Product::Uint8, Tile::Words),
            with(Product::F32, Tile::Words),
        ]
    }
}

impl fmt::Display for Choices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lanes = match self.lanes {
            Lanes::Subgroup => "subgroups",
            Lanes::Workgroup => "no subgroups",
        };
        let product = match self.product {
            Product::Int8 => "int8 dot products",
            Product::Uint8 => "uint8 dot products",
            Product::F32 => "f32 products",
        };
        let params = match self.params {
            ParamSource::Immediate => "immediates",
            ParamSource::Uniform => "a uniform buffer",
        };
        let tile = match self.tile {
            Tile::Words => "",
            Tile::Vectors => " by vectors",
        };
        write!(f, "{lanes}, {product}{tile}, {params}")
    }
}

/// A piece of text in front of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Always this file.
    Always(&'static str),
    /// The entry point and the reductions of [`Lanes`].
    Lane,
    /// The entry point without subgroups, for kernels that gain nothing from them.
    PlainLane,
    /// The product of [`Product`].
    Dot,
    /// The tile of a matrix product, by [`Tile`].
    Tile,
    /// The reader of a dense type.
    Dense,
    /// The input of a kernel that norms rows, by [`Flavour`].
    Row,
    /// The quantisation of a [`Self::Row`], by [`Flavour`].
    Quantize,
    /// The activations of a ternary product, by [`Flavour`]: stored, or quantised by the kernel itself.
    Acts,
}

/// Which bindings of a kernel hold data that comes from memory at each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streams {
    /// Read once by a call, whatever the number of tokens.
    Weights(&'static [usize]),
    /// Read as far as it is filled.
    Cache(&'static [usize]),
    /// Single rows of a table, not known before, and what the kernel before has just written.
    Little,
}

/// A row of the table.
pub struct KernelRow {
    pub(super) source: &'static str,
    pub(super) pieces: &'static [Piece],
    /// Its flavours, each with its label in profiles; the first is meant where none is named.
    pub(super) flavours: &'static [(Flavour, &'static str)],
    /// Access of bindings 0, 1, ... of group 0.
    pub bindings: &'static [Access],
    /// Invocations of a workgroup (the constant WG), unless a dispatch has another: a power of two, at most 256.
    pub(super) workgroup: u32,
    /// Fields of `struct Params`.
    pub params: &'static [&'static str],
    pub(super) streams: Streams,
}
