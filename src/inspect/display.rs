//! The report as text for a terminal. Text from the file is escaped: it may try to move the cursor.

use std::{collections::BTreeSet, fmt};

use serde_json::Value as Json;

use super::{Codes, Entry, Report, Scales, Tensor, Tokenizer, TypeCount};
use crate::error::shown;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arch = self.architecture.as_deref().map_or_else(|| "unknown".to_owned(), shown);
        write!(f, "GGUF version {}, {}, architecture {arch}", self.version, size(self.file_bytes))?;
        match &self.name {
            Some(name) => writeln!(f, ", name \"{}\"", shown(name))?,
            None => writeln!(f)?,
        }
        for part in &self.parts {
            writeln!(f, "part {}, {}, {} tensors", shown(&part.name), size(part.bytes), part.tensors)?;
        }
        match &self.tokenizer {
            Some(tokenizer) => writeln!(f, "{tokenizer}")?,
            None => writeln!(f, "tokenizer: none")?,
        }
        writeln!(f, "\nmetadata: {} keys", self.metadata.len())?;
        let widest = self.metadata.iter().map(|entry| entry.key.len()).max().unwrap_or(0).min(50);
        for entry in &self.metadata {
            writeln!(f, "  {entry:widest$}")?;
        }
        match self.tensors.len() {
            0 => writeln!(f, "\ntensors: none; a vocabulary-only file")?,
            count => writeln!(f, "\ntensors: {count}")?,
        }
        let widest = self.tensors.iter().map(|tensor| tensor.name.len()).max().unwrap_or(0);
        for tensor in &self.tensors {
            writeln!(f, "  {tensor:widest$}")?;
        }
        if !self.types.is_empty() {
            writeln!(f, "\nby type")?;
        }
        for (name, TypeCount { tensors, elements, bytes }) in &self.types {
            let bits = 8.0 * *bytes as f64 / *elements as f64;
            let plural = if *tensors == 1 { "" } else { "s" };
            writeln!(
                f,
                "  {name:9} {tensors} tensor{plural}, {elements} elements, {}, {bits:.2} bits each",
                size(*bytes)
            )?;
            let of_type = self.tensors.iter().filter(|tensor| tensor.type_name == *name);
            let reasons: BTreeSet<&str> = of_type.filter_map(|tensor| tensor.why.as_deref()).collect();
            for why in reasons {
                writeln!(f, "            {why}")?;
            }
        }
        if let Some(codes) = self.codes() {
            writeln!(f, "ternary weights: {codes}")?;
        }
        writeln!(f)?;
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        match (self.warnings.is_empty(), self.checked) {
            (true, true) => writeln!(f, "nothing odd found, all weights read"),
            (true, false) => writeln!(f, "nothing odd found; the weights were not read"),
            (false, _) => Ok(()),
        }
    }
}

impl fmt::Display for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |name: &Option<String>| name.as_deref().map_or_else(|| "not given".to_owned(), shown);
        let template = if self.chat_template { "yes" } else { "no" };
        write!(f, "tokenizer: {}, pre-tokenizer {}, ", named(&self.model), named(&self.pre))?;
        write!(f, "{} tokens, {} merges, chat template: {template}", self.tokens, self.merges)
    }
}

/// The width pads the key.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = f.width().unwrap_or(0);
        write!(f, "{:width$}  ", shown(&self.key))?;
        match (&self.value, self.length) {
            (Json::Array(listed), Some(length)) => {
                let elements: Vec<String> = listed.iter().map(element).collect();
                let more = if length > listed.len() { ", ..." } else { "" };
                write!(f, "[{}{more}] ({}, {length} elements)", elements.join(", "), self.type_name)
            }
            (value, _) => write!(f, "{} ({})", element(value), self.type_name),
        }
    }
}

fn element(value: &Json) -> String {
    match value {
        Json::String(text) => format!("\"{}\"", shown(text)),
        other => other.to_string(),
    }
}

/// The width pads the name.
impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = f.width().unwrap_or(0);
        write!(
            f,
            "{:width$}  {:9} {:16} {:>10}",
            shown(&self.name),
            self.type_name,
            format!("{:?}", self.dims),
            size(self.bytes)
        )?;
        if let Some(scale) = self.scale {
            write!(f, "  scale {scale}")?;
        }
        if let Some(Scales { group, least, greatest, .. }) = &self.scales {
            write!(f, "  scales {least} to {greatest}, each for {group}")?;
        }
        if let Some(codes) = &self.codes {
            write!(f, "  {codes}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |count: u64| 100.0 * count as f64 / self.total().max(1) as f64;
        let [minus, zero, plus] = [self.minus_one, self.zero, self.plus_one].map(percent);
        write!(f, "-1 {minus:.1} %, 0 {zero:.1} %, +1 {plus:.1} %")?;
        if self.three > 0 { write!(f, ", code 3: {} times", self.three) } else { Ok(()) }
    }
}

/// Bytes in the largest unit that gives at least 1.
fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{:.2} {unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_given_in_the_unit_that_fits() {
        let shown = [0, 1023, 1024, 1 << 20, 1_187_801_280].map(size);
        assert_eq!(shown, ["0 bytes", "1023 bytes", "1.00 KiB", "1.00 MiB", "1.11 GiB"]);
    }
}
