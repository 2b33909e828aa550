//! `a + b` as a call of the filter for it, where both may be lists: no operand of the sum is a text or a number that is written
//! out.

use std::borrow::Cow;

use super::{KEYWORDS, PLUS, ends_operand};

/// Signs that end a sum.
const ENDS: [&str; 6] = [",", ":", "=", "!", "<", ">"];

/// The operands of one level of brackets, from the sign or word that ended the sum before.
#[derive(Default)]
struct Sum {
    /// Places of `+` and `-` between operands.
    signs: Vec<usize>,
    first: Option<usize>,
    last: usize,
    /// Tokens of the operand at hand.
    len: usize,
    /// The operand at hand is written out, and so far nothing else.
    is_literal: bool,
    has_literal: bool,
    /// Behind `is` stands the name of a test, which may have an operand without a bracket.
    is_test: bool,
}

impl Sum {
    fn take(&mut self, at: usize, is_literal: bool) {
        self.first.get_or_insert(at);
        self.is_literal = self.len == 0 && is_literal;
        self.last = at;
        self.len += 1;
    }

    fn end_operand(&mut self) {
        self.has_literal |= self.len == 1 && self.is_literal;
        self.len = 0;
    }
}

/// Text to be put in.
struct Edits {
    before: Vec<String>,
    after: Vec<String>,
    /// In place of the token.
    instead: Vec<Option<String>>,
}

/// Replaces the signs of one tag.
pub(super) fn replace(tokens: &mut [Cow<'_, str>]) {
    let count = tokens.len();
    let mut edits =
        Edits { before: vec![String::new(); count], after: vec![String::new(); count], instead: vec![None; count] };
    let mut levels = vec![Sum::default()];
    for at in 0..count {
        let token = tokens[at].trim();
        // A mark of white space at either end of the tag.
        if matches!(token, "-" | "+") && (at + 1 == count || (at == 0 && tokens[0].len() == 1)) {
            continue;
        }
        let Some(sum) = levels.last_mut() else { return };
        match token {
            "" => {}
            // In front of arguments.
            "*" | "**" if sum.len == 0 => {}
            "(" | "[" | "{" => {
                sum.take(at, false);
                levels.push(Sum::default());
            }
            ")" | "]" | "}" => {
                finish(levels.pop().unwrap_or_default(), tokens, &mut edits);
                match levels.last_mut() {
                    Some(outer) => outer.take(at, false),
                    // Brackets that do not match: minijinja says so.
                    None => return,
                }
            }
            "+" | "-" if at > 0 && sum.len > 0 && ends_operand(&tokens[at - 1]) => {
                sum.end_operand();
                sum.signs.push(at);
            }
            _ if ENDS.contains(&token) || (KEYWORDS.contains(&token) && !is_attribute(tokens, at)) => {
                let is_test = token == "is" || (token == "not" && sum.is_test);
                finish(std::mem::replace(sum, Sum { is_test, ..Sum::default() }), tokens, &mut edits);
            }
            _ => {
                let is_name = is_attribute(tokens, at);
                sum.take(at, !is_name && token.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '"' | '\'')));
            }
        }
    }
    while let Some(sum) = levels.pop() {
        finish(sum, tokens, &mut edits);
    }
    let Edits { before, after, instead } = edits;
    for (((token, before), after), instead) in tokens.iter_mut().zip(before).zip(after).zip(instead) {
        if !(before.is_empty() && after.is_empty() && instead.is_none()) {
            let text = instead.as_deref().unwrap_or(token);
            *token = Cow::Owned(format!("{before}{text}{after}"));
        }
    }
}

fn is_attribute(tokens: &[Cow<'_, str>], at: usize) -> bool {
    at > 0 && tokens[at - 1].trim() == "."
}

/// `a + b - c + d` becomes `((a)|python_add(b) - c)|python_add(d)`.
fn finish(mut sum: Sum, tokens: &[Cow<'_, str>], edits: &mut Edits) {
    if sum.len == 0 {
        // An operand is missing.
        return;
    }
    sum.end_operand();
    let is_plus = |at: &usize| tokens[*at].trim() == "+";
    let count = sum.signs.iter().filter(|at| is_plus(at)).count();
    let Some(first) = sum.first.filter(|_| count > 0 && !sum.has_literal && !sum.is_test) else { return };
    edits.before[first] = format!(" {}{}", "(".repeat(count), edits.before[first]);
    let mut is_open = false;
    for at in sum.signs {
        let close = if std::mem::take(&mut is_open) { ")" } else { "" };
        if tokens[at].trim() == "+" {
            edits.instead[at] = Some(format!("{close})|{PLUS}("));
            is_open = true;
        } else {
            edits.before[at] += close;
        }
    }
    if is_open {
        edits.after[sum.last].push(')');
    }
}

#[cfg(test)]
mod tests {
    use super::super::translate;

    #[test]
    fn sums_of_what_may_be_lists_become_a_filter() {
        let cases = [
            ("{{ a + b }}", "{{ ( a)|python_add( b) }}"),
            ("{% set x = x + [y] %}", "{% set x = ( x)|python_add( [y]) %}"),
            ("{{- a.b|f(1) + c[d + e] -}}", "{{- ( a.b|f(1))|python_add( c[ (d)|python_add( e)]) -}}"),
            ("{{ a - b + c - d + e }}", "{{ (( a - b)|python_add( c) - d)|python_add( e) }}"),
            ("{{ a + b + c }}", "{{ (( a)|python_add( b))|python_add( c) }}"),
            ("{{ a * 2 + b ~ c }}", "{{ ( a * 2)|python_add( b ~ c) }}"),
            ("{% if a + b == c and not d + e %}", "{% if ( a)|python_add( b) == c and not ( d)|python_add( e) %}"),
            ("{{ f(x=a + -b, **c + d) }}", "{{ f(x= (a)|python_add( -b), ** (c)|python_add( d)) }}"),
            // Neither is a list.
            ("{{ 'a' + b + c }}", "{{ 'a' + b + c }}"),
            ("{{ loop.index0 + 1 }}", "{{ loop.index0 + 1 }}"),
            ("{{ 'a,b'.split(',') + c }}", "{{ ( 'a,b'.split(','))|python_add( c) }}"),
            ("{%+ if a is divisibleby b + c %}", "{%+ if a is divisibleby b + c %}"),
            ("{{ +a }}{{ a + }}{{ a + b) }}", "{{ +a }}{{ a + }}{{ a + b) }}"),
        ];
        for (given, expected) in cases {
            assert_eq!(translate(given).unwrap(), expected, "{given}");
        }
    }
}
