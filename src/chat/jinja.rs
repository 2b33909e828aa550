//! Jinja templates from model files, run within bounds.
//!
//! Such a template is a program by a stranger. It sees the messages and two token texts, can reach neither files
//! nor the host, and ends with an error when it takes too long, nests too deeply or writes too much.
//!
//! The dialect is that of Hugging Face: blocks eat the line break after them and the blanks before them, Python's
//! string methods are there, and so is `raise_exception`. There is no `strftime_now`, as a prompt should not depend
//! on the day: templates that ask for it have a fixed date for that case, or say that it is missing.

use std::io::{self, Write};

use minijinja::{
    AutoEscape, Environment, ErrorKind, Value, context,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde, merge_maps},
};
use minijinja_contrib::pycompat;
use serde::Serialize;
use serde_json::{Serializer, Value as Json, ser::PrettyFormatter};

use super::{Message, Variables};
use crate::error::{Error, Remedy, Result, shown};

/// Real templates have at most some tens of kilobytes.
const MAX_SOURCE_BYTES: usize = 256 << 10;

/// Steps of a render without messages; one more is granted for each byte of the messages. minijinja counts an
/// instruction, or 64 bytes of data, as one: this bounds the time to about 0.1 s and memory to 64 MiB.
const BASE_FUEL: u64 = 1_000_000;

/// Bytes of text a template may write besides what the messages hold. Some templates print pages of instructions.
const MAX_EXTRA_BYTES: usize = 1 << 20;

/// A template may repeat the messages, but hardly more often than this.
const MAX_REPEATS: usize = 4;

/// minijinja's unit; an `if` or a `for` costs one, a macro about ten. Real templates stay below fifty.
const MAX_RECURSION: usize = 200;

/// Spaces a level of JSON may be indented by.
const MAX_INDENT: usize = 16;

const NAME: &str = "chat template";

/// A template that compiles.
#[derive(Debug)]
pub(super) struct Jinja {
    environment: Environment<'static>,
    source: String,
}

impl Jinja {
    pub fn compile(source: &str) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(Error::malformed(NAME, format!("at most {MAX_SOURCE_BYTES} bytes"), source.len()));
        }
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let mut environment = Environment::new();
        environment.set_syntax(syntax.map_err(reason)?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_recursion_limit(MAX_RECURSION);
        environment.set_unknown_method_callback(pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, source.to_owned()).map_err(reason)?;
        Ok(Self { environment, source: source.to_owned() })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it looks at this variable.
    pub fn reads(&self, variable: &str) -> bool {
        self.environment.get_template(NAME).is_ok_and(|t| t.undeclared_variables(false).contains(variable))
    }

    pub fn render(
        &self,
        messages: &[Message],
        variables: &Variables,
        bos: &str,
        eos: &str,
        with_answer: bool,
    ) -> Result<String> {
        let given = messages.iter().map(given_bytes).sum::<usize>() + variables.bytes();
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(BASE_FUEL + given as u64));
        let mut out = Bounded { text: Vec::new(), limit: MAX_EXTRA_BYTES + MAX_REPEATS * given };
        let messages: Vec<_> = messages.iter().map(value).collect();
        let usual = context! { bos_token => bos, eos_token => eos, add_generation_prompt => with_answer };
        // Of maps that have the same name, the last one counts.
        let context = merge_maps([usual, Value::from(Serde(variables)), context! { messages }]);
        let rendered = environment.get_template(NAME).and_then(|t| t.render_captured_to(context, &mut out).map(drop));
        rendered.map_err(|error| match error.kind() {
            ErrorKind::OutOfFuel => Error::unsupported(NAME, "it takes too many steps"),
            ErrorKind::WriteFailure => Error::malformed(NAME, format!("at most {} bytes of text", out.limit), "more"),
            _ => reason(error),
        })?;
        String::from_utf8(out.text).map_err(|_| Error::malformed(NAME, "text", "bytes that are no UTF-8"))
    }
}

/// A message as templates see it: the keys that Hugging Face has, where there is something to them.
fn value(message: &Message) -> Value {
    let Message { role, content, reasoning, tool_calls } = message;
    let mut keys = vec![("role", Value::from(role.name())), ("content", Value::from(content.as_str()))];
    keys.extend(reasoning.as_deref().map(|text| ("reasoning_content", Value::from(text))));
    if !tool_calls.is_empty() {
        let calls = tool_calls.iter().map(|call| {
            context! { type => "function", function => Value::from(Serde(call)) }
        });
        keys.push(("tool_calls", calls.collect()));
    }
    Value::from_pairs(keys)
}

fn given_bytes(message: &Message) -> usize {
    let calls = message.tool_calls.iter().map(|call| call.name.len() + call.arguments.to_string().len());
    message.content.len() + message.reasoning.as_ref().map_or(0, String::len) + calls.sum::<usize>()
}

/// JSON with the spaces of Python's `json.dumps`, which models have seen in training.
fn to_json(value: Serde<Json>, options: Kwargs) -> Result<Value, minijinja::Error> {
    let (indent, sorted): (Option<usize>, Option<bool>) = (options.get("indent")?, options.get("sort_keys")?);
    // Characters are written as they are, whatever it says.
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let invalid = |reason: String| minijinja::Error::new(ErrorKind::InvalidOperation, reason);
    let mut json = value.0;
    if sorted == Some(true) {
        json.sort_all_objects();
    }
    let mut bytes = Vec::new();
    let written = match indent {
        Some(width) => {
            let indent = " ".repeat(width.min(MAX_INDENT));
            json.serialize(&mut Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(indent.as_bytes())))
        }
        None => json.serialize(&mut Serializer::with_formatter(&mut bytes, Spaced)),
    };
    written.map_err(|error| invalid(error.to_string()))?;
    String::from_utf8(bytes).map(Value::from_safe_string).map_err(|error| invalid(error.to_string()))
}

/// On one line, with a space behind each comma and colon.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

/// A buffer that refuses to grow beyond `limit`.
struct Bounded {
    text: Vec<u8>,
    limit: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.limit - self.text.len() < bytes.len() {
            return Err(io::Error::other("too much text"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn reason(error: minijinja::Error) -> Error {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    let detail = error.detail().map(|detail| format!(": {}", shown(detail))).unwrap_or_default();
    Error::unsupported(NAME, format!("{}{line}{detail}", error.kind())).with_remedy(Remedy::ChatTemplate)
}
