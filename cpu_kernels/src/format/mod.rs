//! Packed weight layouts, drawn bit by bit: the one definition used by kernels, shaders and converters.
//!
//! [`ternary`]'s functions pack and unpack codes, [`dense`]'s turn rows of other types into `f32`, [`dialect`] reads
//! and writes the ternary types of model files.

pub mod base3;

pub(crate) mod base3_rows16;

pub mod dense;

pub mod dialect;

pub mod lookup;

pub(crate) mod rows16;

pub mod scales;

pub mod ternary;

use std::{error, fmt};

pub use base3::{BASE3_BLOCK_BYTES, BASE3_RUN};
pub use dialect::{Codec, Dialect, I2sPacking, TRAILER_BYTES, Tile, TileTable, pack_row};
use half::f16;
pub use lookup::{LOOKUP_ROWS, only_indices, repack, repack_into, unpack_rows};
pub use rows16::{PANEL_ROWS, interleave_scales_into};
pub use scales::{GroupScales, MatrixScales, ScaleKind, ScaleLoss};
pub use ternary::{I2S_BLOCK, I2S_BLOCK_BYTES, MAX_COLS, pack, padded_cols, ternary_bytes, unpack};

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
    /// The bytes of [`Self::I2sP128`] with 16 rows side by side, so that a vector instruction meets as many rows: 4
    /// bytes of row 0, the same 4 of row 1, and so on.
    ///
    /// ```text
    /// bytes 0 .. 63      row 0, bytes 0 .. 3   row 1, bytes 0 .. 3   ..   row 15, bytes 0 .. 3
    /// bytes 64 .. 127    row 0, bytes 4 .. 7   row 1, bytes 4 .. 7   ..   row 15, bytes 4 .. 7
    ///  ..
    /// ```
    ///
    /// Rows that the last 16 lack hold code 1. The kernels of group scales read it: the sums of a group of 16 rows come
    /// out side by side, and are scaled together.
    I2sR16,
    /// Pairs of columns as 4-bit indices of lookup tables, in tiles with `lanes` = 32; see `tl1.rs` of [`dialect`].
    /// The matrix is padded as [`lookup::lookup_shape`] says. What is no index means weights of 0.
    Tl1(Tile),
    /// Triples of columns as 4-bit indices and sign bits: see `tl2.rs` of [`dialect`]. Padded and read as above.
    Tl2(Tile),
    /// 320 consecutive columns of a row in 64 bytes, five codes in each, 1.6 bits a weight: of columns j, j + 64, .. of
    /// the block a, b, c, d, e, byte j is
    ///
    /// ```text
    /// 64 e + f                 where f = 27 a + 9 b + 3 c + d is below 64,
    /// 192 + 17 e + (f - 64)    otherwise.
    /// ```
    ///
    /// Few instructions undo that: tables of 64 entries, of which a processor with AVX-512 VBMI looks up 64 at once. No
    /// file has it: matrices are packed so while they are loaded. Rows begin at multiples of ceil(cols / 320) * 64
    /// bytes; columns past the end of a row hold code 1, and what is no five codes (243 to 255) means weights of 0.
    Base3,
    /// The five codes of a byte of [`Self::Base3`] with 16 rows side by side, as [`Self::I2sR16`] has them: of 640
    /// consecutive columns of 16 rows, in 2048 bytes, column 128 d + 4 l + i of row r is digit d (a, b, c, d, e) of the
    /// byte at 64 l + 4 r + i.
    ///
    /// ```text
    /// bytes 0 .. 63      row 0, columns 0 .. 3 (a), 128 .. 131 (b), .. 512 .. 515 (e)   row 1, ..   ..   row 15, ..
    /// bytes 64 .. 127    row 0, columns 4 .. 7 (a), 132 .. 135 (b), .. 516 .. 519 (e)   row 1, ..   ..   row 15, ..
    ///  ..
    /// ```
    ///
    /// Columns and rows that are not there hold code 1. For group scales on processors with AVX-512 VBMI: 1.6 bits a
    /// weight and the scale.
    Base3R16,
}

/// The scales of a ternary matrix: value = scale * (code - 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scales<'a> {
    /// One for the whole matrix: models trained with it, which quantise activations with one scale per token.
    PerTensor(f32),
    /// One per row: (rows). Activations as above.
    PerRow(&'a [f32]),
    /// One for every `size` consecutive columns of a row, where the row is whole groups. Activations have one scale
    /// for each of these groups, too.
    PerGroup {
        /// One of [`GROUP_SIZES`].
        size: usize,
        /// (rows, cols / size), or where the layout has 16 rows side by side (rows / 16 rounded up, cols / size, 16)
        values: &'a [f16],
    },
}

/// Columns that can share a scale: 64 and 128 (Q2_0), 256 (TQ1_0, TQ2_0).
pub const GROUP_SIZES: [usize; 3] = [64, 128, 256];

impl Scales<'_> {
    /// Columns that share a scale of the activations; `None` = the whole row.
    pub fn group(&self) -> Option<usize> {
        match *self {
            Self::PerTensor(_) | Self::PerRow(_) => None,
            Self::PerGroup { size, .. } => Some(size),
        }
    }

    /// Checks their number and the size of groups for a (rows, cols) matrix.
    ///
    /// # Errors
    /// Names what is wrong.
    pub fn check(&self, rows: usize, cols: usize) -> Result<(), FormatError> {
        let (expected, found) = match *self {
            Self::PerTensor(_) => return Ok(()),
            Self::PerRow(values) => (rows, values.len()),
            Self::PerGroup { size, values } => {
                if !GROUP_SIZES.contains(&size) || !cols.is_multiple_of(size) {
                    return Err(FormatError::Groups { cols, size });
                }
                (rows.saturating_mul(cols / size), values.len())
            }
        };
        if found == expected { Ok(()) } else { Err(FormatError::Scales { rows, cols, expected, found }) }
    }
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
    /// Scales of the codes.
    pub scales: Scales<'a>,
}

impl<'a> TernaryView<'a> {
    /// # Errors
    /// If there are more than [`MAX_COLS`] columns, `codes` has not exactly the bytes of such a matrix, or `scales` not
    /// its number of scales.
    pub fn new(
        rows: usize,
        cols: usize,
        codes: &'a [u8],
        layout: Layout,
        scales: Scales<'a>,
    ) -> Result<Self, FormatError> {
        let view = Self { rows, cols, codes, layout, scales };
        view.check().map(|()| view)
    }

    /// The checks of [`Self::new`], for a view made without it.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn check(&self) -> Result<(), FormatError> {
        let Self { rows, cols, codes, layout, scales } = *self;
        if cols > MAX_COLS {
            return Err(FormatError::TooWide { cols });
        }
        let expected_bytes = ternary_bytes(layout, rows, cols);
        if codes.len() != expected_bytes {
            return Err(FormatError::Size { rows, cols, expected_bytes, found_bytes: codes.len() });
        }
        // Only those of groups stand side by side.
        let padded = layout.is_side_by_side() && scales.group().is_some();
        scales.check(if padded { rows.next_multiple_of(PANEL_ROWS) } else { rows }, cols)
    }

    /// Bytes from one row to the next, or 1/16 of those of 16 rows side by side.
    ///
    /// # Panics
    /// If the layout is one of lookups, which interleave rows otherwise.
    pub fn row_bytes(&self) -> usize {
        match self.layout {
            Layout::I2sP128 | Layout::I2sR16 => padded_cols(self.cols) / 4,
            Layout::Base3 => base3::row_bytes(self.cols),
            Layout::Base3R16 => base3_rows16::row_bytes(self.cols),
            Layout::Tl1(_) | Layout::Tl2(_) => panic!("rows of {:?} interleave", self.layout),
        }
    }
}

/// Element or block type of a dense matrix. The ternary ones are tables of models whose embeddings are ternary too:
/// they meet f32 activations, as the other types do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the format's own")]
pub enum DenseType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q6K,
    Q4K,
    Q4_0,
    TQ1_0,
    TQ2_0,
    Q2_0,
    /// Q2_0 in blocks of 128.
    Q2_0G128,
    PTQ1_0,
}

impl DenseType {
    /// All types.
    pub const ALL: [Self; 12] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q6K,
        Self::Q4K,
        Self::Q4_0,
        Self::TQ1_0,
        Self::TQ2_0,
        Self::Q2_0,
        Self::Q2_0G128,
        Self::PTQ1_0,
    ];

    /// Columns of one block: rows are whole blocks.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 => 32,
            Self::Q2_0 => 64,
            Self::Q2_0G128 | Self::PTQ1_0 => 128,
            Self::Q6K | Self::Q4K | Self::TQ1_0 | Self::TQ2_0 => 256,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => dense::Q8_0_BYTES,
            Self::Q6K => dense::Q6K_BYTES,
            Self::Q4K => dense::Q4K_BYTES,
            Self::Q4_0 => dense::Q4_0_BYTES,
            Self::TQ1_0 => dense::TQ1_0_BYTES,
            Self::TQ2_0 => dense::TQ2_0_BYTES,
            Self::Q2_0 => dense::Q2_0_BYTES,
            Self::Q2_0G128 => dense::Q2_0_G128_BYTES,
            Self::PTQ1_0 => dense::PTQ1_0_BYTES,
        }
    }

    /// The dialect whose matrices have the same bytes; `None` for weights that are not ternary.
    pub fn dialect(self) -> Option<Dialect> {
        match self {
            Self::TQ1_0 => Some(Dialect::TQ1_0),
            Self::TQ2_0 => Some(Dialect::TQ2_0),
            Self::Q2_0 => Some(Dialect::Q2_0),
            Self::Q2_0G128 => Some(Dialect::Q2_0G128),
            Self::PTQ1_0 => Some(Dialect::PTQ1_0),
            Self::F32 | Self::F16 | Self::BF16 | Self::Q8_0 | Self::Q6K | Self::Q4K | Self::Q4_0 => None,
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
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
        /// By its shape and type.
        expected_bytes: usize,
        /// Bytes found.
        found_bytes: usize,
    },
    /// More columns than the sums of a row have room for.
    TooWide {
        /// Columns of the matrix.
        cols: usize,
    },
    /// The wrong number of scales.
    Scales {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
        /// By its shape.
        expected: usize,
        /// Scales found.
        found: usize,
    },
    /// Groups of another size than the kernels know, or that do not make up a row.
    Groups {
        /// Columns of the matrix.
        cols: usize,
        /// Columns of a group.
        size: usize,
    },
    /// Rows that end within a block.
    PartialBlock {
        /// Columns of the matrix.
        cols: usize,
        /// Columns of a block of its type.
        block_len: usize,
    },
    /// A shape that a dialect cannot have.
    Shape {
        /// Its name.
        dialect: &'static str,
        /// Rows, columns or weights.
        what: &'static str,
        /// Their number has to be a multiple of this.
        multiple: usize,
        /// Their number.
        found: usize,
    },
    /// A shape that a tile of TL1 or TL2 does not cut up.
    Tile {
        /// TL1 or TL2.
        dialect: &'static str,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
        /// The tile.
        tile: Tile,
    },
    /// More weights than can be addressed.
    TooLarge {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// A weight whose code means none of -1, 0, +1.
    Code {
        /// Its place in the flattened matrix.
        element: usize,
    },
    /// A scale that is not finite.
    Scale {
        /// The first weight it is for, in the flattened matrix; `None` where it is for all.
        element: Option<usize>,
        /// The scale.
        found: String,
    },
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { rows, cols, expected_bytes, found_bytes } => {
                write!(f, "a {rows} x {cols} matrix: expected {expected_bytes} bytes, found {found_bytes}")
            }
            Self::TooWide { cols } => write!(f, "a row of {cols} columns: expected at most {MAX_COLS}"),
            Self::Scales { rows, cols, expected, found } => {
                write!(f, "a {rows} x {cols} matrix: expected {expected} scales, found {found}")
            }
            Self::Groups { cols, size } => {
                write!(f, "a row of {cols} columns: expected whole groups of 64, 128 or 256, found groups of {size}")
            }
            Self::PartialBlock { cols, block_len } => {
                write!(f, "a row of {cols} columns: expected a multiple of {block_len}")
            }
            Self::Shape { dialect, what, multiple: 1, found } => write!(f, "{what} of {dialect}: found {found}"),
            Self::Shape { dialect, what, multiple, found } => {
                write!(f, "{what} of {dialect}: expected a multiple of {multiple}, found {found}")
            }
            Self::Tile { dialect, rows, cols, tile } => {
                let Tile { rows: bm, cols: bk, lanes } = tile;
                write!(f, "a {rows} x {cols} matrix: {dialect} tiles of BM {bm}, BK {bk}, bm {lanes} do not fit it")
            }
            Self::TooLarge { rows, cols } => write!(f, "a {rows} x {cols} matrix: too many weights"),
            Self::Code { element } => write!(f, "weight {element}: expected -1, 0 or +1, found another code"),
            Self::Scale { element: None, found } => write!(f, "the scale: expected a finite number, found {found}"),
            Self::Scale { element: Some(element), found } => {
                write!(f, "the scale of weight {element}: expected a finite number, found {found}")
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

        let grouped = |rows, cols, size, scales: usize| {
            let codes = vec![0; ternary_bytes(Layout::I2sP128, rows, cols)];
            let values = vec![f16::ONE; scales];
            let scales = Scales::PerGroup { size, values: &values };
            TernaryView::new(rows, cols, &codes, Layout::I2sP128, scales).map(|v| v.scales.group())
        };
        assert_eq!(grouped(3, 192, 64, 9), Ok(Some(64)));
        assert_eq!(grouped(2, 512, 256, 4), Ok(Some(256)));
        let error = grouped(3, 192, 64, 8).unwrap_err();
        assert_eq!(error.to_string(), "a 3 x 192 matrix: expected 9 scales, found 8");
        let error = grouped(3, 192, 128, 3).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a row of 192 columns: expected whole groups of 64, 128 or 256, found groups of 128"
        );
        assert!(grouped(1, 32, 32, 1).is_err() && grouped(1, 64, 0, 1).is_err());
        let per_row = Scales::PerRow(&[1.0; 3]);
        let error = TernaryView::new(2, 128, &[0; 64], Layout::I2sP128, per_row).unwrap_err();
        assert_eq!(error.to_string(), "a 2 x 128 matrix: expected 2 scales, found 3");

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
