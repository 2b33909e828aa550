//! `org/name[:file]`.

use std::fmt;

use crate::error::{Error, Result, shown};

/// Hosts of the Hub.
const HOSTS: [&str; 3] = ["huggingface.co", "www.huggingface.co", "hf.co"];

/// The branch that is meant where none is named.
pub(super) const BRANCH: &str = "main";

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
    /// Reads `org/name[:file]`, also with the Hub's host in front (`hf.co/org/name`), and the addresses of its pages
    /// (`https://huggingface.co/org/name/blob/main/file`).
    ///
    /// # Errors
    /// If it has another form.
    pub fn parse(text: &str) -> Result<Self> {
        Self::of_address(text).map_or_else(|| Self::of_name(text, text), |name| Self::of_name(&name, text))
    }

    /// An address as `org/name[:file]`; `None` where it is none of the Hub's.
    fn of_address(text: &str) -> Option<String> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        let path = HOSTS.iter().find_map(|host| rest.strip_prefix(host)?.strip_prefix('/'))?;
        let path = path.split(['?', '#']).next().unwrap_or(path).trim_end_matches('/');
        let (head, branch) = (path.splitn(4, '/').collect::<Vec<_>>(), format!("{BRANCH}/"));
        match head[..] {
            [org, name, "tree", BRANCH] => Some(format!("{org}/{name}")),
            [org, name, "blob" | "resolve" | "raw", rest] => {
                Some(format!("{org}/{name}:{}", rest.strip_prefix(&branch)?))
            }
            _ => Some(path.to_owned()),
        }
    }

    fn of_name(text: &str, given: &str) -> Result<Self> {
        let (repo, file) = text.split_once(':').map_or((text, None), |(repo, file)| (repo, Some(file)));
        let parts: Vec<&str> = repo.split('/').collect();
        match parts[..] {
            [org, name] if is_word(org) && is_word(name) && file.is_none_or(is_plain_path) => {
                Ok(Self { org: org.into(), name: name.into(), file: file.map(Into::into) })
            }
            _ => {
                Err(Error::Usage(format!("\"{}\" is not the name of a model: org/name or org/name:file", shown(given))))
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
    fn addresses_of_the_hub_are_names() {
        for (address, expected) in [
            ("hf.co/a/b", "a/b"),
            ("hf.co/a/b:Q2_0", "a/b:Q2_0"),
            ("huggingface.co/a/b", "a/b"),
            ("https://huggingface.co/a/b/", "a/b"),
            ("https://huggingface.co/a/b?library=x", "a/b"),
            ("https://huggingface.co/a/b/tree/main", "a/b"),
            ("https://hf.co/a/b/blob/main/c.gguf", "a/b:c.gguf"),
            ("https://huggingface.co/a/b/resolve/main/d/c.gguf?download=true", "a/b:d/c.gguf"),
        ] {
            assert_eq!(ModelName::parse(address).unwrap().to_string(), expected, "{address}");
        }
        for bad in [
            "hf.co/a",
            "https://example.com/a/b",
            "https://huggingface.co/a/b/blob/other/c.gguf",
            "https://huggingface.co/a/b/tree/other",
            "hf.co/a/b/resolve/main/../c",
            "hf.com/a/b",
        ] {
            assert!(ModelName::parse(bad).unwrap_err().to_string().contains(bad), "{bad}");
        }
    }

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
