//! How an answer looks: on a terminal, what the model thinks is dim.

use std::{
    env,
    ffi::OsStr,
    io::{self, IsTerminal},
};

use crate::cli::answering::Said;

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Writes one answer.
pub struct Voice {
    styled: bool,
    is_dim: bool,
}

impl Voice {
    /// For standard output. Anything but a terminal gets the text as the model wrote it, tags and all; so does one that wants
    /// no colours (no-color.org).
    pub fn of_stdout() -> Self {
        let (no_color, term) = (env::var_os("NO_COLOR"), env::var_os("TERM"));
        Self::new(io::stdout().is_terminal() && allows_styles(no_color.as_deref(), term.as_deref()))
    }

    fn new(styled: bool) -> Self {
        Self { styled, is_dim: false }
    }

    /// Text to print for this piece.
    pub fn say(&mut self, said: &Said<'_>) -> String {
        if !self.styled {
            return said.text.to_owned();
        }
        let mut text = String::new();
        if !said.parts.reasoning.is_empty() {
            if !self.is_dim {
                text += DIM;
                self.is_dim = true;
            }
            text += &said.parts.reasoning;
        }
        if !said.parts.answer.is_empty() {
            if self.is_dim {
                text += self.end();
                text += "\n\n";
            }
            text += &said.parts.answer;
        }
        text
    }

    /// Text to print behind the last piece, however the answer ended.
    pub fn end(&mut self) -> &'static str {
        if std::mem::take(&mut self.is_dim) { PLAIN } else { "" }
    }
}

fn allows_styles(no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty) && term.is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{ReasoningFormat, ReasoningSplit};

    fn shown(styled: bool, pieces: &[&str]) -> String {
        let mut voice = Voice::new(styled);
        let mut split = ReasoningSplit::starting(false, ReasoningFormat::Auto);
        let mut all = String::new();
        for text in pieces {
            let parts = split.push(text);
            all += &voice.say(&Said { text, parts: &parts });
        }
        all + voice.end()
    }

    #[test]
    fn thoughts_are_dim_on_a_terminal_and_left_as_they_are_elsewhere() {
        let pieces = ["<think>\nhm", " so\n</th", "ink>\n\nTw", "o."];
        assert_eq!(shown(true, &pieces), "\x1b[2mhm so\x1b[0m\n\nTwo.");
        assert_eq!(shown(false, &pieces), "<think>\nhm so\n</think>\n\nTwo.");
        assert_eq!(shown(true, &["Two", "."]), "Two.");
        // Stopped in the middle.
        assert_eq!(shown(true, &["<think>hm"]), "\x1b[2mhm\x1b[0m");
    }

    #[test]
    fn colours_can_be_refused() {
        let word = |word: &'static str| Some(OsStr::new(word));
        assert!(allows_styles(None, None) && allows_styles(word(""), word("xterm")));
        assert!(!allows_styles(word("1"), word("xterm")) && !allows_styles(None, word("dumb")));
    }
}
