//! Which kernel multiplies which ternary matrix, and the repacking that it needs.

use std::{
    fmt,
    sync::{Mutex, OnceLock, PoisonError},
};

use bitnet_cpu_kernels::{
    Cpu, Isa,
    format::{FormatError, Layout, ternary_bytes},
    memory::Memory,
    ternary,
};

use crate::{
    bytes::Bytes,
    error::{Error, Remedy, Result},
    model::{Block, Linear, MatrixScales, Model, TernaryMatrix, dialect::blame, names},
    plan::Segment,
};

/// A kernel of ternary products, and so a packed form of the matrix. All give the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Multiplies and adds: two bits a weight.
    I2S,
    /// Looks up pairs of weights: two bits a weight.
    TL1,
    /// Looks up triples of weights: 1.67 bits a weight.
    TL2,
    /// Unpacks five weights from a byte, multiplies and adds: 1.6 bits a weight.
    Base3,
}

/// Rows of a tile of a matrix that is repacked: lookups in 256 rows share the tables of some columns in the first-level
/// cache (18 to 20 GB/s of cold weights on a Zen 5 core, where tiles of 32 gave 14 to 15).
const TILE_ROWS: usize = 256;

impl Kernel {
    /// All kernels.
    pub const ALL: [Self; 4] = [Self::I2S, Self::TL1, Self::TL2, Self::Base3];

    /// Its name, as for [`Self::by_name`].
    pub fn name(self) -> &'static str {
        match self {
            Self::I2S => "i2_s",
            Self::TL1 => "tl1",
            Self::TL2 => "tl2",
            Self::Base3 => "base3",
        }
    }

    /// False where it only unpacks for another one.
    pub fn is_native(self, isa: Isa) -> bool {
        self != Self::Base3 || ternary::multiplies_base3(isa)
    }

    /// The kernel of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kernel| kernel.name() == name)
    }

    /// The layout it reads a matrix in; the one that the matrix has, if it can. Group scales have one of their own.
    pub(super) fn layout(self, matrix: &TernaryMatrix) -> Layout {
        let TernaryMatrix { rows, cols, layout, .. } = *matrix;
        match (self, layout) {
            (Self::TL1, Layout::Tl1(_)) | (Self::TL2, Layout::Tl2(_)) => layout,
            (Self::I2S, _) if matrix.scales.view().group().is_some() => Layout::I2sR16,
            (Self::I2S, _) => Layout::I2sP128,
            (Self::Base3, _) => Layout::Base3,
            (Self::TL1, _) => Layout::tl1(rows, cols, TILE_ROWS),
            (Self::TL2, _) => Layout::tl2(rows, cols, TILE_ROWS),
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A kernel for each ternary matrix, in steps of up to [`ternary::most_few`] tokens. Longer ones multiply: rows of
/// I2_S as they are, others unpacked on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Kernels {
    /// Matrices as they were loaded: nothing is repacked.
    #[default]
    AsLoaded,
    /// The same for all.
    All(Kernel),
    /// By (rows, cols); others as they were loaded.
    ByShape(Vec<((usize, usize), Kernel)>),
    /// The same for all that were loaded as I2_S and can have it; others as I2_S.
    Preferred(Kernel),
}

impl Kernels {
    fn of(&self, matrix: &TernaryMatrix) -> Option<Kernel> {
        match self {
            // A model that was not loaded from a file may have groups in another layout.
            Self::AsLoaded => matrix.scales.view().group().map(|_| Kernel::I2S),
            Self::All(kernel) => Some(*kernel),
            Self::Preferred(kernel) => {
                let can = matrix.layout == Layout::I2sP128 && matrix.scales.view().group().is_none();
                Some(if can { *kernel } else { Kernel::I2S })
            }
            Self::ByShape(shapes) => {
                shapes.iter().find(|(shape, _)| *shape == (matrix.rows, matrix.cols)).map(|(_, kernel)| *kernel)
            }
        }
    }

    /// The layout that a matrix is repacked to; `None` where it stays.
    fn target(&self, matrix: &TernaryMatrix) -> Option<Layout> {
        self.of(matrix).map(|kernel| kernel.layout(matrix)).filter(|&layout| layout != matrix.layout)
    }

    /// Writes the codes of a matrix in another layout into zeroed bytes. False, unless the layout was asked for, where it
    /// has no room for one: such a matrix stays as it is.
    fn repack_into(&self, matrix: &TernaryMatrix, layout: Layout, name: &str, out: &mut [u8]) -> Result<bool> {
        let asked = matches!(self, Self::All(_));
        if asked {
            check_scales(matrix, layout, name)?;
        }
        match matrix.repack_into(layout, out) {
            Err(FormatError::Code { .. }) if !asked => Ok(false),
            repacked => repacked.map(|()| true).map_err(|e| blame(name, matrix.cols, e)),
        }
    }

    /// Bytes of the ternary weights of a block that a step of one token reads.
    pub fn token_bytes(&self, block: &Block) -> usize {
        let bytes = |m: &TernaryMatrix| match self.target(m) {
            Some(layout) => ternary_bytes(layout, m.rows, m.cols) + m.scales.bytes(),
            None => m.codes.len() + m.scales.bytes(),
        };
        Linear::ALL.iter().map(|&role| bytes(block.linear(role))).sum()
    }

    /// What the summary calls them, where there is something to say.
    pub fn label(&self) -> Option<String> {
        match self {
            Self::AsLoaded | Self::All(Kernel::I2S) => None,
            Self::All(kernel) | Self::Preferred(kernel) => Some(kernel.to_string()),
            Self::ByShape(shapes) => {
                let mut names: Vec<&str> = shapes.iter().map(|(_, kernel)| kernel.name()).collect();
                names.sort_unstable();
                names.dedup();
                Some(names.join("/"))
            }
        }
    }
}

/// Layers that are repacked together: enough that threads have few waits for the last matrix.
const LAYERS_AT_ONCE: usize = 8;

/// A cache line, on which every repacked matrix begins.
const LINE_BYTES: usize = 64;

/// The repacked matrices of a segment, by layer and role.
#[derive(Debug)]
pub(super) struct Repacked(Vec<[Option<TernaryMatrix>; Linear::ALL.len()]>);

impl Repacked {
    /// Repacks what `kernels` want in another form, on all threads.
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
            layers.extend_from_slice(repack_blocks(cpu, blocks, first, kernels)?.as_chunks().0);
            progress(blocks.iter().map(|block| block.ternary_bytes() as u64).sum());
        }
        Ok(Self(layers))
    }

    /// What a step of `tokens` tokens multiplies by in layer number `layer` of the segment.
    pub fn matrix<'a>(&'a self, layer: usize, block: &'a Block, role: Linear, tokens: usize) -> &'a TernaryMatrix {
        match &self.0[layer][role as usize] {
            Some(matrix) if tokens <= ternary::most_few(matrix.layout) => matrix,
            _ => block.linear(role),
        }
    }
}

/// A matrix to be repacked.
struct Job<'a> {
    /// Which of the matrices of some blocks.
    at: usize,
    name: String,
    matrix: &'a TernaryMatrix,
    layout: Layout,
    bytes: usize,
}

impl Job<'_> {
    /// The next one begins on a cache line.
    fn room(&self) -> usize {
        self.bytes.next_multiple_of(LINE_BYTES)
    }
}

/// The matrices of some blocks, the first of them number `first`, that `kernels` want in another form: `None` for the
/// others. They share one stretch of memory, as huge pages are larger than most of them.
fn repack_blocks(cpu: &Cpu, blocks: &[Block], first: usize, kernels: &Kernels) -> Result<Vec<Option<TernaryMatrix>>> {
    let all = blocks.iter().enumerate().flat_map(|(block, weights)| {
        Linear::ALL.map(|role| (names::linear(first + block, role), weights.linear(role)))
    });
    let jobs: Vec<Job> = all
        .enumerate()
        .filter_map(|(at, (name, matrix))| {
            let layout = kernels.target(matrix)?;
            Some(Job { at, name, matrix, layout, bytes: ternary_bytes(layout, matrix.rows, matrix.cols) })
        })
        .collect();
    let mut memory = Memory::zeroed(jobs.iter().map(Job::room).sum());
    let mut left = &mut memory[..];
    let parts: Vec<Mutex<&mut [u8]>> = jobs
        .iter()
        .map(|job| {
            let (part, rest) = std::mem::take(&mut left).split_at_mut(job.room());
            left = rest;
            Mutex::new(&mut part[..job.bytes])
        })
        .collect();
    let written: Vec<OnceLock<Result<bool>>> = jobs.iter().map(|_| OnceLock::new()).collect();
    cpu.pool().run(jobs.len(), |at| {
        let Job { name, matrix, layout, .. } = &jobs[at];
        let mut out = parts[at].lock().unwrap_or_else(PoisonError::into_inner);
        // Each is set once.
        let _ = written[at].set(kernels.repack_into(matrix, *layout, name, &mut out));
    });
    drop(parts);
    let memory = Bytes::from(memory);
    let mut made = vec![None; blocks.len() * Linear::ALL.len()];
    let mut start = 0;
    for (job, written) in jobs.iter().zip(written) {
        if written.into_inner().unwrap_or(Ok(false))? {
            let codes = memory.slice(start..start + job.bytes);
            made[job.at] = codes.map(|codes| job.matrix.with_codes(job.layout, codes));
        }
        start += job.room();
    }
    Ok(made)
}

/// A matrix in another layout; `name` is its tensor.
pub(super) fn repack(matrix: &TernaryMatrix, layout: Layout, name: &str) -> Result<TernaryMatrix> {
    check_scales(matrix, layout, name)?;
    matrix.repacked(layout).map_err(|e| blame(name, matrix.cols, e))
}

/// That a kernel that was asked for can have the scales of a matrix.
fn check_scales(matrix: &TernaryMatrix, layout: Layout, name: &str) -> Result<()> {
    match matrix.scales {
        MatrixScales::PerGroup { size, .. } if layout != Layout::I2sP128 => {
            let reason = format!("it has a scale for each {size} columns, and this kernel adds up whole rows");
            let error = Error::unsupported(format!("tensor {name}"), reason);
            Err(error.with_remedy(Remedy::UseKernel(Kernel::I2S.name())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preferred_kernel_leaves_what_it_has_no_room_for() {
        let matrix = |codes: u8, layout, scales| TernaryMatrix {
            rows: 32,
            cols: 256,
            codes: Bytes::from(vec![codes; 32 * 64]),
            layout,
            scales,
        };
        let one = MatrixScales::PerTensor(1.0);
        let (good, bad) = (matrix(0x55, Layout::I2sP128, one.clone()), matrix(0xFF, Layout::I2sP128, one.clone()));
        let preferred = Kernels::Preferred(Kernel::Base3);
        assert_eq!(preferred.target(&good), Some(Layout::Base3));
        let mut out = vec![0; ternary_bytes(Layout::Base3, 32, 256)];
        assert!(preferred.repack_into(&good, Layout::Base3, "w", &mut out).unwrap());
        assert_eq!(out, good.repacked(Layout::Base3).unwrap().codes[..]);
        assert!(!preferred.repack_into(&bad, Layout::Base3, "w", &mut out).unwrap());
        let asked = Kernels::All(Kernel::Base3);
        let error = asked.repack_into(&bad, Layout::Base3, "blk.0.w", &mut out).unwrap_err().to_string();
        assert!(error.contains("blk.0.w") && error.contains("none of them"), "{error}");

        let grouped = MatrixScales::PerGroup { size: 256, values: vec![half::f16::ONE; 32].into() };
        assert_eq!(preferred.target(&matrix(0x55, Layout::I2sP128, grouped)), Some(Layout::I2sR16));
        assert_eq!(preferred.target(&matrix(0x44, Layout::tl1(32, 256, 32), one)), Some(Layout::I2sP128));
    }
}
