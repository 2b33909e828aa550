//! One kernel at a time on given data: for the start-up self-test and the tests of each kernel.

use bitnet_cpu_kernels::format::{Scales, TernaryView};
use half::f16;

pub use crate::backend::gpu::{
    buffers::head_copy::copy_rows,
    lower::screen::{gamma, least},
};
use crate::{
    backend::{
        gpu::{
            buffers::readback::Readback,
            device::Gpu,
            kernels::{
                params::{self, Dynamic, Params},
                pipelines::{Access, Choices, Input, Program, Shader, Variant},
            },
            record::encode::{Builder, Extent, Recorder},
        },
        known_product::KnownProduct,
    },
    error::{Error, Result},
};

/// A kernel with everything it needs.
pub struct Run<'a> {
    /// Which text.
    pub variant: Variant,
    /// Pipeline constants besides WG.
    pub constants: &'a [(&'static str, f64)],
    /// All parameters but the changing ones.
    pub params: Params,
    /// The changing parameters.
    pub dynamic: Dynamic,
    /// Initial contents of each binding.
    pub buffers: &'a [&'a [u8]],
    /// Workgroups.
    pub grid: [usize; 3],
}

/// Runs it, and returns the contents of each binding afterwards; read-only ones come back empty.
pub fn run(gpu: &Gpu, run: &Run<'_>) -> Result<Vec<Vec<u8>>> {
    let (kernel, name) = (run.variant.program.kernel(), run.variant.program.name());
    assert_eq!(run.buffers.len(), kernel.bindings.len(), "{name}: buffers");
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    let mut buffers = Vec::new();
    for bytes in run.buffers {
        // 32 bytes at least: an array of vec4 must have 16, the batch of a step a header before its first token.
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(4).max(32), 0);
        let buffer = gpu.buffer(name, padded.len() as u64, usage)?;
        gpu.queue.write_buffer(&buffer, 0, &padded);
        buffers.push(buffer);
    }
    let bindings: Vec<_> = buffers.iter().map(wgpu::Buffer::as_entire_buffer_binding).collect();
    let mut builder = Builder::new(gpu);
    let dispatch = builder.dispatch(run.variant, run.constants, run.params, &bindings, run.grid.map(Extent::Fixed))?;
    let mut uniforms = builder.finish()?;

    let written: Vec<_> = (0..buffers.len()).filter(|&i| kernel.bindings[i] == Access::Write).collect();
    let sources: Vec<_> = written.iter().map(|&i| (&buffers[i], 0, buffers[i].size())).collect();
    let mut readback = Readback::new(gpu, 1, sources.iter().map(|&(.., bytes)| bytes).sum())?;
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let mut recorder = Recorder::default();
    recorder.record(&mut encoder, [(&run.dynamic.into(), &dispatch)], &mut uniforms);
    let pending = readback.record(&mut encoder, &sources);
    let recorded = recorder.finish(encoder);
    let submission = recorder.submit(gpu, recorded, &uniforms)?;
    readback.wait(gpu, pending, submission, |mut bytes| {
        let mut contents = vec![Vec::new(); buffers.len()];
        for &i in &written {
            let (own, rest) = bytes.split_at(buffers[i].size() as usize);
            contents[i] = own[..run.buffers[i].len()].to_vec();
            bytes = rest;
        }
        contents
    })
}

/// The ternary product of `acts` (tokens, cols) with every row, as integers: sum((code - 1) * act), (tokens, rows).
/// Kernels with stored scales take them, and the activations, in the groups of `weights`. Folded kernels quantise the
/// activations themselves: that gives back values of at most 127 with a 127 in each group.
///
/// Runs the kernel as it ships, with scales and steps of 1: the results are whole numbers below 2^24, which f32
/// holds exactly.
pub fn ternary_product(
    gpu: &Gpu,
    program: impl Into<Program>,
    choices: Choices,
    weights: &TernaryView<'_>,
    acts: &[i8],
) -> Result<Vec<i32>> {
    let program = program.into();
    let workgroup = Variant::new(program, choices, None).workgroup();
    ternary_product_cut(gpu, program, choices, (workgroup, 1), weights, acts)
}

/// As [`ternary_product`], of kernels for one token in other workgroups: invocations, and rounds of rows of a folded one.
pub fn ternary_product_cut(
    gpu: &Gpu,
    program: Program,
    choices: Choices,
    (workgroup, rounds): (u32, usize),
    weights: &TernaryView<'_>,
    acts: &[i8],
) -> Result<Vec<i32>> {
    use Shader::{
        TernaryFew, TernaryFewGrouped, TernaryMatmul, TernaryMatmulGrouped, TernaryMatvec, TernaryMatvecGrouped,
    };
    let shader = program.shader;
    let (rows, cols) = (weights.rows, weights.cols);
    let tokens = acts.len() / cols;
    assert_eq!(acts.len(), tokens * cols, "activations of {cols} columns");
    let size = weights.scales.group();
    let stored = matches!(shader, TernaryMatvecGrouped | TernaryFewGrouped | TernaryMatmulGrouped);
    let folded = program.folds();
    assert!(stored || size.is_none(), "{shader:?} takes one scale per token");
    let groups = size.map_or(1, |size| cols / size);
    let row_quads = cols.div_ceil(128) * 2;
    let params = if stored {
        Params::from(params::TernaryGrouped {
            rows: rows as u32,
            row_quads: row_quads as u32,
            groups: groups as u32,
            out_stride: rows as u32,
            ..params::TernaryGrouped::default()
        })
    } else {
        Params::from(params::Ternary {
            rows: rows as u32,
            row_quads: row_quads as u32,
            out_stride: rows as u32,
            part1: rows as u32,
            part2: rows as u32,
            scale0: 1.0,
            ..params::Ternary::default()
        })
    };
    let grid = match shader {
        TernaryMatvec | TernaryMatvecGrouped => [rows.div_ceil(workgroup as usize / 4 * rounds), tokens, 1],
        TernaryFew | TernaryFewGrouped => [rows.div_ceil(workgroup as usize / 4), 1, 1],
        TernaryMatmul | TernaryMatmulGrouped => [rows.div_ceil(64), tokens.div_ceil(64), 1],
        other => panic!("{other:?} is not a ternary product"),
    };

    let mut constants = vec![("WG", f64::from(workgroup))];
    let (mut quantised, mut steps_and_sums) = (Vec::new(), Vec::<[u32; 2]>::new());
    let floats: Vec<f32> = acts.iter().map(|&act| f32::from(act)).collect();
    let mut buffers: Vec<&[u8]> = if folded {
        constants.extend([("NORM", 0.0), ("COLS", cols as f64), ("WORDS", 16.0 * row_quads as f64)]);
        constants.extend([("ACTS", groups as f64), ("IN_STRIDE", cols as f64), ("ROUNDS", rounds as f64)]);
        vec![bytemuck::cast_slice(&floats), &[0; 4], weights.codes]
    } else {
        for token in acts.chunks(cols) {
            quantised.extend_from_slice(bytemuck::cast_slice(token));
            quantised.resize(quantised.len().next_multiple_of(128), 0); // whole blocks of codes
            for group in token.chunks(size.unwrap_or(cols)) {
                let sum: i32 = group.iter().map(|&a| i32::from(a)).sum();
                steps_and_sums.push([1.0f32.to_bits(), sum.cast_unsigned()]);
            }
        }
        vec![weights.codes, &quantised, bytemuck::cast_slice(&steps_and_sums)]
    };
    let out = vec![0; tokens * rows * 4];
    buffers.extend([&out[..], &[0; 4]]);
    let ones: Vec<u8> = match size {
        Some(_) => f16::ONE.to_le_bytes().repeat(rows * groups),
        None => 1.0f32.to_le_bytes().repeat(rows),
    };
    if stored {
        buffers.push(&ones);
        constants.push(("GROUP", size.unwrap_or(0) as f64));
    }
    let contents = run(
        gpu,
        &Run {
            variant: Variant::new(program, choices, None),
            constants: &constants,
            params,
            dynamic: Dynamic { tokens: tokens as u32, ..Dynamic::default() },
            buffers: &buffers,
            grid,
        },
    )?;
    let values: Vec<f32> = contents[3].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok(values.into_iter().map(|value| value as i32).collect())
}

/// Compares a small product of each kernel with stored scales with the scalar reference, before a model that needs
/// them is loaded.
pub(crate) fn self_test_grouped(gpu: &Gpu, size: usize) -> Result<()> {
    let known = KnownProduct::grouped();
    let weights = known.weights();
    let ones = vec![f16::ONE; weights.rows * weights.cols / size];
    let weights = TernaryView { scales: Scales::PerGroup { size, values: &ones }, ..weights };
    let programs: [Program; 4] = [
        Shader::TernaryMatvecGrouped.into(),
        Shader::TernaryFewGrouped.into(),
        Shader::TernaryMatmulGrouped.into(),
        Shader::TernaryMatvecGrouped.reading(Input::Slot),
    ];
    compare(gpu, &known, &weights, &programs)
}

fn compare(gpu: &Gpu, known: &KnownProduct, weights: &TernaryView<'_>, programs: &[Program]) -> Result<()> {
    for &program in programs {
        // As it is going to be run.
        let plain = program == Shader::TernaryMatvecGrouped.into();
        let own = Variant::new(program, gpu.choices(), None).workgroup();
        let workgroup = if plain { gpu.geometry().workgroup } else { own };
        let found = ternary_product_cut(gpu, program, gpu.choices(), (workgroup, 1), weights, &known.acts)?;
        if let Some(fault) = known.fault(&found) {
            let reason = format!("{} failed the self-test of {}: {fault}", gpu.caps(), program.name());
            return Err(Error::NoAdapter { reason });
        }
    }
    Ok(())
}
