//! Packed weight layouts, drawn bit by bit: the one definition used by kernels, shaders and converters.

/// How the 2-bit codes (0, 1, 2 = -1, 0, +1) of a ternary matrix are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// 128 consecutive columns of a row in 32 bytes: column c of the block is in byte c % 32 at shift
    /// 6 - 2 * (c / 32). Rows begin at multiples of ceil(cols / 128) * 32 bytes; columns past the end of
    /// a row hold code 1. This is I2_S as bitnet.cpp writes it on x86, when cols is a multiple of 128.
    I2sP128,
}

/// Columns of one I2_S block.
pub const I2S_BLOCK: usize = 128;
/// Bytes of one I2_S block.
pub const I2S_BLOCK_BYTES: usize = I2S_BLOCK / 4;

/// The scales of a ternary matrix: value = scale * (code - 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scales {
    /// One for the whole matrix.
    PerTensor(f32),
}

/// A borrowed ternary matrix (rows, cols).
#[derive(Clone, Copy, Debug)]
pub struct TernaryView<'a> {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Packed codes.
    pub codes: &'a [u8],
    /// How they are packed.
    pub layout: Layout,
    /// What they are multiplied by.
    pub scales: Scales,
}

/// Element or block type of a dense matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the format's own")]
pub enum DenseType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q6K,
}

/// A borrowed dense matrix (rows, cols), row-major, little-endian.
#[derive(Clone, Copy, Debug)]
pub struct DenseView<'a> {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Rows, each a whole number of blocks.
    pub data: &'a [u8],
    /// Element or block type.
    pub ty: DenseType,
}
