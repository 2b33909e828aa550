//! Lines that the person types: with history and edit keys on a terminal, line by line from anything else.

use std::io::{self, BufRead, IsTerminal};

use rustyline::{
    CompletionType, Config, Context, Editor, Helper,
    completion::{Completer, FilenameCompleter, Pair},
    error::ReadlineError,
    highlight::Highlighter,
    hint::Hinter,
    history::DefaultHistory,
    validate::Validator,
};

use super::command::WORDS;
use crate::{
    cli::{interrupt, output},
    error::{Error, Result},
};

/// Begins and ends a text of several lines.
const QUOTES: &str = "\"\"\"";

pub struct Lines {
    editor: Option<Editor<Completion, DefaultHistory>>,
    interrupted: bool,
    /// Whether the person asked for the end with Ctrl-C.
    ended: bool,
}

impl Lines {
    pub fn new() -> Self {
        let on_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
        let editor = on_terminal
            .then(editor)
            .and_then(|editor| editor.map_err(|error| log::warn!("no editing of lines: {error}")).ok());
        Self { editor, interrupted: false, ended: false }
    }

    /// Whether a person sits there, who can be told of a mistake and try again.
    pub fn interactive(&self) -> bool {
        self.editor.is_some()
    }

    /// The next text; `None` at the end.
    pub fn next(&mut self) -> Result<Option<String>> {
        let Some(line) = self.line("> ")? else { return Ok(None) };
        let Some(first) = line.trim_start().strip_prefix(QUOTES) else { return Ok(Some(line)) };
        let mut text = first.to_owned();
        // The quotes end the text wherever they stand at the end of a line, the first one included.
        while !text.trim_end().ends_with(QUOTES) {
            match self.line(". ")? {
                Some(more) => text = text + "\n" + &more,
                None => return Err(Error::Usage(format!("the text that begins with {QUOTES} has no end"))),
            }
        }
        Ok(Some(text.trim_end().trim_end_matches(QUOTES).trim_matches('\n').to_owned()))
    }

    /// Whether the person says yes to `question`; no, where nobody sits there.
    pub fn confirms(&mut self, question: &str) -> Result<bool> {
        if !self.interactive() {
            return Ok(false);
        }
        let said = self.line(&format!("{question} [y/N] "))?;
        Ok(said.is_some_and(|said| ["y", "yes"].contains(&said.trim().to_ascii_lowercase().as_str())))
    }

    /// One line; `None` at the end, and after a signal that asks for it.
    fn line(&mut self, prompt: &str) -> Result<Option<String>> {
        interrupt::waiting(true);
        let is_over = self.ended || interrupt::is_last();
        let read = if is_over { Ok(None) } else { self.read_line(prompt) };
        interrupt::waiting(false);
        read
    }

    fn read_line(&mut self, prompt: &str) -> Result<Option<String>> {
        let Some(editor) = &mut self.editor else { return plain_line() };
        loop {
            match editor.readline(prompt) {
                Ok(line) => {
                    self.interrupted = false;
                    if !line.trim().is_empty() {
                        // A line that is not remembered is no reason to lose it.
                        let _ = editor.add_history_entry(line.as_str());
                    }
                    return Ok(Some(line));
                }
                Err(ReadlineError::Eof) => return Ok(None),
                Err(ReadlineError::Interrupted) if self.interrupted => {
                    interrupt::raise();
                    self.ended = true;
                    return Ok(None);
                }
                Err(ReadlineError::Interrupted) => {
                    self.interrupted = true;
                    output::note("(Ctrl-C again, Ctrl-D or /bye ends the chat)");
                }
                Err(ReadlineError::Io(error)) => return Err(stdin_error(error)),
                Err(other) => return Err(stdin_error(io::Error::other(other.to_string()))),
            }
        }
    }
}

fn editor() -> rustyline::Result<Editor<Completion, DefaultHistory>> {
    let config = Config::builder().completion_type(CompletionType::List).build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(Completion { files: FilenameCompleter::new() }));
    Ok(editor)
}

/// Completion by the Tab key: commands, and the files behind those that take one.
struct Completion {
    files: FilenameCompleter,
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(&self, line: &str, position: usize, context: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = &line[..position];
        if before.starts_with("/save ") || before.starts_with("/load ") {
            return self.files.complete(line, position, context);
        }
        let fitting = WORDS.into_iter().filter(|word| before.starts_with('/') && word.starts_with(before));
        Ok((0, fitting.map(|word| Pair { display: word.trim_end().into(), replacement: word.into() }).collect()))
    }
}

impl Helper for Completion {}
impl Highlighter for Completion {}
impl Hinter for Completion {
    type Hint = String;
}
impl Validator for Completion {}

fn plain_line() -> Result<Option<String>> {
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line).map_err(stdin_error)? == 0 {
        return Ok(None);
    }
    Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned()))
}

fn stdin_error(error: io::Error) -> Error {
    Error::io("read", "standard input", error)
}
