//! Functions, filters and tests that Hugging Face's templates know and minijinja does not, or knows differently.

use jiff::{Zoned, fmt::strtime};
use minijinja::{
    Environment, Error, State, Value,
    formatting::{FormatStyle, format},
    value::{Kwargs, Rest, Tuple, ValueKind},
};
use minijinja_contrib::{filters, globals};

use super::{
    argument, invalid,
    json::to_json,
    lists::add as plus,
    source::{MODULO, PLUS},
    text::{self, charge},
};

pub(super) fn add(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(text::method);
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> { Err(invalid(message)) });
    environment.add_function("strftime_now", now);
    environment.add_function("dict", dict);
    environment.add_function("joiner", globals::joiner);
    environment.add_function("cycler", |items: Rest<Value>| globals::cycler(items.to_vec()));
    environment.add_filter(MODULO, modulo);
    environment.add_filter(PLUS, plus);
    environment.add_filter("tojson", to_json);
    environment.add_filter("e", escape);
    environment.add_filter("escape", escape);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("indent", indent);
    environment.add_filter("center", |state: &State, text: String, width: Option<usize>| {
        let arguments = [Value::from(width.unwrap_or(80))];
        charge(state, text.len())?;
        text::padded(&text, "center", &arguments)
    });
    environment.add_filter("wordcount", |text: String| {
        text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count()
    });
    environment.add_filter("striptags", filters::striptags);
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map)
    });
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
}

/// The local time, as Python's `strftime` writes it.
fn now(pattern: String) -> Result<String, Error> {
    strtime::format(&pattern, &Zoned::now()).map_err(|e| invalid(format!("strftime_now: {e}")))
}

/// `dict(pairs or a map, name=value, ..)`.
fn dict(given: Option<Value>, more: Kwargs) -> Result<Value, Error> {
    let mut pairs = Vec::new();
    if let Some(given) = given {
        let is_map = given.kind() == ValueKind::Map;
        for item in given.try_iter()? {
            let pair = if is_map { (item.clone(), given.get_item(&item)?) } else { pair(&item)? };
            pairs.push(pair);
        }
    }
    for name in more.args() {
        pairs.push((Value::from(name), more.get(name)?));
    }
    Ok(Value::from_pairs(pairs))
}

fn pair(item: &Value) -> Result<(Value, Value), Error> {
    let both: Vec<Value> = item.try_iter()?.collect();
    <[Value; 2]>::try_from(both).map(|[key, value]| (key, value)).map_err(|_| invalid("dict takes pairs"))
}

/// `left % right`: the rest of a division, or a text with values in it.
fn modulo(state: &State, left: Value, right: Value) -> Result<Value, Error> {
    if let Some(pattern) = left.as_str() {
        charge(state, text::widths(pattern))?;
        let values = match right.downcast_object_ref::<Tuple>() {
            Some(values) => values.to_vec(),
            None => vec![right],
        };
        return format(FormatStyle::Printf, pattern, &values).map(Value::from);
    }
    let zero = || invalid("division by zero");
    match (left.as_i64(), right.as_i64()) {
        (Some(_), Some(0)) => Err(zero()),
        (Some(a), Some(b)) => {
            // The sign is that of the divisor.
            let rest = a.wrapping_rem(b);
            Ok(Value::from(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }))
        }
        _ => match (f64::try_from(left), f64::try_from(right)) {
            (Ok(_), Ok(0.0)) => Err(zero()),
            (Ok(a), Ok(b)) => Ok(Value::from(a - b * (a / b).floor())),
            _ => Err(invalid("% takes two numbers, or a text and its values")),
        },
    }
}

/// HTML as markupsafe escapes it; what is safe stays.
fn escape(state: &State, value: Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value);
    }
    let text = value.to_string();
    charge(state, 5 * text.len())?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '\'' => out += "&#39;",
            '"' => out += "&#34;",
            c => out.push(c),
        }
    }
    Ok(Value::from_safe_string(out))
}

/// `default(value="", boolean=false)`.
fn default(value: Value, other: Option<Value>, falsy: Option<bool>, options: Kwargs) -> Result<Value, Error> {
    let other = other.or(options.get("default_value")?).unwrap_or_else(|| Value::from(""));
    let falsy = falsy.or(options.get("boolean")?).unwrap_or(false);
    options.assert_all_used()?;
    Ok(if value.is_undefined() || (falsy && !value.is_true()) { other } else { value })
}

/// `indent(width=4, first=false, blank=false)`; the width is a number of spaces, or a text.
fn indent(state: &State, value: String, given: Rest<Value>, options: Kwargs) -> Result<String, Error> {
    let named = |at, name| argument(&given, &options, at, name);
    let width = named(0, "width")?.unwrap_or_else(|| Value::from(4));
    let first = named(1, "first")?.is_some_and(|value| value.is_true());
    let blank = named(2, "blank")?.is_some_and(|value| value.is_true());
    options.assert_all_used()?;
    let margin = match width.as_str() {
        Some(text) => text.to_owned(),
        None => {
            let width = width.as_usize().filter(|&width| width <= 1 << 10);
            " ".repeat(width.ok_or_else(|| invalid("indent takes a number of spaces up to 1024, or a text"))?)
        }
    };
    let lines: Vec<&str> = value.split('\n').collect();
    charge(state, value.len().saturating_add(lines.len().saturating_mul(margin.len())))?;
    let mut out = String::with_capacity(value.len() + lines.len() * margin.len());
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        if (at > 0 || first) && (blank || !line.is_empty() || at == 0) {
            out += &margin;
        }
        out += line;
    }
    Ok(out)
}
