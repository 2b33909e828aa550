//! Lines that the person types: with history and edit keys on a terminal, line by line from anything else.

use std::io::{self, BufRead, IsTerminal};

use rustyline::{DefaultEditor, error::ReadlineError};

use crate::{
    cli::{interrupt, output},
    error::{Error, Result},
};

/// Begins and ends a text of several lines.
const QUOTES: &str = "\"\"\"";

pub struct Lines {
    editor: Option<DefaultEditor>,
    interrupted: bool,
}

impl Lines {
    pub fn new() -> Self {
        let on_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
        let editor = on_terminal
            .then(DefaultEditor::new)
            .and_then(|editor| editor.map_err(|error| log::warn!("no editing of lines: {error}")).ok());
        Self { editor, interrupted: false }
    }

    /// Whether a person sits there, who can be told of a mistake and try again.
    pub fn interactive(&self) -> bool {
        self.editor.is_some()
    }

    /// The next text; `None` at the end.
    pub fn next(&mut self) -> Result<Option<String>> {
        let read = self.text();
        interrupt::waiting(false);
        read
    }

    fn text(&mut self) -> Result<Option<String>> {
        interrupt::waiting(true);
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

    fn line(&mut self, prompt: &str) -> Result<Option<String>> {
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
