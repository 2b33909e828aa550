//! The lines of a chat that begin with a slash.

use crate::error::{Error, Result};

pub const HELP: &str = "\
/set NAME VALUE  temp, top_k, top_p, min_p, typical, repeat_penalty, frequency_penalty, presence_penalty, seed,
                 n (most tokens), reasoning on|off|auto, reasoning_budget (most tokens of it), system, verbose on|off
/show            the model, the settings and the conversation
/clear           forget the conversation, but not the system prompt
/regenerate      answer the last question again
/undo            take back the last question and its answer
/save FILE       write the conversation to a file; another's is overwritten only if you say so
/load FILE       go on with a saved conversation
/help            this text
/bye             end, as Ctrl-D does
\"\"\"              begins and ends a text of several lines
Ctrl-C stops an answer.
";

/// The words that begin commands, for completion.
pub const WORDS: [&str; 9] = ["/bye", "/clear", "/help", "/load ", "/regenerate", "/save ", "/set ", "/show", "/undo"];

#[derive(Debug, PartialEq)]
pub enum Command<'a> {
    Set { name: &'a str, value: &'a str },
    Show,
    Clear,
    Regenerate,
    Undo,
    Save(&'a str),
    Load(&'a str),
    Help,
    Bye,
}

impl<'a> Command<'a> {
    /// `None` for a line that is no command.
    pub fn parse(line: &'a str) -> Option<Result<Self>> {
        let line = line.trim();
        let (word, rest) = line.strip_prefix('/')?.split_once(char::is_whitespace).unwrap_or((&line[1..], ""));
        let rest = rest.trim();
        let file = |command: fn(&'a str) -> Self| {
            if rest.is_empty() { Err(Error::Usage(format!("/{word} needs a file name"))) } else { Ok(command(rest)) }
        };
        Some(match word {
            "set" => match rest.split_once(char::is_whitespace) {
                Some((name, value)) => Ok(Self::Set { name, value: value.trim() }),
                None => Err(Error::Usage("/set needs a name and a value, for example: /set temp 0.5".into())),
            },
            "save" => file(Self::Save),
            "load" => file(Self::Load),
            "show" => Ok(Self::Show),
            "clear" => Ok(Self::Clear),
            "regenerate" | "retry" => Ok(Self::Regenerate),
            "undo" => Ok(Self::Undo),
            "help" | "?" => Ok(Self::Help),
            "bye" | "exit" | "quit" => Ok(Self::Bye),
            _ => Err(Error::Usage(format!("there is no command /{word} (/help lists them)"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let parse = |line| Command::parse(line).unwrap().unwrap();
        assert_eq!(parse(" /set  temp   0.5 "), Command::Set { name: "temp", value: "0.5" });
        assert_eq!(parse("/set system You are  kind."), Command::Set { name: "system", value: "You are  kind." });
        assert_eq!(parse("/save my chat.json"), Command::Save("my chat.json"));
        assert_eq!(parse("/load\tx"), Command::Load("x"));
        assert_eq!(
            (parse("/?"), parse("/bye"), parse("/clear "), parse("/show")),
            (Command::Help, Command::Bye, Command::Clear, Command::Show)
        );
        assert_eq!((parse("/regenerate"), parse("/undo")), (Command::Regenerate, Command::Undo));
        assert!(Command::parse("a /set").is_none() && Command::parse("").is_none());
        for word in WORDS {
            assert!(Command::parse(&format!("{word} x y")).unwrap().is_ok(), "{word}");
        }
        for line in ["/", "/set", "/set temp", "/save", "/load ", "/usr/bin"] {
            assert!(matches!(Command::parse(line), Some(Err(Error::Usage(_)))), "{line}");
        }
    }
}
