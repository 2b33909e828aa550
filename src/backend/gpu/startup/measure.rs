//! How the products of a decode step are cut into workgroups, and whether they norm their input themselves: measured
//! once for an adapter and driver, as drivers and caches differ more than the names of GPUs tell.
//!
//! In: an open GPU with its choices of kernels made. Out: a [`Geometry`]. Each candidate has to give
//! the integers of the scalar reference first. All candidates together run for about 30 ms, beside their compilation, or three
//! times as long where something else uses the GPU.

use std::cell::Cell;

use super::{debug, timing::time_us};
use crate::{
    backend::{
        gpu::{
            device::{Geometry, Gpu, WORKGROUPS},
            kernels::{
                params,
                pipelines::{Input, Program, Shader},
            },
            record::encode::{Builder, Dispatch, Extent},
        },
        known_product::KnownProduct,
    },
    error::Result,
    steady::Steady,
};

/// How often a workgroup of a folded product takes its rows, for the shape that is timed.
const ROUNDS: [usize; 4] = [1, 2, 4, 8];

/// Gate and up of BitNet b1.58 2B-4T: its largest product, and 8.8 MB of codes.
const ROWS: usize = 13_824;
const COLS: usize = 2560;

/// Another candidate has to be so much faster to be taken: less is noise.
const GAIN: f64 = 0.97;

/// The fastest of the candidates that are right.
pub fn measure(gpu: &Gpu, known: &KnownProduct) -> Result<Steady<Geometry>> {
    let mut best = Geometry::unmeasured(gpu.caps().software);
    let timed = Timed::new(gpu)?;
    let mut plain_us = f64::INFINITY;
    for workgroup in WORKGROUPS {
        if is_right(gpu, known, Shader::TernaryMatvec.into(), (workgroup, 1))? {
            let us = timed.us(|builder| Ok(vec![timed.plain(builder, workgroup)?]))?;
            if us < plain_us * GAIN {
                (best.workgroup, plain_us) = (workgroup, us);
            }
        }
    }
    let workgroups = ROWS.div_ceil(FOLDED_ROWS);
    let mut folded_us = f64::INFINITY;
    for rounds in ROUNDS {
        if is_right(gpu, known, FOLDED, (FOLDED.workgroup(), rounds))? {
            let us = timed.us(|builder| Ok(vec![timed.folded(builder, rounds)?]))?;
            if us < folded_us * GAIN {
                (best.folded_workgroups, folded_us) = (workgroups / rounds, us);
            }
        }
    }
    let apart_us = timed.us(|builder| Ok(vec![timed.norm(builder)?, timed.plain(builder, best.workgroup)?]))?;
    best.fold = folded_us * GAIN <= apart_us;
    log::debug!("{plain_us:.0} us a product, {folded_us:.0} us with its norm, {apart_us:.0} us behind it: {best}");
    Ok(Steady { value: best, agreed: timed.agreed.get() })
}

fn is_right(gpu: &Gpu, known: &KnownProduct, program: Program, cut: (u32, usize)) -> Result<bool> {
    let found = debug::ternary_product_cut(gpu, program, gpu.choices(), cut, &known.weights(), &known.acts)?;
    let fault = known.fault(&found);
    if let Some(fault) = &fault {
        let name = program.name();
        gpu.add_note(format!("{} failed the self-test of {name} in workgroups of {}: {fault}", gpu.caps(), cut.0));
    }
    Ok(fault.is_none())
}

const FOLDED: Program = Shader::TernaryMatvec.reading(Input::Slot);
const FOLDED_ROWS: usize = FOLDED.workgroup() as usize / 4;

/// Buffers that the timed kernels read and write.
struct Timed<'a> {
    gpu: &'a Gpu,
    buffers: [wgpu::Buffer; 7],
    /// Whether rounds have agreed about all times so far.
    agreed: Cell<bool>,
}

impl<'a> Timed<'a> {
    fn new(gpu: &'a Gpu) -> Result<Self> {
        // Codes, quantised activations, their step and sum, the same as f32, weights of the norm, results, damage.
        let sizes = [ROWS * COLS / 4, COLS, 8, 4 * COLS, 4 * COLS, 4 * ROWS, 16];
        let buffers = sizes.map(|bytes| gpu.buffer("timed product", bytes as u64, wgpu::BufferUsages::STORAGE));
        let buffers = buffers.into_iter().collect::<Result<Vec<_>>>()?;
        let buffers = buffers.try_into().unwrap_or_else(|_| unreachable!("seven were made"));
        Ok(Self { gpu, buffers, agreed: Cell::new(true) })
    }

    fn us(&self, make: impl FnOnce(&mut Builder<'a>) -> Result<Vec<Dispatch>>) -> Result<f64> {
        let mut builder = Builder::new(self.gpu);
        let dispatches = make(&mut builder)?;
        let time = time_us(self.gpu, builder, &dispatches, 1)?;
        self.agreed.set(self.agreed.get() && time.agreed);
        Ok(time.value)
    }

    fn dispatch(
        &self,
        builder: &mut Builder<'a>,
        program: impl Into<Program>,
        constants: &[(&'static str, f64)],
        params: impl Into<params::Params>,
        (bindings, workgroups): (&[usize], usize),
    ) -> Result<Dispatch> {
        let bindings: Vec<_> = bindings.iter().map(|&i| self.buffers[i].as_entire_buffer_binding()).collect();
        let grid = [Extent::Fixed(workgroups), Extent::Fixed(1), Extent::Fixed(1)];
        let variant = builder.variant(program);
        builder.dispatch(variant, constants, params, &bindings, grid)
    }

    fn product_params() -> params::Ternary {
        let (rows, row_quads) = (ROWS as u32, (COLS / 64) as u32);
        params::Ternary { rows, row_quads, out_stride: rows, part1: rows, part2: rows, ..Default::default() }
    }

    fn plain(&self, builder: &mut Builder<'a>, workgroup: u32) -> Result<Dispatch> {
        let constants = [("WG", f64::from(workgroup))];
        let to = (&[0, 1, 2, 5, 6][..], ROWS.div_ceil(workgroup as usize / 4));
        self.dispatch(builder, Shader::TernaryMatvec, &constants, Self::product_params(), to)
    }

    fn folded(&self, builder: &mut Builder<'a>, rounds: usize) -> Result<Dispatch> {
        let cols = COLS as f64;
        let constants =
            [("COLS", cols), ("WORDS", cols / 4.0), ("ACTS", 1.0), ("IN_STRIDE", cols), ("ROUNDS", rounds as f64)];
        let to = (&[3, 4, 0, 5, 6][..], ROWS.div_ceil(FOLDED_ROWS * rounds));
        self.dispatch(builder, FOLDED, &constants, Self::product_params(), to)
    }

    fn norm(&self, builder: &mut Builder<'a>) -> Result<Dispatch> {
        let (cols, words) = (COLS as u32, COLS as u32 / 4);
        let params = params::NormQuantize { cols, words, in_stride: cols, groups: 1, eps: 1e-5, ..Default::default() };
        self.dispatch(builder, Shader::NormQuantize, &[], params, (&[3, 4, 1, 2, 6], 1))
    }
}
