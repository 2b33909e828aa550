//! Things of Hugging Face's dialect that minijinja does not parse, or does without bounds, written in words that it knows.
//!
//! `{% generation %}` marks what an assistant said, for training: as a block that does nothing but keep its variables, it
//! is a `with`. `%` between a text and values formats the text (`"%d items" % n`): `a % b` becomes `(a)|python_mod(b)`, for
//! numbers too, as only the values tell which it is. `a + b` of what may be two lists becomes `(a)|python_add(b)`.

use std::borrow::Cow;

use super::NAME;
use crate::error::{Error, Result};

/// The filter that stands for `%`.
pub(super) const MODULO: &str = "python_mod";

/// The filter that stands for `+`.
pub(super) const PLUS: &str = "python_add";

/// Names, literals and signs of one tag: minijinja goes down once for each operator, and folds constants in quadratic time. Real
/// tags have some hundreds at most.
const MAX_TAG_TOKENS: usize = 4096;

/// Operators `%` replaced in one template; real ones have a handful. Each costs a pass over its tag.
const MAX_REPLACED: usize = 256;

mod sums;

/// Words that no operand ends or begins with.
const KEYWORDS: [&str; 17] = [
    "and",
    "call",
    "do",
    "elif",
    "else",
    "filter",
    "for",
    "if",
    "in",
    "is",
    "not",
    "or",
    "print",
    "recursive",
    "return",
    "set",
    "with",
];

/// The template in minijinja's words.
///
/// # Errors
/// If a tag is too long.
pub(super) fn translate(source: &str) -> Result<String> {
    let mut out = String::with_capacity(source.len() + 64);
    let mut left = MAX_REPLACED;
    let mut at = 0;
    while let Some(open) = source[at..].find('{').map(|found| at + found) {
        let Some(kind) = source[open + 1..].chars().next().filter(|c| matches!(c, '{' | '%' | '#')) else {
            out += &source[at..=open];
            at = open + 1;
            continue;
        };
        let inside = open + 2;
        out += &source[at..inside];
        if kind == '#' {
            at = source[inside..].find("#}").map_or(source.len(), |end| inside + end + 2);
            out += &source[inside..at];
            continue;
        }
        let (tokens, has_end) = tokens(&source[inside..], kind);
        if tokens.len() > MAX_TAG_TOKENS {
            let line = source[..open].matches('\n').count() + 1;
            return Err(Error::malformed(
                NAME,
                format!("at most {MAX_TAG_TOKENS} words and signs in a tag"),
                format!("more in line {line}"),
            ));
        }
        if !has_end {
            // minijinja says where.
            out += &source[inside..];
            return Ok(out);
        }
        at = inside + tokens.iter().map(|token| token.len()).sum::<usize>();
        if kind == '%' && is_word(&tokens, "raw") {
            // As it is, up to the end tag, in which nothing is translated either.
            let end = raw_end(&source[at..]).map_or(source.len(), |found| at + found);
            out += &source[inside..end];
            at = end;
            continue;
        }
        write_tag(&tokens, kind, &mut left, &mut out);
    }
    out += &source[at..];
    Ok(out)
}

/// Where the tag begins that ends a raw block, past its opening.
fn raw_end(text: &str) -> Option<usize> {
    text.match_indices("{%").map(|(at, open)| at + open.len()).find(|&at| {
        let rest = text[at..].strip_prefix(['-', '+']).unwrap_or(&text[at..]);
        rest.trim_start().starts_with("endraw")
    })
}

/// One tag without its delimiters.
fn write_tag(tokens: &[&str], kind: char, left: &mut usize, out: &mut String) {
    let renamed = match kind {
        '%' if is_word(tokens, "generation") => Some(("generation", "with")),
        '%' if is_word(tokens, "endgeneration") => Some(("endgeneration", "endwith")),
        _ => None,
    };
    match renamed {
        Some((from, to)) => tokens.iter().for_each(|token| *out += &token.replace(from, to)),
        None if tokens.iter().any(|token| matches!(token.trim(), "%" | "+")) => {
            let mut owned: Vec<Cow<'_, str>> = tokens.iter().map(|&token| Cow::Borrowed(token)).collect();
            while *left > 0 && tokens.iter().any(|token| token.trim() == "%") && replace_modulo(&mut owned) {
                *left -= 1;
            }
            sums::replace(&mut owned);
            owned.iter().for_each(|token| *out += token);
        }
        None => tokens.iter().for_each(|token| *out += token),
    }
}

/// Whether a tag is this word alone, apart from marks of white space.
fn is_word(tokens: &[&str], word: &str) -> bool {
    let mut words = tokens.iter().map(|token| token.trim()).filter(|token| !matches!(*token, "-" | "+" | ""));
    words.next() == Some(word) && words.next().is_none()
}

/// The tokens up to the end of a tag, each with the blanks before it, and whether there is an end.
fn tokens(text: &str, kind: char) -> (Vec<&str>, bool) {
    let close = if kind == '{' { "}}" } else { "%}" };
    let (mut tokens, mut start, mut depth) = (Vec::new(), 0, 0_usize);
    loop {
        let at = start + (text[start..].len() - text[start..].trim_start().len());
        let rest = &text[at..];
        // An expression may hold a map whose end looks like its own.
        if rest.starts_with(close) && (kind == '%' || depth == 0) {
            if start < at {
                tokens.push(&text[start..at]);
            }
            return (tokens, true);
        }
        let Some(first) = rest.chars().next() else { return (tokens, false) };
        let len = match first {
            '"' | '\'' => match string_len(rest, first) {
                Some(len) => len,
                None => return (tokens, false),
            },
            c if c.is_alphanumeric() || c == '_' => word_len(rest),
            '*' | '/' if rest[1..].starts_with(first) => 2,
            c => {
                match c {
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                c.len_utf8()
            }
        };
        tokens.push(&text[start..at + len]);
        start = at + len;
    }
}

/// Bytes of a string literal at the start of `text`, quotes included.
fn string_len(text: &str, quote: char) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Bytes of a name or a number at the start of `text`.
fn word_len(text: &str) -> usize {
    let is_number = text.starts_with(|c: char| c.is_ascii_digit());
    let mut end = 0;
    for (at, c) in text.char_indices() {
        let point = c == '.' && is_number && text[at + 1..].starts_with(|c: char| c.is_ascii_digit());
        if !(c.is_alphanumeric() || c == '_' || point) {
            break;
        }
        end = at + c.len_utf8();
    }
    end
}

/// Replaces the first `%` that stands between two operands; false where there is none.
fn replace_modulo(tokens: &mut Vec<Cow<'_, str>>) -> bool {
    let found = (1..tokens.len()).find_map(|at| {
        (tokens[at].trim() == "%").then_some(())?;
        let start = chain_start(tokens, at - 1)?;
        let end = operand_end(tokens, at + 1)?;
        Some((start, at, end))
    });
    let Some((start, at, end)) = found else { return false };
    tokens[end] = Cow::Owned(format!("{})", tokens[end]));
    tokens[at] = Cow::Owned(format!(")|{MODULO}("));
    tokens[start] = Cow::Owned(format!(" ({}", tokens[start]));
    // The pieces are found again as tokens of their own, as a chain may go on behind.
    let text: String = tokens.concat();
    if let (again, true) = self::tokens(&format!("{text}%}}"), '%') {
        let again: Vec<Cow<'_, str>> = again.into_iter().map(|token| Cow::Owned(token.to_owned())).collect();
        *tokens = again;
    }
    true
}

fn is_operand(token: &str) -> bool {
    let token = token.trim();
    let is_word = token.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '"' | '\''));
    is_word && !KEYWORDS.contains(&token)
}

/// The place of the bracket that belongs to the one at `at`, looking to the left or to the right.
fn partner(tokens: &[Cow<'_, str>], at: usize, step: isize) -> Option<usize> {
    let mut depth = 0_isize;
    let mut place = at;
    loop {
        depth += match tokens.get(place)?.trim() {
            "(" | "[" | "{" => step,
            ")" | "]" | "}" => -step,
            _ => 0,
        };
        if depth == 0 {
            return Some(place);
        }
        place = place.checked_add_signed(step)?;
    }
}

/// Where the products and quotients that end with the operand at `last` begin.
fn chain_start(tokens: &[Cow<'_, str>], last: usize) -> Option<usize> {
    let mut start = operand_start(tokens, last)?;
    while start >= 2 && matches!(tokens[start - 1].trim(), "*" | "/" | "//" | "**") {
        start = operand_start(tokens, start - 2)?;
    }
    Some(start)
}

/// Where the operand begins whose last token is at `last`.
fn operand_start(tokens: &[Cow<'_, str>], last: usize) -> Option<usize> {
    let mut at = last;
    loop {
        match tokens[at].trim() {
            ")" | "]" | "}" => {
                at = partner(tokens, at, -1)?;
                let called = at > 0 && (is_operand(&tokens[at - 1]) || matches!(tokens[at - 1].trim(), ")" | "]"));
                if called && tokens[at].trim() != "{" {
                    at -= 1;
                    continue;
                }
            }
            _ if is_operand(&tokens[at]) => {}
            _ => return None,
        }
        match at.checked_sub(1).map(|before| tokens[before].trim()) {
            Some("." | "|") if at >= 2 => at -= 2,
            Some("-" | "+") if at < 2 || !ends_operand(&tokens[at - 2]) => return Some(at - 1),
            _ => return Some(at),
        }
    }
}

fn ends_operand(token: &str) -> bool {
    is_operand(token) || matches!(token.trim(), ")" | "]" | "}")
}

/// The last token of the operand that begins at `first`.
fn operand_end(tokens: &[Cow<'_, str>], first: usize) -> Option<usize> {
    let mut at = first;
    while matches!(tokens.get(at)?.trim(), "-" | "+") {
        at += 1;
    }
    at = match tokens[at].trim() {
        "(" | "[" | "{" => partner(tokens, at, 1)?,
        _ if is_operand(&tokens[at]) => at,
        _ => return None,
    };
    loop {
        at = match tokens.get(at + 1).map(|token| token.trim()) {
            Some("." | "|") if tokens.get(at + 2).is_some_and(|token| is_operand(token)) => at + 2,
            Some("(" | "[") => partner(tokens, at + 1, 1)?,
            Some("**") => operand_end(tokens, at + 2)?,
            _ => return Some(at),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_is_a_block_of_its_own() {
        let cases = [
            ("{% generation %}a{%- endgeneration -%}", "{% with %}a{%- endwith -%}"),
            ("{%-generation-%}", "{%-with-%}"),
            (
                "{{ generation }}{% if generation %}{# {% generation %} #}",
                "{{ generation }}{% if generation %}{# {% generation %} #}",
            ),
            ("{% raw %}{% generation %}{% endraw %}", "{% raw %}{% generation %}{% endraw %}"),
            ("a { b {{ '{% generation %}' }} generation", "a { b {{ '{% generation %}' }} generation"),
            ("{% generation", "{% generation"),
        ];
        for (given, expected) in cases {
            assert_eq!(translate(given).unwrap(), expected, "{given}");
        }
    }

    #[test]
    fn percent_signs_between_operands_become_a_filter() {
        let cases = [
            ("{{ '%s' % x }}", "{{ ( '%s')|python_mod( x) }}"),
            ("{{ a.b[0](1)|f % -c.d }}", "{{ ( a.b[0](1)|f)|python_mod( -c.d) }}"),
            ("{% if not i % 2 == 0 %}", "{% if not ( i)|python_mod( 2) == 0 %}"),
            ("{{ 2 * 7 % 4 * 2 }}", "{{ ( 2 * 7)|python_mod( 4) * 2 }}"),
            ("{{ a - -7 % 3 }}", "{{ a - ( -7)|python_mod( 3) }}"),
            ("{{ {'a': 1 % 2}}}", "{{ {'a': ( 1)|python_mod( 2)}}}"),
            ("{{ '%' }}{{ 100 }}%{% if a %}", "{{ '%' }}{{ 100 }}%{% if a %}"),
            ("{{ % }}", "{{ % }}"),
        ];
        for (given, expected) in cases {
            assert_eq!(translate(given).unwrap(), expected, "{given}");
        }
        // From the left, and within brackets as well.
        assert_eq!(translate("{{ a % b % (c % d) }}").unwrap().matches(MODULO).count(), 3);
    }

    #[test]
    fn hostile_rows_of_operators_end() {
        let row = |count: usize| format!("{{{{ {} }}}}", "a % ".repeat(count));
        assert!(translate(&row(300)).unwrap().len() >= row(300).len());
        for tag in [row(60_000), row(60_000).replace("}}", ""), format!("\n\n{{% if {}x %}}", "not ".repeat(5000))] {
            let error = translate(&tag).unwrap_err().to_string();
            assert!(error.starts_with("chat template: expected at most 4096 words and signs in a tag"), "{error}");
        }
        // What looks like the end of a raw block is none.
        let hidden = format!("{{% raw %}}endraw {{# {{% endraw %}}{{{{ {}1 }}}} #}}", "-".repeat(5000));
        assert!(translate(&hidden).is_err());
    }
}
