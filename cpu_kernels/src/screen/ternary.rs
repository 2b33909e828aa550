//! Heads of ternary weights: in place of a copy in 6 bits the weights themselves in 2, or in 1.6 where kernels read five a
//! byte, 16 rows side by side, which the kernels of ternary matrices multiply with the upper and the lower bytes of a
//! token, as two tokens. Nothing of a weight is left out, so the bounds hold only what rounding adds: of the token to 16
//! bits, and of sums in f32. Those sums are the same bits for any number of tokens, see the module `grouped`.

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

use half::f16;

use super::{CHUNK_ROWS, Query, Row, encode::up};
use crate::{
    Cpu, Isa,
    format::{
        Codec, DenseType, DenseView, Layout, MatrixScales, PANEL_ROWS, ScaleKind, TernaryView, interleave_scales_into,
        repack_into, ternary_bytes,
    },
    memory::Memory,
    quantize::QuantizedActs,
    ternary::{self, Part},
    threads::Disjoint,
};

/// Columns that one half of a block of [`Layout::I2sP128`] holds: the upper nibbles, then the lower.
const HALF: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Codes {
    /// (rows, cols) as `layout`
    codes: Memory,
    layout: Layout,
    scales: MatrixScales,
    rows: usize,
    cols: usize,
    /// Groups of a row.
    groups: usize,
    /// The upper and the lower bytes of each token.
    halves: QuantizedActs,
    /// Factors of these bytes, (tokens, 2, groups).
    steps: Vec<f32>,
    /// (tokens, 2, rows)
    products: Vec<f32>,
}

/// The layout of the copy for kernels of `isa`: the smaller one of those that they read.
fn layout(isa: Isa, cols: usize) -> Layout {
    let is_smaller = ternary_bytes(Layout::Base3R16, 1, cols) < ternary_bytes(Layout::I2sR16, 1, cols);
    if is_smaller && ternary::multiplies_base3(isa) { Layout::Base3R16 } else { Layout::I2sR16 }
}

/// Bytes of the codes, scales and products of a head of type `ty`.
pub fn bytes(isa: Isa, rows: usize, cols: usize, ty: DenseType) -> usize {
    let scales = scale_bytes(rows, cols / ty.block_len());
    ternary_bytes(layout(isa, cols), rows, cols).saturating_add(scales).saturating_add(2 * size_of::<f32>() * rows)
}

/// Bytes of the scales of so many rows, 16 side by side.
fn scale_bytes(rows: usize, groups: usize) -> usize {
    rows.next_multiple_of(PANEL_ROWS) * groups * size_of::<f16>()
}

impl Codes {
    /// The codes of `head`, with room for `tokens` tokens, and what bounds need of each row. `None` if it is of another
    /// type, or has a code that is no ternary weight, or a scale that is not finite.
    pub fn new(cpu: &Cpu, head: &DenseView, tokens: usize) -> Option<(Self, Vec<Row>)> {
        let DenseView { rows, cols, data, ty } = *head;
        let codec = Codec::new(ty.dialect()?, rows, cols).ok()?;
        let ScaleKind::PerGroup(size) = codec.scale_kind() else { return None };
        let groups = cols / size;
        let row_bytes = ternary_bytes(Layout::I2sP128, 1, cols);
        let layout = layout(cpu.isa(), cols);
        let packed_bytes = |rows| ternary_bytes(layout, rows, cols);
        let (mut codes, mut scales) = (Memory::zeroed(packed_bytes(rows)), Memory::zeroed(scale_bytes(rows, groups)));
        let mut kept = vec![Row::default(); rows];
        let is_fine = AtomicBool::new(true);
        let (to_codes, to_scales) = (Disjoint::new(&mut codes), Disjoint::new(&mut scales));
        let to_kept = Disjoint::new(&mut kept);
        cpu.pool().run(rows.div_ceil(CHUNK_ROWS), |chunk| {
            let range = chunk * CHUNK_ROWS..rows.min((chunk + 1) * CHUNK_ROWS);
            let mut plain = vec![0; range.len() * row_bytes];
            let decoded = codec.decode_rows(data, range.clone(), &mut plain);
            let (Ok(()), Ok(values)) = (decoded, codec.group_scales(data, range.clone())) else {
                return is_fine.store(false, Ordering::Relaxed);
            };
            let panels = packed_bytes(range.start)..packed_bytes(range.end);
            let of_panels = scale_bytes(range.start, groups)..scale_bytes(range.end, groups);
            // SAFETY: chunks are disjoint ranges of rows, and whole panels of 16 but for the last.
            let (codes, scales) = unsafe { (to_codes.part(panels), to_scales.part(of_panels)) };
            // SAFETY: as above.
            let kept = unsafe { to_kept.part(range.clone()) };
            repack_into(&plain, range.len(), cols, layout, codes)
                .unwrap_or_else(|error| unreachable!("{error}: the codes were decoded as ternary"));
            interleave_scales_into(&values, groups, bytemuck::cast_slice_mut(scales));
            for ((row, scales), kept) in plain.chunks_exact(row_bytes).zip(values.chunks_exact(groups)).zip(kept) {
                *kept = Row { scale: 1.0, error: 0.0, norm: up(squares(row, size, scales).sqrt()) };
            }
        });
        if !is_fine.into_inner() {
            return None;
        }
        let scales = MatrixScales::PerGroup { size, values: scales.into() };
        let halves = QuantizedActs::with_group(2 * tokens, cols, Some(size));
        let (steps, products) = (vec![0.0; 2 * tokens * groups], vec![0.0; 2 * tokens * rows]);
        Some((Self { codes, layout, scales, rows, cols, groups, halves, steps, products }, kept))
    }

    /// Groups of a row.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Multiplies all rows with the bytes of tokens, `planes` (tokens, 2, cols).
    pub fn multiply(&mut self, cpu: &Cpu, queries: &[Query], planes: &[i8]) {
        let steps = &mut self.steps[..2 * queries.len() * self.groups];
        for (steps, query) in steps.chunks_exact_mut(2 * self.groups).zip(queries) {
            let (of_high, of_low) = steps.split_at_mut(self.groups);
            // A product with a power of 2 is exact.
            of_high.fill(256.0 * query.step());
            of_low.fill(query.step());
        }
        self.halves.set_raw(self.cols, planes, steps);
        let (codes, scales) = (&self.codes, self.scales.view());
        let weights = TernaryView { rows: self.rows, cols: self.cols, codes, layout: self.layout, scales };
        let out = &mut self.products[..2 * queries.len() * self.rows];
        ternary::matmul(cpu, &self.halves, &mut [Part { weights, out, add: false }]);
    }

    /// Products of some rows with the upper and with the lower bytes of a token.
    pub fn products(&self, token: usize, rows: Range<usize>) -> [&[f32]; 2] {
        let (high, low) = self.products[2 * token * self.rows..][..2 * self.rows].split_at(self.rows);
        [&high[rows.clone()], &low[rows]]
    }
}

/// The sum of the squares of a row of [`Layout::I2sP128`] with a scale for each `size` columns.
fn squares(row: &[u8], size: usize, scales: &[f16]) -> f64 {
    let mut sum = 0.0;
    // All sizes are powers of two.
    let shift = (size / HALF).trailing_zeros();
    for (at, block) in row.as_chunks::<32>().0.iter().enumerate() {
        for (half, count) in nonzero(block).into_iter().enumerate() {
            // A row's last block may have one half.
            let scale = scales.get((2 * at + half) >> shift).map_or(0.0, |scale| scale.to_f64());
            sum += f64::from(count) * scale * scale;
        }
    }
    sum
}

/// Weights that are not 0 in the upper nibbles of a block, and in the lower ones: plain loops that become vector
/// instructions.
fn nonzero(block: &[u8; 32]) -> [u8; 2] {
    let (mut upper, mut lower) = (0, 0);
    for byte in block {
        // The weight 0 has the code 01.
        let other = byte ^ 0x55;
        let bits = (other | other >> 1) & 0x55;
        // At most 2 in each nibble, and 64 in all.
        let counts = (bits & 0x33) + (bits >> 2 & 0x33);
        upper += counts >> 4;
        lower += counts & 0x0F;
    }
    [upper, lower]
}
