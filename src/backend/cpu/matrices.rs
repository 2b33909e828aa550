//! The ternary matrices of a segment, in the layouts that the kernels read.

use std::{
    mem,
    ops::Range,
    sync::{Mutex, OnceLock, PoisonError},
};

use bitnet_cpu_kernels::{
    Cpu, Isa,
    format::{FormatError, GroupScales, Layout, MatrixScales, ternary_bytes},
    memory::Memory,
    ternary,
};
use half::f16;

use super::kernel::{Kernels, Layouts};
use crate::{
    bytes::Bytes,
    error::Result,
    model::{Block, Linear, Model, PackedMatrix, TernaryMatrix, dialect::blame, names, repack_rows},
    plan::Segment,
};

/// Layers that are packed together: enough that threads have few waits for the last matrix.
const LAYERS_AT_ONCE: usize = 8;

/// Rows that a thread packs at a time, a multiple of [`ROW_STEP`](crate::model::dialect::ROW_STEP).
const PIECE_ROWS: usize = 512;

/// A cache line, on which every packed matrix begins.
const LINE_BYTES: usize = 64;

/// A matrix as steps of few tokens multiply it, and as longer ones do: one and the same, or packed twice.
#[derive(Clone, Debug)]
struct Forms {
    few: PackedMatrix,
    many: PackedMatrix,
}

/// The ternary matrices of a segment by layer and role. Those that the file has in the layout that is wanted are read in
/// place.
#[derive(Debug)]
pub(super) struct Matrices(Vec<[Option<Forms>; Linear::ALL.len()]>);

impl Matrices {
    /// Packs what `kernels` want, on all threads.
    pub fn new(
        cpu: &Cpu,
        model: &Model,
        segment: &Segment,
        kernels: &Kernels,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let mut layers = Vec::with_capacity(segment.layers.len());
        for first in segment.layers.clone().step_by(LAYERS_AT_ONCE) {
            let blocks = &model.weights.blocks[first..segment.layers.end.min(first + LAYERS_AT_ONCE)];
            layers.extend(pack_blocks(cpu, blocks, first, kernels)?);
            progress(blocks.iter().map(|block| block.ternary_bytes() as u64).sum());
        }
        Ok(Self(layers))
    }

    /// The codes that steps of few tokens read.
    pub fn of_few(&self) -> impl Iterator<Item = &Bytes> {
        self.0.iter().flatten().flatten().map(|forms| &forms.few.codes)
    }

    /// The matrix that a step of `tokens` tokens multiplies by in layer number `layer` of the segment.
    pub fn get(&self, layer: usize, role: Linear, tokens: usize) -> &PackedMatrix {
        let forms = self.0[layer][role as usize].as_ref();
        let Forms { few, many } = forms.unwrap_or_else(|| panic!("no {role:?} in layer {layer}"));
        if tokens <= ternary::most_few(few.layout) { few } else { many }
    }
}

/// A matrix to be packed.
struct Job<'a> {
    name: String,
    matrix: &'a TernaryMatrix,
    layouts: Layouts,
    /// Layouts to write: the one for many tokens, and the one for few where it is another.
    written: [Option<Layout>; 2],
    /// A code that the layout for few tokens has no room for is an error.
    demand: bool,
}

/// Parts written of some rows: codes for many and for few tokens as [`Job::written`] says, and scales of groups.
type Parts<T> = [T; 3];

impl<'a> Job<'a> {
    fn new(isa: Isa, name: String, matrix: &'a TernaryMatrix, kernels: &Kernels) -> Result<Self> {
        let layouts = kernels.layouts(isa, matrix, &name)?;
        let write = |layout| Some(layout).filter(|&layout| !matrix.is_packed_as(layout));
        let few = write(layouts.few).filter(|&few| few != layouts.many);
        let written = [write(layouts.many), few];
        Ok(Self { name, matrix, layouts, written, demand: kernels.is_demand() })
    }

    /// Bytes of so many rows.
    fn bytes(&self, rows: usize) -> Parts<usize> {
        let of_codes =
            |layout: Option<Layout>| layout.map_or(0, |layout| ternary_bytes(layout, rows, self.matrix.cols));
        let [many, few] = self.written.map(of_codes);
        [many, few, self.matrix.scales_of(rows) * size_of::<f16>()]
    }

    /// As [`Self::bytes`] for all rows, up to where the next matrix begins.
    fn room(&self) -> Parts<usize> {
        self.bytes(self.matrix.rows).map(|bytes| bytes.next_multiple_of(LINE_BYTES))
    }

    /// Rows that are packed at a time: all where they interleave for lookups.
    fn pieces(&self) -> impl Iterator<Item = Range<usize>> {
        let rows = self.matrix.rows;
        let whole = self.written.iter().flatten().any(|layout| layout.is_lookup());
        let step = if whole { rows.max(1) } else { PIECE_ROWS };
        (0..rows).step_by(step).map(move |first| first..rows.min(first + step))
    }

    /// Writes some rows. False where the layout for few tokens has no room for one of their codes.
    fn write(&self, rows: Range<usize>, [many, few, scales]: &mut Parts<&mut [u8]>) -> Result<bool, FormatError> {
        let matrix = self.matrix;
        let scales: &mut [f16] = bytemuck::cast_slice_mut(scales);
        match self.written[0] {
            Some(layout) if scales.is_empty() => matrix.pack_rows(rows.clone(), layout, many)?,
            Some(layout) => matrix.pack_rows_with_scales(rows.clone(), layout, many, scales)?,
            None if scales.is_empty() => {}
            None => matrix.scales_beside(rows.clone(), scales)?,
        }
        let written = match self.written {
            [_, None] => Ok(()),
            // Not decoded twice.
            [Some(Layout::I2sP128), Some(layout)] => repack_rows(many, rows.clone(), matrix.cols, layout, few),
            [_, Some(layout)] => matrix.pack_rows(rows.clone(), layout, few),
        };
        if !self.reads_file() {
            matrix.release_rows(rows);
        }
        match written {
            Err(FormatError::Code { .. }) if !self.demand => Ok(false),
            written => written.map(|()| true),
        }
    }

    /// True where a layout is the file's own.
    fn reads_file(&self) -> bool {
        [self.layouts.few, self.layouts.many].into_iter().any(|layout| self.matrix.is_packed_as(layout))
    }

    /// The forms, from what was written; `scales` of groups, where the matrix has them.
    fn forms(self, codes: [Option<Bytes>; 2], scales: GroupScales, has_few: bool) -> Result<Forms> {
        let reads_file = self.reads_file();
        let Self { name, matrix, layouts, .. } = self;
        let scales = match matrix.scales.group() {
            Some(size) => MatrixScales::PerGroup { size, values: scales },
            None => matrix.scales_in(layouts.many).map_err(|e| blame(&name, matrix.cols, e))?,
        };
        let form = |layout, codes: Option<Bytes>| {
            let codes = codes.unwrap_or_else(|| matrix.source().clone());
            PackedMatrix { rows: matrix.rows, cols: matrix.cols, codes, layout, scales: scales.clone() }
        };
        let [many, few] = codes;
        let many = form(layouts.many, many);
        let few = if has_few && layouts.few != layouts.many { form(layouts.few, few) } else { many.clone() };
        if !reads_file {
            matrix.source().release();
        }
        Ok(Forms { few, many })
    }
}

/// Some rows of a matrix, packed by one thread.
struct PackedRows<'a> {
    /// Which of the jobs.
    job: usize,
    rows: Range<usize>,
    out: Mutex<Parts<&'a mut [u8]>>,
    done: OnceLock<Result<bool, FormatError>>,
}

/// The matrices of some blocks, the first of them number `first`, by layer and role. What is packed shares one stretch of
/// memory, as huge pages are larger than most matrices.
fn pack_blocks(
    cpu: &Cpu,
    blocks: &[Block],
    first: usize,
    kernels: &Kernels,
) -> Result<Vec<[Option<Forms>; Linear::ALL.len()]>> {
    let mut places = Vec::with_capacity(blocks.len() * Linear::ALL.len());
    for (block, weights) in blocks.iter().enumerate() {
        places.extend(weights.linears().map(|(role, matrix)| (block, role, matrix)));
    }
    let job = |&(block, role, matrix)| Job::new(cpu.isa(), names::linear(first + block, role), matrix, kernels);
    let jobs: Vec<Job> = places.iter().map(job).collect::<Result<_>>()?;
    let rooms = || jobs.iter().map(Job::room);
    let mut memory = Memory::zeroed(rooms().map(|[many, few, _]| many + few).sum());
    let mut of_scales = Memory::zeroed(rooms().map(|[.., scales]| scales).sum());
    let (mut left, mut left_scales) = (&mut memory[..], &mut of_scales[..]);
    let mut pieces = Vec::new();
    for (at, job) in jobs.iter().enumerate() {
        let [many, few, scales] = job.room();
        let mut parts = [take(&mut left, many), take(&mut left, few), take(&mut left_scales, scales)];
        for rows in job.pieces() {
            let [many, few, scales] = job.bytes(rows.len());
            let out = [take(&mut parts[0], many), take(&mut parts[1], few), take(&mut parts[2], scales)];
            pieces.push(PackedRows { job: at, rows, out: Mutex::new(out), done: OnceLock::new() });
        }
    }
    cpu.pool().run(pieces.len(), |at| {
        let PackedRows { job, rows, out, done } = &pieces[at];
        let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
        // Each is set once.
        let _ = done.set(jobs[*job].write(rows.clone(), &mut out));
    });
    let mut has_few = vec![true; jobs.len()];
    for PackedRows { job, done, .. } in pieces {
        let Job { name, matrix, .. } = &jobs[job];
        let error = |e| blame(name, matrix.cols, e);
        has_few[job] &= done.into_inner().unwrap_or(Ok(false)).map_err(error)?;
    }
    let memory = Bytes::from(memory);
    let mut start = 0;
    let mut codes = |job: &Job| {
        let (bytes, room) = (job.bytes(job.matrix.rows), job.room());
        [0, 1].map(|at| {
            let codes = memory.slice(start..start + bytes[at]);
            start += room[at];
            codes.filter(|_| job.written[at].is_some())
        })
    };
    let ranges = jobs.iter().scan(0, |end, job| {
        let ([.., bytes], [.., room]) = (job.bytes(job.matrix.rows), job.room());
        *end += room;
        Some(*end - room..*end - room + bytes)
    });
    let mut scales = GroupScales::cut(of_scales, ranges.collect::<Vec<_>>().into_iter());
    let mut layers = vec![[const { None }; Linear::ALL.len()]; blocks.len()];
    for ((job, has_few), (block, role, _)) in jobs.into_iter().zip(has_few).zip(places) {
        let codes = codes(&job);
        let scales = scales.next().unwrap_or_else(|| unreachable!("scales for each job"));
        layers[block][role as usize] = Some(job.forms(codes, scales, has_few)?);
    }
    Ok(layers)
}

/// Takes the first `len` bytes off.
fn take<'a>(bytes: &mut &'a mut [u8], len: usize) -> &'a mut [u8] {
    let (part, rest) = mem::take(bytes).split_at_mut(len);
    *bytes = rest;
    part
}

#[cfg(test)]
mod tests {
    use bitnet_cpu_kernels::{
        format::{Codec, Dialect, pack},
        testing::Rng,
    };

    use super::*;
    use crate::{
        backend::cpu::{Kernel, own_layout},
        model::{Norm, TernaryCodes, TernaryScales},
    };

    /// A block of matrices of one shape; `matrix` makes each.
    fn block(mut matrix: impl FnMut() -> TernaryMatrix) -> Block {
        Block::new(Linear::ATTENTION.map(|role| (role, matrix())), [const { None }; Norm::BLOCK.len()])
    }

    #[test]
    fn what_is_decoded_is_what_the_matrix_says() {
        let mut rng = Rng::new(9);
        // More rows than a piece has, and some left over.
        let (rows, cols) = (2 * PIECE_ROWS + 20, 256);
        let codec = Codec::new(Dialect::TQ1_0, rows, cols).unwrap();
        let groups: Vec<f16> = (0..rows).map(|row| f16::from_f32(1.0 + row as f32)).collect();
        let file_scales = MatrixScales::PerGroup { size: 256, values: groups.into() };
        let mut encoded = |scales: TernaryScales| {
            let plain = pack(Layout::I2sP128, rows, cols, &rng.codes(rows * cols));
            let data = codec.encode(&plain, &file_scales).unwrap().into();
            TernaryMatrix { rows, cols, codes: TernaryCodes::Encoded { codec, data }, scales }
        };
        let one = MatrixScales::PerTensor(0.5);
        let plain = block(|| encoded(one.clone().into()));
        let grouped = block(|| encoded(TernaryScales::Encoded { size: 256, factor: 1.0 }));
        let p128 = Layout::I2sP128;
        let tl2 = Layout::tl2(rows, cols, 256);
        let own = own_layout(Isa::Scalar, grouped.linear(Linear::Q));
        for threads in [1, 3] {
            let cpu = Cpu::new(Isa::Scalar, threads);
            for (kernels, block, few, many) in [
                (Kernels::AsLoaded, &plain, p128, p128),
                (Kernels::All(Kernel::I2S), &plain, p128, p128),
                (Kernels::Preferred(Kernel::Base3), &plain, Layout::Base3, p128),
                (Kernels::All(Kernel::TL2), &plain, tl2, p128),
                (Kernels::AsLoaded, &grouped, own, own),
                (Kernels::Preferred(Kernel::Base3), &grouped, own, own),
                (Kernels::All(Kernel::I2S), &grouped, Layout::I2sR16, Layout::I2sR16),
                (Kernels::All(Kernel::Base3), &grouped, Layout::Base3R16, Layout::Base3R16),
            ] {
                let forms = pack_blocks(&cpu, std::slice::from_ref(block), 0, &kernels).unwrap();
                for (role, forms) in Linear::ATTENTION.into_iter().zip(&forms[0]) {
                    let forms = forms.clone().unwrap();
                    for (found, layout) in [(forms.few, few), (forms.many, many)] {
                        let expected = block.linear(role).packed(layout).unwrap();
                        assert!(
                            found.layout == layout && found.codes[..] == expected.codes[..],
                            "{kernels:?} {role:?}"
                        );
                        assert_eq!(found.scales, expected.scales, "{kernels:?} {role:?}");
                        found.view().check().unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn what_the_file_has_is_not_copied_and_a_preferred_kernel_leaves_what_it_has_no_room_for() {
        let cpu = Cpu::new(Isa::Scalar, 2);
        let matrix = |codes: u8| TernaryMatrix {
            rows: 32,
            cols: 256,
            codes: TernaryCodes::Packed { bytes: vec![codes; 32 * 64].into(), layout: Layout::I2sP128 },
            scales: MatrixScales::PerTensor(1.0).into(),
        };
        let (good, bad) = (block(|| matrix(0x55)), block(|| matrix(0xFF)));
        let pack = |block: &Block, kernels| pack_blocks(&cpu, std::slice::from_ref(block), 7, &kernels);
        for (block, kernels, few) in [
            (&good, Kernels::AsLoaded, Layout::I2sP128),
            (&good, Kernels::Preferred(Kernel::Base3), Layout::Base3),
            (&bad, Kernels::Preferred(Kernel::Base3), Layout::I2sP128),
        ] {
            for (role, forms) in Linear::ATTENTION.into_iter().zip(&pack(block, kernels).unwrap()[0]) {
                let forms = forms.as_ref().unwrap();
                assert_eq!((forms.few.layout, forms.many.layout), (few, Layout::I2sP128));
                assert_eq!(forms.many.codes.as_ptr(), block.linear(role).source().as_ptr());
            }
        }
        let error = pack(&bad, Kernels::All(Kernel::Base3)).unwrap_err().to_string();
        assert!(error.contains("blk.7.attn_q.weight row 0, column 0") && error.contains("none of them"), "{error}");
    }
}
