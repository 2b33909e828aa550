//! Calls of tools in the text of a model: those it writes as it was trained to, and those that a grammar makes it write.

use serde_json::Value;

use super::{Delta, certain, content};

/// Marks around a call in the format of Hermes, which Qwen has, too.
const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// Key of the arguments in a call that a grammar made the model write.
const ARGUMENTS: &str = "\"arguments\"";

/// How a model writes calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallForm {
    /// As it wants to: text, and calls between marks, or an object alone that names one of these functions.
    Free(Vec<String>),
    /// An object with `name` and `arguments`, and nothing else.
    Object,
    /// The arguments of this function, and nothing else.
    ArgumentsOf(String),
}

/// Finds calls in a text.
#[derive(Debug)]
pub struct ToolCalls {
    form: CallForm,
    held: String,
    calls: usize,
    complete: usize,
    state: State,
    /// Nothing but white space came since a call.
    is_behind_call: bool,
    /// Where the arguments stand, for those that are passed on as they come.
    depth: Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the start of the text.
    Start,
    /// In text.
    Text,
    /// An object of its own, whole only at the end.
    Bare,
    /// Between the marks of a call.
    Call,
    /// In the arguments of a call that is passed on as it comes.
    Arguments,
    /// Behind all of it.
    Done,
}

/// How deep a place in JSON is.
#[derive(Clone, Copy, Debug, Default)]
struct Json {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

/// Value that ends at a character of JSON.
enum Closes {
    Nothing,
    /// The outermost object or array.
    Outermost,
    /// One around it: a number or a text came before.
    Outside,
}

impl Json {
    /// Takes a character; tells what it closes.
    fn closes(&mut self, c: char) -> Closes {
        match c {
            _ if self.escaped => self.escaped = false,
            '\\' if self.in_string => self.escaped = true,
            '"' => self.in_string = !self.in_string,
            '{' | '[' if !self.in_string => self.depth += 1,
            '}' | ']' if !self.in_string => {
                let Some(depth) = self.depth.checked_sub(1) else { return Closes::Outside };
                self.depth = depth;
                return if depth == 0 { Closes::Outermost } else { Closes::Nothing };
            }
            _ => {}
        }
        Closes::Nothing
    }
}

impl ToolCalls {
    pub fn new(form: CallForm) -> Self {
        Self {
            form,
            held: String::new(),
            calls: 0,
            complete: 0,
            state: State::Start,
            is_behind_call: false,
            depth: Json::default(),
        }
    }

    /// Calls that came to their end.
    pub fn complete(&self) -> usize {
        self.complete
    }

    /// Takes more text.
    pub fn push(&mut self, text: &str, out: &mut Vec<Delta>) {
        self.held.push_str(text);
        while self.advance(out) {}
    }

    /// The end of the text.
    pub fn finish(&mut self, out: &mut Vec<Delta>) {
        match self.state {
            State::Bare => self.bare_call(out),
            // A call that was cut off is no call, but nothing is lost.
            State::Call => content(&format!("{OPEN}{}", self.held), out),
            State::Start if self.form != CallForm::Object => content(&self.held, out),
            State::Text => content(&self.held, out),
            // A number or a text alone has no end of its own.
            State::Arguments if self.is_alone() => self.complete += 1,
            State::Start | State::Arguments | State::Done => {}
        }
        self.held.clear();
    }

    /// True for arguments that are no object, with nothing around them, at the end of a value.
    fn is_alone(&self) -> bool {
        matches!(self.form, CallForm::ArgumentsOf(_)) && self.depth.depth == 0 && !self.depth.in_string
    }

    /// True where there may be more to take.
    fn advance(&mut self, out: &mut Vec<Delta>) -> bool {
        match self.state {
            State::Start => return self.start(out),
            State::Text => {
                if self.is_behind_call {
                    self.held = self.held.trim_start().to_owned();
                    self.is_behind_call = self.held.is_empty();
                }
                if let Some(at) = self.held.find(OPEN) {
                    content(self.held[..at].trim_end(), out);
                    self.held.drain(..at + OPEN.len());
                    self.state = State::Call;
                    return true;
                }
                let sure = certain(&self.held, OPEN);
                // White space in front of a call is no part of the text.
                let sure = self.held[..sure].trim_end().len();
                content(&self.held[..sure], out);
                self.held.drain(..sure);
            }
            State::Call => {
                if let Some(at) = self.held.find(CLOSE) {
                    let inner: String = self.held.drain(..at + CLOSE.len()).collect();
                    let inner = &inner[..at];
                    match parse_call(inner) {
                        Some((name, arguments)) => self.whole_call(name, arguments, out),
                        None => content(&format!("{OPEN}{inner}{CLOSE}"), out),
                    }
                    // Between calls there is white space alone.
                    self.is_behind_call = true;
                    self.state = State::Text;
                    return true;
                }
            }
            State::Arguments => self.pass_on(out),
            State::Bare | State::Done => {}
        }
        false
    }

    fn start(&mut self, out: &mut Vec<Delta>) -> bool {
        match &self.form {
            CallForm::ArgumentsOf(name) => {
                if self.held.is_empty() {
                    return false;
                }
                let name = name.clone();
                self.begin_call(name, out);
                true
            }
            CallForm::Object => {
                let Some((head, arguments)) = before_arguments(&self.held) else { return false };
                let head: Value = serde_json::from_str(&format!("{head}{ARGUMENTS}:null}}")).unwrap_or_default();
                let name = head["name"].as_str().unwrap_or_default().to_owned();
                self.held = arguments.to_owned();
                self.begin_call(name, out);
                true
            }
            CallForm::Free(_) => {
                let start = self.held.trim_start();
                let Some(first) = start.chars().next() else { return false };
                self.state = if first == '{' { State::Bare } else { State::Text };
                self.state == State::Text
            }
        }
    }

    fn begin_call(&mut self, name: String, out: &mut Vec<Delta>) {
        out.push(Delta::Call { index: self.calls, name });
        self.calls += 1;
        self.state = State::Arguments;
    }

    /// Arguments up to the brace that closes them.
    fn pass_on(&mut self, out: &mut Vec<Delta>) {
        let is_between = self.depth.depth == 0 && !self.depth.in_string;
        let skipped = if is_between { self.held.len() - self.held.trim_start().len() } else { 0 };
        self.held.drain(..skipped);
        let closed = self.held.char_indices().find_map(|(at, c)| match self.depth.closes(c) {
            Closes::Nothing => None,
            Closes::Outermost => Some(at + c.len_utf8()),
            Closes::Outside => Some(at),
        });
        let text: String = self.held.drain(..closed.unwrap_or(self.held.len())).collect();
        if !text.is_empty() {
            out.push(Delta::Arguments { index: self.calls - 1, text });
        }
        if closed.is_some() {
            self.complete += 1;
            self.state = State::Done;
        }
    }

    fn whole_call(&mut self, name: String, arguments: String, out: &mut Vec<Delta>) {
        let index = self.calls;
        out.push(Delta::Call { index, name });
        out.push(Delta::Arguments { index, text: arguments });
        self.calls += 1;
        self.complete += 1;
    }

    /// An object alone, as Llama 3 writes calls.
    fn bare_call(&mut self, out: &mut Vec<Delta>) {
        let CallForm::Free(names) = &self.form else { return };
        let text = std::mem::take(&mut self.held);
        match parse_call(&text).filter(|(name, _)| names.contains(name)) {
            Some((name, arguments)) => self.whole_call(name, arguments, out),
            None => content(&text, out),
        }
    }
}

/// Text before the key of the arguments, and text behind its colon. A function may be called like the key.
fn before_arguments(text: &str) -> Option<(&str, &str)> {
    text.match_indices(ARGUMENTS).find_map(|(at, key)| {
        let behind = text[at + key.len()..].trim_start().strip_prefix(':')?;
        Some((&text[..at], behind))
    })
}

/// Name and arguments, in JSON or in the tags of Qwen3-Coder and Qwen3.5.
fn parse_call(text: &str) -> Option<(String, String)> {
    let text = text.trim();
    if let Some(tagged) = text.strip_prefix("<function=") {
        return parse_tags(tagged);
    }
    let call: Value = serde_json::from_str(text).ok()?;
    let name = call.get("name")?.as_str()?.to_owned();
    let arguments = match call.get("arguments").or_else(|| call.get("parameters")) {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    Some((name, arguments))
}

/// `name>`, then `<parameter=key>` value `</parameter>` for each, then `</function>`.
fn parse_tags(text: &str) -> Option<(String, String)> {
    let (name, mut rest) = text.split_once('>')?;
    let mut arguments = serde_json::Map::new();
    while let Some((_, parameter)) = rest.split_once("<parameter=") {
        let (key, value) = parameter.split_once('>')?;
        let (value, behind) = value.split_once("</parameter>")?;
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        let parsed = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        arguments.insert(key.to_owned(), parsed);
        rest = behind;
    }
    Some((name.trim().to_owned(), Value::Object(arguments).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Output, joined, for every way to cut the text in two; and the complete calls.
    fn found(form: &CallForm, text: &str) -> (String, usize) {
        let mut all = Vec::new();
        for cut in text.char_indices().map(|(at, _)| at).chain([text.len()]) {
            let mut calls = ToolCalls::new(form.clone());
            let mut out = Vec::new();
            calls.push(&text[..cut], &mut out);
            calls.push(&text[cut..], &mut out);
            calls.finish(&mut out);
            let mut joined = String::new();
            for delta in out {
                joined += &match delta {
                    Delta::Content(text) => text,
                    Delta::Call { index, name } => format!("[{index} {name}]"),
                    Delta::Arguments { text, .. } => text,
                    Delta::Reasoning(text) => panic!("a thought: {text}"),
                };
            }
            all.push((joined, calls.complete()));
        }
        all.dedup();
        assert_eq!(all.len(), 1, "{text:?}: {all:?}");
        all.remove(0)
    }

    #[test]
    fn calls_between_marks_are_found_in_text() {
        let form = CallForm::Free(vec!["f".into()]);
        let one = "Well.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}é\"}}\n</tool_call>\n";
        assert_eq!(found(&form, one), ("Well.[0 f]{\"a\":\"}é\"}".into(), 1));
        let two = "<tool_call>{\"name\":\"f\"}</tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>";
        assert_eq!(found(&form, two), ("[0 f]{}[1 g]{}".into(), 2));
        let tags = "<tool_call>\n<function=f>\n<parameter=n>\n3\n</parameter>\n<parameter=s>\nx y\n</parameter>\n</function>\n</tool_call>";
        assert_eq!(found(&form, tags), ("[0 f]{\"n\":3,\"s\":\"x y\"}".into(), 1));
        assert_eq!(found(&form, "a < b <tool"), ("a < b <tool".into(), 0));
        assert_eq!(found(&form, "<tool_call>{\"name\": \"f\""), ("<tool_call>{\"name\": \"f\"".into(), 0));
        assert_eq!(found(&form, "<tool_call>no</tool_call>x"), ("<tool_call>no</tool_call>x".into(), 0));
    }

    #[test]
    fn an_object_alone_is_a_call_where_it_names_a_function() {
        let form = CallForm::Free(vec!["f".into()]);
        assert_eq!(found(&form, " {\"name\": \"f\", \"parameters\": {\"a\": 1}}"), ("[0 f]{\"a\":1}".into(), 1));
        assert_eq!(found(&form, "{\"name\": \"x\"}"), ("{\"name\": \"x\"}".into(), 0));
        assert_eq!(found(&form, "{ not JSON"), ("{ not JSON".into(), 0));
    }

    #[test]
    fn arguments_of_a_forced_call_are_passed_on_as_they_come() {
        let object = "{\"name\": \"f\", \"arguments\": {\"a\": {\"b\": \"\\\"}\"}}}";
        assert_eq!(found(&CallForm::Object, object), ("[0 f]{\"a\": {\"b\": \"\\\"}\"}}".into(), 1));
        assert_eq!(found(&CallForm::Object, "{\"name\": \"f\", \"argu"), ("".into(), 0));
        assert_eq!(found(&CallForm::Object, "{\"name\": \"f\", \"arguments\": {\"a\""), ("[0 f]{\"a\"".into(), 0));
        let named = CallForm::ArgumentsOf("g".into());
        assert_eq!(found(&named, "{\"a\":[1,2]}"), ("[0 g]{\"a\":[1,2]}".into(), 1));
        // Schemas of strangers may be those of numbers and texts.
        for value in ["null", "-2.5e3", "\"a }\"", "true"] {
            let object = format!("{{\"name\": \"f\", \"arguments\": {value}}}");
            assert_eq!(found(&CallForm::Object, &object), (format!("[0 f]{value}"), 1));
            assert_eq!(found(&named, value), (format!("[0 g]{value}"), 1));
        }
        assert_eq!(found(&named, "\"cut off"), ("[0 g]\"cut off".into(), 0));
    }
}
