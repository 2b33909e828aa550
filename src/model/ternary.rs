//! Ternary matrices: codes as the file has them, and the layouts that backends ask for.

use std::{borrow::Cow, ops::Range};

use bitnet_cpu_kernels::{
    format::{
        Codec, FormatError, Layout, MatrixScales, PANEL_ROWS, TernaryView, interleave_scales_into, repack_into,
        ternary_bytes, unpack_rows,
    },
    memory::Memory,
};
use half::f16;

use super::{
    dialect::{ROW_STEP, share, share_rows},
    scales::TernaryScales,
};
use crate::bytes::Bytes;

/// A matrix of codes 0, 1, 2 = -1, 0, +1: value = scale * (code - 1).
///
/// It has its codes as the file has them; a backend asks for a layout when it loads: see [`Self::packed`].
#[derive(Clone, Debug)]
pub struct TernaryMatrix {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// The codes.
    pub codes: TernaryCodes,
    /// Factors of the codes.
    pub scales: TernaryScales,
}

/// The codes of a [`TernaryMatrix`], possibly still in the memory map.
#[derive(Clone, Debug)]
pub enum TernaryCodes {
    /// In a layout that kernels read in place.
    Packed {
        /// As many as a matrix of that shape has; the layout says how a last partial block is padded.
        bytes: Bytes,
        /// How they are packed.
        layout: Layout,
    },
    /// As no kernel reads them.
    Encoded {
        /// The decoder of its blocks.
        codec: Codec,
        /// The tensor of the file, scales included.
        data: Bytes,
    },
}

/// A ternary matrix in a layout that kernels read.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Packed codes.
    pub codes: Bytes,
    /// How they are packed.
    pub layout: Layout,
    /// Factors of the codes, in the order of the layout.
    pub scales: MatrixScales,
}

impl PackedMatrix {
    /// The view that the kernels take.
    pub fn view(&self) -> TernaryView<'_> {
        TernaryView {
            rows: self.rows,
            cols: self.cols,
            codes: &self.codes,
            layout: self.layout,
            scales: self.scales.view(),
        }
    }
}

impl TernaryMatrix {
    /// The layout of the codes where they are packed; [`Layout::I2sP128`] for others, which are decoded to that first.
    pub fn layout(&self) -> Layout {
        match self.codes {
            TernaryCodes::Packed { layout, .. } => layout,
            TernaryCodes::Encoded { .. } => Layout::I2sP128,
        }
    }

    /// True where [`Self::packed`] has nothing to do for that layout.
    pub fn is_packed_as(&self, layout: Layout) -> bool {
        matches!(self.codes, TernaryCodes::Packed { layout: have, .. } if have == layout)
    }

    /// Bytes of the codes in [`Self::layout`], and of the scales.
    pub fn bytes(&self) -> usize {
        ternary_bytes(self.layout(), self.rows, self.cols) + self.scales.bytes(self.rows, self.cols)
    }

    /// The bytes that hold the codes.
    pub fn source(&self) -> &Bytes {
        match &self.codes {
            TernaryCodes::Packed { bytes, .. } => bytes,
            TernaryCodes::Encoded { data, .. } => data,
        }
    }

    /// Gives the memory of some rows of a mapped file back, see [`Bytes::release`]. Where rows interleave, that of others.
    pub fn release_rows(&self, rows: Range<usize>) {
        let source = self.source();
        let row_bytes = source.len() / self.rows.max(1);
        if let Some(part) = source.slice(rows.start * row_bytes..rows.end * row_bytes) {
            part.release();
        }
    }

    /// Checks the numbers of bytes and scales.
    ///
    /// # Errors
    /// Names the number that is wrong.
    pub fn check(&self) -> Result<(), FormatError> {
        let Self { rows, cols, .. } = *self;
        let found_bytes = self.source().len();
        let expected_bytes = match &self.codes {
            TernaryCodes::Packed { layout, .. } => ternary_bytes(*layout, rows, cols),
            TernaryCodes::Encoded { codec, .. } => {
                let dialect = codec.dialect().name();
                for (what, wanted, found) in [("rows", rows, codec.rows()), ("columns", cols, codec.cols())] {
                    if found != wanted {
                        return Err(FormatError::Shape { dialect, what, multiple: 1, found });
                    }
                }
                codec.bytes()
            }
        };
        if found_bytes != expected_bytes {
            return Err(FormatError::Size { rows, cols, expected_bytes, found_bytes });
        }
        self.scales.check(rows, cols)
    }

    /// Whether no weight is other than zero, by its codes or its scales. Ends at the first rows that have one.
    ///
    /// # Errors
    /// As [`Self::packed`], for the rows looked at.
    pub fn is_zero(&self) -> Result<bool, FormatError> {
        if let TernaryScales::Given(scales) = &self.scales
            && scales.collapsed() == Some(0.0)
        {
            return Ok(true);
        }
        let cols = self.cols;
        let mut plain = vec![0; ternary_bytes(Layout::I2sP128, self.rows.min(ROW_STEP), cols)];
        for first in (0..self.rows).step_by(ROW_STEP) {
            let rows = first..self.rows.min(first + ROW_STEP);
            let plain = &mut plain[..ternary_bytes(Layout::I2sP128, rows.len(), cols)];
            self.plain_rows(rows, plain)?;
            if !codes_are_zero(plain) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The matrix in a layout.
    ///
    /// # Errors
    /// Names a code that is none, or one that the layout has no room for.
    pub fn packed(&self, to: Layout) -> Result<PackedMatrix, FormatError> {
        let Self { rows, cols, .. } = *self;
        Ok(PackedMatrix { rows, cols, codes: self.codes_in(to)?, layout: to, scales: self.scales_in(to)? })
    }

    /// The codes in a layout: shared where they are packed so, else written by all cores.
    ///
    /// # Errors
    /// As [`Self::packed`].
    pub fn codes_in(&self, to: Layout) -> Result<Bytes, FormatError> {
        let Self { rows, cols, .. } = *self;
        if self.is_packed_as(to) {
            return Ok(self.source().clone());
        }
        let mut out = Memory::zeroed(ternary_bytes(to, rows, cols));
        if to.is_lookup() {
            self.pack_rows(0..rows, to, &mut out)?;
        } else {
            let shares = out.chunks_mut(ternary_bytes(to, share(rows, cols), cols).max(1));
            share_rows(rows, cols, shares, |rows, out| self.pack_rows(rows, to, out))?;
        }
        Ok(out.into())
    }

    /// The scales in the order of a layout.
    ///
    /// # Errors
    /// Names a scale that is not finite.
    pub fn scales_in(&self, layout: Layout) -> Result<MatrixScales, FormatError> {
        let Self { rows, cols, .. } = *self;
        let by_row = match (&self.scales, &self.codes) {
            (TernaryScales::Given(scales), _) => scales.clone(),
            (TernaryScales::Encoded { size, factor }, TernaryCodes::Encoded { codec, data }) => {
                TernaryScales::decode(codec, data, 0..rows, *size, *factor)?
            }
            (TernaryScales::Encoded { size, .. }, TernaryCodes::Packed { .. }) => {
                return Err(FormatError::Groups { cols, size: *size });
            }
        };
        Ok(by_row.reordered(rows, cols, Layout::I2sP128, layout))
    }

    /// Writes rows in a layout into zeroed bytes: all rows where the layout is one of lookups, which interleave rows; of
    /// other layouts a range that begins at a multiple of [`ROW_STEP`], and ends at one or at the last row.
    ///
    /// # Errors
    /// As [`Self::packed`].
    ///
    /// # Panics
    /// If `out` has not the bytes of such rows.
    pub fn pack_rows(&self, rows: Range<usize>, to: Layout, out: &mut [u8]) -> Result<(), FormatError> {
        self.pack_rows_and(rows, to, out, |_| Ok(()))
    }

    /// As [`Self::pack_rows`], of a matrix with scales of groups and for a layout of rows side by side: with
    /// [`Self::scales_beside`], while the caches hold what both are read from.
    ///
    /// # Errors
    /// As [`Self::packed`].
    ///
    /// # Panics
    /// As [`Self::pack_rows`] and [`Self::scales_beside`].
    pub fn pack_rows_with_scales(
        &self,
        rows: Range<usize>,
        to: Layout,
        out: &mut [u8],
        scales: &mut [f16],
    ) -> Result<(), FormatError> {
        let mut parts = scales.chunks_mut(self.scales_of(ROW_STEP).max(1));
        self.pack_rows_and(rows, to, out, |rows| self.scales_beside(rows, parts.next().unwrap_or_default()))
    }

    /// The scales of groups of some rows in the order of rows side by side, into zeros.
    ///
    /// # Errors
    /// Names a scale that is not finite.
    ///
    /// # Panics
    /// If the matrix has other scales, or `out` not [`Self::scales_of`] so many rows.
    pub fn scales_beside(&self, rows: Range<usize>, out: &mut [f16]) -> Result<(), FormatError> {
        assert_eq!(out.len(), self.scales_of(rows.len()), "scales of {} rows", rows.len());
        let decoded = match (&self.scales, &self.codes) {
            (TernaryScales::Given(scales), _) => scales,
            (TernaryScales::Encoded { size, factor }, TernaryCodes::Encoded { codec, data }) => {
                &TernaryScales::decode(codec, data, rows.clone(), *size, *factor)?
            }
            (TernaryScales::Encoded { size, .. }, TernaryCodes::Packed { .. }) => {
                return Err(FormatError::Groups { cols: self.cols, size: *size });
            }
        };
        let MatrixScales::PerGroup { size, values } = decoded else { panic!("scales of groups: {decoded:?}") };
        let groups = self.cols / size;
        // Those at hand are of all rows.
        let first = if matches!(self.scales, TernaryScales::Given(_)) { rows.start * groups } else { 0 };
        let values = &values[first..first + rows.len() * groups];
        interleave_scales_into(values, groups, out);
        Ok(())
    }

    /// Number of scales of so many rows side by side; 0 without groups.
    pub fn scales_of(&self, rows: usize) -> usize {
        self.scales.group().map_or(0, |size| rows.next_multiple_of(PANEL_ROWS) * (self.cols / size))
    }

    /// As [`Self::pack_rows`], and calls `beside` with the rows of each part that was packed.
    fn pack_rows_and(
        &self,
        rows: Range<usize>,
        to: Layout,
        out: &mut [u8],
        mut beside: impl FnMut(Range<usize>) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        let cols = self.cols;
        if to == Layout::I2sP128 {
            self.plain_rows(rows.clone(), out)?;
            return beside(rows);
        }
        if to.is_lookup() {
            assert_eq!(rows, 0..self.rows, "rows of {to:?}");
            repack_into(&self.plain()?, self.rows, cols, to, out)?;
            return beside(rows);
        }
        // Few at a time stay in the caches.
        let mut plain = vec![0; ternary_bytes(Layout::I2sP128, rows.len().min(ROW_STEP), cols)];
        let parts = out.chunks_mut(ternary_bytes(to, ROW_STEP, cols).max(1));
        for (first, out) in rows.clone().step_by(ROW_STEP).zip(parts) {
            let rows = first..rows.end.min(first + ROW_STEP);
            let plain = &mut plain[..ternary_bytes(Layout::I2sP128, rows.len(), cols)];
            self.plain_rows(rows.clone(), plain)?;
            repack_rows(plain, rows.clone(), cols, to, out)?;
            beside(rows)?;
        }
        Ok(())
    }

    /// All codes as [`Layout::I2sP128`].
    fn plain(&self) -> Result<Cow<'_, [u8]>, FormatError> {
        if let TernaryCodes::Packed { bytes, layout: Layout::I2sP128 } = &self.codes {
            return Ok(Cow::Borrowed(bytes));
        }
        let mut plain = vec![0; ternary_bytes(Layout::I2sP128, self.rows, self.cols)];
        self.plain_rows(0..self.rows, &mut plain)?;
        Ok(Cow::Owned(plain))
    }

    fn plain_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), FormatError> {
        match &self.codes {
            TernaryCodes::Packed { bytes, layout } => {
                unpack_rows(*layout, (self.rows, self.cols), bytes, rows, out);
                Ok(())
            }
            TernaryCodes::Encoded { codec, data } => codec.decode_rows(data, rows, out),
        }
    }
}

/// Whether codes of [`Layout::I2sP128`] are all 1, which stands for zero.
pub fn codes_are_zero(packed: &[u8]) -> bool {
    packed.iter().all(|&byte| byte == 0b01_01_01_01)
}

/// Repacks rows given as [`Layout::I2sP128`], as [`repack_into`] does a matrix; `rows` are their numbers.
///
/// # Errors
/// Names a code that the layout has no room for.
pub fn repack_rows(
    plain: &[u8],
    rows: Range<usize>,
    cols: usize,
    to: Layout,
    out: &mut [u8],
) -> Result<(), FormatError> {
    repack_into(plain, rows.len(), cols, to, out).map_err(|error| match error {
        FormatError::Code { element } => FormatError::Code { element: rows.start * cols + element },
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use bitnet_cpu_kernels::{
        format::{Dialect, I2sPacking, PANEL_ROWS, pack, repack, unpack},
        testing::Rng,
    };
    use half::f16;

    use super::*;

    const LAYOUTS: [Layout; 3] = [Layout::I2sP128, Layout::I2sR16, Layout::Base3];

    fn encoded(dialect: Dialect, rows: usize, cols: usize, plain: &[u8], scales: &MatrixScales) -> TernaryMatrix {
        let codec = Codec::new(dialect, rows, cols).unwrap();
        let scales = scales.fitted(codec.scale_kind(), rows, cols, false).unwrap();
        let data = codec.encode(plain, &scales).unwrap().into();
        let scales = match scales.view().group() {
            Some(size) => TernaryScales::Encoded { size, factor: 1.0 },
            None => TernaryScales::Given(scales),
        };
        TernaryMatrix { rows, cols, codes: TernaryCodes::Encoded { codec, data }, scales }
    }

    #[test]
    fn one_weight_is_enough_not_to_be_zero() {
        let (rows, cols) = (36, 512);
        let one = MatrixScales::PerTensor(0.5);
        let mut codes = vec![1; rows * cols];
        for (last, expected) in [(1, true), (2, false), (0, false)] {
            codes[rows * cols - 1] = last;
            let plain = pack(Layout::I2sP128, rows, cols, &codes);
            let packed = TernaryCodes::Packed { bytes: plain.clone().into(), layout: Layout::I2sP128 };
            let packed = TernaryMatrix { rows, cols, codes: packed, scales: one.clone().into() };
            for matrix in [packed, encoded(Dialect::TQ1_0, rows, cols, &plain, &one)] {
                assert_eq!(matrix.is_zero().unwrap(), expected, "{matrix:?}");
            }
        }
        let plain = pack(Layout::I2sP128, rows, cols, &vec![2; rows * cols]);
        let zero = MatrixScales::PerGroup { size: 128, values: vec![f16::ZERO; rows * 4].into() };
        let codes = TernaryCodes::Packed { bytes: plain.into(), layout: Layout::I2sP128 };
        assert!(TernaryMatrix { rows, cols, codes, scales: zero.into() }.is_zero().unwrap());
    }

    #[test]
    fn every_layout_has_the_codes_of_the_file() {
        let mut rng = Rng::new(3);
        // Rows that end within 16 and 32; enough for all cores.
        for (rows, cols) in [(4, 256), (36, 512), (2052, 768)] {
            let plain = pack(Layout::I2sP128, rows, cols, &rng.codes(rows * cols));
            let one = MatrixScales::PerTensor(0.5);
            let dialects =
                [Dialect::I2S(I2sPacking::R4), Dialect::TQ1_0, Dialect::TQ2_0, Dialect::Q2_0, Dialect::IQ2BNR4];
            let mut matrices = dialects.map(|dialect| encoded(dialect, rows, cols, &plain, &one)).to_vec();
            for layout in LAYOUTS {
                let bytes = repack(&plain, rows, cols, layout).unwrap().into();
                let codes = TernaryCodes::Packed { bytes, layout };
                matrices.push(TernaryMatrix { rows, cols, codes, scales: one.clone().into() });
            }
            for matrix in &matrices {
                matrix.check().unwrap();
                for layout in LAYOUTS.into_iter().chain([Layout::tl1(rows, cols, 256), Layout::tl2(rows, cols, 256)]) {
                    let found = matrix.packed(layout).unwrap();
                    assert_eq!(found.codes[..], repack(&plain, rows, cols, layout).unwrap(), "{matrix:?} {layout:?}");
                    let shared = found.codes.as_ptr() == matrix.source().as_ptr();
                    assert_eq!(shared, matrix.is_packed_as(layout), "{matrix:?} {layout:?}");
                }
            }
        }
    }

    #[test]
    fn rows_may_be_packed_by_themselves() {
        let (rows, cols) = (70, 256);
        let plain = pack(Layout::I2sP128, rows, cols, &Rng::new(4).codes(rows * cols));
        let matrix = encoded(Dialect::TQ1_0, rows, cols, &plain, &MatrixScales::PerTensor(1.0));
        for layout in LAYOUTS {
            let whole = matrix.packed(layout).unwrap().codes;
            let (first, end) = (ternary_bytes(layout, 32, cols), ternary_bytes(layout, rows, cols));
            let mut out = vec![0; end - first];
            matrix.pack_rows(32..rows, layout, &mut out).unwrap();
            assert_eq!(out, whole[first..], "{layout:?}");
        }
    }

    #[test]
    fn group_scales_are_read_from_the_file() {
        let (rows, cols) = (18, 256);
        let codes = Rng::new(5).codes(rows * cols);
        let plain = pack(Layout::I2sP128, rows, cols, &codes);
        let values: Vec<f16> = (0..rows * 2).map(|at| f16::from_f32(1.0 + at as f32)).collect();
        let scales = MatrixScales::PerGroup { size: 128, values: values.clone().into() };
        let mut matrix = encoded(Dialect::Q2_0G128, rows, cols, &plain, &scales);
        assert_eq!(matrix.packed(Layout::I2sP128).unwrap().scales, scales);
        assert_eq!(matrix.scales.bytes(rows, cols), scales.bytes());
        // As beside a matrix with groups of 64, and with a factor.
        matrix.scales = TernaryScales::Encoded { size: 64, factor: 0.25 };
        let packed = matrix.packed(Layout::I2sR16).unwrap();
        packed.view().check().unwrap();
        assert_eq!(unpack(packed.layout, rows, cols, &packed.codes), codes);
        let MatrixScales::PerGroup { size: 64, values: found } = packed.scales else { panic!("other scales") };
        for row in [0, 15, 16, 17] {
            for group in 0..4 {
                let at = (row / PANEL_ROWS * 4 + group) * PANEL_ROWS + row % PANEL_ROWS;
                assert_eq!(found[at].to_f32(), 0.25 * values[row * 2 + group / 2].to_f32(), "{row} {group}");
            }
        }
    }

    #[test]
    fn a_code_without_room_is_placed() {
        let (rows, cols) = (600, 2048);
        let mut bytes = vec![0x55; rows * cols / 4];
        bytes[515 * cols / 4] = 0b11_01_01_01;
        let codes = TernaryCodes::Packed { bytes: bytes.into(), layout: Layout::I2sP128 };
        let matrix = TernaryMatrix { rows, cols, codes, scales: MatrixScales::PerTensor(1.0).into() };
        for layout in [Layout::Base3, Layout::tl1(rows, cols, 256)] {
            assert_eq!(matrix.packed(layout).unwrap_err(), FormatError::Code { element: 515 * cols }, "{layout:?}");
        }
    }

    #[test]
    fn what_is_not_of_the_shape_is_refused() {
        let plain = pack(Layout::I2sP128, 4, 256, &[1; 1024]);
        let good = encoded(Dialect::TQ2_0, 4, 256, &plain, &MatrixScales::PerTensor(1.0));
        good.check().unwrap();
        let TernaryCodes::Encoded { codec, data } = good.codes.clone() else { panic!("encoded") };
        let short = TernaryCodes::Encoded { codec, data: data.slice(1..data.len()).unwrap() };
        let packed = TernaryCodes::Packed { bytes: vec![0; 255].into(), layout: Layout::I2sP128 };
        for bad in [
            TernaryMatrix { rows: 3, ..good.clone() },
            TernaryMatrix { cols: 512, ..good.clone() },
            TernaryMatrix { codes: short, ..good.clone() },
            TernaryMatrix { codes: packed, ..good.clone() },
            TernaryMatrix { scales: TernaryScales::Encoded { size: 32, factor: 1.0 }, ..good.clone() },
            TernaryMatrix { scales: MatrixScales::PerRow([1.0; 3].into()).into(), ..good.clone() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
