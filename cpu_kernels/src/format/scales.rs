//! The scales of a matrix as values of their own, and the exact ways from one granularity to another.

use std::{
    fmt,
    ops::{Deref, Range},
    sync::Arc,
};

use half::f16;

use super::{Layout, Scales, rows16, ternary::code_at, ternary_bytes};
use crate::memory::Memory;

/// The scales of a ternary matrix (rows, cols), shared when cloned: see [`Scales`]. Equal means equal bits.
#[derive(Clone, Debug)]
pub enum MatrixScales {
    /// One for the whole matrix.
    PerTensor(f32),
    /// (rows)
    PerRow(Arc<[f32]>),
    /// One for each `size` columns of a row.
    PerGroup {
        /// Columns of a group; divides cols.
        size: usize,
        /// (rows, cols / size), or in the order of the layout that a matrix has: see [`Scales::PerGroup`].
        values: GroupScales,
    },
}

/// Scales of groups, shared when cloned.
#[derive(Clone, Debug)]
pub struct GroupScales {
    memory: Arc<Memory>,
    /// Their bytes.
    range: Range<usize>,
}

impl GroupScales {
    /// Those of several matrices in one stretch of memory, each of some bytes of it.
    ///
    /// Such memory is large enough for huge pages where the scales of one matrix are not. A decode step goes through the
    /// scales of a matrix in 1/16 of the steps that it goes through its codes in; from pages of 4 KiB it ran at 0.6 to 0.9
    /// of the speed of plain reading, from huge ones at 1.1 to 1.3 (matrices of 5120 x 17408 in groups of 128, two threads,
    /// Intel Xeon in a virtual machine).
    ///
    /// # Panics
    /// When they are read, if they are not in that memory or not at a multiple of 2.
    pub fn cut(memory: Memory, ranges: impl Iterator<Item = Range<usize>>) -> impl Iterator<Item = Self> {
        let memory = Arc::new(memory);
        ranges.map(move |range| Self { memory: Arc::clone(&memory), range })
    }
}

impl Deref for GroupScales {
    type Target = [f16];

    fn deref(&self) -> &[f16] {
        bytemuck::cast_slice(&self.memory[self.range.clone()])
    }
}

impl From<Memory> for GroupScales {
    fn from(memory: Memory) -> Self {
        let range = 0..memory.len();
        Self { memory: Arc::new(memory), range }
    }
}

impl From<&[f16]> for GroupScales {
    fn from(values: &[f16]) -> Self {
        let mut memory = Memory::zeroed(size_of_val(values));
        memory.copy_from_slice(bytemuck::cast_slice(values));
        memory.into()
    }
}

impl From<Vec<f16>> for GroupScales {
    fn from(values: Vec<f16>) -> Self {
        Self::from(&values[..])
    }
}

impl<const N: usize> From<[f16; N]> for GroupScales {
    fn from(values: [f16; N]) -> Self {
        Self::from(&values[..])
    }
}

impl FromIterator<f16> for GroupScales {
    fn from_iter<I: IntoIterator<Item = f16>>(values: I) -> Self {
        values.into_iter().collect::<Vec<_>>().into()
    }
}

/// Which scales a dialect has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleKind {
    /// An f32.
    PerTensor,
    /// An f32 for each row.
    PerRow,
    /// An f16 for each row.
    PerRowF16,
    /// An f16 for each group of that many columns.
    PerGroup(usize),
}

impl fmt::Display for ScaleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerTensor => write!(f, "one scale for the whole matrix"),
            Self::PerRow => write!(f, "one scale for each row"),
            Self::PerRowF16 => write!(f, "one f16 scale for each row"),
            Self::PerGroup(size) => write!(f, "one f16 scale for each {size} columns"),
        }
    }
}

/// Why scales do not fit a [`ScaleKind`] without a change of value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScaleLoss {
    /// Two scales where there is room for one.
    Differ(f32, f32),
    /// A scale that f16 rounds.
    Rounded(f32),
}

impl fmt::Display for ScaleLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Differ(one, other) => write!(f, "the two scales {one:e} and {other:e} would have to become one"),
            Self::Rounded(value) => write!(f, "f16 would round the scale {value:e} to {:e}", f16::from_f32(*value)),
        }
    }
}

impl PartialEq for MatrixScales {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::PerTensor(a), Self::PerTensor(b)) => a.to_bits() == b.to_bits(),
            (Self::PerRow(a), Self::PerRow(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.to_bits() == b.to_bits())
            }
            (Self::PerGroup { size: m, values: a }, Self::PerGroup { size: n, values: b }) => {
                m == n && a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.to_bits() == b.to_bits())
            }
            _ => false,
        }
    }
}

impl MatrixScales {
    /// The scales as the kernels take them.
    pub fn view(&self) -> Scales<'_> {
        match self {
            Self::PerTensor(scale) => Scales::PerTensor(*scale),
            Self::PerRow(values) => Scales::PerRow(values),
            Self::PerGroup { size, values } => Scales::PerGroup { size: *size, values },
        }
    }

    /// Bytes of the rows' or groups' scales.
    pub fn bytes(&self) -> usize {
        match self {
            Self::PerTensor(_) => 0,
            Self::PerRow(values) => size_of_val(&values[..]),
            Self::PerGroup { values, .. } => size_of_val(&values[..]),
        }
    }

    /// Those of a (rows, cols) matrix in the order that another layout has them in.
    ///
    /// # Panics
    /// If their number is not that of such a matrix.
    pub fn reordered(&self, rows: usize, cols: usize, from: Layout, to: Layout) -> Self {
        let (Self::PerGroup { size, values }, true) = (self, from.is_side_by_side() != to.is_side_by_side()) else {
            return self.clone();
        };
        let groups = cols / size;
        let values = if to.is_side_by_side() {
            assert_eq!(values.len(), rows * groups, "scales of {rows} rows of {groups} groups");
            rows16::interleave_scales(values, groups)
        } else {
            rows16::separate_scales(values, rows, groups)
        };
        Self::PerGroup { size: *size, values: values.into() }
    }

    /// The one scale that all are, to the bit; `None` where they differ or there are none.
    pub fn collapsed(&self) -> Option<f32> {
        self.one().ok()
    }

    /// The one scale that leaves every weight of the matrix its value: as [`Self::collapsed`], but a scale of 0 may
    /// become another where all its weights are 0. `packed` is the matrix as [`Layout::I2sP128`].
    ///
    /// # Panics
    /// If the number of scales, or of bytes, is not that of a (rows, cols) matrix.
    pub fn one_for(&self, rows: usize, cols: usize, packed: &[u8]) -> Option<f32> {
        assert_eq!(packed.len(), ternary_bytes(Layout::I2sP128, rows, cols), "bytes of a {rows} x {cols} matrix");
        let (size, values): (_, Vec<f32>) = match self {
            Self::PerTensor(scale) => return Some(*scale),
            Self::PerRow(values) => (cols, values.to_vec()),
            Self::PerGroup { size, values } => (*size, values.iter().map(|value| value.to_f32()).collect()),
        };
        let per_row = cols / size;
        assert_eq!(values.len(), rows * per_row, "scales of {rows} x {cols} in groups of {size}");
        let row_bytes = packed.len() / rows.max(1);
        let is_zero = |group: usize| {
            let row = &packed[group / per_row * row_bytes..][..row_bytes];
            let first = group % per_row * size;
            (first..first + size).all(|col| code_at(row, col) == 1)
        };
        let free = |group: usize, value: f32| value == 0.0 && is_zero(group);
        let scale = values.iter().copied().find(|value| *value != 0.0).unwrap_or(values.first().copied()?);
        let same = |(group, value): (usize, &f32)| value.to_bits() == scale.to_bits() || free(group, *value);
        values.iter().enumerate().all(same).then_some(scale)
    }

    fn one(&self) -> Result<f32, ScaleLoss> {
        match self {
            Self::PerTensor(scale) => Ok(*scale),
            Self::PerRow(values) => equal(values.iter().copied()),
            Self::PerGroup { values, .. } => equal(values.iter().map(|value| value.to_f32())),
        }
    }

    /// These scales in the form that `kind` has room for. With `round`, an f16 may differ from the f32 it stands for;
    /// scales that differ never become one.
    ///
    /// # Errors
    /// Names the scales that would change.
    ///
    /// # Panics
    /// If the number of scales is not that of a (rows, cols) matrix.
    pub fn fitted(&self, kind: ScaleKind, rows: usize, cols: usize, round: bool) -> Result<Self, ScaleLoss> {
        let half = |value: f32| {
            let half = f16::from_f32(value);
            if round || half.to_f32().to_bits() == value.to_bits() { Ok(half) } else { Err(ScaleLoss::Rounded(value)) }
        };
        match kind {
            ScaleKind::PerTensor => self.one().map(Self::PerTensor),
            ScaleKind::PerRow => self.by_row(rows, cols).map(|values| Self::PerRow(values.into())),
            ScaleKind::PerRowF16 => {
                let values = self.by_row(rows, cols)?.into_iter().map(|value| half(value).map(f16::to_f32));
                values.collect::<Result<Arc<[_]>, _>>().map(Self::PerRow)
            }
            ScaleKind::PerGroup(size) => {
                let per_row = cols / size;
                let values = match self {
                    Self::PerTensor(scale) => vec![half(*scale)?; rows * per_row],
                    Self::PerRow(values) => {
                        assert_eq!(values.len(), rows, "scales of {rows} rows");
                        let mut out = Vec::with_capacity(rows * per_row);
                        for value in values.iter() {
                            out.resize(out.len() + per_row, half(*value)?);
                        }
                        out
                    }
                    Self::PerGroup { size: from, values } => {
                        assert_eq!(values.len(), rows * (cols / from), "scales of {rows} x {cols} in groups of {from}");
                        regroup(values, *from, size)?
                    }
                };
                Ok(Self::PerGroup { size, values: values.into() })
            }
        }
    }

    fn by_row(&self, rows: usize, cols: usize) -> Result<Vec<f32>, ScaleLoss> {
        match self {
            Self::PerTensor(scale) => Ok(vec![*scale; rows]),
            Self::PerRow(values) => {
                assert_eq!(values.len(), rows, "scales of {rows} rows");
                Ok(values.to_vec())
            }
            Self::PerGroup { size, values } => {
                assert_eq!(values.len(), rows * (cols / size), "scales of {rows} x {cols} in groups of {size}");
                values.chunks(cols / size).map(|row| equal(row.iter().map(|value| value.to_f32()))).collect()
            }
        }
    }
}

/// The value that all have.
fn equal(mut values: impl Iterator<Item = f32>) -> Result<f32, ScaleLoss> {
    let first = values.next().ok_or(ScaleLoss::Differ(f32::NAN, f32::NAN))?;
    match values.find(|value| value.to_bits() != first.to_bits()) {
        Some(other) => Err(ScaleLoss::Differ(first, other)),
        None => Ok(first),
    }
}

/// Groups of `from` columns as groups of `to`; one size divides the other, as all are powers of two.
fn regroup(values: &[f16], from: usize, to: usize) -> Result<Vec<f16>, ScaleLoss> {
    if to <= from {
        return Ok(values.iter().flat_map(|&value| std::iter::repeat_n(value, from / to)).collect());
    }
    let wide = values.chunks(to / from).map(|part| equal(part.iter().map(|value| value.to_f32())).map(|_| part[0]));
    wide.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::pack;

    fn groups_of(values: &[f32]) -> GroupScales {
        values.iter().map(|&value| f16::from_f32(value)).collect()
    }

    fn groups(size: usize, values: &[f32]) -> MatrixScales {
        MatrixScales::PerGroup { size, values: groups_of(values) }
    }

    #[test]
    fn scales_share_a_stretch_of_memory() {
        let mut memory = Memory::zeroed(192);
        memory[64..70].copy_from_slice(bytemuck::cast_slice(&[0.5, 0.25, 2.0].map(f16::from_f32)));
        let found: Vec<GroupScales> = GroupScales::cut(memory, [64..70, 128..132].into_iter()).collect();
        assert_eq!(found[0][..], groups_of(&[0.5, 0.25, 2.0])[..]);
        assert_eq!(found[1][..], groups_of(&[0.0, 0.0])[..]);
        assert_eq!(found[1].as_ptr().addr() - found[0].as_ptr().addr(), 64);
    }

    #[test]
    fn equal_scales_collapse_and_others_do_not() {
        assert_eq!(MatrixScales::PerTensor(0.1).collapsed(), Some(0.1));
        assert_eq!(groups(64, &[0.5; 6]).collapsed(), Some(0.5));
        assert_eq!(MatrixScales::PerRow([0.3; 3].into()).collapsed(), Some(0.3));
        assert_eq!(groups(64, &[0.5, 0.5, 0.25]).collapsed(), None);
        assert_eq!(MatrixScales::PerRow([0.0, -0.0].into()).collapsed(), None, "other bits");
        assert_eq!(MatrixScales::PerRow([].into()).collapsed(), None);
    }

    #[test]
    fn a_scale_of_zero_takes_any_value_where_its_weights_are_zero() {
        let mut codes = vec![2; 2 * 256];
        codes[256 + 64..256 + 128].fill(1);
        let packed = pack(Layout::I2sP128, 2, 256, &codes);
        let mut values = [0.5; 8];
        values[5] = 0.0;
        assert_eq!(groups(64, &values).collapsed(), None);
        assert_eq!(groups(64, &values).one_for(2, 256, &packed), Some(0.5));
        assert_eq!(groups(64, &[0.5; 8]).one_for(2, 256, &packed), Some(0.5));
        // The group beside it has other weights.
        values[4] = 0.0;
        assert_eq!(groups(64, &values).one_for(2, 256, &packed), None);
        values[4] = 0.25;
        assert_eq!(groups(64, &values).one_for(2, 256, &packed), None);
        let zeros = pack(Layout::I2sP128, 2, 64, &[1; 128]);
        assert_eq!(MatrixScales::PerRow([0.0, 3.0].into()).one_for(2, 64, &zeros), Some(3.0));
        assert_eq!(MatrixScales::PerRow([0.0, 0.0].into()).one_for(2, 64, &zeros), Some(0.0));
    }

    #[test]
    fn scales_follow_their_rows_side_by_side() {
        // Row 17 of 18 is the second of the second 16.
        let values: Vec<f32> = (0..18 * 2).map(|i| i as f32).collect();
        let plain = groups(64, &values);
        let aside = plain.reordered(18, 128, Layout::I2sP128, Layout::I2sR16);
        let MatrixScales::PerGroup { size: 64, values } = &aside else { panic!("other scales: {aside:?}") };
        assert_eq!(values.len(), 2 * 2 * 16);
        assert_eq!(values[2 * 16 + 1].to_f32(), 34.0);
        assert_eq!(values[3 * 16 + 1].to_f32(), 35.0);
        assert_eq!(values[3 * 16 + 2].to_f32(), 0.0);
        assert_eq!(aside.reordered(18, 128, Layout::I2sR16, Layout::I2sP128), plain);
        assert_eq!(aside.reordered(18, 128, Layout::I2sR16, Layout::I2sR16), aside);
    }

    #[test]
    fn groups_are_split_and_joined_without_a_change() {
        let wide = groups(128, &[1.0, 2.0, 3.0, 4.0]);
        let narrow = groups(64, &[1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]);
        assert_eq!(wide.fitted(ScaleKind::PerGroup(64), 2, 256, false), Ok(narrow.clone()));
        assert_eq!(narrow.fitted(ScaleKind::PerGroup(128), 2, 256, false), Ok(wide.clone()));
        assert_eq!(wide.fitted(ScaleKind::PerGroup(256), 2, 256, true), Err(ScaleLoss::Differ(1.0, 2.0)));
        assert_eq!(wide.fitted(ScaleKind::PerRow, 2, 256, false), Err(ScaleLoss::Differ(1.0, 2.0)));
        assert_eq!(
            groups(128, &[1.0, 1.0, 3.0, 3.0]).fitted(ScaleKind::PerRow, 2, 256, false),
            Ok(MatrixScales::PerRow([1.0, 3.0].into()))
        );
    }

    #[test]
    fn f16_is_used_where_it_is_exact_or_asked_for() {
        let third = MatrixScales::PerTensor(1.0 / 3.0);
        assert_eq!(third.fitted(ScaleKind::PerGroup(64), 1, 128, false), Err(ScaleLoss::Rounded(1.0 / 3.0)));
        // 1/3 in binary16 is 1365 / 4096.
        assert_eq!(third.fitted(ScaleKind::PerGroup(64), 1, 128, true), Ok(groups(64, &[1365.0 / 4096.0; 2])));
        let rows = MatrixScales::PerRow([0.75, 1.0 / 3.0].into());
        assert_eq!(rows.fitted(ScaleKind::PerRowF16, 2, 64, false), Err(ScaleLoss::Rounded(1.0 / 3.0)));
        assert_eq!(
            rows.fitted(ScaleKind::PerRowF16, 2, 64, true),
            Ok(MatrixScales::PerRow([0.75, 1365.0 / 4096.0].into()))
        );
        assert_eq!(
            MatrixScales::PerRow([0.75, 0.5].into()).fitted(ScaleKind::PerGroup(64), 2, 128, false),
            Ok(groups(64, &[0.75, 0.75, 0.5, 0.5]))
        );
        assert_eq!(third.fitted(ScaleKind::PerRow, 2, 64, false), Ok(MatrixScales::PerRow([1.0 / 3.0; 2].into())));
        assert_eq!(rows.fitted(ScaleKind::PerTensor, 2, 64, true), Err(ScaleLoss::Differ(0.75, 1.0 / 3.0)));
    }
}
