//! What a conversion did.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::Serialize;

use super::layout::bytes;
use crate::{
    gguf::{TensorSpec, TensorType},
    inspect::TypeCount,
    model::Config,
};

/// What a conversion wrote. `Display` gives a few lines for a user.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The file written.
    pub output: PathBuf,
    /// `general.architecture` of it.
    pub architecture: String,
    /// `general.name` of it; may be empty.
    pub name: String,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Tensors by GGUF type.
    pub types: BTreeMap<&'static str, TypeCount>,
    /// Projections rounded to ternary; the others were ternary or packed already.
    pub rounded: usize,
    /// Bytes of the weight files read; 0 when the weights were made up.
    pub bytes_in: u64,
    /// Bytes of the file written.
    pub bytes_out: u64,
    /// Choices and omissions the user should know.
    pub warnings: Vec<String>,
}

impl Report {
    pub(crate) fn new<'a>(output: PathBuf, model: &Config, specs: impl Iterator<Item = &'a TensorSpec>) -> Self {
        let mut types = BTreeMap::<_, TypeCount>::new();
        for spec in specs {
            let count = types.entry(spec.ty.name()).or_default();
            count.tensors += 1;
            count.elements += spec.dims.iter().product::<u64>();
            count.bytes += bytes(spec);
        }
        Self {
            output,
            architecture: model.arch.clone(),
            name: model.name.clone(),
            parameters: types.values().map(|count| count.elements).sum(),
            types,
            rounded: 0,
            bytes_in: 0,
            bytes_out: 0,
            warnings: Vec::new(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let name = if self.name.is_empty() { "no name" } else { &self.name };
        writeln!(f, "{}: {} ({name})", self.output.display(), self.architecture)?;
        for (ty, count) in &self.types {
            let TypeCount { tensors, elements, bytes } = count;
            writeln!(f, "  {ty:<5} {tensors:>5} tensors {elements:>14} elements {:>10.2} MB", mb(*bytes))?;
        }
        if self.bytes_in > 0
            && let Some(ternary) = self.types.get(TensorType::I2_S.name())
        {
            let kept = ternary.tensors - self.rounded;
            writeln!(f, "  {} matrices rounded to ternary, {kept} ternary already", self.rounded)?;
        }
        write!(f, "  {:.2} MB read, {:.2} MB written", mb(self.bytes_in), mb(self.bytes_out))?;
        for warning in &self.warnings {
            write!(f, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}
