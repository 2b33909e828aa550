//! Ternary tensors of a GGUF file -> the codec that reads them: what the file says of itself, what it leaves open, and
//! what [`OpenOptions`] say about that.

use std::{iter, num::NonZero, ops::Range, thread};

use bitnet_cpu_kernels::format::{
    Codec, Dialect, FormatError, I2sPacking, Layout, MatrixScales, ScaleKind, Tile, TileTable, ternary_bytes,
};
use half::f16;

use crate::{
    error::{Error, Result, shown},
    gguf::{Array, Metadata, TensorInfo, TensorType, Value},
    machine::workers,
};

/// Facts that files do not state about themselves. The default is right for nearly every file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// How I2_S tensors are packed.
    pub i2s: I2sPacking,
    /// Which of bitnet.cpp's tables a TL1 file was made with, where it does not hold its tiles.
    pub tiles: TileTable,
}

/// The tiles of a TL1 or TL2 file that this program wrote: a u32 array of five numbers for each shape, rows, columns,
/// BM, BK and bm.
pub(crate) const TL1_TILES: &str = "bitnet.tl1.tiles";
/// As [`TL1_TILES`].
pub(crate) const TL2_TILES: &str = "bitnet.tl2.tiles";

/// A shape and its tile.
type Stated = ((usize, usize), Tile);

/// The codecs of a file.
#[derive(Clone, Debug)]
pub(crate) struct Dialects {
    options: OpenOptions,
    tl1: Vec<Stated>,
    tl2: Vec<Stated>,
}

impl Dialects {
    /// Reads what the metadata says.
    pub fn of(metadata: &Metadata, options: &OpenOptions) -> Result<Self> {
        Ok(Self { options: *options, tl1: stated(metadata, TL1_TILES)?, tl2: stated(metadata, TL2_TILES)? })
    }

    /// Why a tensor is read as it is, in words; `None` where its type is not a ternary one.
    pub fn why(&self, info: &TensorInfo) -> Option<String> {
        let id = info.id;
        let shape = (usize::try_from(info.rows()).ok()?, usize::try_from(info.dims[0]).ok()?);
        let others: Vec<&str> = TensorType::with_id(id).filter(|&ty| ty != info.ty).map(TensorType::name).collect();
        let id = match others.as_slice() {
            [] => format!("type id {id}"),
            others => {
                format!("type id {id}, which is {} too: only this type's size fits the distances", others.join(" and "))
            }
        };
        let tiles = |stated: &[Stated], tile: Option<Tile>| {
            let stated = stated.iter().find(|(of, _)| *of == shape).map(|(_, tile)| *tile);
            match (stated, tile) {
                (Some(Tile { rows, cols, lanes }), _) => {
                    format!("; tiles of {rows} x {cols}, {lanes}, by the metadata")
                }
                (None, Some(Tile { rows, cols, lanes })) => {
                    format!("; tiles of {rows} x {cols}, {lanes}, as bitnet.cpp has for this shape")
                }
                (None, None) => "; tiles not known".to_owned(),
            }
        };
        Some(match info.ty {
            TensorType::I2_S => format!("{id}, read as {}", self.options.i2s.name()),
            TensorType::TL1 => id + &tiles(&self.tl1, Tile::known_tl1(shape.0, shape.1, self.options.tiles)),
            TensorType::TL2 => id + &tiles(&self.tl2, Tile::known_tl2(shape.0, shape.1)),
            TensorType::TQ1_0
            | TensorType::TQ2_0
            | TensorType::Q2_0
            | TensorType::Q2_0_G128
            | TensorType::PQ2_0
            | TensorType::PTQ1_0
            | TensorType::IQ1_BN
            | TensorType::IQ2_BN
            | TensorType::IQ2_BN_R4 => id,
            _ => return None,
        })
    }

    /// The codec of a tensor; `None` where its type is not a ternary one.
    ///
    /// # Errors
    /// If its shape is not one that the type can have, or its tile is not known.
    pub fn codec(&self, info: &TensorInfo) -> Result<Option<Codec>> {
        let size = |value: u64| {
            usize::try_from(value).map_err(|_| Error::malformed(tensor(info), "sizes that fit this machine", value))
        };
        let (rows, cols) = (size(info.rows())?, size(info.dims[0])?);
        let dialect = match info.ty {
            TensorType::I2_S => Dialect::I2S(self.options.i2s),
            TensorType::TL1 => {
                let known = Tile::known_tl1(rows, cols, self.options.tiles);
                Dialect::TL1(tile(info, &self.tl1, known, (rows, cols))?)
            }
            TensorType::TL2 => Dialect::TL2(tile(info, &self.tl2, Tile::known_tl2(rows, cols), (rows, cols))?),
            TensorType::TQ1_0 => Dialect::TQ1_0,
            TensorType::TQ2_0 => Dialect::TQ2_0,
            TensorType::Q2_0 => Dialect::Q2_0,
            TensorType::Q2_0_G128 | TensorType::PQ2_0 => Dialect::Q2_0G128,
            TensorType::PTQ1_0 => Dialect::PTQ1_0,
            TensorType::IQ1_BN => Dialect::IQ1BN,
            TensorType::IQ2_BN => Dialect::IQ2BN,
            TensorType::IQ2_BN_R4 => Dialect::IQ2BNR4,
            _ => return Ok(None),
        };
        let codec = Codec::new(dialect, rows, cols).map_err(|e| blame(&info.name, cols, e))?;
        // The table of types has the same formula; the codec relies on the length.
        if codec.bytes() as u64 != info.len_bytes {
            return Err(Error::malformed(tensor(info), format!("{} bytes", codec.bytes()), info.len_bytes));
        }
        Ok(Some(codec))
    }
}

fn tensor(info: &TensorInfo) -> String {
    format!("tensor {}", shown(&info.name))
}

/// The tile that the file states, or else the one that is known for the shape.
fn tile(info: &TensorInfo, stated: &[Stated], known: Option<Tile>, shape: (usize, usize)) -> Result<Tile> {
    let stated = stated.iter().find(|(of, _)| *of == shape).map(|(_, tile)| *tile);
    stated.or(known).ok_or_else(|| {
        let (thing, (rows, cols)) = (tensor(info), shape);
        let reason = format!(
            "{} files are cut into tiles, and neither the metadata nor bitnet.cpp's table says how a {rows} x {cols} matrix is",
            info.ty.name()
        );
        Error::unsupported(thing, reason)
    })
}

fn stated(metadata: &Metadata, key: &str) -> Result<Vec<Stated>> {
    const EXPECTED: &str = "a u32 array of five numbers for each shape";
    let numbers = match metadata.get(key) {
        None => return Ok(Vec::new()),
        Some(Value::Array(Array::U32(numbers))) => numbers,
        Some(other) => return Err(Error::malformed(format!("key {key}"), EXPECTED, other.type_name())),
    };
    let (tiles, rest) = numbers.as_chunks::<5>();
    if !rest.is_empty() {
        return Err(Error::malformed(format!("key {key}"), EXPECTED, format!("{} numbers", numbers.len())));
    }
    let tiles = tiles.iter().map(|tile| {
        let [rows, cols, bm, bk, lanes] = tile.map(|number| number as usize);
        ((rows, cols), Tile { rows: bm, cols: bk, lanes })
    });
    Ok(tiles.collect())
}

/// Puts the tensor's name in front of what is wrong with its bytes; `cols` are its columns.
pub(crate) fn blame(name: &str, cols: usize, error: FormatError) -> Error {
    let tensor = format!("tensor {}", shown(name));
    let at = |element: usize| format!("row {}, column {}", element / cols, element % cols);
    match error {
        FormatError::Code { element } => {
            Error::malformed(format!("{tensor} {}", at(element)), "a weight of -1, 0 or +1", "a code of none of them")
        }
        FormatError::Scale { element: None, found } => {
            Error::malformed(format!("scale of {tensor}"), "a finite number above 0", found)
        }
        FormatError::Scale { element: Some(element), found } => {
            Error::malformed(format!("scale of {tensor} at {}", at(element)), "a finite number", found)
        }
        FormatError::Shape { dialect, what, multiple, found } => {
            Error::malformed(tensor, format!("{what} to be a multiple of {multiple} for {dialect}"), found)
        }
        other => Error::unsupported(tensor, other.to_string()),
    }
}

/// Weights below which threads cost more than they save.
const MIN_SHARED_WEIGHTS: usize = 1 << 20;

/// Work on a matrix is cut at multiples of so many rows: what interleaves in any type or layout lies within, except in the
/// layouts of lookups.
pub(crate) const ROW_STEP: usize = 32;

/// Packs a whole matrix as [`Layout::I2sP128`], its rows shared among all cores.
#[cfg(feature = "convert")]
pub(crate) fn decode(codec: &Codec, bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
    let row_bytes = ternary_bytes(Layout::I2sP128, 1, codec.cols());
    let mut out = vec![0; codec.rows() * row_bytes];
    let shares = out.chunks_mut(row_bytes * share(codec.rows(), codec.cols()));
    share_rows(codec.rows(), codec.cols(), shares, |rows, out| codec.decode_rows(bytes, rows, out))?;
    Ok(out)
}

/// The scales of a matrix; those of groups, which stand all over its bytes, on all cores.
///
/// # Errors
/// As [`Codec::scales`].
pub(crate) fn scales(codec: &Codec, bytes: &[u8]) -> Result<MatrixScales, FormatError> {
    let ScaleKind::PerGroup(size) = codec.scale_kind() else { return codec.scales(bytes) };
    let mut values = vec![f16::ZERO; codec.rows() * (codec.cols() / size)];
    let shares = values.chunks_mut((codec.cols() / size * share(codec.rows(), codec.cols())).max(1));
    share_rows(codec.rows(), codec.cols(), shares, |rows, values: &mut [f16]| {
        codec.group_scales(bytes, rows).map(|scales| values.copy_from_slice(&scales))
    })?;
    Ok(MatrixScales::PerGroup { size, values: values.into() })
}

/// Looks for a weight that is not ternary, on all cores.
///
/// # Errors
/// Names the first.
pub(crate) fn check(codec: &Codec, bytes: &[u8]) -> Result<(), FormatError> {
    if codec.is_always_ternary() {
        return Ok(());
    }
    let row_bytes = ternary_bytes(Layout::I2sP128, 1, codec.cols());
    share_rows(codec.rows(), codec.cols(), iter::repeat(()), |rows, ()| {
        // Few at a time stay in the caches.
        let mut out = vec![0; row_bytes * ROW_STEP.min(rows.len())];
        rows.clone().step_by(ROW_STEP).try_for_each(|first| {
            let rows = first..rows.end.min(first + ROW_STEP);
            let out = &mut out[..row_bytes * rows.len()];
            codec.decode_rows(bytes, rows, out)
        })
    })
}

/// The rows of a (rows, cols) matrix that one core works on.
pub(super) fn share(rows: usize, cols: usize) -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let cores = if rows * cols < MIN_SHARED_WEIGHTS { 1 } else { cores };
    rows.div_ceil(cores).next_multiple_of(ROW_STEP)
}

/// Shares the rows of a (rows, cols) matrix among all cores, [`share`] for each, with what `parts` has for it.
///
/// # Errors
/// The first in the order of the rows.
pub(super) fn share_rows<P: Send>(
    rows: usize,
    cols: usize,
    parts: impl Iterator<Item = P>,
    work: impl Fn(Range<usize>, P) -> Result<(), FormatError> + Sync,
) -> Result<(), FormatError> {
    let share = share(rows, cols);
    let parts: Vec<_> =
        (0..rows).step_by(share.max(1)).map(|first| first..rows.min(first + share)).zip(parts).collect();
    workers::map(parts.len(), parts, |(rows, part)| work(rows, part)).into_iter().collect()
}
