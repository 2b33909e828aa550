//! How the text of a kernel is put together.
//!
//! In: a [`Program`] and the choices made for the device. Out: WGSL text ([`Variant::compose`]): the pieces of
//! `shaders/common/` the kernel uses, the kernel, and the declaration of its parameters. Numbers are
//! pipeline constants (`override`), never text.

use bitnet_cpu_kernels::format::DenseType;

use super::{
    kernel::{Choices, Flavour, Input, KernelRow, Lanes, ParamSource, Piece, Product, Streams, Tile},
    table::{Shader, shader},
};

/// A kernel and its flavour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Program {
    /// Its file.
    pub shader: Shader,
    /// Which of its pieces.
    pub flavour: Flavour,
}

impl From<Shader> for Program {
    /// The flavour that is meant where none is named.
    fn from(shader: Shader) -> Self {
        Self { shader, flavour: shader.kernel().flavours[0].0 }
    }
}

impl Shader {
    /// This kernel, reading such an input.
    pub const fn reading(self, input: Input) -> Program {
        Program { shader: self, flavour: Flavour { input, ..self.kernel().flavours[0].0 } }
    }

    /// Its file's stem.
    pub const fn name(self) -> &'static str {
        self.kernel().flavours[0].1
    }

    /// All flavours of this kernel.
    pub fn programs(self) -> impl Iterator<Item = Program> {
        self.kernel().flavours.iter().map(move |&(flavour, _)| Program { shader: self, flavour })
    }

    fn uses(self, piece: Piece) -> bool {
        self.kernel().pieces.contains(&piece)
    }

    /// Every text this kernel can be composed to.
    pub fn variants(self) -> Vec<Variant> {
        self.programs().flat_map(Program::variants).collect()
    }
}

impl Program {
    /// With a scale for each group of columns, or one for a row.
    #[must_use]
    pub const fn grouped(self, grouped: bool) -> Self {
        Self { flavour: Flavour { grouped, ..self.flavour }, ..self }
    }

    /// With a rotation of what it quantises, or none.
    #[must_use]
    pub const fn rotated(self, rotated: bool) -> Self {
        Self { flavour: Flavour { rotated, ..self.flavour }, ..self }
    }

    /// Its row of the table.
    pub const fn kernel(self) -> KernelRow {
        self.shader.kernel()
    }

    /// Its label, in profiles and messages.
    pub fn name(self) -> &'static str {
        let flavours = self.kernel().flavours;
        let own = flavours.iter().find(|(flavour, _)| *flavour == self.flavour);
        own.unwrap_or_else(|| unreachable!("{self:?} is not in the table")).1
    }

    /// Invocations of a workgroup, unless the [variant](Variant::workgroup) or a dispatch has another. What quantises its
    /// input is as wide as `norm_quantize`, whose order of additions it repeats; so many rows share that work.
    pub const fn workgroup(self) -> u32 {
        match self.flavour.input {
            Input::Quantized => self.kernel().workgroup,
            Input::Slot | Input::Parts | Input::Splits => Shader::NormQuantize.kernel().workgroup,
        }
    }

    /// True where it is a product that quantises its input itself.
    pub fn folds(self) -> bool {
        self.shader.uses(Piece::Acts) && self.flavour.input != Input::Quantized
    }

    /// The bytes it reads from memory.
    pub(crate) fn streams(self) -> Streams {
        match self.kernel().streams {
            // Its codes come third, behind the input and the weights of the norm.
            Streams::Weights(&[0]) if self.folds() => Streams::Weights(&[2]),
            Streams::Weights(&[0, 5]) if self.folds() => Streams::Weights(&[2, 5]),
            streams => streams,
        }
    }

    /// Every text it can be composed to.
    pub fn variants(self) -> Vec<Variant> {
        let lanes: &[Lanes] =
            if self.shader.uses(Piece::Lane) { &[Lanes::Subgroup, Lanes::Workgroup] } else { &[Lanes::Workgroup] };
        let products: &[Product] = if self.shader.uses(Piece::Dot) { &Product::ALL } else { &[Product::Int8] };
        let dense: Vec<Option<DenseType>> =
            if self.shader.uses(Piece::Dense) { DENSE.iter().map(|&(ty, _)| Some(ty)).collect() } else { vec![None] };
        let mut all = Vec::new();
        for params in [ParamSource::Immediate, ParamSource::Uniform] {
            for &lanes in lanes {
                for &product in products {
                    for &dense in &dense {
                        for tile in [Tile::Words, Tile::Vectors] {
                            let variant = Variant::new(self, Choices { lanes, product, tile, params }, dense);
                            if variant.choices.tile == tile {
                                all.push(variant);
                            }
                        }
                    }
                }
            }
        }
        all
    }
}

/// The dense types the GPU reads, with their readers.
const DENSE: [(DenseType, &[&str]); 12] = [
    (DenseType::F32, &[shader!("common/dense_f32.wgsl")]),
    (DenseType::F16, &[shader!("common/dense_f16.wgsl")]),
    (DenseType::BF16, &[shader!("common/dense_bf16.wgsl")]),
    (DenseType::Q8_0, &[shader!("common/dense_q8_0.wgsl")]),
    (DenseType::Q6K, &[shader!("common/dense_q6_k.wgsl")]),
    (DenseType::Q4K, &[shader!("common/dense_q4_k.wgsl")]),
    (DenseType::Q4_0, &[shader!("common/dense_q4_0.wgsl")]),
    (DenseType::TQ1_0, &[shader!("common/dense_tq1_0.wgsl"), shader!("common/dense_base3.wgsl")]),
    (DenseType::TQ2_0, &[shader!("common/dense_tq2_0.wgsl")]),
    (DenseType::Q2_0, &[shader!("common/dense_q2_0.wgsl")]),
    (DenseType::Q2_0G128, &[shader!("common/dense_q2_0_g128.wgsl")]),
    (DenseType::PTQ1_0, &[shader!("common/dense_ptq1_0.wgsl"), shader!("common/dense_base3.wgsl")]),
];

/// True when the kernels `embed` and `head` read this type.
pub fn reads(ty: DenseType) -> bool {
    DENSE.iter().any(|&(have, _)| have == ty)
}

/// A kernel with all choices of text made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The kernel.
    pub program: Program,
    /// Twins to take.
    pub choices: Choices,
    /// Element type of the table, for `embed` and `head`.
    pub dense: Option<DenseType>,
}

impl Variant {
    /// A variant with the choices of the device; those the kernel does not have are put to one value, so
    /// that equal text is an equal variant.
    pub fn new(program: impl Into<Program>, choices: Choices, dense: Option<DenseType>) -> Self {
        let program = program.into();
        let uses = |piece| program.shader.uses(piece);
        let lanes = if uses(Piece::Lane) { choices.lanes } else { Lanes::Workgroup };
        let product = if uses(Piece::Dot) { choices.product } else { Product::Int8 };
        let tile = if uses(Piece::Tile) && product == Product::Int8 { choices.tile } else { Tile::Words };
        let dense = dense.filter(|_| uses(Piece::Dense));
        Self { program, choices: Choices { lanes, product, tile, params: choices.params }, dense }
    }

    /// A name for labels, logs and test failures: "ternary_matvec_i2s-subgroup-int8-immediate".
    pub fn name(&self) -> String {
        let mut name = self.program.name().to_owned();
        let mut push = |text: String| {
            name.push('-');
            name.push_str(&text.to_lowercase());
        };
        if self.program.shader.uses(Piece::Lane) {
            push(format!("{:?}", self.choices.lanes));
        }
        if self.program.shader.uses(Piece::Dot) {
            push(format!("{:?}", self.choices.product));
        }
        if self.choices.tile == Tile::Vectors {
            push(format!("{:?}", self.choices.tile));
        }
        if let Some(dense) = self.dense {
            push(format!("{dense:?}"));
        }
        push(format!("{:?}", self.choices.params));
        name
    }

    /// The tile of a matrix product.
    fn tile(&self) -> [&'static str; 2] {
        let tokens = match self.tokens_each() {
            8 => shader!("common/tokens_8.wgsl"),
            _ => shader!("common/tokens_4.wgsl"),
        };
        let tile = match self.choices.tile {
            Tile::Vectors => shader!("common/tile_vectors.wgsl"),
            Tile::Words => shader!("common/tile_words.wgsl"),
        };
        [tokens, tile]
    }

    /// Tokens of a tile that one invocation takes. By vectors for eight, 66 and 69 % of the instructions are products of int8 on
    /// Intel's Xe and Xe2 (41 and 42 % by words for four) and 77 % on AMD's RDNA3 (64 %). With scales by groups there are two
    /// sums for each token, and eight would not fit in the registers.
    fn tokens_each(&self) -> u32 {
        if self.choices.tile == Tile::Vectors && !self.program.flavour.grouped { 8 } else { 4 }
    }

    /// Invocations of a workgroup, unless a dispatch has another: of a tile, 16 for the rows times those for its 64 tokens.
    pub fn workgroup(&self) -> u32 {
        if self.program.shader.uses(Piece::Tile) { 16 * 64 / self.tokens_each() } else { self.program.workgroup() }
    }

    /// The pieces in front of the kernel, and the kernel.
    fn texts(&self) -> Vec<&'static str> {
        let Program { shader: own, flavour } = self.program;
        let kernel = own.kernel();
        let input = match flavour.input {
            Input::Parts => shader!("common/input_parts.wgsl"),
            Input::Splits => shader!("common/input_splits.wgsl"),
            Input::Slot | Input::Quantized => shader!("common/input_slot.wgsl"),
        };
        let row = [shader!("common/norm_row.wgsl"), input];
        let quantize: &[&str] = match (flavour.rotated, flavour.grouped) {
            (true, _) => &[
                shader!("common/quantize.wgsl"),
                shader!("common/quantize_groups.wgsl"),
                shader!("common/rotate.wgsl"),
                shader!("common/weighted.wgsl"),
                shader!("common/quantize_row_rotated.wgsl"),
            ],
            (false, true) => &[
                shader!("common/quantize.wgsl"),
                shader!("common/quantize_groups.wgsl"),
                shader!("common/normed.wgsl"),
                shader!("common/quantize_row_grouped.wgsl"),
            ],
            (false, false) => {
                &[shader!("common/quantize.wgsl"), shader!("common/normed.wgsl"), shader!("common/quantize_row.wgsl")]
            }
        };
        let mut texts = Vec::new();
        if flavour.grouped {
            texts.push(shader!("common/group.wgsl"));
        }
        for piece in kernel.pieces {
            match piece {
                Piece::Always(source) => texts.push(source),
                Piece::Lane => texts.push(match self.choices.lanes {
                    Lanes::Subgroup => shader!("common/lane_subgroup.wgsl"),
                    Lanes::Workgroup => shader!("common/lane.wgsl"),
                }),
                Piece::PlainLane => texts.push(shader!("common/lane.wgsl")),
                Piece::Dot => texts.push(match self.choices.product {
                    Product::Int8 => shader!("common/dot_int8.wgsl"),
                    Product::Uint8 => shader!("common/dot_uint8.wgsl"),
                    Product::F32 => shader!("common/dot_f32.wgsl"),
                }),
                Piece::Tile => texts.extend(self.tile()),
                Piece::Dense => {
                    let own = DENSE.iter().find(|&&(ty, _)| Some(ty) == self.dense);
                    texts.extend(own.into_iter().flat_map(|&(_, texts)| texts));
                }
                Piece::Row => texts.extend(row),
                Piece::Quantize => texts.extend(quantize),
                Piece::Acts if flavour.input == Input::Quantized => texts.push(shader!("common/acts_stored.wgsl")),
                Piece::Acts => {
                    texts.extend(row);
                    texts.extend(quantize);
                    if flavour.rotated {
                        texts.push(shader!("common/source_weighted.wgsl"));
                    }
                    texts.push(shader!("common/acts_folded.wgsl"));
                }
            }
        }
        texts.push(kernel.source);
        texts
    }

    /// The WGSL text.
    pub fn compose(&self) -> String {
        let mut text = self.texts().join("\n");
        text.push_str(match self.choices.params {
            ParamSource::Immediate => "\nvar<immediate> p: Params;\n",
            ParamSource::Uniform => "\n@group(1) @binding(0) var<uniform> p: Params;\n",
        });
        text
    }

    /// Its pipeline constants, with WG.
    pub fn constants(&self) -> Vec<&'static str> {
        let name = |line: &'static str| line.strip_prefix("override ").and_then(|rest| rest.split(':').next());
        self.texts().into_iter().flat_map(str::lines).filter_map(name).collect()
    }
}
