//! The copy of the head in 6 bits a weight, with what bounds its logits: `bitnet_cpu_kernels::screen`.

use std::ops::Range;

use bitnet_cpu_kernels::{
    Cpu,
    format::DenseView,
    screen::{self, Row},
};

use super::arenas::{Region, Uploader};
use crate::{error::Result, model::DenseMatrix};

/// Bytes kept of a row behind its codes: scale, error, norm, and 1 where a weight is not finite.
const KEPT_BYTES: usize = 16;

/// Bytes of a row of the copy.
pub fn copy_row_bytes(cols: usize) -> usize {
    screen::row_bytes(cols) + KEPT_BYTES
}

/// True where the copy of `head` takes so many fewer bytes that reading it first is worth it.
pub fn screen_pays(head: &DenseMatrix) -> bool {
    head.cols <= screen::MAX_COLS && copy_row_bytes(head.cols) * 5 <= head.ty.row_bytes(head.cols) * 4
}

/// Rows of the copy of `head`, one after the other, into `out`.
pub fn copy_rows(cpu: &Cpu, head: &DenseView<'_>, rows: Range<usize>, out: &mut [u8]) {
    let row_bytes = copy_row_bytes(head.cols);
    let mut kept = vec![Row::default(); rows.len()];
    screen::encode_rows(cpu, head, rows, row_bytes, out, &mut kept);
    for (out, Row { scale, error, norm }) in out.chunks_exact_mut(row_bytes).zip(kept) {
        let words = [scale.to_bits(), error.to_bits(), norm.to_bits(), u32::from(!norm.is_finite())];
        out[row_bytes - KEPT_BYTES..].copy_from_slice(bytemuck::bytes_of(&words));
    }
}

/// Makes the copy of `head` on the processor and writes it to the device.
pub fn upload_copy(uploader: &mut Uploader<'_>, region: &Region, head: &DenseMatrix) -> Result<()> {
    let cpu = Cpu::new(bitnet_cpu_kernels::Isa::detect(), std::thread::available_parallelism().map_or(1, usize::from));
    uploader.write_rows(region, |rows, bytes| copy_rows(&cpu, &head.view(), rows, bytes))
}
