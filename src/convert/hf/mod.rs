//! A Hugging Face directory as a source: `config.json`, `model.safetensors` or its shards, and the tokenizer's files
//! where there are any.

mod affine;
mod checkpoint;
pub(crate) mod config;
mod dense;
mod grouped;
pub(crate) mod json;
mod layout;
mod names;
mod order;
mod pooling;
mod rope;
mod safetensors;
mod sampling;
mod sentencepiece;
mod ternary;
mod tokens;

use std::{ops::Range, path::Path};

use self::safetensors::Tensor;
use ::safetensors::Dtype;
use bitnet_cpu_kernels::format::{Layout, MatrixScales, ScaleKind, pack_row, ternary_bytes};
use checkpoint::Checkpoint;
use config::SourceConfig;
use layout::{Content, Item};
use ternary::Origin;

use super::{
    ConvertOptions, Head, TernaryType, metadata,
    source::{Description, Input, Kind, Matrix, Source},
};
use crate::{
    bytes::Bytes,
    error::{Error, Result},
    generate::Pooling,
    gguf::{Array, TensorType, Value},
    model::{Config, Family, InputNorms, Norm},
};

/// The files of a directory, opened.
pub(super) struct Directory {
    checkpoint: Checkpoint,
    config: SourceConfig,
    ternarise: bool,
}

impl Directory {
    /// Opens what there is.
    pub fn open(src: &Path, options: &ConvertOptions) -> Result<Self> {
        let config_path = src.join("config.json");
        let json = json::read_json(&config_path)?
            .ok_or_else(|| Error::missing(config_path.display().to_string(), "the model's architecture"))?;
        let mut config = config::read_config(&json).map_err(|e| e.in_file(config_path.display().to_string()))?;
        if let Some(name) = options.name {
            config.model.name = name.to_owned();
        }
        let in_source = |e: Error| e.in_file(src.display().to_string());
        let checkpoint = Checkpoint::open(src).map_err(in_source)?;
        let input_norm = &names::norm(0, Norm::QIn, config.model.family)[0];
        if config.model.family == Family::Qwen3
            && config.model.input_norms.is_none()
            && checkpoint.get(input_norm).is_some()
        {
            config.model.input_norms = Some(InputNorms { eps: config.model.rms_eps, embedder: true });
            config.masters_are_ternary = true;
        }
        Ok(Self { checkpoint, config, ternarise: options.ternarise })
    }

    /// Finds every tensor the model needs.
    pub fn source(&self, src: &Path) -> Result<(HfSource<'_>, Description)> {
        let Self { checkpoint, config, .. } = self;
        let (items, mut warnings) = layout::layout(config, checkpoint)?;
        let mut metadata = metadata::describe(&config.model);
        if let Some(sections) = config.rope_sections {
            let key = format!("{}.rope.dimension_sections", config.model.arch);
            metadata.set(key, Value::Array(Array::I32(sections.to_vec())));
        }
        let tokens = tokens::read(src, config.model.vocab)?;
        for (key, value) in tokens.pairs {
            metadata.set(key, value);
        }
        warnings.extend(tokens.warnings);
        let mut more_files = Vec::new();
        for (key, value) in sampling::read(src, &mut more_files)? {
            metadata.set(key, value);
        }
        if pooling::is_embedder(&config.model) || pooling::is_there(src) {
            let pooling = pooling::read(src, &mut more_files, &mut warnings)?;
            pooling::prompts(src, &mut more_files, &mut metadata)?;
            metadata.set(Pooling::OWN_KEY, Value::U32(pooling));
            metadata.set(format!("{}.pooling_type", config.model.arch), Value::U32(pooling));
            pooling::end_texts(&config.model, &mut metadata)?;
        }
        if let Some(window) = config.window {
            warnings.push(format!(
                "layers were trained to look back {window} tokens and look at all here: longer texts may differ"
            ));
        }
        // What is written has to be what this program runs; its own checks know the limits.
        Config::from_metadata(&metadata, config.model.vocab)?;

        let mut files = checkpoint.files.clone();
        files.push(src.join("config.json"));
        files.extend(tokens.files);
        files.extend(more_files);
        let groups = grouped::of(&items)?;
        let group = groups.size;
        if groups.are_cut {
            warnings.push(
                "MLX has cut one end of its weights; they are taken as the ternary ones they were made of".to_owned(),
            );
        }
        let inputs = items.iter().map(|item| input(item, group)).collect();
        let description = Description {
            metadata,
            inputs,
            default_type: default_type(group),
            default_head: Head::F16,
            files,
            bytes: checkpoint.bytes,
            warnings,
        };
        Ok((HfSource { directory: self, items, group }, description))
    }
}

/// The type that holds matrices of such groups as they are.
fn default_type(group: Option<usize>) -> TernaryType {
    match group {
        None => TernaryType::I2S,
        Some(128) => TernaryType::PQ2_0,
        Some(_) => TernaryType::Q2_0,
    }
}

fn real_type(tensor: &Tensor) -> TensorType {
    match tensor.dtype {
        Dtype::F16 => TensorType::F16,
        Dtype::BF16 => TensorType::BF16,
        _ => TensorType::F32,
    }
}

fn input(item: &Item, group: Option<usize>) -> Input {
    let (origin, kind) = match &item.content {
        Content::Table(tensor) => (&tensor.name, Kind::Table(real_type(tensor))),
        Content::TernaryTable(matrix) => (&matrix.tensor.name, Kind::Table(matrix.table_type())),
        Content::AffineTable(table, ty) => (&table.weight.name, Kind::Table(ty.unwrap_or(TensorType::F16))),
        Content::Rows(tensor, _) => (&tensor.name, Kind::Other(real_type(tensor))),
        Content::Norm { weight, .. } => (&weight.name, Kind::Other(TensorType::F32)),
        Content::Computed(_) => (&item.name, Kind::Other(TensorType::F32)),
        Content::Projection(projection) => {
            let scales = group.map_or(ScaleKind::PerTensor, ScaleKind::PerGroup);
            (&projection.weight.name, Kind::Ternary { scales, factor: false })
        }
    };
    Input { name: item.name.clone(), origin: origin.clone(), sizes: item.sizes.clone(), kind }
}

/// The tensors of a directory. Places are those of [`Description::inputs`].
pub(super) struct HfSource<'a> {
    directory: &'a Directory,
    items: Vec<Item<'a>>,
    /// Columns that share a scale.
    group: Option<usize>,
}

impl Source for HfSource<'_> {
    fn ternary(&self, at: usize) -> Result<Matrix> {
        let Content::Projection(projection) = &self.items[at].content else {
            unreachable!("the kind of the input says that it is a projection");
        };
        if let Some(size) = self.group {
            let (codes, scales) = grouped::read(projection, size)?;
            return Ok(Matrix { codes, scales, factor: None, rounded: false, warning: None });
        }
        let config = &self.directory.config;
        let matrix = projection.open(config, config.masters_are_ternary || self.directory.ternarise)?;
        let warning = matrix
            .scale_is_odd()
            .then(|| format!("tensor {} has the unusual scale {}", projection.weight.name, matrix.scale));
        let (rows, cols) = (projection.rows, projection.cols);
        let row_bytes = ternary_bytes(Layout::I2sP128, 1, cols);
        let mut packed = vec![0; rows * row_bytes];
        let (mut values, mut codes, mut scratch) = (vec![0.0; cols], vec![0; cols], vec![0; cols]);
        for (row, packed) in packed.chunks_exact_mut(row_bytes).enumerate() {
            matrix.row(projection.row_order.source(row), &mut values, &mut codes)?;
            projection.col_order.apply(&mut codes, &mut scratch);
            pack_row(&codes, packed);
        }
        Ok(Matrix {
            codes: packed,
            scales: MatrixScales::PerTensor(matrix.scale),
            factor: None,
            rounded: matches!(matrix.origin, Origin::Rounded { .. }),
            warning,
        })
    }

    fn rows(&self, at: usize, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        match &self.items[at].content {
            Content::Table(tensor) => dense::read(tensor, rows.start * self.items[at].sizes[1], out),
            Content::TernaryTable(matrix) => matrix.values(rows, out)?,
            Content::AffineTable(table, ty) => {
                for (row, out) in rows.zip(out.chunks_exact_mut(table.cols)) {
                    match ty {
                        Some(_) => drop(table.affine().ternary_row(row, out)?),
                        None => table.affine().row(row, out),
                    }
                }
            }
            _ => unreachable!("the kind of the input says that it is a table"),
        }
        Ok(())
    }

    fn bytes(&self, at: usize) -> Result<Bytes> {
        let floats = |values: &[f32]| Bytes::from(values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
        match &self.items[at].content {
            Content::Table(tensor) => {
                dense::check_finite(tensor)?;
                Ok(tensor.data.clone())
            }
            Content::TernaryTable(matrix) => matrix.table().map(Bytes::from),
            Content::AffineTable(table, Some(ty)) => grouped::table(table, *ty).map(Bytes::from),
            Content::AffineTable(table, None) => table.affine().short().map(Bytes::from),
            Content::Norm { weight, offset } => {
                let mut values = dense::floats(weight)?;
                values.iter_mut().for_each(|value| *value += offset);
                Ok(floats(&values))
            }
            Content::Computed(values) => Ok(floats(values)),
            Content::Rows(tensor, order) => {
                dense::check_finite(tensor)?;
                let rows = tensor.shape[0];
                let row =
                    |row| &tensor.data[order.source(row) * tensor.data.len() / rows..][..tensor.data.len() / rows];
                Ok(Bytes::from((0..rows).flat_map(row).copied().collect::<Vec<u8>>()))
            }
            Content::Projection(_) => unreachable!("projections are not kept as they are"),
        }
    }
}
