//! The filter `tojson`: JSON as Python's `json.dumps` writes it, which models have seen in training.

use std::io::{self, Write};

use minijinja::{
    Error, Value,
    value::{Kwargs, Rest},
};
use serde::Serialize;
use serde_json::{Serializer, ser::Formatter};

use super::{argument, invalid};

/// Spaces a level of JSON may be indented by.
const MAX_INDENT: usize = 16;

/// `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(super) fn to_json(value: &Value, given: Rest<Value>, options: Kwargs) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(invalid("an undefined value is no JSON"));
    }
    let named = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(argument(&given, &options, at, name)?.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let ascii = named(0, "ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = named(1, "indent")?.map(indent_of).transpose()?;
    let separators = named(2, "separators")?.map(separators_of).transpose()?;
    let sorted = named(3, "sort_keys")?.is_some_and(|value| value.is_true());
    options.assert_all_used()?;

    let usual = if indent.is_some() { "," } else { ", " };
    let (comma, colon) = separators.unwrap_or_else(|| (usual.to_owned(), ": ".to_owned()));
    let format = Python { ascii, indent, comma, colon, depth: 0, is_empty: true };
    let mut bytes = Vec::new();
    let mut out = Serializer::with_formatter(&mut bytes, format);
    let written = if sorted {
        serde_json::to_value(value).and_then(|mut json| {
            json.sort_all_objects();
            json.serialize(&mut out)
        })
    } else {
        value.serialize(&mut out)
    };
    written.map_err(|e| invalid(e.to_string()))?;
    String::from_utf8(bytes).map(Value::from_safe_string).map_err(|e| invalid(e.to_string()))
}

/// A number of spaces, or a text.
fn indent_of(value: Value) -> Result<String, Error> {
    match (value.as_str(), value.as_i64()) {
        (Some(text), _) if text.len() <= MAX_INDENT => Ok(text.to_owned()),
        (None, Some(width)) => Ok(" ".repeat(usize::try_from(width).unwrap_or(0).min(MAX_INDENT))),
        _ => Err(invalid(format!("indent has to be a number or a text of at most {MAX_INDENT} bytes"))),
    }
}

/// Behind items, and behind keys.
fn separators_of(value: Value) -> Result<(String, String), Error> {
    let texts: Vec<Value> = value.try_iter()?.collect();
    match texts.as_slice() {
        [comma, colon] => match (comma.as_str(), colon.as_str()) {
            (Some(comma), Some(colon)) if comma.len() + colon.len() <= MAX_INDENT => Ok((comma.into(), colon.into())),
            _ => Err(invalid("separators have to be two short texts")),
        },
        _ => Err(invalid("separators have to be two texts")),
    }
}

struct Python {
    ascii: bool,
    indent: Option<String>,
    comma: String,
    colon: String,
    depth: usize,
    /// Nothing was written into the innermost array or object yet.
    is_empty: bool,
}

impl Python {
    fn begin<W: Write + ?Sized>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.is_empty = true;
        out.write_all(bracket)
    }

    fn end<W: Write + ?Sized>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !self.is_empty {
            self.new_line(out)?;
        }
        self.is_empty = false;
        out.write_all(bracket)
    }

    fn item<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.is_empty = false;
        if !first {
            out.write_all(self.comma.as_bytes())?;
        }
        self.new_line(out)
    }

    fn new_line<W: Write + ?Sized>(&self, out: &mut W) -> io::Result<()> {
        let Some(indent) = &self.indent else { return Ok(()) };
        out.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| out.write_all(indent.as_bytes()))
    }
}

impl Formatter for Python {
    fn begin_array<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin(out, b"[")
    }

    fn end_array<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"]")
    }

    fn begin_array_value<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.item(out, first)
    }

    fn begin_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin(out, b"{")
    }

    fn end_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"}")
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.item(out, first)
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.colon.as_bytes())
    }

    fn write_f64<W: Write + ?Sized>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        out.write_all(float(value).as_bytes())
    }

    fn write_string_fragment<W: Write + ?Sized>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        if !self.ascii {
            return out.write_all(text.as_bytes());
        }
        for c in text.chars() {
            if c.is_ascii() {
                out.write_all(&[c as u8])?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

/// A float as Python writes it: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
fn float(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        if let Some((digits, exponent)) = text.split_once('e') {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
            return format!("{digits}e{sign}{exponent:0>2}");
        }
    }
    format!("{value:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Python 3.12 prints these.
    #[test]
    fn floats_have_pythons_digits() {
        let cases =
            [(1.0, "1.0"), (0.0001, "0.0001"), (0.00001, "1e-05"), (1e15, "1000000000000000.0"), (1e16, "1e+16")];
        for (value, text) in cases {
            assert_eq!(float(value), text);
        }
        assert_eq!([float(-0.0), float(1.5e300), float(0.1 + 0.2)], ["-0.0", "1.5e+300", "0.30000000000000004"]);
    }
}
