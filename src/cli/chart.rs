//! Bars: in the terminal, and as an SVG file. Text in, text out.

use std::{fmt::Write, path::Path};

use jiff::Zoned;

use super::output;
use crate::{error::Result, machine};

/// Bars of one quantity.
pub struct Chart {
    /// Quantity that is measured, with its unit.
    pub title: String,
    pub bars: Vec<Bar>,
}

pub struct Bar {
    pub label: String,
    pub value: f64,
}

impl Bar {
    /// As its caption shows it.
    fn figure(&self) -> String {
        format!("{:.1}", self.value)
    }
}

/// Columns of the longest bar.
const COLUMNS: f64 = 40.0;
/// Parts of a column, from one eighth on.
const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];

impl Chart {
    fn longest(&self) -> f64 {
        self.bars.iter().map(|bar| bar.value).fold(0.0, f64::max)
    }

    /// A line for each bar.
    pub fn to_text(&self) -> String {
        let longest = self.longest();
        let width = self.bars.iter().map(|bar| bar.label.chars().count()).max().unwrap_or(0);
        let mut text = format!("{}\n", self.title);
        for bar in &self.bars {
            let eighths = if longest > 0.0 { (bar.value / longest * COLUMNS * 8.0).round() as usize } else { 0 };
            let mut line = "█".repeat(eighths / 8);
            line.extend((eighths % 8).checked_sub(1).map(|rest| EIGHTHS[rest]));
            text += &format!("  {:<width$} {line} {}\n", bar.label, bar.figure());
        }
        text
    }
}

/// Pixels.
const WIDTH: usize = 720;
const LABELS: usize = 300;
const BAR: usize = 20;
const GAP: usize = 8;
const HEADING: usize = 28;
/// For a figure behind the longest bar.
const FIGURE: usize = 80;

/// Lines over the charts of a model: its name; program, machine and day.
pub fn heading(model: &str) -> [String; 2] {
    let processor = machine::processor().unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let system = machine::system_version().map(|version| format!(" {version}")).unwrap_or_default();
    let os = std::env::consts::OS;
    let day = Zoned::now().date();
    [model.to_owned(), format!("bitnet-gpu {}, {processor}, {os}{system}, {day}", env!("CARGO_PKG_VERSION"))]
}

/// Lines of text, and all charts below each other.
pub fn svg(heading: &[String], charts: &[Chart]) -> String {
    let lines = heading.len() * HEADING;
    let height = lines + charts.iter().map(|chart| HEADING + chart.bars.len() * (BAR + GAP)).sum::<usize>() + GAP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let text = |svg: &mut String, x: usize, y: usize, more: &str, words: &str| {
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\"{more}>{}</text>", escaped(words));
    };
    let mut top = 0;
    for (number, line) in heading.iter().enumerate() {
        let more = if number == 0 { " font-size=\"16\" font-weight=\"bold\"" } else { " fill=\"#555\"" };
        text(&mut svg, GAP, top + BAR, more, line);
        top += HEADING;
    }
    for chart in charts {
        text(&mut svg, GAP, top + BAR, " font-weight=\"bold\"", &chart.title);
        top += HEADING;
        let longest = chart.longest();
        for bar in &chart.bars {
            let share = if longest > 0.0 { bar.value / longest } else { 0.0 };
            let length = share * (WIDTH - LABELS - FIGURE) as f64;
            text(&mut svg, LABELS - GAP, top + 15, " text-anchor=\"end\"", &bar.label);
            let _ = writeln!(
                svg,
                "<rect x=\"{LABELS}\" y=\"{top}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"#3b6ea5\"/>"
            );
            text(&mut svg, LABELS + length as usize + GAP, top + 15, "", &bar.figure());
            top += BAR + GAP;
        }
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Writes [`svg`] into a new file.
pub fn save(path: &Path, heading: &[String], charts: &[Chart]) -> Result<()> {
    output::write_new(path, &svg(heading, charts))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn chart(values: &[f64]) -> Chart {
        let bars = values.iter().zip(["CPU", "GPU <1>"]).map(|(&value, label)| Bar { label: label.into(), value });
        Chart { title: "decode, tok/s".into(), bars: bars.collect() }
    }

    #[test]
    fn the_longest_bar_is_40_columns_and_the_others_are_in_proportion() {
        // 13/64 of 40 columns: 8 and an eighth.
        let text = chart(&[64.0, 13.0]).to_text();
        let expected = format!("decode, tok/s\n  CPU     {} 64.0\n  GPU <1> {}▏ 13.0\n", "█".repeat(40), "█".repeat(8));
        assert_eq!(text, expected);
        assert_eq!(chart(&[0.0]).to_text(), "decode, tok/s\n  CPU  0.0\n");
    }

    #[test]
    fn svg_is_in_proportion_and_escapes_text() {
        let svg = svg(&heading("Llama <2>"), &[chart(&[50.0, 25.0])]);
        assert!(svg.contains(">Llama &lt;2&gt;</text>") && svg.contains(">bitnet-gpu "), "{svg}");
        assert!(svg.contains("width=\"340.0\"") && svg.contains("width=\"170.0\""), "{svg}");
        assert!(svg.contains("GPU &lt;1&gt;") && !svg.contains("<1>"), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn a_file_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.svg");
        output::check_new("--plot", Some(&path)).unwrap();
        save(&path, &[], &[chart(&[1.0])]).unwrap();
        assert!(output::check_new("--plot", Some(&path)).is_err());
        assert!(save(&path, &[], &[]).is_err());
        assert!(fs::read_to_string(&path).unwrap().contains("decode"));
    }
}
