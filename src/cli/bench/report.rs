//! The rows as Markdown, JSON, JSON lines or CSV, with llama-bench's names where it has one.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{
    super::{
        agreement::Agreement,
        args::BenchFormat,
        chart::{Bar, Chart},
        format::{self, Spread},
        output,
    },
    Kind, Row, Test,
    table::Table,
};
use crate::{
    engine::ModelFile,
    error::Result,
    model::{Linear, Model},
};

/// Facts about the model that llama-bench prints.
pub struct ModelFacts {
    name: String,
    size_bytes: u64,
    parameters: u64,
    vocabulary: usize,
}

impl ModelFacts {
    pub fn new(source: &ModelFile, model: &Model) -> Self {
        let tensors = source.file().tensors();
        let ty = tensors.iter().find(|info| info.name == crate::model::names::linear(0, Linear::Q));
        let kind = ty.map_or("", |info| info.ty.name());
        let label = if model.config.name.is_empty() { &model.config.arch } else { &model.config.name };
        Self {
            name: format!("{label} {kind}"),
            size_bytes: tensors.iter().map(|info| info.len_bytes).sum(),
            parameters: tensors.iter().map(|info| info.elements()).sum(),
            vocabulary: model.config.vocab,
        }
    }

    /// Name and type of the weights.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The fields with which every row begins.
    pub fn to_json(&self) -> Json {
        json!({
            "build_version": env!("CARGO_PKG_VERSION"),
            "model_type": self.name,
            "model_size": self.size_bytes,
            "model_n_params": self.parameters,
        })
    }
}

/// The rows so far, written as they come.
pub struct Report {
    table: Table,
    format: BenchFormat,
    model: ModelFacts,
    rows: Vec<Row>,
}

impl Report {
    pub fn new(format: BenchFormat, model: ModelFacts) -> Self {
        let heading =
            ["model", "size", "params", "backend", "threads", "test", "t/s", "ms/token p50 p95 p99", "of ceiling"];
        Self { table: Table::new(format, &heading), format, model, rows: Vec::new() }
    }

    pub fn model(&self) -> &ModelFacts {
        &self.model
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Writes a row.
    pub fn add(&mut self, row: Row) -> Result<()> {
        self.table.add(&cells(&self.model, &row), &to_json(&self.model, &row))?;
        self.rows.push(row);
        Ok(())
    }

    /// Writes what is said of all rows.
    pub fn end(&mut self) -> Result<()> {
        self.table.end()?;
        match self.format {
            BenchFormat::Md => output::print(&remarks(&self.model, &self.rows)),
            _ => Ok(()),
        }
    }
}

fn cells(model: &ModelFacts, row: &Row) -> Vec<String> {
    let Spread { mean, deviation } = rates(row);
    let quantiles = [0.5, 0.95, 0.99].map(|q| quantile_ms(row, q));
    let latency = match quantiles {
        [Some(p50), Some(p95), Some(p99)] => format!("{p50:.2} {p95:.2} {p99:.2}"),
        _ => "-".into(),
    };
    vec![
        model.name.clone(),
        format::bytes(model.size_bytes),
        parameters(model.parameters),
        row.device.clone(),
        row.threads.map_or_else(|| "-".into(), |threads| threads.to_string()),
        row.test.name(),
        format!("{mean:.2} ± {deviation:.2}"),
        latency,
        share(row).map_or_else(|| "-".into(), |(share, of)| share_text(share, &of)),
    ]
}

/// A share of a ceiling; one that cannot be says that something else was at work while either was measured.
fn share_text(share: f64, of: &str) -> String {
    const POSSIBLE: f64 = 1.05;
    let disturbed = if share > POSSIBLE { " (disturbed)" } else { "" };
    format!("{:.0} % of {of}{disturbed}", share * 100.0)
}

/// Lines behind the table of Markdown.
fn remarks(model: &ModelFacts, rows: &[Row]) -> String {
    let mut text: String = rows.iter().filter_map(ternary_line).collect();
    text.extend(rows.iter().filter_map(|row| head_line(model, row)));
    for row in rows {
        text += &row.gpu.as_ref().map(|gpu| gpu.to_text(&row.test.name())).unwrap_or_default();
    }
    let mut compared: Vec<&str> = Vec::new();
    for row in rows {
        if let Some(agreement) = row.agreement.filter(|_| !compared.contains(&row.device.as_str())) {
            compared.push(&row.device);
            text += &agreement.to_text(&rows[0].device, &row.device);
        }
    }
    for row in rows {
        if let Some(mj) = row.samples.millijoules_per_token {
            text += &format!("{} on {}: {mj:.1} mJ a token\n", row.test.name(), row.device);
        }
    }
    if let Some(bytes) = rows.iter().filter_map(|row| row.peak_rss_bytes).max() {
        text += &format!("peak memory {}; without tokenising and sampling\n", format::bytes(bytes));
    }
    text
}

/// The rates of each test on all devices.
pub fn charts(tests: &[Test], rows: &[Row]) -> Vec<Chart> {
    let chart = |&test: &Test| Chart {
        title: format!("{}, tok/s", test.name()),
        bars: rows
            .iter()
            .filter(|row| row.test == test)
            .map(|row| Bar { label: row.device.clone(), value: rates(row).mean })
            .collect(),
    };
    tests.iter().map(chart).collect()
}

/// How near the ternary products of a prompt by themselves come to the ceilings.
fn ternary_line(row: &Row) -> Option<String> {
    let (rate, ceilings, threads) = (row.samples.ternary_rate?, row.samples.ceilings?, row.threads?);
    let of = |limit: f64| format!("{:.0} % of {:.0}", rate / limit * 100.0, limit / 1e9);
    let basic = ceilings.basic_multiply_adds_per_s.map(|limit| format!(" ({} with basic instructions)", of(limit)));
    Some(format!(
        "{} with {}: ternary products alone {:.0} G MAC/s, {}{}\n",
        row.test.name(),
        format::count(threads, "thread"),
        rate / 1e9,
        of(ceilings.multiply_adds_per_s),
        basic.unwrap_or_default()
    ))
}

/// How many rows of the head the steps computed exactly, where a screen left the others out.
fn head_line(model: &ModelFacts, row: &Row) -> Option<String> {
    let (rows, all) = (row.samples.head_rows, model.vocabulary);
    let screened = row.test.kind == Kind::Generate && rows > 0.0 && rows < all as f64;
    screened.then(|| {
        format!("{} on {}: {rows:.0} of {all} rows of the head in full a token\n", row.test.name(), row.device)
    })
}

fn parameters(count: u64) -> String {
    if count < 1_000_000_000 { format!("{:.2} M", count as f64 / 1e6) } else { format!("{:.2} B", count as f64 / 1e9) }
}

/// Tokens per second, as llama-bench gives them.
fn rates(row: &Row) -> Spread {
    let rate = |time: &Duration| row.test.tokens as f64 / time.as_secs_f64();
    Spread::of(&row.samples.times.iter().map(rate).collect::<Vec<_>>())
}

/// Quantile of the times of decode steps, in milliseconds (nearest rank); `None` for prompts.
fn quantile_ms(row: &Row, q: f64) -> Option<f64> {
    let mut steps = row.samples.steps.clone();
    steps.sort_unstable();
    let rank = (q * steps.len() as f64).ceil() as usize;
    steps.get(rank.max(1) - 1).copied().map(format::milliseconds)
}

/// The share of the ceiling that rules the test, and that ceiling in words.
fn share(row: &Row) -> Option<(f64, String)> {
    let ceilings = row.samples.ceilings?;
    let rate = rates(row).mean;
    Some(match row.test.kind {
        Kind::Prompt => {
            let limit = ceilings.multiply_adds_per_s;
            (rate * row.samples.multiply_adds_per_token as f64 / limit, format!("{:.0} G MAC/s", limit / 1e9))
        }
        Kind::Generate => {
            let limit = ceilings.read_bytes_per_s;
            (rate * row.samples.bytes_per_token as f64 / limit, format!("{:.1} GB/s", limit / 1e9))
        }
    })
}

fn to_json(model: &ModelFacts, row: &Row) -> Json {
    let rates = rates(row);
    let ns: Vec<f64> = row.samples.times.iter().map(|time| time.as_nanos() as f64).collect();
    let times = Spread::of(&ns);
    let (n_prompt, n_gen) = match row.test.kind {
        Kind::Prompt => (row.test.tokens, 0),
        Kind::Generate => (0, row.test.tokens),
    };
    let mut fields = model.to_json();
    let own = json!({
        "backends": row.device,
        "n_threads": row.threads,
        "n_prompt": n_prompt,
        "n_gen": n_gen,
        "n_depth": row.test.depth,
        "test": row.test.name(),
        "avg_ns": times.mean,
        "stddev_ns": times.deviation,
        "avg_ts": rates.mean,
        "stddev_ts": rates.deviation,
        "samples_ns": ns,
        "p50_ms": quantile_ms(row, 0.5),
        "p95_ms": quantile_ms(row, 0.95),
        "p99_ms": quantile_ms(row, 0.99),
        "bytes_per_token": row.samples.bytes_per_token,
        "head_rows_exact": row.samples.head_rows,
        "multiply_adds_per_token": row.samples.multiply_adds_per_token,
        "read_ceiling_bytes_per_s": row.samples.ceilings.map(|c| c.read_bytes_per_s),
        "multiply_add_ceiling_per_s": row.samples.ceilings.map(|c| c.multiply_adds_per_s),
        "basic_multiply_add_ceiling_per_s": row.samples.ceilings.and_then(|c| c.basic_multiply_adds_per_s),
        "ternary_multiply_adds_per_s": row.samples.ternary_rate,
        "share_of_ceiling": share(row).map(|(share, _)| share),
        "peak_rss_bytes": row.peak_rss_bytes,
        "millijoules_per_token": row.samples.millijoules_per_token,
        "tokens_equal": row.agreement.map(|agreement| agreement.first_difference().is_none()),
        "first_difference": row.agreement.and_then(Agreement::first_difference),
        "logits_hash": format!("{:016x}", row.samples.logits_hash),
    });
    add(&mut fields, own);
    super::gpu::add_json(&mut fields, row.gpu.as_ref());
    fields
}

/// Adds the fields of one object to another.
pub fn add(fields: &mut Json, more: Json) {
    if let (Json::Object(fields), Json::Object(more)) = (fields, more) {
        fields.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_called_disturbed() {
        assert_eq!(share_text(0.876, "24.0 GB/s"), "88 % of 24.0 GB/s");
        assert_eq!(share_text(1.2, "24.0 GB/s"), "120 % of 24.0 GB/s (disturbed)");
    }
}
