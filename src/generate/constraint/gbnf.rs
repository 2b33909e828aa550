//! llama.cpp's grammars (GBNF) in the Lark dialect of llguidance.
//!
//! `name ::= "text" [a-z] other ( .. | .. ) x* x+ x? x{2,3}`, comments after `#`; the answer is a `root`. Rules that do
//! not come back to themselves become terminals of Lark, which are regular expressions and may overlap as they like;
//! the others become its rules.

use std::{collections::HashMap, fmt::Write};

use crate::error::{Error, Result, shown};

/// Deeper parentheses are refused: the parser and its output are recursive.
const MOST_NESTING: usize = 100;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Defines,
    Text(String),
    /// As a regular expression.
    Class(String),
    Any,
    Open,
    Close,
    Or,
    /// `*`, `+`, `?` or `{..}`
    Repeat(String),
}

#[derive(Debug)]
enum Element {
    Name(usize),
    /// Text that both dialects spell alike, or a regular expression.
    Lark(String),
    Group(Vec<Vec<(Element, String)>>),
}

/// Alternatives of sequences of items with their repeats.
type Body = Vec<Vec<(Element, String)>>;

pub fn to_lark(source: &str) -> Result<String> {
    let tokens = Lexer { source, at: 0 }.tokens()?;
    let mut names = HashMap::new();
    for pair in tokens.windows(2) {
        if let [(Token::Name(name), at), (Token::Defines, _)] = pair {
            let number = names.len();
            if names.insert(name.as_str(), number).is_some() {
                return Err(wrong(source, *at, "each rule once", &format!("{name:?} again")));
            }
        }
    }
    let Some(&root) = names.get("root") else {
        return Err(Error::missing("rule \"root\" of the grammar", "where every answer begins"));
    };
    let mut parser = Parser { source, tokens: &tokens, at: 0, names: &names };
    let mut rules = Vec::new();
    while parser.at < tokens.len() {
        rules.push(parser.rule()?);
    }
    let recursive: Vec<bool> = (0..rules.len()).map(|rule| reaches(&rules, rule, rule)).collect();
    // A rule that uses a recursive one cannot be a terminal either.
    let is_rule: Vec<bool> = (0..rules.len())
        .map(|rule| recursive[rule] || (0..rules.len()).any(|other| recursive[other] && reaches(&rules, rule, other)))
        .collect();
    let name = |rule: usize| if is_rule[rule] { format!("r{rule}") } else { format!("T{rule}") };
    let mut lark = format!("start: {}\n", name(root));
    for (number, body) in rules.iter().enumerate() {
        let _ = write!(lark, "{}: ", name(number));
        write_body(body, &name, &mut lark);
        lark.push('\n');
    }
    Ok(lark)
}

/// Whether `from` uses `to`, directly or through others.
fn reaches(rules: &[Body], from: usize, to: usize) -> bool {
    fn uses(body: &Body, found: &mut Vec<usize>) {
        for (item, _) in body.iter().flatten() {
            match item {
                Element::Name(rule) => found.push(*rule),
                Element::Group(body) => uses(body, found),
                Element::Lark(_) => {}
            }
        }
    }
    let mut seen = vec![false; rules.len()];
    let mut open = Vec::new();
    uses(&rules[from], &mut open);
    while let Some(rule) = open.pop() {
        if rule == to {
            return true;
        }
        if !std::mem::replace(&mut seen[rule], true) {
            uses(&rules[rule], &mut open);
        }
    }
    false
}

fn write_body(body: &Body, name: &impl Fn(usize) -> String, out: &mut String) {
    for (at, sequence) in body.iter().enumerate() {
        if at > 0 {
            out.push_str(" | ");
        }
        if sequence.is_empty() {
            out.push_str("\"\"");
        }
        for (at, (item, repeat)) in sequence.iter().enumerate() {
            if at > 0 {
                out.push(' ');
            }
            match item {
                Element::Name(rule) => out.push_str(&name(*rule)),
                Element::Lark(text) => out.push_str(text),
                Element::Group(body) => {
                    out.push('(');
                    write_body(body, name, out);
                    out.push(')');
                }
            }
            out.push_str(repeat);
        }
    }
}

/// An error with its place.
fn wrong(source: &str, at: usize, expected: &str, found: &str) -> Error {
    let before = &source[..at];
    let (line, column) =
        (before.matches('\n').count() + 1, before.chars().rev().take_while(|&c| c != '\n').count() + 1);
    Error::malformed(format!("grammar, line {line}, column {column}"), expected, found)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
}

impl Lexer<'_> {
    fn tokens(mut self) -> Result<Vec<(Token, usize)>> {
        let mut tokens = Vec::new();
        while let Some(c) = self.peek() {
            let start = self.at;
            self.at += c.len_utf8();
            let token = match c {
                c if c.is_whitespace() => continue,
                '#' => {
                    let rest = &self.source[self.at..];
                    self.at += rest.find('\n').unwrap_or(rest.len());
                    continue;
                }
                ':' if self.source[self.at..].starts_with(":=") => {
                    self.at += 2;
                    Token::Defines
                }
                '"' => self.text()?,
                '[' => self.class()?,
                '.' => Token::Any,
                '(' => Token::Open,
                ')' => Token::Close,
                '|' => Token::Or,
                '*' | '+' | '?' => Token::Repeat(c.into()),
                '{' => self.repeat(start)?,
                c if c.is_ascii_alphanumeric() => {
                    let rest = &self.source[start..];
                    let name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
                    let end = rest.find(|c| !name(c)).unwrap_or(rest.len());
                    self.at = start + end;
                    Token::Name(rest[..end].into())
                }
                other => {
                    return Err(wrong(self.source, start, "a rule, a text or an operator", &shown(&other.to_string())));
                }
            };
            tokens.push((token, start));
        }
        Ok(tokens)
    }

    fn peek(&self) -> Option<char> {
        self.source[self.at..].chars().next()
    }

    /// The next character of a text or class, an escape resolved; `None` at the end of the source.
    fn character(&mut self) -> Result<Option<char>> {
        let start = self.at;
        let Some(c) = self.peek() else { return Ok(None) };
        self.at += c.len_utf8();
        if c != '\\' {
            return Ok(Some(c));
        }
        let Some(escaped) = self.peek() else { return Ok(None) };
        self.at += escaped.len_utf8();
        let digits = match escaped {
            'n' => return Ok(Some('\n')),
            't' => return Ok(Some('\t')),
            'r' => return Ok(Some('\r')),
            '"' | '\\' | '[' | ']' | '-' | '^' | '/' => return Ok(Some(escaped)),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => {
                return Err(wrong(
                    self.source,
                    start,
                    "an escape (\\n \\t \\r \\\" \\\\ \\[ \\] \\xHH \\uHHHH)",
                    "another",
                ));
            }
        };
        let code = self.source.get(self.at..self.at + digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        self.at += digits;
        match code.and_then(char::from_u32) {
            Some(c) => Ok(Some(c)),
            None => Err(wrong(self.source, start, &format!("{digits} hexadecimal digits of a character"), "another")),
        }
    }

    fn text(&mut self) -> Result<Token> {
        let start = self.at - 1;
        let mut text = String::new();
        while self.peek() != Some('"') {
            match self.character()? {
                Some(c) if c != '\n' || self.source.as_bytes()[self.at - 1] != b'\n' => text.push(c),
                _ => return Err(wrong(self.source, start, "a closing quote on the same line", "none")),
            }
        }
        self.at += 1;
        Ok(Token::Text(text))
    }

    fn class(&mut self) -> Result<Token> {
        let start = self.at - 1;
        let mut class = String::from("[");
        if self.peek() == Some('^') {
            self.at += 1;
            class.push('^');
        }
        while self.peek() != Some(']') {
            let open = || wrong(self.source, start, "a closing bracket", "none");
            let range = self.peek() == Some('-');
            match self.character()? {
                // As it stands: between two characters a range, elsewhere itself.
                Some('-') if range && class.len() > 2 && self.peek() != Some(']') => class.push('-'),
                Some(c) => {
                    let _ = write!(class, "\\u{{{:x}}}", u32::from(c));
                }
                None => return Err(open()),
            }
            if self.at >= self.source.len() {
                return Err(open());
            }
        }
        self.at += 1;
        if class.len() <= 2 {
            return Err(wrong(self.source, start, "a character in the brackets", "none"));
        }
        Ok(Token::Class(class + "]"))
    }

    fn repeat(&mut self, start: usize) -> Result<Token> {
        let rest = &self.source[start..];
        let end = rest.find('}').map(|end| end + 1);
        let text = end.map(|end| rest[..end].split_whitespace().collect::<String>()).unwrap_or_default();
        let inner = text.trim_start_matches('{').trim_end_matches('}');
        let (least, most) = inner.split_once(',').unwrap_or((inner, inner));
        let number = |text: &str| !text.is_empty() && text.len() < 6 && text.bytes().all(|b| b.is_ascii_digit());
        if !number(least) || !(number(most) || most.is_empty()) {
            return Err(wrong(self.source, start, "{n}, {n,} or {n,m}", &shown(&text)));
        }
        self.at = start + end.unwrap_or_default();
        Ok(Token::Repeat(text))
    }
}

struct Parser<'a> {
    source: &'a str,
    tokens: &'a [(Token, usize)],
    at: usize,
    names: &'a HashMap<&'a str, usize>,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    fn wrong(&self, expected: &str) -> Error {
        let place = self.tokens.get(self.at).map_or(self.source.len(), |&(_, at)| at);
        let found = self.source[place..].split_whitespace().next().unwrap_or("the end");
        wrong(self.source, place, expected, &shown(found))
    }

    /// True where the next two tokens begin a rule.
    fn at_rule(&self) -> bool {
        matches!(self.tokens[self.at..], [(Token::Name(_), _), (Token::Defines, _), ..])
    }

    fn rule(&mut self) -> Result<Body> {
        if !self.at_rule() {
            return Err(self.wrong("the name of a rule and ::="));
        }
        self.at += 2;
        let body = self.body(0)?;
        if self.at < self.tokens.len() && !self.at_rule() {
            return Err(self.wrong("an item or a rule"));
        }
        Ok(body)
    }

    fn body(&mut self, depth: usize) -> Result<Body> {
        if depth > MOST_NESTING {
            return Err(self.wrong(&format!("at most {MOST_NESTING} parentheses in each other")));
        }
        let mut body = vec![Vec::new()];
        loop {
            let item = match self.peek() {
                Some(Token::Or) => {
                    self.at += 1;
                    body.push(Vec::new());
                    continue;
                }
                Some(Token::Name(name)) if !self.at_rule() => match self.names.get(name.as_str()) {
                    Some(&rule) => Element::Name(rule),
                    None => return Err(self.wrong("the name of a rule")),
                },
                Some(Token::Text(text)) => Element::Lark(serde_json::Value::from(text.as_str()).to_string()),
                Some(Token::Class(class)) => Element::Lark(format!("/{class}/")),
                Some(Token::Any) => Element::Lark("/(?s:.)/".into()),
                Some(Token::Open) => {
                    self.at += 1;
                    let group = self.body(depth + 1)?;
                    if self.peek() != Some(&Token::Close) {
                        return Err(self.wrong("a closing parenthesis"));
                    }
                    Element::Group(group)
                }
                _ => return Ok(body),
            };
            self.at += 1;
            let mut repeat = String::new();
            if let Some(Token::Repeat(text)) = self.peek() {
                repeat.clone_from(text);
                self.at += 1;
            }
            body.last_mut().unwrap_or_else(|| unreachable!("it begins with one")).push((item, repeat));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_terminals_unless_they_come_back_to_themselves() {
        let lark = to_lark("root ::= \"a\\n\" [a-z]+ # comment\n   other{2,3} | ( . )?\nother ::= [^\"\\]] ").unwrap();
        assert_eq!(
            lark,
            "start: T0\nT0: \"a\\n\" /[\\u{61}-\\u{7a}]/+ T1{2,3} | (/(?s:.)/)?\nT1: /[^\\u{22}\\u{5d}]/\n"
        );
        let lark = to_lark("root ::= value\nvalue ::= \"[\" value* \"]\" | digit\ndigit ::= [0-9]").unwrap();
        assert_eq!(lark, "start: r0\nr0: r1\nr1: \"[\" r1* \"]\" | T2\nT2: /[\\u{30}-\\u{39}]/\n");
        // A minus at either end is one; so is an escaped one.
        let lark = to_lark("root ::= [-a] [a-] [a\\-z] \"\" | ").unwrap();
        let class = |inner| format!("/[{inner}]/");
        let (a, minus, z) = ("\\u{61}", "\\u{2d}", "\\u{7a}");
        let classes = [class(format!("{minus}{a}")), class(format!("{a}{minus}")), class(format!("{a}{minus}{z}"))];
        assert_eq!(lark, format!("start: T0\nT0: {} \"\" | \"\"\n", classes.join(" ")));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (source, expected) in [
            ("root ::= \"a", "line 1, column 10: expected a closing quote"),
            ("root ::= [a", "line 1, column 10: expected a closing bracket"),
            ("root ::= []", "line 1, column 10: expected a character"),
            ("root ::= a\nb ::= \"x\"", "line 1, column 10: expected the name of a rule, found a"),
            ("x ::= \"x\"", "rule \"root\" of the grammar is missing"),
            ("root ::= (\"x\"\nb ::= \"x\"", "line 2, column 1: expected a closing parenthesis, found b"),
            ("root ::= \"x\" )", "line 1, column 14: expected an item or a rule, found )"),
            ("root ::= \"x\"{1,y}", "line 1, column 13: expected {n}, {n,} or {n,m}, found {1,y}"),
            ("root ::= \"x\"\n  \"\\q\"", "line 2, column 4: expected an escape"),
            ("root ::= \"x\"\nroot ::= \"y\"", "line 2, column 1: expected each rule once"),
            ("root ::= <x>", "line 1, column 10: expected a rule, a text or an operator, found <"),
            ("root ::= *", "line 1, column 10: expected an item or a rule, found *"),
        ] {
            let error = to_lark(source).unwrap_err().to_string();
            assert!(error.contains(expected), "{source:?}: {error}");
        }
        let deep = format!("root ::= {}", "(".repeat(100_000));
        assert!(to_lark(&deep).unwrap_err().to_string().contains("at most 100 parentheses"));
    }
}
