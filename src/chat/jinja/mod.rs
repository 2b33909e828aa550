//! Jinja templates from model files, run within bounds.
//!
//! Such a template is a program by a stranger. It sees the messages and two token texts, can reach neither files
//! nor the host, and ends with an error when it takes too long, nests too deeply or writes too much.
//!
//! The dialect is that of Hugging Face, as `chat_template_utils.py` of transformers defines it: blocks eat the line break
//! after them and the blanks before them, Python's string methods and its `%` are there, and so are `raise_exception`,
//! `strftime_now`, `tojson` with its options, and the tag `generation`. `tools` and `documents` are none where there are
//! none, and reasoning has the names that transformers gives it.

mod builtins;
mod json;
mod lists;
mod source;
mod text;

use std::{
    collections::HashSet,
    io::{self, Write},
    panic, thread,
};

use minijinja::{
    AutoEscape, Environment, ErrorKind, Value, context,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde, merge_maps},
};

use super::{Message, ToolCall, Variables};
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

/// Stack of the thread that compiles: minijinja goes down once for each operator of a tag, of which there are a few thousand at
/// most (about 1 KB each, 4 KB unoptimised), and for each `elif`. Only what is used takes memory.
const COMPILE_STACK_BYTES: usize = 64 << 20;

/// Stack of a render besides, for each step: a value that holds a value that holds a value costs eight steps a level, and is
/// printed, compared and freed by going down into it (0.5 KB a level, 2 KB unoptimised).
const STACK_BYTES_PER_STEP: u64 = 512;

/// minijinja's unit; an `if` or a `for` costs one, a macro about ten. Real templates stay below fifty.
const MAX_RECURSION: usize = 200;

const NAME: &str = "chat template";

/// A template that compiles.
#[derive(Debug)]
pub(super) struct Jinja {
    environment: Environment<'static>,
    source: String,
    /// Variables that it looks at.
    reads: HashSet<String>,
}

impl Jinja {
    pub fn compile(source: &str) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(Error::malformed(NAME, format!("at most {MAX_SOURCE_BYTES} bytes"), source.len()));
        }
        on_stack(COMPILE_STACK_BYTES, || {
            let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
            let mut environment = Environment::new();
            environment.set_syntax(syntax.map_err(reason)?);
            environment.set_auto_escape_callback(|_| AutoEscape::None);
            environment.set_recursion_limit(MAX_RECURSION);
            builtins::add(&mut environment);
            environment.add_template_owned(NAME, source::translate(source)?).map_err(reason)?;
            let reads = environment.get_template(NAME).map_err(reason)?.undeclared_variables(false);
            Ok(Self { environment, source: source.to_owned(), reads })
        })?
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it looks at this variable.
    pub fn reads(&self, variable: &str) -> bool {
        self.reads.contains(variable)
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
        let fuel = BASE_FUEL + given as u64;
        let stack = COMPILE_STACK_BYTES + usize::try_from(fuel * STACK_BYTES_PER_STEP).unwrap_or(usize::MAX / 2);
        on_stack(stack, || self.render_here(messages, variables, (bos, eos), with_answer, (given, fuel)))?
    }

    fn render_here(
        &self,
        messages: &[Message],
        variables: &Variables,
        (bos, eos): (&str, &str),
        with_answer: bool,
        (given, fuel): (usize, u64),
    ) -> Result<String> {
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        let mut out = Bounded { text: Vec::new(), limit: MAX_EXTRA_BYTES + MAX_REPEATS * given };
        let messages: Vec<_> = messages.iter().map(value).collect();
        let special = [("bos_token", bos), ("eos_token", eos)].into_iter().filter(|(_, text)| !text.is_empty());
        let special = Value::from_pairs(special.map(|(name, text)| (name, Value::from(text))));
        let usual = context! { tools => (), documents => (), add_generation_prompt => with_answer };
        // Of maps that have the same name, the last one counts.
        let context = merge_maps([special, usual, Value::from(Serde(variables)), context! { messages }]);
        let rendered = environment.get_template(NAME).and_then(|t| t.render_captured_to(context, &mut out).map(drop));
        rendered.map_err(|error| match error.kind() {
            ErrorKind::OutOfFuel => Error::unsupported(NAME, "it takes too many steps"),
            ErrorKind::WriteFailure => Error::malformed(NAME, format!("at most {} bytes of text", out.limit), "more"),
            _ => reason(error),
        })?;
        String::from_utf8(out.text).map_err(|_| Error::malformed(NAME, "text", "bytes that are no UTF-8"))
    }
}

/// Runs `work` on a stack of its own.
///
/// # Errors
/// If the system refuses it.
fn on_stack<T: Send>(bytes: usize, work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let started = thread::Builder::new().name(NAME.into()).stack_size(bytes).spawn_scoped(scope, work);
        let started =
            started.map_err(|_| Error::OutOfMemory { what: format!("the stack of a {NAME}"), bytes: bytes as u64 })?;
        Ok(started.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked)))
    })
}

/// The error of an operation that cannot be done.
fn invalid(reason: impl Into<String>) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, reason.into())
}

/// An argument by its name, or by its place among those without one.
fn argument(
    given: &[Value],
    options: &Kwargs,
    at: usize,
    name: &str,
) -> std::result::Result<Option<Value>, minijinja::Error> {
    let by_name: Option<Value> = options.get(name)?;
    Ok(by_name.or_else(|| given.get(at).cloned()))
}

/// A message as templates see it: the keys that Hugging Face has, where there is something to them. Reasoning has two
/// names, as transformers fills in the older one for templates that read it.
fn value(message: &Message) -> Value {
    let Message { role, content, reasoning, name, tool_call_id, tool_calls } = message;
    let mut keys = Vec::new();
    let mut put = |key: &'static str, text: &Option<String>| {
        keys.extend(text.as_deref().map(|text| (key, Value::from(text))));
    };
    put("thinking", reasoning);
    put("role", &Some(role.name().to_owned()));
    put("content", &Some(content.clone()));
    put("name", name);
    put("tool_call_id", tool_call_id);
    if !tool_calls.is_empty() {
        keys.push(("tool_calls", tool_calls.iter().map(call).collect()));
    }
    keys.extend(reasoning.as_deref().map(|text| ("reasoning_content", Value::from(text))));
    Value::from_pairs(keys)
}

/// A call in OpenAI's form.
fn call(call: &ToolCall) -> Value {
    let ToolCall { id, name, arguments } = call;
    let function = context! { name, arguments => Value::from(Serde(arguments)) };
    let id = id.as_deref().map(|id| ("id", Value::from(id)));
    Value::from_pairs(id.into_iter().chain([("type", Value::from("function")), ("function", function)]))
}

fn given_bytes(message: &Message) -> usize {
    let Message { content, reasoning, name, tool_call_id, tool_calls, .. } = message;
    let texts = [reasoning, name, tool_call_id].into_iter().flatten().map(String::len).sum::<usize>();
    let call =
        |call: &ToolCall| call.name.len() + call.id.as_ref().map_or(0, String::len) + call.arguments.to_string().len();
    content.len() + texts + tool_calls.iter().map(call).sum::<usize>()
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
