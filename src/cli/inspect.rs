//! `inspect`: what a model file holds, and whether it can run.

use std::fmt;

use bitnet_cpu_kernels::Isa;
use serde::Serialize;
use serde_json::{Value as Json, json};

use super::{
    args::{I2sLayout, InspectArgs},
    format, output, source,
};
use crate::{
    backend::cpu::own_layout,
    error::{Error, Result},
    gguf::TensorType,
    inspect::{Report, inspect},
    model::{Config, DenseMatrix, Model, Rotation, TernaryMatrix, first_and_more},
    plan::{KvType, Sizes},
    probe::Packing,
};

#[derive(Serialize)]
struct Answer<'a> {
    file: &'a str,
    runs: bool,
    /// Why not.
    reason: Option<String>,
    /// How I2_S is read, and why so; null where there is none.
    i2s_layout: Option<Json>,
    /// Kinds of layers and the basis of the weights; null where all layers are attention and no weight is rotated.
    structure: Option<Structure>,
    /// Memory that the model takes to run; null where it cannot.
    memory: Option<Memory>,
    #[serde(flatten)]
    report: &'a Report,
}

/// Differences of a model from plain attention.
#[derive(Serialize)]
struct Structure {
    recurrent_layers: usize,
    attention_layers: usize,
    /// Blocks that predict further tokens ahead: the first makes drafts, where it can run.
    mtp_blocks: usize,
    rotation: Option<RotationFacts>,
}

/// The basis that weights are stored in.
#[derive(Serialize)]
struct RotationFacts {
    version: u32,
    block: usize,
    /// "explicit" or "identity".
    signs: &'static str,
    /// Projections in that basis, beside the embedding table.
    projections: usize,
    /// Whether the head is in that basis.
    head: bool,
}

impl Structure {
    fn of(config: &Config) -> Option<Self> {
        let recurrent_layers = (0..config.layers).filter(|&layer| config.is_recurrent(layer)).count();
        let rotation = config.rotation.as_ref().map(|rotation| RotationFacts {
            version: rotation_version(rotation),
            block: rotation.block,
            signs: if rotation.signs.is_some() { "explicit" } else { "identity" },
            projections: rotation.folded.iter().map(Vec::len).sum(),
            head: rotation.head,
        });
        let attention_layers = config.layers - recurrent_layers;
        let mtp_blocks = config.mtp_blocks;
        let is_plain = recurrent_layers == 0 && mtp_blocks == 0 && rotation.is_none();
        (!is_plain).then_some(Self { recurrent_layers, attention_layers, mtp_blocks, rotation })
    }
}

/// Bytes of a model that runs, by part.
#[derive(Serialize)]
struct Memory {
    ternary_bytes: u64,
    embedding_bytes: u64,
    /// 0 where the embedding table is the head.
    head_bytes: u64,
    /// Bytes of the KV cache for 1000 tokens in f16.
    cache_bytes_per_1000_tokens: u64,
    /// Bytes of a sequence's recurrent states, with its checkpoints; 0 without such layers.
    recurrent_bytes: u64,
    /// Bytes of the block of multi-token prediction; 0 without one that runs.
    mtp_bytes: u64,
    /// Bytes of the weights that lie in the file as the kernels read them, and are mapped; the others are copied.
    mapped_bytes: u64,
}

impl Memory {
    fn of(model: &Model) -> Self {
        let weights = &model.weights;
        let (k_type, v_type) = (KvType::F16, KvType::F16);
        let sizes = Sizes::new(1000, 1).with_kv(k_type, v_type);
        let recurrent_bytes = sizes.recurrent_bytes(&model.config, 0..model.config.layers);
        let table = |table: &DenseMatrix| table.data.len() as u64;
        let tables = [Some(&weights.token_embd), weights.output.as_ref()].into_iter().flatten();
        let matrices = weights.blocks.iter().flat_map(|block| block.linears().map(|(_, matrix)| matrix));
        let in_place = matrices.filter(|m| m.is_packed_as(own_layout(Isa::detect(), m))).map(TernaryMatrix::source);
        let mapped = in_place.chain(tables.map(|table| &table.data)).filter(|data| data.is_mapped());
        Self {
            ternary_bytes: weights.blocks.iter().map(|block| block.ternary_bytes() as u64).sum(),
            embedding_bytes: table(&weights.token_embd),
            head_bytes: weights.output.as_ref().map_or(0, table),
            cache_bytes_per_1000_tokens: sizes.model_state_bytes(&model.config) - recurrent_bytes,
            recurrent_bytes,
            mtp_bytes: weights.mtp.as_ref().map_or(0, |mtp| mtp.bytes() as u64),
            mapped_bytes: mapped.map(|data| data.len() as u64).sum(),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = match self.head_bytes {
            0 => "which is the head, too".to_owned(),
            head => format!("head {}", format::bytes(head)),
        };
        let recurrent = match self.recurrent_bytes {
            0 => String::new(),
            bytes => format!(", recurrent states with checkpoints {}", format::bytes(bytes)),
        };
        let mtp = match self.mtp_bytes {
            0 => String::new(),
            bytes => format!(", multi-token prediction {}", format::bytes(bytes)),
        };
        write!(
            f,
            "memory: ternary {}, embedding {}, {head}, cache {} for 1000 tokens{recurrent}{mtp}; {} of it mapped from the file",
            format::bytes(self.ternary_bytes),
            format::bytes(self.embedding_bytes),
            format::bytes(self.cache_bytes_per_1000_tokens),
            format::bytes(self.mapped_bytes)
        )
    }
}

pub fn run(args: &InspectArgs) -> Result<()> {
    let source = match &args.file {
        Some(path) => source::open_path(path, &args.model)?,
        None => source::open(&args.model)?,
    };
    // A vocabulary or an unknown architecture is worth a look, too: only --check makes it an error.
    let model = source.model();
    let is_given = args.model.layout.i2s_layout.and_then(I2sLayout::packing).is_some();
    let packing = source.packing().ok().cloned().map(|packing| match is_given {
        true => Packing { reason: "asked for with --i2s-layout".into(), ..packing },
        false => packing,
    });
    let packing = packing.as_ref().filter(|_| source.file().tensors().iter().any(|t| t.ty == TensorType::I2_S));
    let options = source.model_options().unwrap_or_default();
    let report = inspect(source.file(), args.check, &options);
    if args.json {
        let answer = Answer {
            file: source.name(),
            runs: model.is_ok(),
            reason: model.as_ref().err().map(ToString::to_string),
            i2s_layout: packing.map(|p| json!({"packing": p.packing.name(), "reason": p.reason})),
            structure: model.as_ref().ok().and_then(|model| Structure::of(&model.config)),
            memory: model.as_ref().ok().map(|model| Memory::of(model)),
            report: &report,
        };
        output::print_json(&answer)?;
    } else {
        let mut verdict = match &model {
            Ok(model) => format!("{}{}\n{}", describe(&model.config), mtp(model), Memory::of(model)),
            Err(reason) => format!("cannot run: {reason}"),
        };
        if let Some(Packing { packing, reason }) = packing {
            verdict += &format!("\nI2_S is read as {}: {reason}", packing.name());
        }
        output::print(&format!("{}\n{verdict}\n{report}", source.name().escape_debug()))?;
    }
    match model {
        Err(reason) if args.check => Err(reason),
        _ => match invalid_code(&report).or_else(|| zeros(&report)) {
            Some(error) => Err(error.in_file(source.name())),
            None => Ok(()),
        },
    }
}

/// Loading does not look at the codes of very large models; `--check` does.
fn invalid_code(report: &Report) -> Option<Error> {
    let damaged = report.tensors.iter().find(|tensor| tensor.codes.as_ref().is_some_and(|codes| codes.three > 0))?;
    Some(Error::malformed(format!("tensor {}", damaged.name), "codes 0, 1 and 2", "code 3"))
}

/// Matrices of zeros, which no trained model has. Codes are read with `--check` only.
fn zeros(report: &Report) -> Option<Error> {
    let zeros = report.tensors.iter().filter(|tensor| tensor.is_zero());
    let names: Vec<&str> = zeros.map(|tensor| tensor.name.as_str()).collect();
    first_and_more(&names).map(|thing| Error::malformed(thing, "weights", "nothing but zeros"))
}

fn describe(c: &Config) -> String {
    format!(
        "runs as {:?}: {}, width {}, feed-forward {} ({:?}), {} of {}, {}, vocabulary {}, context {}",
        c.family,
        format::count(c.layers, "layer"),
        c.dim,
        c.ffn_dim,
        c.activation,
        format::count(c.heads, "head"),
        c.head_dim,
        format::count(c.kv_heads, "key/value head"),
        c.vocab,
        c.context
    ) + &hybrid(c)
}

/// Version of the rotation's keys; the second one is for heads that are the embedding table.
fn rotation_version(rotation: &Rotation) -> u32 {
    if rotation.tied { 2 } else { 1 }
}

/// Recurrent layers and the rotation in words; empty where there are none.
fn hybrid(c: &Config) -> String {
    let mut text = String::new();
    if let Some(delta) = &c.delta {
        let count = delta.layers.iter().filter(|recurrent| **recurrent).count();
        text += &format!(
            ", {} a gated DeltaNet ({} of {} over {})",
            format::count(count, "layer"),
            format::count(delta.value_heads, "value head"),
            delta.head_dim,
            format::count(delta.key_heads, "key head"),
        );
    }
    if let Some(rotation) = &c.rotation {
        let signs = if rotation.signs.is_some() { "with signs" } else { "without signs" };
        let version = rotation_version(rotation);
        text += &format!(", weights rotated in blocks of {} {signs} (prism.hadamard {version})", rotation.block);
    }
    text
}

/// Blocks of multi-token prediction in words; empty where there are none.
fn mtp(model: &Model) -> String {
    let blocks = format::count(model.config.mtp_blocks, "block");
    match (model.config.mtp_blocks, &model.weights.mtp) {
        (0, _) => String::new(),
        (1, Some(_)) => format!(", {blocks} of multi-token prediction for drafts"),
        (_, Some(_)) => format!(", {blocks} of multi-token prediction, the first for drafts"),
        (_, None) => format!(", {blocks} of multi-token prediction left out"),
    }
}
