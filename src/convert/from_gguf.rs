//! A GGUF file as a source.

use std::{
    collections::HashSet,
    ops::Range,
    path::{Path, PathBuf},
};

use bitnet_cpu_kernels::format::{
    Codec, DenseType, FormatError, Layout, MatrixScales, ScaleKind, dense::decode_row, ternary_bytes, unpack,
};

use super::{
    ConvertOptions, Head, TernaryType,
    source::{Description, Input, Kind, Matrix, Source},
};
use crate::{
    bytes::Bytes,
    error::{Error, Result},
    gguf::{File, TensorInfo, TensorType, Value},
    model::{
        Linear, TernaryCodes, TernaryMatrix, TernaryScales, dense_type,
        dialect::{Dialects, ROW_STEP, blame, decode},
        names, of_real_bytes, real_type, table_as_f16, zero_warning,
    },
};

/// An open file. Places are those of [`Description::inputs`].
pub(super) struct GgufSource {
    file: File,
    tensors: Vec<Tensor>,
}

struct Tensor {
    info: TensorInfo,
    /// Codec of a ternary tensor.
    codec: Option<Codec>,
    /// The type of real numbers that are ternary.
    reals: Option<DenseType>,
    factor: Option<f32>,
}

impl GgufSource {
    /// Opens a file. Without a type that is asked for, its ternary matrices are kept as they are.
    ///
    /// # Errors
    /// If it is not one, has no ternary matrix to convert, or does not say how one is to be read.
    pub fn open(path: &Path, options: &ConvertOptions) -> Result<(Self, Description)> {
        let file = File::open(path)?;
        Self::of(file, path, options).map_err(|e| e.in_file(path.display().to_string()))
    }

    fn of(file: File, path: &Path, options: &ConvertOptions) -> Result<(Self, Description)> {
        let dialects = Dialects::of(file.metadata(), &options.open)?;
        let is_table = |name: &str| name == names::TOKEN_EMBD || name == names::OUTPUT;
        // Without a type that is asked for, real numbers become ternary only where they are.
        let first = file.tensors().iter().find_map(|info| Some((info, reals_type(info)?)));
        let of_reals = match first {
            Some((info, ty)) if options.ty.is_none() => scales_of_reals(&file, info, ty).ok(),
            _ => None,
        };
        let default_type = match &of_reals {
            Some(MatrixScales::PerGroup { size: 64, .. }) => TernaryType::Q2_0,
            Some(MatrixScales::PerGroup { .. } | MatrixScales::PerRow(_)) => TernaryType::PQ2_0,
            _ => TernaryType::default(),
        };
        let mut tensors = Vec::new();
        let mut inputs = Vec::new();
        // Factors are written anew, behind their matrices.
        let mut factors = HashSet::new();
        let mut zeros = Vec::new();
        for info in file.tensors() {
            let codec = dialects.codec(info)?;
            // A ternary table goes with the matrices, where its type can be read and no other one is asked for.
            let table_goes = |codec: Option<Codec>| {
                options.head.is_none()
                    && options.ty.is_some_and(|ty| ty.is_for_tables())
                    && codec.is_some_and(|codec| matches!(codec.scale_kind(), ScaleKind::PerGroup(_)))
            };
            let convert = options.ty.is_some() && (!is_table(&info.name) || table_goes(codec));
            let reals = reals_type(info).filter(|_| options.ty.is_some() || of_reals.is_some());
            let of_codec = codec.filter(|_| convert).map(|codec| codec.scale_kind());
            let scales = match reals {
                Some(ty) => Some(kind_of(&scales_of_reals(&file, info, ty)?)),
                None => of_codec,
            };
            let (kind, factor) = match scales {
                Some(scales) => {
                    let factor = names::scale_of(&info.name).and_then(|name| file.tensor(&name));
                    factors.extend(factor.map(|info| info.name.as_str()));
                    let factor = factor.map(|info| factor_of(&file, info)).transpose()?;
                    (Kind::Ternary { scales, factor: factor.is_some() }, factor)
                }
                None if is_table(&info.name) => (Kind::Table(info.ty), None),
                None => (Kind::Other(info.ty), None),
            };
            // Matrices that are converted are looked at on the way.
            if let (Some(codec), Kind::Other(_)) = (codec, &kind)
                && is_zero(codec, file.data(info))
            {
                zeros.push(info.name.clone());
            }
            let sizes = info.dims.iter().rev().map(|&size| size as usize).collect();
            inputs.push(Input { name: info.name.clone(), origin: info.name.clone(), sizes, kind });
            tensors.push(Tensor { info: info.clone(), codec, reals, factor });
        }
        if options.ty.is_some() && !inputs.iter().any(|input| matches!(input.kind, Kind::Ternary { .. })) {
            let reason =
                "it has no ternary matrix; a model of real numbers is converted from its Hugging Face directory";
            return Err(Error::unsupported("this file", reason));
        }
        tensors.retain(|tensor| !factors.contains(tensor.info.name.as_str()));
        inputs.retain(|input| !factors.contains(input.name.as_str()));

        let mut warnings = file.warnings().to_vec();
        warnings.extend(zero_warning(&zeros));
        let mut metadata = file.metadata().clone();
        if let Some(name) = options.name {
            metadata.set("general.name", Value::String(name.to_owned()));
        }
        let files = match file.parts() {
            [] => vec![PathBuf::from(path)],
            parts => parts.iter().map(|part| part.path.clone()).collect(),
        };
        let description = Description {
            metadata,
            inputs,
            default_type,
            default_head: Head::Keep,
            files,
            bytes: file.len_bytes(),
            warnings,
        };
        Ok((Self { file, tensors }, description))
    }
}

/// Whether a matrix that is kept as it is has nothing but zeros; one that cannot be read is left to those who run it.
fn is_zero(codec: Codec, data: Bytes) -> bool {
    let Ok(scales) = codec.scales(&data) else { return false };
    let (rows, cols) = (codec.rows(), codec.cols());
    let codes = TernaryCodes::Encoded { codec, data };
    TernaryMatrix { rows, cols, codes, scales: TernaryScales::Given(scales) }.is_zero().unwrap_or(false)
}

/// The type of a projection of real numbers; `None` for other tensors.
fn reals_type(info: &TensorInfo) -> Option<DenseType> {
    let of_block = info.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).map(|(_, name)| name);
    let is = |role: &Linear| names::linear(0, *role).strip_prefix("blk.0.") == of_block;
    let is_projection = info.dims.len() == 2 && of_block.is_some() && Linear::ALL.iter().any(is);
    real_type(info.ty).filter(|_| is_projection)
}

/// Codes and scales of real numbers that are ternary.
fn reals(file: &File, info: &TensorInfo, ty: DenseType) -> Result<(Vec<u8>, MatrixScales)> {
    let (cols, rows) = (info.dims[0] as usize, info.dims[1] as usize);
    of_real_bytes(ty, (rows, cols), &file.data(info)).map_err(|odd| {
        let reason = format!("its values are not ternary: {} in row {}, column {}", odd.value, odd.row, odd.col);
        Error::unsupported(format!("tensor {} of type {}", info.name, info.ty.name()), reason)
    })
}

fn scales_of_reals(file: &File, info: &TensorInfo, ty: DenseType) -> Result<MatrixScales> {
    reals(file, info, ty).map(|(_, scales)| scales)
}

fn kind_of(scales: &MatrixScales) -> ScaleKind {
    match scales {
        MatrixScales::PerTensor(_) => ScaleKind::PerTensor,
        MatrixScales::PerRow(_) => ScaleKind::PerRow,
        MatrixScales::PerGroup { size, .. } => ScaleKind::PerGroup(*size),
    }
}

fn factor_of(file: &File, info: &TensorInfo) -> Result<f32> {
    let data = file.data(info);
    let value = match data[..].try_into().map(f32::from_le_bytes) {
        Ok(value) if info.ty == TensorType::F32 => value,
        _ => {
            let found = format!("{:?} of {}", info.dims, info.ty.name());
            return Err(Error::malformed(format!("tensor {}", info.name), "one F32 number", found));
        }
    };
    if value.is_normal() && value > 0.0 {
        return Ok(value);
    }
    Err(Error::malformed(format!("tensor {}", info.name), "a finite number above 0", value))
}

impl Source for GgufSource {
    fn ternary(&self, at: usize) -> Result<Matrix> {
        let Tensor { info, codec, reals: of_reals, factor } = &self.tensors[at];
        if let Some(ty) = of_reals {
            let (codes, scales) = reals(&self.file, info, *ty)?;
            return Ok(Matrix { codes, scales, factor: *factor, rounded: false, warning: None });
        }
        let codec = codec.as_ref().expect("the kind of the input says that it is ternary");
        let data = self.file.data(info);
        let blame = |e| blame(&info.name, codec.cols(), e);
        let scales = codec.scales(&data).map_err(blame)?;
        if let MatrixScales::PerTensor(scale) = scales
            && !(scale.is_normal() && scale > 0.0)
        {
            return Err(Error::malformed(format!("scale of tensor {}", info.name), "a finite number above 0", scale));
        }
        let codes = decode(codec, &data).map_err(blame)?;
        Ok(Matrix { codes, scales, factor: *factor, rounded: false, warning: None })
    }

    fn rows(&self, at: usize, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let Tensor { info, codec, .. } = &self.tensors[at];
        let data = self.file.data(info);
        let cols = info.dims[0] as usize;
        match (codec, dense_type(info.ty)) {
            (Some(codec), _) => ternary_rows(codec, &data, rows, out).map_err(|e| blame(&info.name, cols, e)),
            (None, Some(ty)) => {
                dense_rows(ty, &data, cols, rows, out);
                Ok(())
            }
            (None, None) => {
                let row_bytes = data.len() / info.dims[1].max(1) as usize;
                if let Some(halves) = table_as_f16(info.ty, &data[rows.start * row_bytes..rows.end * row_bytes]) {
                    dense_rows(DenseType::F16, &halves, cols, 0..rows.len(), out);
                    return Ok(());
                }
                let reason = "its numbers are not read, so it can only be kept";
                Err(Error::unsupported(format!("tensor {} of type {}", info.name, info.ty.name()), reason))
            }
        }
    }

    fn bytes(&self, at: usize) -> Result<Bytes> {
        Ok(self.file.data(&self.tensors[at].info))
    }
}

fn dense_rows(ty: DenseType, data: &[u8], cols: usize, rows: Range<usize>, out: &mut [f32]) {
    let row_bytes = ty.row_bytes(cols);
    let data = &data[rows.start * row_bytes..rows.end * row_bytes];
    for (row, out) in data.chunks_exact(row_bytes).zip(out.chunks_exact_mut(cols)) {
        decode_row(ty, row, out);
    }
}

/// Rows of a ternary table as numbers: scale * (code - 1).
fn ternary_rows(codec: &Codec, data: &[u8], rows: Range<usize>, out: &mut [f32]) -> Result<(), FormatError> {
    let cols = codec.cols();
    debug_assert!(rows.start.is_multiple_of(ROW_STEP));
    let mut packed = vec![0; ternary_bytes(Layout::I2sP128, rows.len(), cols)];
    codec.decode_rows(data, rows.clone(), &mut packed)?;
    let codes = unpack(Layout::I2sP128, rows.len(), cols, &packed);
    let scales = codec.scales(data)?;
    for (at, (value, code)) in out.iter_mut().zip(codes).enumerate() {
        let (row, col) = (rows.start + at / cols, at % cols);
        let scale = match &scales {
            MatrixScales::PerTensor(scale) => *scale,
            MatrixScales::PerRow(values) => values[row],
            MatrixScales::PerGroup { size, values } => values[row * (cols / size) + col / size].to_f32(),
        };
        *value = scale * (f32::from(code) - 1.0);
    }
    Ok(())
}
