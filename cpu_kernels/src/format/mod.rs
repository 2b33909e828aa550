//! Packed weight layouts, drawn bit by bit: the one definition used by kernels, shaders and converters.
//!
//! [`ternary`]'s functions pack and unpack codes, [`dense`]'s turn rows of other types into `f32`.

pub mod dense;

pub mod ternary;

use std::{error, fmt};

pub use ternary::{I2S_BLOCK, I2S_BLOCK_BYTES, MAX_COLS, i2s_rows_from_flat, pack, padded_cols, ternary_bytes, unpack};

/// How the 2-bit codes (0, 1, 2 = -1, 0, +1) of a ternary matrix are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// 128 consecutive columns of a row in 32 bytes: column c of the block is in byte c % 32 at shift
    /// 6 - 2 * (c / 32). Rows begin at multiples of ceil(cols / 128) * 32 bytes; columns past the end of
    /// a row hold code 1. This is I2_S as bitnet.cpp writes it on x86, when cols is a multiple of 128.
    ///
    /// ```text
    /// bits      7 6    5 4    3 2    1 0
    /// byte 0    c 0    c 32   c 64   c 96
    /// byte 1    c 1    c 33   c 65   c 97
    ///  ..
    /// byte 31   c 31   c 63   c 95   c 127
    /// ```
    ///
    /// Code 3 is never written; where a file has it, it means +2, and every kernel computes so.
    I2sP128,
}

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

impl<'a> TernaryView<'a> {
    /// # Errors
    /// If there are more than [`MAX_COLS`] columns, or `codes` has not exactly the bytes of such a matrix.
    pub fn new(rows: usize, cols: usize, codes: &'a [u8], layout: Layout, scales: Scales) -> Result<Self, FormatError> {
        if cols > MAX_COLS {
            return Err(FormatError::TooWide { cols });
        }
        let expected_bytes = ternary_bytes(layout, rows, cols);
        if codes.len() != expected_bytes {
            return Err(FormatError::Size { rows, cols, expected_bytes, found_bytes: codes.len() });
        }
        Ok(Self { rows, cols, codes, layout, scales })
    }

    /// Bytes from one row to the next.
    pub fn row_bytes(&self) -> usize {
        match self.layout {
            Layout::I2sP128 => padded_cols(self.cols) / 4,
        }
    }
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

impl DenseType {
    /// All types.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::BF16, Self::Q8_0, Self::Q6K];

    /// Columns of one block: rows are whole blocks.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 => 32,
            Self::Q6K => 256,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => dense::Q8_0_BYTES,
            Self::Q6K => dense::Q6K_BYTES,
        }
    }

    /// Bytes of a row; `cols` is a multiple of [`Self::block_len`].
    pub fn row_bytes(self, cols: usize) -> usize {
        (cols / self.block_len()).saturating_mul(self.block_bytes())
    }
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

impl<'a> DenseView<'a> {
    /// # Errors
    /// If a row is not whole blocks, or `data` has not exactly the bytes of such a matrix.
    pub fn new(rows: usize, cols: usize, data: &'a [u8], ty: DenseType) -> Result<Self, FormatError> {
        if !cols.is_multiple_of(ty.block_len()) {
            return Err(FormatError::PartialBlock { cols, block_len: ty.block_len() });
        }
        let expected_bytes = ty.row_bytes(cols).saturating_mul(rows);
        if data.len() != expected_bytes {
            return Err(FormatError::Size { rows, cols, expected_bytes, found_bytes: data.len() });
        }
        Ok(Self { rows, cols, data, ty })
    }

    /// The bytes of one row.
    pub fn row(&self, row: usize) -> &'a [u8] {
        let bytes = self.ty.row_bytes(self.cols);
        &self.data[row * bytes..][..bytes]
    }
}

/// A matrix that is not what its shape says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// The wrong number of bytes.
    Size {
        /// Of the matrix.
        rows: usize,
        /// Of the matrix.
        cols: usize,
        /// By its shape and type.
        expected_bytes: usize,
        /// What is there.
        found_bytes: usize,
    },
    /// More columns than the sums of a row have room for.
    TooWide {
        /// Of the matrix.
        cols: usize,
    },
    /// Rows that end within a block.
    PartialBlock {
        /// Of the matrix.
        cols: usize,
        /// Columns of a block of its type.
        block_len: usize,
    },
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { rows, cols, expected_bytes, found_bytes } => {
                write!(f, "a {rows} x {cols} matrix: expected {expected_bytes} bytes, found {found_bytes}")
            }
            Self::TooWide { cols } => write!(f, "a row of {cols} columns: expected at most {MAX_COLS}"),
            Self::PartialBlock { cols, block_len } => {
                write!(f, "a row of {cols} columns: expected a multiple of {block_len}")
            }
        }
    }
}

impl error::Error for FormatError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_refuse_wrong_sizes() {
        let ternary = |rows, cols, bytes: usize| {
            TernaryView::new(rows, cols, &vec![0; bytes], Layout::I2sP128, Scales::PerTensor(1.0))
                .map(|v| v.row_bytes())
        };
        assert_eq!(ternary(2, 128, 64), Ok(32));
        assert_eq!(ternary(2, 129, 128), Ok(64));
        let error = ternary(2, 129, 64).unwrap_err();
        assert_eq!(error.to_string(), "a 2 x 129 matrix: expected 128 bytes, found 64");
        assert!(ternary(usize::MAX, 128, 64).is_err());
        let error = ternary(1, MAX_COLS + 1, 64).unwrap_err();
        assert_eq!(error.to_string(), "a row of 1048577 columns: expected at most 1048576");

        let dense = |rows, cols, bytes: usize, ty| {
            DenseView::new(rows, cols, &vec![0; bytes], ty).map(|v| v.row(rows - 1).len())
        };
        assert_eq!(dense(3, 5, 60, DenseType::F32), Ok(20));
        assert_eq!(dense(3, 64, 204, DenseType::Q8_0), Ok(68));
        assert_eq!(dense(2, 512, 840, DenseType::Q6K), Ok(420));
        let error = dense(1, 33, 34, DenseType::Q8_0).unwrap_err();
        assert_eq!(error.to_string(), "a row of 33 columns: expected a multiple of 32");
        assert!(dense(3, 5, 29, DenseType::BF16).is_err());
        assert!(dense(usize::MAX, 8, 16, DenseType::F16).is_err());
    }
}
