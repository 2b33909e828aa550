//! Numbers as people read them.

use std::time::Duration;

pub use crate::numbers::{bytes, count};

/// "12.3 ms", "4.5 s".
pub fn duration(time: Duration) -> String {
    let ms = milliseconds(time);
    if ms < 1000.0 { format!("{ms:.1} ms") } else { format!("{:.1} s", ms / 1000.0) }
}

/// For tables and JSON.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// "406.5", or "-" where nothing was measured.
pub fn rate(per_second: Option<f64>) -> String {
    per_second.map_or_else(|| "-".into(), |rate| format!("{rate:.1}"))
}

/// Mean and standard deviation of measurements of one thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub mean: f64,
    /// 0 of a single measurement.
    pub deviation: f64,
}

impl Spread {
    /// Mean and deviation of a sample; NaN of none.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self { mean, deviation: if values.len() < 2 { 0.0 } else { (squares / (n - 1.0)).sqrt() } }
    }
}

/// "406.5 ± 2.1" of several rates, "406.5" of one, or "-" where nothing was measured.
pub fn rates(per_second: &[f64]) -> String {
    let Spread { mean, deviation } = Spread::of(per_second);
    match per_second {
        [] => "-".into(),
        [_] => rate(Some(mean)),
        _ => format!("{mean:.1} ± {deviation:.1}"),
    }
}

/// Columns padded to their widest cell; the first row is the heading.
pub fn table(rows: &[Vec<String>]) -> String {
    table_and_widths(rows).0
}

/// As [`table`], with the widths of the columns.
pub fn table_and_widths(rows: &[Vec<String>]) -> (String, Vec<usize>) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        text += &table_row(row, &widths);
        if at == 0 {
            let dashes: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
            text += &table_row(&dashes, &widths);
        }
    }
    (text, widths)
}

/// One row of a table with columns of these widths.
pub fn table_row(row: &[String], widths: &[usize]) -> String {
    let cell = |(column, &width): (usize, &usize)| format!("{:<width$}", row.get(column).map_or("", String::as_str));
    format!("| {} |\n", widths.iter().enumerate().map(cell).collect::<Vec<_>>().join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates() {
        assert_eq!(duration(Duration::from_micros(12_340)), "12.3 ms");
        assert_eq!(duration(Duration::from_millis(4_500)), "4.5 s");
        assert_eq!((rate(None), rate(Some(406.54))), ("-".into(), "406.5".into()));
    }

    #[test]
    fn several_rates_have_a_spread() {
        assert_eq!(Spread::of(&[2.0, 4.0, 6.0]), Spread { mean: 4.0, deviation: 2.0 });
        assert_eq!(Spread::of(&[5.0]), Spread { mean: 5.0, deviation: 0.0 });
        assert_eq!([&[][..], &[406.54], &[2.0, 4.0, 6.0]].map(rates), ["-", "406.5", "4.0 ± 2.0"]);
    }

    #[test]
    fn tables_line_up() {
        let rows = [vec!["a".into(), "heading".into()], vec!["éé".to_string(), "1".into()], vec!["x".into()]];
        assert_eq!(table(&rows), "| a  | heading |\n| -- | ------- |\n| éé | 1       |\n| x  |         |\n");
    }
}
