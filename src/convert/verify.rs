//! The written file, opened as any reader would: every matrix is decoded and compared with the input, to the bit.

use super::{
    fit::fit,
    outline::{Content, Outline, Output, bytes},
    remember::Remembering,
    source::{Description, Source},
    target::Target,
    write::Meter,
};
use crate::{
    error::{Error, Result},
    gguf::File,
    model::dialect::{Dialects, blame, decode},
};

/// Compares codes, scales and factors of all ternary matrices, and the bytes of what was kept. Gives the number of
/// matrices.
///
/// # Errors
/// Names the first tensor that differs.
pub(super) fn verify(
    target: &Target,
    outline: &Outline,
    description: &Description,
    source: &Remembering<'_>,
    meter: &mut Meter,
) -> Result<usize> {
    let file = target.reopen()?;
    // What the file says must be enough to read it.
    let dialects = Dialects::of(file.metadata(), &Default::default())?;
    let mut factor = None;
    let mut matrices = 0;
    for output in &outline.outputs {
        let name = &output.spec.name;
        let info = file.tensor(name).ok_or_else(|| differs(name, "no tensor"))?;
        let data = file.data(info);
        match &output.content {
            Content::Ternary(_) => {
                factor = matrix(&file, &dialects, output, description, source, meter)?;
                matrices += 1;
            }
            Content::Factor => {
                let written = f32::from_le_bytes(data[..].try_into().map_err(|_| differs(name, "another size"))?);
                if factor.take().map(f32::to_bits) != Some(written.to_bits()) {
                    return Err(differs(name, "another factor"));
                }
            }
            Content::Copy => {
                if data[..] != source.bytes(output.input)?[..] {
                    return Err(differs(name, "other bytes"));
                }
            }
            Content::Table(_) => continue,
        }
        meter.advance(name, bytes(&output.spec))?;
    }
    Ok(matrices)
}

/// Compares a matrix; gives the factor that must stand beside it.
fn matrix(
    file: &File,
    dialects: &Dialects,
    output: &Output,
    description: &Description,
    source: &Remembering<'_>,
    meter: &Meter,
) -> Result<Option<f32>> {
    let name = &output.spec.name;
    let info = file.tensor(name).ok_or_else(|| differs(name, "no tensor"))?;
    let codec = dialects.codec(info)?.ok_or_else(|| differs(name, "a type that is not ternary"))?;
    let data = file.data(info);
    let blame = |e| blame(name, codec.cols(), e);
    let input = source.take(output.input)?;
    let origin = &description.inputs[output.input].origin;
    let (scales, factor) = fit(origin, &input, &codec, meter.options.lossy)?;
    if codec.scales(&data).map_err(blame)? != scales {
        return Err(differs(name, "other scales"));
    }
    if decode(&codec, &data).map_err(blame)? != input.codes {
        return Err(differs(name, "other codes"));
    }
    Ok(factor)
}

fn differs(name: &str, found: &str) -> Error {
    Error::malformed(format!("tensor {name} of the written file, which is not kept"), "what the input has", found)
}

#[cfg(test)]
mod tests {
    use std::{
        ops::Range,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use bitnet_cpu_kernels::format::{Layout, MatrixScales, ScaleKind, pack};

    use super::*;
    use crate::{
        bytes::Bytes,
        convert::{
            ConvertOptions, Head, TernaryType, run,
            source::{Input, Kind, Matrix},
        },
        gguf::{Metadata, TensorType},
    };

    /// Change in a source from the first reading to the second.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Change {
        Nothing,
        Code,
        Scale,
        Bytes,
    }

    struct Changing {
        change: Change,
        matrices: AtomicUsize,
        copies: AtomicUsize,
    }

    impl Source for Changing {
        fn ternary(&self, _at: usize) -> Result<Matrix> {
            let again = self.matrices.fetch_add(1, Ordering::Relaxed) > 0;
            let mut codes = vec![0; 2 * 256];
            codes[300] = u8::from(again && self.change == Change::Code);
            let scale = if again && self.change == Change::Scale { 0.75 } else { 0.5 };
            Ok(Matrix {
                codes: pack(Layout::I2sP128, 2, 256, &codes),
                scales: MatrixScales::PerTensor(scale),
                factor: None,
                rounded: false,
                warning: None,
            })
        }

        fn rows(&self, _at: usize, _rows: Range<usize>, _out: &mut [f32]) -> Result<()> {
            unreachable!("there is no table")
        }

        fn bytes(&self, _at: usize) -> Result<Bytes> {
            let again = self.copies.fetch_add(1, Ordering::Relaxed) > 0;
            Ok(Bytes::from(vec![u8::from(again && self.change == Change::Bytes); 8]))
        }
    }

    #[test]
    fn a_file_that_differs_from_the_input_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.gguf");
        let attempt = |change, ty| {
            let source = Changing { change, matrices: AtomicUsize::new(0), copies: AtomicUsize::new(0) };
            let input = |name: &str, sizes: &[usize], kind| Input {
                name: name.into(),
                origin: name.into(),
                sizes: sizes.into(),
                kind,
            };
            let matrix = Kind::Ternary { scales: ScaleKind::PerTensor, factor: false };
            let description = Description {
                metadata: Metadata::default(),
                inputs: vec![
                    input("a.weight", &[2, 256], matrix),
                    input("b.weight", &[2], Kind::Other(TensorType::F32)),
                ],
                default_type: TernaryType::default(),
                default_head: Head::Keep,
                files: Vec::new(),
                bytes: 0,
                warnings: Vec::new(),
            };
            let options = ConvertOptions { ty: Some(ty), force: true, ..Default::default() };
            run(&source, description, &out, &options, |e| e, 0).map(drop).map_err(|e| e.to_string())
        };
        for (change, ty, expected) in [
            (
                Change::Code,
                TernaryType::I2S,
                "tensor a.weight of the written file, which is not kept: expected what the input has, found other codes",
            ),
            (Change::Code, TernaryType::TQ1_0, "found other codes"),
            (
                Change::Scale,
                TernaryType::I2S,
                "tensor a.weight of the written file, which is not kept: expected what the input has, found other scales",
            ),
            (
                Change::Scale,
                TernaryType::TQ1_0,
                "tensor a.scale of the written file, which is not kept: expected what the input has, found another factor",
            ),
            (
                Change::Bytes,
                TernaryType::I2S,
                "tensor b.weight of the written file, which is not kept: expected what the input has, found other bytes",
            ),
        ] {
            let error = attempt(change, ty).unwrap_err();
            assert!(error.contains(expected), "{change:?}: {error}");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{change:?}");
        }
        attempt(Change::Nothing, TernaryType::I2S).unwrap();
        attempt(Change::Nothing, TernaryType::TQ1_0).unwrap();
    }
}
