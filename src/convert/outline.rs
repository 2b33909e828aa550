//! The description of the input and what is asked for -> the output: metadata, tensors, sizes.

use bitnet_cpu_kernels::format::{Codec, DenseType, Dialect, ScaleKind, Tile};

use super::{
    ConvertOptions, Head, TernaryType,
    fit::fit,
    source::{Description, Input, Kind, Source},
};
use crate::{
    error::{Error, Result},
    gguf::{Array, Metadata, TensorSpec, TensorType, Value},
    model::{
        dialect::{TL1_TILES, TL2_TILES},
        names,
    },
};

/// Metadata and tensors to be written.
pub(super) struct Outline {
    pub metadata: Metadata,
    pub outputs: Vec<Output>,
}

/// A tensor of the output.
pub(super) struct Output {
    pub spec: TensorSpec,
    /// Place of its source among the inputs.
    pub input: usize,
    pub content: Content,
}

pub(super) enum Content {
    /// A ternary matrix.
    Ternary(Codec),
    /// The factor of the ternary matrix before it.
    Factor,
    /// Rows of numbers in that type.
    Table(DenseType),
    /// The bytes of the input.
    Copy,
}

/// A tensor of the output; `sizes` slowest first.
pub(crate) fn spec(name: String, sizes: &[usize], ty: TensorType) -> TensorSpec {
    TensorSpec { name, dims: sizes.iter().rev().map(|&size| size as u64).collect(), ty }
}

/// Bytes of a tensor in the file, without padding.
pub(crate) fn bytes(spec: &TensorSpec) -> u64 {
    spec.ty.size_bytes(&spec.dims).expect("the shape was checked when the tensor was planned")
}

impl Outline {
    /// Decides the type of every tensor.
    ///
    /// # Errors
    /// If a tensor cannot have its type; names it.
    pub fn new(description: &Description, source: &dyn Source, options: &ConvertOptions) -> Result<Self> {
        let mut outline = Self { metadata: description.metadata.clone(), outputs: Vec::new() };
        let ty = options.ty.unwrap_or(description.default_type);
        for (at, input) in description.inputs.iter().enumerate() {
            match &input.kind {
                Kind::Ternary { scales, factor } => {
                    outline.ternary(at, input, (*scales, *factor), source, (ty, options.lossy))?
                }
                Kind::Table(ty) => {
                    // Ternary already.
                    let default = if matches!(ty, TensorType::Q2_0 | TensorType::PQ2_0) {
                        Head::Keep
                    } else {
                        description.default_head
                    };
                    outline.table(at, input, *ty, options.head.unwrap_or(default))?;
                }
                Kind::Other(ty) => outline.add(at, input, *ty, Content::Copy)?,
            }
        }
        outline.describe(ty);
        Ok(outline)
    }

    fn add(&mut self, at: usize, input: &Input, ty: TensorType, content: Content) -> Result<()> {
        let spec = spec(input.name.clone(), &input.sizes, ty);
        if spec.ty.size_bytes(&spec.dims).is_none() {
            let reason = format!("its sizes {:?} are not whole blocks of {}", spec.dims, ty.name());
            return Err(Error::unsupported(format!("tensor {}", input.origin), reason));
        }
        self.outputs.push(Output { spec, input: at, content });
        Ok(())
    }

    fn table(&mut self, at: usize, input: &Input, has: TensorType, head: Head) -> Result<()> {
        match head.types().filter(|(wanted, _)| *wanted != has) {
            None => self.add(at, input, has, Content::Copy),
            Some((ty, dense)) => self.add(at, input, ty, Content::Table(dense)),
        }
    }

    fn ternary(
        &mut self,
        at: usize,
        input: &Input,
        (scales, factor): (ScaleKind, bool),
        source: &dyn Source,
        (ty, lossy): (TernaryType, bool),
    ) -> Result<()> {
        let [rows, cols] = input.sizes[..] else {
            return Err(Error::malformed(
                format!("tensor {}", input.origin),
                "two sizes",
                format!("{:?}", input.sizes),
            ));
        };
        let codec = ty.codec(&input.origin, rows, cols)?;
        self.add(at, input, ty.tensor_type(), Content::Ternary(codec))?;
        let has_factor = match (codec.scale_kind(), scales) {
            (ScaleKind::PerTensor, _) => false,
            (_, ScaleKind::PerTensor) => true,
            (_, ScaleKind::PerGroup(_)) => factor,
            // Rows may have one scale after all.
            _ => fit(&input.origin, &source.ternary(at)?, &codec, lossy)?.1.is_some(),
        };
        if has_factor {
            let name = names::scale_of(&input.name).ok_or_else(|| {
                let reason = "its scale needs a tensor of its own, which is named by the .weight that it ends in";
                Error::unsupported(format!("tensor {}", input.origin), reason)
            })?;
            self.outputs.push(Output { spec: spec(name, &[1], TensorType::F32), input: at, content: Content::Factor });
        }
        Ok(())
    }

    /// States the types in the metadata.
    fn describe(&mut self, ty: TernaryType) {
        let codecs = || {
            self.outputs.iter().filter_map(|output| match &output.content {
                Content::Ternary(codec) => Some(codec),
                _ => None,
            })
        };
        if codecs().next().is_none() {
            return;
        }
        let tiles = tiles(codecs());
        self.metadata.set("general.file_type", Value::U32(ty.file_type()));
        for (key, tiles) in tiles {
            self.metadata.remove(key);
            if !tiles.is_empty() {
                self.metadata.set(key, Value::Array(Array::U32(tiles)));
            }
        }
    }

    /// Bytes of all tensors, without padding.
    pub fn data_bytes(&self) -> u64 {
        self.outputs.iter().map(|output| bytes(&output.spec)).sum()
    }

    /// The tensor table.
    pub fn specs(&self) -> Vec<TensorSpec> {
        self.outputs.iter().map(|output| output.spec.clone()).collect()
    }
}

/// The keys that state the tiles of TL1 and TL2 matrices, and their values; empty where there is none to state.
pub(crate) fn tiles<'a>(codecs: impl Iterator<Item = &'a Codec>) -> [(&'static str, Vec<u32>); 2] {
    let (mut tl1, mut tl2) = (Vec::new(), Vec::new());
    for codec in codecs {
        match codec.dialect() {
            Dialect::TL1(tile) => state(&mut tl1, codec, tile),
            Dialect::TL2(tile) => state(&mut tl2, codec, tile),
            _ => {}
        }
    }
    [(TL1_TILES, tl1.concat()), (TL2_TILES, tl2.concat())]
}

/// Adds a shape and its tile, once.
fn state(tiles: &mut Vec<[u32; 5]>, codec: &Codec, tile: Tile) {
    let numbers = [codec.rows(), codec.cols(), tile.rows, tile.cols, tile.lanes].map(|number| number as u32);
    if !tiles.contains(&numbers) {
        tiles.push(numbers);
    }
}
