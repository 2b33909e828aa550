//! One kernel at a time on given data: for the start-up self-test and the tests of each kernel.

use bitnet_cpu_kernels::format::TernaryView;

use super::{
    device::Gpu,
    encode::{Builder, Extent, Recorder},
    params::{self, Dynamic, Params},
    pipelines::{Access, Choices, Shader, Variant},
    readback::Readback,
};
use crate::{
    backend::known_product::KnownProduct,
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
    let kernel = run.variant.shader.kernel();
    assert_eq!(run.buffers.len(), kernel.bindings.len(), "{}: buffers", kernel.name);
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    let mut buffers = Vec::new();
    for bytes in run.buffers {
        // 16 bytes at least, which is what an array of vec4 must have.
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(4).max(16), 0);
        let buffer = gpu.buffer(kernel.name, padded.len() as u64, usage)?;
        gpu.queue.write_buffer(&buffer, 0, &padded);
        buffers.push(buffer);
    }
    let bindings: Vec<_> = buffers.iter().map(wgpu::Buffer::as_entire_buffer_binding).collect();
    let mut builder = Builder::new(gpu);
    let dispatch = builder.dispatch(run.variant, run.constants, run.params, &bindings, run.grid.map(Extent::Fixed))?;
    let mut uniforms = builder.uniforms()?;

    let written: Vec<_> = (0..buffers.len()).filter(|&i| kernel.bindings[i] == Access::Write).collect();
    let sources: Vec<_> = written.iter().map(|&i| (&buffers[i], buffers[i].size())).collect();
    let mut readback = Readback::new(gpu, sources.iter().map(|&(_, bytes)| bytes).sum())?;
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let mut recorder = Recorder::default();
    recorder.record(&mut encoder, [&dispatch], &run.dynamic, &mut uniforms);
    let pending = readback.record(&mut encoder, &sources);
    let submission = recorder.submit(gpu, encoder, &uniforms)?;
    readback.read(gpu, pending, submission, |mut bytes| {
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
///
/// Runs the kernel as it ships, with scales and steps of 1: the results are whole numbers below 2^24, which f32
/// holds exactly.
pub fn ternary_product(
    gpu: &Gpu,
    shader: Shader,
    choices: Choices,
    weights: &TernaryView<'_>,
    acts: &[i8],
) -> Result<Vec<i32>> {
    let (rows, cols) = (weights.rows, weights.cols);
    let tokens = acts.len() / cols;
    assert_eq!(acts.len(), tokens * cols, "activations of {cols} columns");
    let row_quads = cols.div_ceil(128) * 2;
    let mut x = vec![0u8; tokens * row_quads * 64];
    let mut steps_and_sums: Vec<[u32; 2]> = Vec::new();
    for (token, acts) in acts.chunks(cols).enumerate() {
        let padded = &mut x[token * row_quads * 64..][..cols];
        padded.copy_from_slice(bytemuck::cast_slice(acts));
        let sum: i32 = acts.iter().map(|&a| i32::from(a)).sum();
        steps_and_sums.push([1.0f32.to_bits(), sum.cast_unsigned()]);
    }
    let params = params::Ternary {
        rows: rows as u32,
        row_quads: row_quads as u32,
        out_stride: rows as u32,
        part1: rows as u32,
        part2: rows as u32,
        scale0: 1.0,
        ..params::Ternary::default()
    };
    let grid = match shader {
        Shader::TernaryMatvec => [rows.div_ceil(shader.kernel().workgroup as usize / 4), tokens, 1],
        Shader::TernaryMatmul => [rows.div_ceil(64), tokens.div_ceil(64), 1],
        other => panic!("{other:?} is not a ternary product"),
    };
    let contents = run(
        gpu,
        &Run {
            variant: Variant::new(shader, choices, None),
            constants: &[],
            params: params.into(),
            dynamic: Dynamic { tokens: tokens as u32, ..Dynamic::default() },
            buffers: &[weights.codes, &x, bytemuck::cast_slice(&steps_and_sums), &vec![0; tokens * rows * 4], &[0; 4]],
            grid,
        },
    )?;
    let values: Vec<f32> = contents[3].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok(values.into_iter().map(|value| value as i32).collect())
}

/// Compares one small product of each ternary kernel with the scalar reference. A driver that gets this wrong
/// would write garbage text, so the GPU is not used then.
pub(super) fn self_test(gpu: &Gpu) -> Result<()> {
    let known = KnownProduct::new();
    for shader in [Shader::TernaryMatvec, Shader::TernaryMatmul] {
        let found = ternary_product(gpu, shader, gpu.choices(), &known.weights(), &known.acts)?;
        if let Some(fault) = known.fault(&found) {
            let reason = format!("{} failed the self-test of {}: {fault}", gpu.caps(), shader.kernel().name);
            return Err(Error::NoAdapter { reason });
        }
    }
    Ok(())
}
