//! Which kernel multiplies which ternary matrix, and the layouts that it needs.

use std::fmt;

use bitnet_cpu_kernels::{
    Isa,
    format::{Layout, ternary_bytes},
    ternary,
};

use crate::{
    error::{Error, Remedy, Result},
    model::{Block, TernaryCodes, TernaryMatrix},
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

    /// The layout it reads a matrix in; the one that the matrix has, if it can. Group scales have layouts of their own.
    pub(super) fn layout(self, matrix: &TernaryMatrix) -> Layout {
        let TernaryMatrix { rows, cols, .. } = *matrix;
        match (self, matrix.layout()) {
            (Self::TL1, layout @ Layout::Tl1(_)) | (Self::TL2, layout @ Layout::Tl2(_)) => layout,
            (Self::I2S, _) if matrix.scales.group().is_some() => Layout::I2sR16,
            (Self::I2S, _) => Layout::I2sP128,
            (Self::Base3, _) if matrix.scales.group().is_some() => Layout::Base3R16,
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
    /// Matrices in [`own_layout`]: what the file has as kernels read it is not repacked.
    #[default]
    AsLoaded,
    /// This kernel for every matrix.
    All(Kernel),
    /// By (rows, cols); others in [`own_layout`].
    ByShape(Vec<((usize, usize), Kernel)>),
    /// This kernel for all whose [`own_layout`] is I2_S and that can have it; others as I2_S, or with group scales in
    /// [`own_layout`].
    Preferred(Kernel),
}

/// The layout in which the CPU multiplies a matrix unless something else is asked for: the one of the file, if kernels
/// read it. No file has those of group scales; where `isa` has a kernel for it, the smaller one is as fast for many tokens,
/// too. What kernels could read as it is may have codes 3, for which that has no room.
pub fn own_layout(isa: Isa, matrix: &TernaryMatrix) -> Layout {
    let is_checked = matches!(matrix.codes, TernaryCodes::Encoded { .. });
    match matrix.scales.group() {
        Some(_) if is_checked && Kernel::Base3.is_native(isa) => Layout::Base3R16,
        Some(_) => Layout::I2sR16,
        None => matrix.layout(),
    }
}

/// The layouts in which a matrix is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layouts {
    /// By up to [`ternary::most_few`] tokens.
    pub few: Layout,
    /// By more.
    pub many: Layout,
}

impl Kernels {
    fn of(&self, isa: Isa, matrix: &TernaryMatrix) -> Option<Kernel> {
        match self {
            Self::AsLoaded => None,
            Self::All(kernel) => Some(*kernel),
            Self::Preferred(_) if matrix.scales.group().is_some() => None,
            Self::Preferred(kernel) => {
                Some(if own_layout(isa, matrix) == Layout::I2sP128 { *kernel } else { Kernel::I2S })
            }
            Self::ByShape(shapes) => {
                let found = shapes.iter().find(|(shape, _)| *shape == (matrix.rows, matrix.cols));
                found.map(|(_, kernel)| *kernel).filter(|_| matrix.scales.group().is_none())
            }
        }
    }

    /// The layouts that a matrix is wanted in.
    ///
    /// # Errors
    /// If a kernel was asked for that cannot have its scales; `name` is its tensor.
    pub(super) fn layouts(&self, isa: Isa, matrix: &TernaryMatrix, name: &str) -> Result<Layouts> {
        let layouts = self.wanted(isa, matrix);
        if self.is_demand() {
            check_scales(matrix, layouts.few, name)?;
        }
        Ok(layouts)
    }

    fn wanted(&self, isa: Isa, matrix: &TernaryMatrix) -> Layouts {
        let own = own_layout(isa, matrix);
        match self.of(isa, matrix).map(|kernel| kernel.layout(matrix)) {
            Some(one) if one == Layout::I2sP128 || one.is_side_by_side() => Layouts { few: one, many: one },
            few => Layouts { few: few.unwrap_or(own), many: own },
        }
    }

    /// True where a matrix that has no room in a layout is an error; else it stays in [`own_layout`].
    pub(super) fn is_demand(&self) -> bool {
        matches!(self, Self::All(_))
    }

    /// Bytes of the ternary weights of a block that a step of one token reads.
    pub fn token_bytes(&self, isa: Isa, block: &Block) -> usize {
        let bytes =
            |m: &TernaryMatrix| ternary_bytes(self.wanted(isa, m).few, m.rows, m.cols) + m.scales.bytes(m.rows, m.cols);
        block.linears().map(|(_, matrix)| bytes(matrix)).sum()
    }

    /// Bytes of the matrices of a block in memory, in the file's pages or packed: twice where few tokens and many meet
    /// different layouts.
    pub fn held_bytes(&self, isa: Isa, block: &Block) -> usize {
        let bytes = |m: &TernaryMatrix| {
            let Layouts { few, many } = self.wanted(isa, m);
            let of = |layout| ternary_bytes(layout, m.rows, m.cols);
            of(few) + if many == few { 0 } else { of(many) } + m.scales.bytes(m.rows, m.cols)
        };
        block.linears().map(|(_, matrix)| bytes(matrix)).sum()
    }

    /// Their name in the summary, where there is something to say.
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

/// That a layout that was asked for has a kernel for the scales of a matrix; `name` is its tensor.
pub(super) fn check_scales(matrix: &TernaryMatrix, layout: Layout, name: &str) -> Result<()> {
    match matrix.scales.group() {
        Some(size) if !layout.is_side_by_side() => {
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
    use crate::model::MatrixScales;

    #[test]
    fn a_preferred_kernel_is_for_what_is_multiplied_as_i2_s() {
        let matrix = |layout, scales: MatrixScales| TernaryMatrix {
            rows: 32,
            cols: 256,
            codes: TernaryCodes::Packed { bytes: vec![0x55; 32 * 64].into(), layout },
            scales: scales.into(),
        };
        let one = MatrixScales::PerTensor(1.0);
        let preferred = Kernels::Preferred(Kernel::Base3);
        let both = |few, many| Layouts { few, many };
        let plain = Layout::I2sP128;
        assert_eq!(preferred.wanted(Isa::Scalar, &matrix(plain, one.clone())), both(Layout::Base3, plain));
        let lookup = matrix(Layout::tl1(32, 256, 32), one.clone());
        assert_eq!(preferred.wanted(Isa::Scalar, &lookup), both(plain, plain));
        assert_eq!(Kernels::AsLoaded.wanted(Isa::Scalar, &lookup), both(lookup.layout(), lookup.layout()));
        assert_eq!(Kernels::All(Kernel::TL2).wanted(Isa::Scalar, &lookup).many, lookup.layout());

        let grouped = MatrixScales::PerGroup { size: 256, values: vec![half::f16::ONE; 32].into() };
        let grouped = matrix(plain, grouped);
        for (kernels, layout) in [
            (preferred, Layout::I2sR16),
            (Kernels::AsLoaded, Layout::I2sR16),
            (Kernels::All(Kernel::I2S), Layout::I2sR16),
            (Kernels::All(Kernel::Base3), Layout::Base3R16),
        ] {
            assert_eq!(kernels.layouts(Isa::Scalar, &grouped, "w").unwrap(), both(layout, layout));
        }
        let error = Kernels::All(Kernel::TL1).layouts(Isa::Scalar, &grouped, "blk.0.w").unwrap_err();
        assert!(error.to_string().contains("blk.0.w"), "{error}");
        assert!(matches!(error.remedy(), Some(Remedy::UseKernel("i2_s"))), "{error}");
    }
}
