//! Methods of Python's `str` and `dict` that templates call. What is not here is left to `minijinja-contrib`.

use minijinja::{
    Error, State, Value,
    value::{Kwargs, Rest, Tuple, ValueKind, from_args},
};
use minijinja_contrib::pycompat;

use super::{argument, invalid};

/// Characters a text may be padded to, or a tab be wide.
const MAX_WIDTH: usize = 1 << 16;

/// Bytes of a text that count as one step of a template.
const BYTES_PER_STEP: u64 = 64;

/// Charges the template for a text that it is about to make.
pub(super) fn charge(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes as u64 / BYTES_PER_STEP)
}

/// `value.method(args)`.
pub(super) fn method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let found = match (value.kind(), value.as_str()) {
        (_, Some(text)) => of_text(state, text, method, args)?,
        (ValueKind::Map, _) if method == "copy" => {
            let () = from_args(args)?;
            Some(value.clone())
        }
        _ => None,
    };
    match found {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn of_text(state: &State, text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let result = match method {
        "split" => split(text, args, false)?,
        "rsplit" => split(text, args, true)?,
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            partition(text, separator, method == "rpartition")?
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "replace" => {
            let (from, to, count): (&str, &str, Option<i64>) = from_args(args)?;
            replace(state, text, from, to, count)?.into()
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            let mut bytes = 0;
            for item in items.try_iter()? {
                bytes += text.len() + item.as_str().map_or(0, str::len);
            }
            charge(state, bytes)?;
            return Ok(None);
        }
        "format" => {
            charge(state, widths(text))?;
            return Ok(None);
        }
        "startswith" | "endswith" if args.len() > 1 => {
            let (affix, start, end): (Value, Option<i64>, Option<i64>) = from_args(args)?;
            let part = Value::from(slice(text, start, end));
            return of_part(state, &part, method, affix);
        }
        "find" | "rfind" | "index" | "rindex" => find(text, method, args)?,
        "zfill" | "ljust" | "rjust" | "center" => padded(text, method, args)?,
        "title" => titled(text).into(),
        "swapcase" => text.chars().map(swapped).collect::<String>().into(),
        "casefold" => text.to_lowercase().replace('ß', "ss").into(),
        "expandtabs" => {
            let (width,): (Option<usize>,) = from_args(args)?;
            expand_tabs(state, text, width.unwrap_or(8))?.into()
        }
        "istitle" => is_title(text).into(),
        "isdecimal" => (!text.is_empty() && text.chars().all(|c| c.is_ascii_digit())).into(),
        "isidentifier" => is_identifier(text).into(),
        "isprintable" => (!text.chars().any(|c| c.is_control())).into(),
        _ => return Ok(None),
    };
    Ok(Some(result))
}

/// At least as many bytes as the widths and precisions in a pattern of `%` or `format` ask for: the sum of the numbers in it.
pub(super) fn widths(pattern: &str) -> usize {
    let numbers = pattern.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    // Numbers of the text itself are short, and cost next to nothing.
    numbers.map(|digits| digits.parse().unwrap_or(usize::MAX)).fold(0, usize::saturating_add)
}

/// A method with one argument of a part of the text.
fn of_part(state: &State, part: &Value, method: &str, affix: Value) -> Result<Option<Value>, Error> {
    let text = part.as_str().unwrap_or_default();
    let fits = |affix: &Value| {
        let affix = affix.as_str().ok_or_else(|| invalid(format!("{method} takes a text or a tuple of texts")))?;
        Ok::<_, Error>(if method == "startswith" { text.starts_with(affix) } else { text.ends_with(affix) })
    };
    charge(state, text.len())?;
    if affix.as_str().is_some() {
        return fits(&affix).map(|fits| Some(fits.into()));
    }
    for one in affix.try_iter()? {
        if fits(&one)? {
            return Ok(Some(true.into()));
        }
    }
    Ok(Some(false.into()))
}

/// Characters `start..end`, counted from the end where negative.
fn slice(text: &str, start: Option<i64>, end: Option<i64>) -> &str {
    let count = text.chars().count() as i64;
    let place = |at: i64| (if at < 0 { at + count } else { at }).clamp(0, count) as usize;
    let byte = |place: usize| text.char_indices().nth(place).map_or(text.len(), |(byte, _)| byte);
    let (start, end) = (byte(place(start.unwrap_or(0))), byte(place(end.unwrap_or(count))));
    &text[start..end.max(start)]
}

/// `split(sep=None, maxsplit=-1)`, or `rsplit`.
fn split(text: &str, args: &[Value], from_end: bool) -> Result<Value, Error> {
    let (given, options): (Rest<Value>, Kwargs) = from_args(args)?;
    let named = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(argument(&given, &options, at, name)?.filter(|value| !value.is_none()))
    };
    let (separator, most) = (named(0, "sep")?, named(1, "maxsplit")?);
    options.assert_all_used()?;
    let most = match most {
        Some(most) => most.as_i64().ok_or_else(|| invalid("maxsplit has to be a whole number"))?,
        None => -1,
    };
    let pieces = usize::try_from(most).map_or(usize::MAX, |most| most.saturating_add(1));
    let mut parts: Vec<&str> = match &separator {
        Some(separator) => {
            let separator = separator.as_str().filter(|text| !text.is_empty());
            let separator = separator.ok_or_else(|| invalid("the separator has to be a text that is not empty"))?;
            if from_end { text.rsplitn(pieces, separator).collect() } else { text.splitn(pieces, separator).collect() }
        }
        None => words(text, pieces, from_end),
    };
    if from_end {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// At most `pieces` words between runs of white space, in the order they are found; the last one is all that is left.
fn words(text: &str, pieces: usize, from_end: bool) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        rest = if from_end { rest.trim_end() } else { rest.trim_start() };
        if rest.is_empty() {
            return found;
        }
        if found.len() + 1 == pieces {
            // White space at its far end stays, as in Python.
            found.push(rest);
            return found;
        }
        let cut = if from_end { rest.rfind(char::is_whitespace) } else { rest.find(char::is_whitespace) };
        let Some(at) = cut else {
            found.push(rest);
            return found;
        };
        let space = rest[at..].chars().next().map_or(1, char::len_utf8);
        let (word, left) = if from_end { (&rest[at + space..], &rest[..at]) } else { (&rest[..at], &rest[at..]) };
        found.push(word);
        rest = left;
    }
}

/// The text before the separator, the separator, and the text behind it.
fn partition(text: &str, separator: &str, from_end: bool) -> Result<Value, Error> {
    if separator.is_empty() {
        return Err(invalid("the separator has to be a text that is not empty"));
    }
    let cut = if from_end { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match cut {
        Some((before, behind)) => [before, separator, behind],
        None if from_end => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// `text` with the first `count` places of `from` replaced, or all where it is negative or absent.
pub(super) fn replace(state: &State, text: &str, from: &str, to: &str, count: Option<i64>) -> Result<String, Error> {
    let most = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let places = text.matches(from).take(most).count();
    charge(state, text.len().saturating_add(places.saturating_mul(to.len())))?;
    Ok(text.replacen(from, to, most))
}

/// The place of a part in characters; -1, or an error for `index`, where it is not there.
fn find(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (part, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let within = slice(text, start, end);
    let before = within.as_ptr() as usize - text.as_ptr() as usize;
    let found = if method.starts_with('r') { within.rfind(part) } else { within.find(part) };
    match found {
        // An empty part of the text has no place of its own.
        Some(at) if !within.is_empty() => Ok(text[..before + at].chars().count().into()),
        Some(at) => Ok(at.into()),
        None if method.ends_with("index") => Err(invalid("the text to look for is not there")),
        None => Ok((-1).into()),
    }
}

pub(super) fn padded(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<char>) = from_args(args)?;
    if width > MAX_WIDTH {
        return Err(invalid(format!("a text can be padded to at most {MAX_WIDTH} characters")));
    }
    let missing = width.saturating_sub(text.chars().count());
    let row = |count: usize, c: char| c.to_string().repeat(count);
    let fill = fill.unwrap_or(' ');
    let text = match method {
        "zfill" => {
            let digits = text.trim_start_matches(['+', '-']);
            let sign = if text.len() - digits.len() <= 1 { &text[..text.len() - digits.len()] } else { "" };
            format!("{sign}{}{}", row(missing, '0'), &text[sign.len()..])
        }
        "ljust" => format!("{text}{}", row(missing, fill)),
        "rjust" => format!("{}{text}", row(missing, fill)),
        _ => {
            // Of an odd number of places, the one more is on the left where the width is odd.
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", row(left, fill), row(missing - left, fill))
        }
    };
    Ok(text.into())
}

fn swapped(c: char) -> String {
    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
}

/// A capital after whatever has no case, small letters behind.
fn titled(text: &str) -> String {
    let (mut out, mut inside) = (String::with_capacity(text.len()), false);
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        inside = c.is_uppercase() || c.is_lowercase();
    }
    out
}

fn expand_tabs(state: &State, text: &str, width: usize) -> Result<String, Error> {
    let width = width.min(MAX_WIDTH);
    charge(state, text.len().saturating_add(text.matches('\t').count().saturating_mul(width)))?;
    let (mut out, mut column) = (String::with_capacity(text.len()), 0);
    for c in text.chars() {
        match c {
            '\t' if width == 0 => {}
            '\t' => {
                let spaces = width - column % width;
                out.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(out)
}

/// Whether each word begins with a capital and goes on in small letters.
fn is_title(text: &str) -> bool {
    let (mut any, mut inside) = (false, false);
    for c in text.chars() {
        if (c.is_uppercase() && inside) || (c.is_lowercase() && !inside) {
            return false;
        }
        inside = c.is_uppercase() || c.is_lowercase();
        any |= inside;
    }
    any
}

fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_') && chars.all(|c| c.is_alphanumeric() || c == '_')
}
