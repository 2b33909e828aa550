//! Conversations in files: JSON with the messages and the name of the model that took part.

use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::{Conversation, Message, Role};
use crate::error::{Error, Result, shown};

/// No conversation comes near; a file beyond is something else.
const MAX_BYTES: u64 = 64 << 20;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    model: String,
    messages: Vec<Message>,
}

impl Conversation {
    /// Writes the messages to `path`, which is replaced in one step or not at all.
    pub fn save(&self, path: &Path, model: &str) -> Result<()> {
        let saved = Saved { version: VERSION, model: model.into(), messages: self.messages().to_vec() };
        let write = || {
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let mut bytes = serde_json::to_vec_pretty(&saved)?;
            bytes.push(b'\n');
            // The errors of its own would name the temporary file.
            let mut file = NamedTempFile::new_in(dir).map_err(|error| io::Error::from(error.kind()))?;
            file.as_file_mut().write_all(&bytes)?;
            file.persist(path).map_err(|error| error.error)
        };
        write().map(drop).map_err(|e| Error::io("write", path, e))
    }

    /// Reads what [`save`](Self::save) wrote; a conversation with another model is refused.
    pub fn load(path: &Path, model: &str) -> Result<Self> {
        let mut bytes = Vec::new();
        let mut read = || fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes);
        read().map_err(|e| Error::io("read", path, e))?;
        Self::from_json(&bytes, model).map_err(|e| e.in_file(path.display().to_string()))
    }

    /// The contents of such a file.
    pub fn from_json(bytes: &[u8], model: &str) -> Result<Self> {
        const THING: &str = "conversation";
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Error::malformed(THING, format!("at most {MAX_BYTES} bytes"), "more"));
        }
        let saved: Saved = serde_json::from_slice(bytes)
            .map_err(|e| Error::malformed(THING, "JSON as /save writes it", shown(&e.to_string())))?;
        if saved.version != VERSION {
            return Err(Error::malformed("version", VERSION, saved.version));
        }
        if saved.model != model {
            return Err(Error::malformed("model", format!("\"{model}\""), format!("\"{}\"", shown(&saved.model))));
        }
        let is_out_of_place = |(at, message): &(usize, &Message)| match message.role {
            Role::System => *at > 0,
            Role::User | Role::Assistant => false,
            Role::Tool => true,
        };
        if let Some((at, message)) = saved.messages.iter().enumerate().find(is_out_of_place) {
            let found = message.role.name();
            return Err(Error::malformed(format!("message {}", at + 1), "user or assistant", found));
        }
        Ok(Self::from_messages(saved.messages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chat.json");
        let mut conversation = Conversation::new(Some("Be \"kind\".\n"));
        conversation.ask("é");
        for _ in 0..2 {
            conversation.save(&path, "model").unwrap();
        }
        assert_eq!(Conversation::load(&path, "model").unwrap().messages(), conversation.messages());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let error = Conversation::load(&path, "other").unwrap_err().to_string();
        assert!(error.ends_with("chat.json: model: expected \"other\", found \"model\""), "{error}");
    }

    #[test]
    fn other_files_are_refused_with_a_reason() {
        let system = r#"{"role":"system","content":""}"#;
        let cases = [
            (String::new(), "JSON"),
            ("[[[[".repeat(10_000), "JSON as /save writes it"),
            (r#"{"version":2,"model":"m","messages":[]}"#.into(), "version: expected 1, found 2"),
            (r#"{"version":1,"model":"m","messages":[{"role":"tool","content":""}]}"#.into(), "tool"),
            (r#"{"version":1,"model":"m","messages":[],"more":1}"#.into(), "more"),
            (format!(r#"{{"version":1,"model":"m","messages":[{system},{system}]}}"#), "message 2"),
        ];
        for (json, reason) in cases {
            let error = Conversation::from_json(json.as_bytes(), "m").unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_path_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("absent").join("chat.json");
        let error = Conversation::default().save(&path, "m").unwrap_err().to_string();
        assert!(error.starts_with("cannot write ") && error.contains("chat.json"), "{error}");
    }
}
