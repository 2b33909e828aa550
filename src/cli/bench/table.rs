//! Rows of a report, written one by one as they come: what was measured stays, whatever happens to the next.

use serde_json::Value as Json;

use super::super::{args::BenchFormat, format, output};
use crate::error::Result;

/// A table on standard output, in one of the formats.
pub struct Table {
    format: BenchFormat,
    heading: Vec<String>,
    /// Widths of the columns of Markdown, by the heading and the first row.
    widths: Vec<usize>,
    /// Names of the columns of CSV, by the first row.
    columns: Vec<String>,
    rows: usize,
}

impl Table {
    /// A table with this heading, which Markdown shows.
    pub fn new(format: BenchFormat, heading: &[&str]) -> Self {
        let heading = heading.iter().map(|&cell| cell.to_owned()).collect();
        Self { format, heading, widths: Vec::new(), columns: Vec::new(), rows: 0 }
    }

    /// Writes a row: `cells` below the heading, or `object`.
    pub fn add(&mut self, cells: &[String], object: &Json) -> Result<()> {
        output::print(&self.text(cells, object))
    }

    /// Writes what stands behind the last row.
    pub fn end(&mut self) -> Result<()> {
        output::print(self.closing())
    }

    fn text(&mut self, cells: &[String], object: &Json) -> String {
        let is_first = self.rows == 0;
        self.rows += 1;
        match self.format {
            BenchFormat::Md if is_first => {
                let (text, widths) = format::table_and_widths(&[self.heading.clone(), cells.to_vec()]);
                self.widths = widths;
                text
            }
            BenchFormat::Md => format::table_row(cells, &self.widths),
            BenchFormat::Jsonl => format!("{object}\n"),
            BenchFormat::Json => {
                let indented: Vec<String> = format!("{object:#}").lines().map(|line| format!("  {line}")).collect();
                format!("{}\n{}", if is_first { "[" } else { "," }, indented.join("\n"))
            }
            BenchFormat::Csv => {
                let heading = if is_first { self.csv_heading(object) } else { String::new() };
                heading + &self.csv_row(object)
            }
        }
    }

    fn closing(&self) -> &'static str {
        match (self.format, self.rows) {
            (BenchFormat::Json, 0) => "[]\n",
            (BenchFormat::Json, _) => "\n]\n",
            _ => "",
        }
    }

    /// Lists have no place in a line.
    fn csv_heading(&mut self, object: &Json) -> String {
        let fields = object.as_object().into_iter().flatten();
        self.columns = fields.filter(|(_, value)| !value.is_array()).map(|(key, _)| key.clone()).collect();
        self.columns.join(",") + "\n"
    }

    fn csv_row(&self, object: &Json) -> String {
        let cells = self.columns.iter().map(|column| match &object[column.as_str()] {
            Json::Null => String::new(),
            Json::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
            other => other.to_string(),
        });
        cells.collect::<Vec<_>>().join(",") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(format: BenchFormat, objects: &[Json]) -> String {
        let mut table = Table::new(format, &["a", "b"]);
        let rows: String = objects.iter().map(|object| table.text(&["xyz".into(), "1".into()], object)).collect();
        rows + table.closing()
    }

    #[test]
    fn csv_quotes_text_and_leaves_lists_out() {
        let rows = [json!({"a": "x \"y\", z", "b": 1.5, "c": [1, 2], "d": null})];
        assert_eq!(written(BenchFormat::Csv, &rows), "a,b,d\n\"x \"\"y\"\", z\",1.5,\n");
    }

    #[test]
    fn json_is_one_list_however_long() {
        for rows in [&[][..], &[json!({"a": 1})], &[json!({"a": 1}), json!({"a": [2, 3]})]] {
            let read: Json = serde_json::from_str(&written(BenchFormat::Json, rows)).unwrap();
            assert_eq!(read, Json::Array(rows.to_vec()));
        }
        assert_eq!(written(BenchFormat::Jsonl, &[json!({"a": 1}), json!({"a": 2})]), "{\"a\":1}\n{\"a\":2}\n");
    }

    #[test]
    fn markdown_has_one_heading() {
        let text = written(BenchFormat::Md, &[json!({}), json!({})]);
        assert_eq!(text, "| a   | b |\n| --- | - |\n| xyz | 1 |\n| xyz | 1 |\n");
    }
}
