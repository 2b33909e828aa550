//! Report of a conversion.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::Serialize;

use super::outline::bytes;
use crate::{
    error::shown,
    gguf::{Metadata, TensorSpec},
    inspect::TypeCount,
};

/// Facts about a finished conversion. `Display` gives a few lines for a user.
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
    /// Ternary matrices converted; unless this was a dry run, each was read back and compared with the input.
    pub matrices: usize,
    /// Those of them that were rounded to ternary; the others were ternary already.
    pub rounded: usize,
    /// Bytes of the weight files read; 0 when the weights were made up.
    pub bytes_in: u64,
    /// Bytes of the file written.
    pub bytes_out: u64,
    /// Nothing was written: these are the sizes it would have.
    pub dry_run: bool,
    /// Choices and omissions the user should know.
    pub warnings: Vec<String>,
}

impl Report {
    pub(crate) fn new(output: PathBuf, metadata: &Metadata, specs: &[TensorSpec]) -> Self {
        let mut types = BTreeMap::<_, TypeCount>::new();
        for spec in specs {
            let count = types.entry(spec.ty.name()).or_default();
            count.tensors += 1;
            count.elements += spec.dims.iter().product::<u64>();
            count.bytes += bytes(spec);
        }
        let text = |key: &str| metadata.str(key).ok().flatten().unwrap_or_default().to_owned();
        Self {
            output,
            architecture: text("general.architecture"),
            name: text("general.name"),
            parameters: types.values().map(|count| count.elements).sum(),
            types,
            matrices: 0,
            rounded: 0,
            bytes_in: 0,
            bytes_out: 0,
            dry_run: false,
            warnings: Vec::new(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let name = if self.name.is_empty() { "no name" } else { &self.name };
        writeln!(f, "{}: {} ({})", self.output.display(), shown(&self.architecture), shown(name))?;
        for (ty, count) in &self.types {
            let TypeCount { tensors, elements, bytes } = count;
            writeln!(f, "  {ty:<5} {tensors:>5} tensors {elements:>14} elements {:>10.2} MB", mb(*bytes))?;
        }
        if self.matrices > 0 && !self.dry_run {
            let kept = self.matrices - self.rounded;
            writeln!(
                f,
                "  {} matrices rounded to ternary, {kept} ternary already; all read back and compared",
                self.rounded
            )?;
        }
        let verb = if self.dry_run { "would be written" } else { "written" };
        write!(f, "  {:.2} MB read, {:.2} MB {verb}", mb(self.bytes_in), mb(self.bytes_out))?;
        for warning in &self.warnings {
            write!(f, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}
