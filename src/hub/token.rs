//! The token that opens private and gated models, where huggingface_hub has it.

use std::{fs, io, path::PathBuf};

use super::{cache::home, network::variable};
use crate::error::{Error, Result};

/// The token of the user: `HF_TOKEN`, else what `hf auth login` wrote into `HF_TOKEN_PATH` or `HF_HOME/token`. None where
/// `HF_HUB_DISABLE_IMPLICIT_TOKEN` is set.
///
/// # Errors
/// If it has characters that no token has.
pub(super) fn of_user() -> Result<Option<String>> {
    let is_set = |value: String| ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str());
    if variable("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(is_set) {
        return Ok(None);
    }
    by_variables(variable)
}

fn by_variables(var: impl Fn(&str) -> Option<String>) -> Result<Option<String>> {
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(token) = var(name) {
            return checked(&token, name);
        }
    }
    let path = var("HF_TOKEN_PATH").map(PathBuf::from);
    let Some(path) = path.or_else(|| home(|name| var(name).map(PathBuf::from)).map(|home| home.join("token"))) else {
        return Ok(None);
    };
    match fs::read_to_string(&path) {
        Ok(token) => checked(&token, &path.display().to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            log::warn!("the token of the Hugging Face Hub in {} is not used: {error}", path.display());
            Ok(None)
        }
    }
}

/// Without white space around it, which files and copied text bring along.
fn checked(token: &str, place: &str) -> Result<Option<String>> {
    let token = token.trim();
    if token.chars().all(|c| c.is_ascii_graphic()) {
        return Ok((!token.is_empty()).then(|| token.to_owned()));
    }
    // What it is stays out of messages.
    Err(Error::malformed(place, "a token of letters and digits", "other characters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(variables: &[(&str, &str)]) -> Result<Option<String>> {
        by_variables(|name| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_token_comes_from_a_variable_or_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let (home, other) = (folder.path().display().to_string(), folder.path().join("other").display().to_string());
        assert_eq!(token(&[("HF_HOME", &home)]).unwrap(), None, "not there");
        fs::write(folder.path().join("token"), "hf_home\r\n").unwrap();
        fs::write(&other, " hf_other ").unwrap();
        let all = [("HF_TOKEN", "hf_variable\n"), ("HF_TOKEN_PATH", &other), ("HF_HOME", &home)];
        for (at, expected) in ["hf_variable", "hf_other", "hf_home"].into_iter().enumerate() {
            assert_eq!(token(&all[at..]).unwrap().as_deref(), Some(expected));
        }
        assert_eq!(token(&[]).unwrap(), None);
    }

    #[test]
    fn what_is_no_token_is_refused_without_showing_it() {
        let text = token(&[("HF_TOKEN", "hf_a secret")]).unwrap_err().to_string();
        assert_eq!(text, "HF_TOKEN: expected a token of letters and digits, found other characters");
    }
}
