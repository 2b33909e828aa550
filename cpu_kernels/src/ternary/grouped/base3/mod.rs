//! Products with [`Layout::Base3R16`], five weights a byte: a fifth fewer bytes than [`Layout::I2sR16`], for the products
//! of few tokens, which are bound by reading them. Processors without the table instructions of AVX-512 VBMI meet rows
//! unpacked to that.

#[cfg(target_arch = "x86_64")]
mod avx512vbmi;

use std::{cell::RefCell, ops::Range};

#[cfg(target_arch = "x86_64")]
use super::Grouped;
use crate::{
    Isa,
    format::{Layout, PANEL_ROWS, Scales, TernaryView, rows16, ternary_bytes, unpack_rows},
};

/// Products of a tile, `out` (tokens, rows), if there is a kernel for them that reads rows as they are.
#[cfg(target_arch = "x86_64")]
pub fn products(isa: Isa, weights: &TernaryView, rows: Range<usize>, tile: &Grouped, out: &mut [f32]) -> bool {
    if let Isa::Avx512Vnni(vnni) = isa
        && let Some(vbmi) = vnni.vbmi()
    {
        return avx512vbmi::products(vbmi, tile, packed_rows(weights, rows), out);
    }
    false
}

/// The bytes of some rows, from a multiple of 16 on.
#[cfg(target_arch = "x86_64")]
fn packed_rows<'a>(weights: &TernaryView<'a>, rows: Range<usize>) -> &'a [u8] {
    let row_bytes = weights.row_bytes();
    &weights.codes[rows.start * row_bytes..rows.end.next_multiple_of(PANEL_ROWS) * row_bytes]
}

/// Some rows, from a multiple of 16 on, as [`Layout::I2sR16`]. The room for them stays with the thread.
pub fn as_two_bits(isa: Isa, weights: &TernaryView, rows: Range<usize>, work: impl FnOnce(TernaryView)) {
    thread_local! {
        static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let Scales::PerGroup { size, values } = weights.scales else {
        unreachable!("the scales of a matrix have the groups of its activations")
    };
    let groups = weights.cols / size;
    let panels = rows.start / PANEL_ROWS..rows.end.div_ceil(PANEL_ROWS);
    let values = &values[panels.start * groups * PANEL_ROWS..panels.end * groups * PANEL_ROWS];
    let bytes = ternary_bytes(Layout::I2sR16, rows.len(), weights.cols);
    ROOM.with_borrow_mut(|room| {
        if room.len() < bytes {
            room.resize(bytes, 0);
        }
        let codes = &mut room[..bytes];
        unpack(isa, weights, rows.clone(), codes);
        let scales = Scales::PerGroup { size, values };
        work(TernaryView { rows: rows.len(), cols: weights.cols, codes, layout: Layout::I2sR16, scales });
    });
}

fn unpack(isa: Isa, weights: &TernaryView, rows: Range<usize>, codes: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if let Isa::Avx512Vnni(vnni) = isa
        && let Some(vbmi) = vnni.vbmi()
    {
        let packed = packed_rows(weights, rows);
        return avx512vbmi::unpack(vbmi, packed, PANEL_ROWS * weights.row_bytes(), codes);
    }
    let _ = isa;
    let row_bytes = ternary_bytes(Layout::I2sP128, 1, weights.cols);
    let mut plain = vec![0; rows.len() * row_bytes];
    unpack_rows(weights.layout, (weights.rows, weights.cols), weights.codes, rows, &mut plain);
    rows16::interleave(&plain, row_bytes, codes);
}
