//! `org/name[:file]`.

use std::fmt;

use crate::error::{Error, Result, shown};

/// A model of the Hub, and optionally one of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName {
    /// The person or organisation.
    pub org: String,
    /// The repository.
    pub name: String,
    /// A file of it, or a part of its name such as `i2_s`.
    pub file: Option<String>,
}

impl ModelName {
    /// Reads `org/name[:file]`.
    ///
    /// # Errors
    /// If it has another form.
    pub fn parse(text: &str) -> Result<Self> {
        let (repo, file) = text.split_once(':').map_or((text, None), |(repo, file)| (repo, Some(file)));
        let parts: Vec<&str> = repo.split('/').collect();
        match parts[..] {
            [org, name] if is_word(org) && is_word(name) && file.is_none_or(is_plain_path) => {
                Ok(Self { org: org.into(), name: name.into(), file: file.map(Into::into) })
            }
            _ => {
                Err(Error::Usage(format!("\"{}\" is not the name of a model: org/name or org/name:file", shown(text))))
            }
        }
    }

    /// `org/name`.
    pub fn repo(&self) -> String {
        format!("{}/{}", self.org, self.name)
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.name)?;
        if let Some(file) = &self.file { write!(f, ":{file}") } else { Ok(()) }
    }
}

/// True for names that the Hub allows: letters, digits, `-`, `_` and `.`, which are no folders.
pub(super) fn is_word(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=96).contains(&text.len()) && text.chars().all(allowed) && !text.starts_with(['.', '-']) && !text.contains("..")
}

/// A path inside a repository that stays inside it on every system.
pub(super) fn is_plain_path(path: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    path.len() <= 512 && path.split('/').all(plain) && !path.contains(['\\', ':']) && !path.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_others_refused() {
        let name = ModelName::parse("microsoft/BitNet-b1.58-2B-4T-gguf:ggml-model-i2_s.gguf").unwrap();
        assert_eq!(
            (name.repo().as_str(), name.file.as_deref()),
            ("microsoft/BitNet-b1.58-2B-4T-gguf", Some("ggml-model-i2_s.gguf"))
        );
        assert_eq!(name.to_string(), "microsoft/BitNet-b1.58-2B-4T-gguf:ggml-model-i2_s.gguf");
        assert_eq!(ModelName::parse("a/b").unwrap().file, None);
        for bad in [
            "a", "a/", "/b", "a/b/c", "../b", "a/..", "a b/c", "a/b:", "a/b:../c", "a/b:c\\d", "a/b:/c", "", "é/b",
            "-a/b",
        ] {
            assert!(matches!(ModelName::parse(bad), Err(Error::Usage(_))), "{bad}");
        }
    }
}
