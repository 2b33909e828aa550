//! Ternary dialects of model files -> [`Layout::I2sP128`] and [`MatrixScales`], and back.
//!
//! A [`Codec`] is a dialect with a shape. Each file here draws one dialect and turns its bytes into codes (0, 1, 2 =
//! -1, 0, +1; 3 where the bytes hold no ternary value) for a few rows at a time; what all share is in this file:
//! checks, scales, and packing the codes into rows that the kernels read.

mod blocks;
mod flat;
mod grid;
mod i2s_p128;
mod i2s_p64;
mod i2s_r4;
mod i2s_seq;
mod iq1_bn;
mod iq2_bn;
mod iq2_bn_r4;
mod pairs;
pub(super) mod ptq1_0;
mod q2_0;
mod straight;
#[cfg(test)]
mod tests;
mod tile;
mod tl1;
pub(super) mod tl2;
pub(super) mod tq1_0;
mod tq2_0;

use std::ops::Range;

pub use grid::pack_row;
use grid::{COLUMN_ROWS, Grid};
use half::f16;
pub use tile::{Tile, TileTable};

use super::{
    FormatError, I2S_BLOCK, Layout,
    lookup::{LOOKUP_ROWS, lookup_shape},
    scales::{MatrixScales, ScaleKind},
    ternary_bytes,
};

/// The packings of I2_S. They share a type id and a size, so no file says which it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum I2sPacking {
    /// Blocks of 128 weights: every published file, and bitnet.cpp on x86.
    #[default]
    P128,
    /// Blocks of 64: what bitnet.cpp's llama-quantize writes on ARM since November 2025.
    P64,
    /// Four rows in a byte: bitnet.cpp on x86 when it is built without `ACT_PARALLEL`.
    R4,
    /// Four consecutive weights in a byte: a development snapshot of bitnet.cpp (July 2026).
    Seq,
}

impl I2sPacking {
    /// The name that flags and messages use.
    pub fn name(self) -> &'static str {
        match self {
            Self::P128 => "p128",
            Self::P64 => "p64",
            Self::R4 => "r4",
            Self::Seq => "seq",
        }
    }
}

/// How the bytes of a ternary tensor of a file hold codes and scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// bitnet.cpp: four codes a byte, one f32 scale.
    I2S(I2sPacking),
    /// bitnet.cpp, ARM: two weights in a 4-bit index, one f32 scale.
    TL1(Tile),
    /// bitnet.cpp, x86: three weights in a 4-bit index and a sign bit, one f32 scale.
    TL2(Tile),
    /// ggml: five base-3 digits a byte, an f16 scale for 256 weights.
    TQ1_0,
    /// ggml: four codes a byte, an f16 scale for 256 weights.
    TQ2_0,
    /// ggml: four codes a byte, an f16 scale for 64 weights.
    Q2_0,
    /// Q2_0 as it was before it was settled, and PrismML's PQ2_0: an f16 scale for 128 weights.
    Q2_0G128,
    /// PrismML: five base-3 digits a byte, an f16 scale for 128 weights.
    PTQ1_0,
    /// ik_llama.cpp: five base-3 digits a byte, an f16 scale for a row.
    IQ1BN,
    /// ik_llama.cpp: four codes a byte, an f32 scale for a row.
    IQ2BN,
    /// IQ2_BN with four rows interleaved.
    IQ2BNR4,
}

impl Dialect {
    /// The format's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::I2S(_) => "I2_S",
            Self::TL1(_) => "TL1",
            Self::TL2(_) => "TL2",
            Self::TQ1_0 => "TQ1_0",
            Self::TQ2_0 => "TQ2_0",
            Self::Q2_0 => "Q2_0",
            Self::Q2_0G128 => "Q2_0 (groups of 128)",
            Self::PTQ1_0 => "PTQ1_0",
            Self::IQ1BN => "IQ1_BN",
            Self::IQ2BN => "IQ2_BN",
            Self::IQ2BNR4 => "IQ2_BN_R4",
        }
    }
}

/// How one dialect places codes and scales in the bytes of a matrix whose shape was checked.
trait Coding {
    /// Rows that are read and written together: their bytes interleave.
    fn step(&self) -> usize {
        1
    }

    /// Where each row stands in the columns of a grid, of a dialect that reads 32 rows by columns.
    fn by_columns(&self) -> Option<&'static [u8; COLUMN_ROWS]> {
        None
    }

    /// Fills the codes of `step` rows from row `first` on; 3 where the bytes hold no ternary value.
    fn read(&self, bytes: &[u8], first: usize, codes: &mut Grid);

    /// Writes them. `bytes` was zero before row 0 was written, and rows come in order.
    fn write(&self, codes: &Grid, first: usize, bytes: &mut [u8]);

    /// Scales of f16 by their numbers.
    fn f16_scales(&self, bytes: &[u8], numbers: Range<usize>) -> Vec<f16> {
        let scale = |number| {
            let at = self.scale_at(number, bytes.len());
            f16::from_le_bytes([bytes[at], bytes[at + 1]])
        };
        numbers.map(scale).collect()
    }

    /// Where scale number `index` begins in `bytes` bytes; without group or row scales, the only one, in the trailer.
    fn scale_at(&self, _index: usize, bytes: usize) -> usize {
        bytes - TRAILER_BYTES
    }
}

/// Bytes behind the codes of I2_S, TL1 and TL2: the scale as f32, the rest undefined (bitnet.cpp's quantizer leaves
/// what was in memory, its converters and this program write zeros).
pub const TRAILER_BYTES: usize = 32;

/// A dialect and a shape it can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codec {
    dialect: Dialect,
    rows: usize,
    cols: usize,
    bytes: usize,
}

impl Codec {
    /// # Errors
    /// If a (rows, cols) matrix cannot have this dialect.
    pub fn new(dialect: Dialect, rows: usize, cols: usize) -> Result<Self, FormatError> {
        let need = |what: &'static str, value: usize, multiple: usize| {
            let bad = FormatError::Shape { dialect: dialect.name(), what, multiple, found: value };
            if value > 0 && value.is_multiple_of(multiple) { Ok(()) } else { Err(bad) }
        };
        need("rows", rows, 1)?;
        need("columns", cols, 1)?;
        let too_large = FormatError::TooLarge { rows, cols };
        // An eighth of the address space: every size below is less than 4 bytes a weight and a few for each row.
        let weights = rows.checked_mul(cols).filter(|&n| n <= isize::MAX as usize / 8).ok_or(too_large)?;
        let blocks = |len: usize, bytes: usize| need("columns", cols, len).map(|()| weights / len * bytes);
        let bytes = match dialect {
            Dialect::I2S(packing) => {
                match packing {
                    I2sPacking::P128 => need("weights", weights, 128)?,
                    I2sPacking::P64 => need("weights", weights, 64)?,
                    I2sPacking::R4 => need("rows", rows, 4)?,
                    I2sPacking::Seq => need("weights", weights, 4)?,
                }
                weights / 4 + TRAILER_BYTES
            }
            Dialect::TL1(tile) => tl1::bytes(tile, rows, cols)?,
            Dialect::TL2(tile) => tl2::bytes(tile, rows, cols)?,
            Dialect::TQ1_0 => blocks(256, tq1_0::BYTES)?,
            Dialect::TQ2_0 => blocks(256, tq2_0::BYTES)?,
            Dialect::Q2_0 => blocks(64, q2_0::BYTES_64)?,
            Dialect::Q2_0G128 => blocks(128, q2_0::BYTES_128)?,
            Dialect::PTQ1_0 => blocks(128, ptq1_0::BYTES)?,
            Dialect::IQ1BN => blocks(64, iq1_bn::BYTES)? + rows * iq1_bn::HEADER_BYTES,
            Dialect::IQ2BN => blocks(64, iq2_bn::BYTES)? + rows * iq2_bn::HEADER_BYTES,
            Dialect::IQ2BNR4 => {
                need("rows", rows, 4)?;
                blocks(64, iq2_bn::BYTES)? + rows * iq2_bn::HEADER_BYTES
            }
        };
        Ok(Self { dialect, rows, cols, bytes })
    }

    /// The dialect.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of the matrix in a file, scales included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The scales there is room for.
    pub fn scale_kind(&self) -> ScaleKind {
        match self.dialect {
            Dialect::I2S(_) | Dialect::TL1(_) | Dialect::TL2(_) => ScaleKind::PerTensor,
            Dialect::IQ1BN => ScaleKind::PerRowF16,
            Dialect::IQ2BN | Dialect::IQ2BNR4 => ScaleKind::PerRow,
            Dialect::TQ1_0 | Dialect::TQ2_0 => ScaleKind::PerGroup(256),
            Dialect::Q2_0G128 | Dialect::PTQ1_0 => ScaleKind::PerGroup(128),
            Dialect::Q2_0 => ScaleKind::PerGroup(64),
        }
    }

    /// True when the codes of the file are [`Layout::I2sP128`] as they stand: its first rows * cols / 4 bytes.
    pub fn is_in_place(&self) -> bool {
        self.dialect == Dialect::I2S(I2sPacking::P128) && self.cols.is_multiple_of(I2S_BLOCK)
    }

    /// The layout in which lookups read the codes of the file as they stand, from its first byte on; `None` where they
    /// do not.
    pub fn lookup_layout(&self) -> Option<Layout> {
        let layout = match self.dialect {
            Dialect::TL1(tile) => Layout::Tl1(tile),
            Dialect::TL2(tile) => Layout::Tl2(tile),
            _ => return None,
        };
        let unpadded = lookup_shape(self.rows, self.cols) == (self.rows, self.cols);
        (unpadded && ternary_bytes(layout, self.rows, self.cols) <= self.bytes).then_some(layout)
    }

    /// Row ranges given to [`Self::decode_rows`] begin at multiples of this, so that threads can share the work.
    pub fn row_step(&self) -> usize {
        self.with(|coding| coding.step())
    }

    /// The scales.
    ///
    /// # Errors
    /// Names the first that is not finite. Zero is one that blocks of zeros have.
    ///
    /// # Panics
    /// If `bytes` are not [`Self::bytes`] many.
    pub fn scales(&self, bytes: &[u8]) -> Result<MatrixScales, FormatError> {
        self.check(bytes);
        let f32_at = |at: usize| f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let f16_at = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let finite = |element: Option<usize>, value: f32| match value.is_finite() {
            true => Ok(value),
            false => Err(FormatError::Scale { element, found: value.to_string() }),
        };
        self.with(|coding| {
            let at = |index| coding.scale_at(index, bytes.len());
            Ok(match self.scale_kind() {
                ScaleKind::PerTensor => MatrixScales::PerTensor(finite(None, f32_at(at(0)))?),
                ScaleKind::PerRow => {
                    let row = |row| finite(Some(row * self.cols), f32_at(at(row)));
                    MatrixScales::PerRow((0..self.rows).map(row).collect::<Result<_, _>>()?)
                }
                ScaleKind::PerRowF16 => {
                    let row = |row| finite(Some(row * self.cols), f16_at(at(row)).to_f32());
                    MatrixScales::PerRow((0..self.rows).map(row).collect::<Result<_, _>>()?)
                }
                ScaleKind::PerGroup(size) => {
                    MatrixScales::PerGroup { size, values: self.group_scales(bytes, 0..self.rows)?.into() }
                }
            })
        })
    }

    /// The scales of groups of some rows, (rows, groups), of a dialect that has them.
    ///
    /// # Errors
    /// As [`Self::scales`].
    ///
    /// # Panics
    /// If `bytes` are not [`Self::bytes`] many, there are no such rows, or the dialect has other scales.
    pub fn group_scales(&self, bytes: &[u8], rows: Range<usize>) -> Result<Vec<f16>, FormatError> {
        self.check(bytes);
        assert!(rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        let ScaleKind::PerGroup(size) = self.scale_kind() else { panic!("{:?} has no scales of groups", self.dialect) };
        let groups = self.cols / size;
        let scales = self.with(|coding| coding.f16_scales(bytes, rows.start * groups..rows.end * groups));
        match scales.iter().position(|scale| !scale.is_finite()) {
            None => Ok(scales),
            Some(at) => {
                let element = Some((rows.start * groups + at) * size);
                Err(FormatError::Scale { element, found: scales[at].to_f32().to_string() })
            }
        }
    }

    /// True where all bytes are ternary codes: then [`Self::decode_rows`] finds nothing to complain about.
    pub fn is_always_ternary(&self) -> bool {
        // A digit of base 3 is 0, 1 or 2.
        matches!(self.dialect, Dialect::TQ1_0 | Dialect::PTQ1_0)
    }

    /// Packs `rows` of the matrix into `out` as [`Layout::I2sP128`].
    ///
    /// # Errors
    /// Names the first weight that is not ternary.
    ///
    /// # Panics
    /// If `bytes` are not [`Self::bytes`] many, `out` is not as long as those rows are, or the range does not begin
    /// at a multiple of [`Self::row_step`] and end at one or at the last row.
    pub fn decode_rows(&self, bytes: &[u8], rows: Range<usize>, out: &mut [u8]) -> Result<(), FormatError> {
        self.check(bytes);
        let row_bytes = ternary_bytes(Layout::I2sP128, 1, self.cols);
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        assert_eq!(out.len(), rows.len() * row_bytes, "bytes of {} rows of {} columns", rows.len(), self.cols);
        if straight::rows(self.dialect, bytes, self.bytes / self.rows, rows.clone(), out) == Some(true) {
            return Ok(());
        }
        self.with(|coding| {
            let step = coding.step();
            assert!(
                rows.start.is_multiple_of(step) && rows.len().is_multiple_of(step),
                "rows {rows:?} in steps of {step}"
            );
            let mut codes = Grid::new(step, self.cols);
            for (at, out) in out.chunks_exact_mut(step * row_bytes).enumerate() {
                let first = rows.start + at * step;
                if let Err(place) = unpack_step(coding, bytes, first, &mut codes, self.cols, out) {
                    return Err(FormatError::Code { element: first * self.cols + place });
                }
            }
            Ok(())
        })
    }

    /// Packs the whole matrix as [`Layout::I2sP128`].
    ///
    /// # Errors
    /// Names the first weight that is not ternary.
    ///
    /// # Panics
    /// If `bytes` are not [`Self::bytes`] many.
    pub fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
        let mut out = vec![0; ternary_bytes(Layout::I2sP128, self.rows, self.cols)];
        self.decode_rows(bytes, 0..self.rows, &mut out)?;
        Ok(out)
    }

    /// The bytes of a matrix given as [`Layout::I2sP128`]. What the format leaves undefined is zero.
    ///
    /// # Errors
    /// Names the first code that is 3.
    ///
    /// # Panics
    /// If `packed` has not the bytes of such a matrix, or `scales` are not of [`Self::scale_kind`], in number and in
    /// values ([`MatrixScales::fitted`] makes them so).
    pub fn encode(&self, packed: &[u8], scales: &MatrixScales) -> Result<Vec<u8>, FormatError> {
        let row_bytes = ternary_bytes(Layout::I2sP128, 1, self.cols);
        assert_eq!(packed.len(), self.rows * row_bytes, "bytes of a {} x {} matrix", self.rows, self.cols);
        let fitted = scales.fitted(self.scale_kind(), self.rows, self.cols, false);
        assert!(fitted.as_ref() == Ok(scales), "scales of {} are {}", self.dialect.name(), self.scale_kind());
        let mut bytes = vec![0; self.bytes];
        self.with(|coding| {
            let step = coding.step();
            let mut codes = Grid::new(step, self.cols);
            for (at, rows) in packed.chunks_exact(step * row_bytes).enumerate() {
                if let Err(place) = codes.unpack(rows) {
                    return Err(FormatError::Code { element: at * step * self.cols + place });
                }
                coding.write(&codes, at * step, &mut bytes);
            }
            let len = bytes.len();
            let mut put = |index: usize, value: &[u8]| {
                bytes[coding.scale_at(index, len)..][..value.len()].copy_from_slice(value);
            };
            match scales {
                MatrixScales::PerTensor(scale) => put(0, &scale.to_le_bytes()),
                MatrixScales::PerRow(values) => values.iter().enumerate().for_each(|(row, value)| {
                    match self.scale_kind() {
                        ScaleKind::PerRowF16 => put(row, &f16::from_f32(*value).to_le_bytes()),
                        _ => put(row, &value.to_le_bytes()),
                    };
                }),
                MatrixScales::PerGroup { values, .. } => {
                    values.iter().enumerate().for_each(|(group, value)| put(group, &value.to_le_bytes()));
                }
            }
            Ok(())
        })?;
        Ok(bytes)
    }

    fn check(&self, bytes: &[u8]) {
        let Self { rows, cols, .. } = *self;
        assert_eq!(bytes.len(), self.bytes, "bytes of a {rows} x {cols} matrix of {}", self.dialect.name());
    }

    /// Calls `f` with the code of this dialect.
    fn with<R>(&self, f: impl FnOnce(&dyn Coding) -> R) -> R {
        let Self { cols, .. } = *self;
        match self.dialect {
            Dialect::I2S(I2sPacking::P128) => f(&i2s_p128::coding(cols)),
            Dialect::I2S(I2sPacking::P64) => f(&i2s_p64::coding(cols)),
            Dialect::I2S(I2sPacking::Seq) => f(&i2s_seq::coding(cols)),
            Dialect::I2S(I2sPacking::R4) => f(&i2s_r4::R4 { cols }),
            Dialect::TL1(tile) => f(&tl1::Tl1 { tile, cols }),
            Dialect::TL2(tile) => f(&tl2::Tl2 { tile, rows: self.rows, cols }),
            Dialect::TQ1_0 => f(&tq1_0::coding(cols)),
            Dialect::TQ2_0 => f(&tq2_0::coding(cols)),
            Dialect::Q2_0 => f(&q2_0::coding_64(cols)),
            Dialect::Q2_0G128 => f(&q2_0::coding_128(cols)),
            Dialect::PTQ1_0 => f(&ptq1_0::coding(cols)),
            Dialect::IQ1BN => f(&iq1_bn::coding(cols)),
            Dialect::IQ2BN => f(&iq2_bn::coding(cols)),
            Dialect::IQ2BNR4 => f(&iq2_bn_r4::R4 { cols }),
        }
    }
}

/// Packs the first `cols` columns of a step's rows, from row `first` on, as [`Layout::I2sP128`]: as many rows as `out` has
/// room for, where they were read by columns.
///
/// # Errors
/// The place of the first code 3 among them.
fn unpack_step(
    coding: &dyn Coding,
    bytes: &[u8],
    first: usize,
    codes: &mut Grid,
    cols: usize,
    out: &mut [u8],
) -> Result<(), usize> {
    coding.read(bytes, first, codes);
    match coding.by_columns() {
        Some(places) => codes.pack_columns(places, cols, out),
        None => codes.pack(out),
    }
}

/// Bytes of a matrix in a lookup layout; `None` where its tile does not cut up the shape, or interleaves another number
/// of rows than the kernels take.
pub(super) fn lookup_bytes(layout: Layout, rows: usize, cols: usize) -> Option<usize> {
    let (rows, cols) = lookup_shape(rows, cols);
    rows.checked_mul(cols)?;
    match layout {
        Layout::I2sP128 | Layout::I2sR16 | Layout::Base3 | Layout::Base3R16 => None,
        Layout::Tl1(tile) => {
            tl1::bytes(tile, rows, cols).ok().filter(|_| tile.lanes == LOOKUP_ROWS).map(|_| rows * cols / 4)
        }
        Layout::Tl2(tile) => tl2::bytes(tile, rows, cols).ok().map(|_| tl2::Tl2 { tile, rows, cols }.content_bytes()),
    }
}

/// Calls `f` with the code of a lookup layout of that shape.
fn with_lookup<R>(layout: Layout, (rows, cols): (usize, usize), f: impl FnOnce(&dyn Coding) -> R) -> R {
    match layout {
        Layout::I2sP128 | Layout::I2sR16 | Layout::Base3 | Layout::Base3R16 => unreachable!("no lookup layout"),
        Layout::Tl1(tile) => f(&tl1::Tl1 { tile, cols }),
        Layout::Tl2(tile) => f(&tl2::Tl2 { tile, rows, cols }),
    }
}

/// Bytes of the codes of triples, and of their signs, of a matrix of that padded shape.
pub(super) fn triple_bytes(layout: Layout, (rows, cols): (usize, usize)) -> (usize, usize) {
    match layout {
        Layout::Tl2(tile) => {
            let matrix = tl2::Tl2 { tile, rows, cols };
            (matrix.signs_at(), matrix.pairs_at() - matrix.signs_at())
        }
        Layout::I2sP128 | Layout::I2sR16 | Layout::Base3 | Layout::Base3R16 | Layout::Tl1(_) => (0, 0),
    }
}

/// Writes a matrix given as [`Layout::I2sP128`] into the zeroed bytes of a lookup layout.
///
/// # Errors
/// Names the first code that is 3.
pub(super) fn write_lookup(
    layout: Layout,
    (rows, cols): (usize, usize),
    packed: &[u8],
    out: &mut [u8],
) -> Result<(), FormatError> {
    let (all_rows, all_cols) = lookup_shape(rows, cols);
    let row_bytes = ternary_bytes(Layout::I2sP128, 1, cols);
    with_lookup(layout, (all_rows, all_cols), |coding| {
        let step = coding.step();
        let mut codes = Grid::new(step, all_cols);
        let mut block = [0; I2S_BLOCK];
        for first in (0..all_rows).step_by(step) {
            for row in 0..step {
                let to = codes.row_mut(row);
                to.fill(grid::ZERO);
                let Some(from) = packed.get((first + row) * row_bytes..(first + row + 1) * row_bytes) else { continue };
                for (from, to) in from.as_chunks().0.iter().zip(to[..cols].chunks_mut(I2S_BLOCK)) {
                    grid::unpack(from, &mut block);
                    to.copy_from_slice(&block[..to.len()]);
                }
                if let Some(col) = to.iter().position(|&code| code > 2) {
                    return Err(FormatError::Code { element: (first + row) * cols + col });
                }
            }
            coding.write(&codes, first, out);
        }
        Ok(())
    })
}

/// Packs `range` of the rows of a matrix in a lookup layout as [`Layout::I2sP128`]. What is no code becomes a weight of
/// 0, as it is in the lookups.
pub(super) fn read_lookup(
    layout: Layout,
    (rows, cols): (usize, usize),
    bytes: &[u8],
    range: Range<usize>,
    out: &mut [u8],
) {
    let shape = lookup_shape(rows, cols);
    let row_bytes = ternary_bytes(Layout::I2sP128, 1, cols);
    with_lookup(layout, shape, |coding| {
        let step = coding.step();
        let mut codes = Grid::new(step, shape.1);
        for (at, out) in out.chunks_mut(step * row_bytes).enumerate() {
            if unpack_step(coding, bytes, range.start + at * step, &mut codes, cols, out).is_err() {
                out.iter_mut().for_each(|byte| *byte ^= (*byte & *byte >> 1 & 0x55) << 1);
            }
        }
    });
}
