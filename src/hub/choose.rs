//! The files of a repository -> those that make a model.

use super::name::ModelName;
use crate::{
    error::{Error, Result},
    gguf::part_of_stem,
};

/// Files to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A GGUF file, or all parts of a split one.
    Gguf(Vec<String>),
    /// The files of a Hugging Face directory of safetensors.
    Directory(Vec<String>),
}

impl Choice {
    /// The files.
    pub fn files(&self) -> &[String] {
        match self {
            Self::Gguf(files) | Self::Directory(files) => files,
        }
    }

    /// The GGUF file to open.
    pub(super) fn gguf(&self) -> Option<&str> {
        match self {
            Self::Gguf(files) => files.first().map(String::as_str),
            Self::Directory(_) => None,
        }
    }
}

/// Files beside the weights that a directory is read with, where it has them.
const BESIDE: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "added_tokens.json",
    "modules.json",
    "config_sentence_transformers.json",
    "model.safetensors.index.json",
];

/// Chooses among `files`: the one that is named, the only GGUF file, or safetensors at the top. `None` where there is
/// no model.
///
/// # Errors
/// If none is named as asked for, or several could be meant; lists what there is.
pub fn choose(name: &ModelName, files: &[String]) -> Result<Option<Choice>> {
    let ggufs = ggufs(files);
    let chosen = match &name.file {
        Some(wanted) => {
            let exact = files.iter().find(|file| *file == wanted);
            let lower = wanted.to_ascii_lowercase();
            let like: Vec<&String> =
                ggufs.iter().copied().filter(|file| file.to_ascii_lowercase().contains(&lower)).collect();
            match (exact, &like[..]) {
                (Some(file), _) | (None, &[file]) => file,
                (None, []) => {
                    return Err(Error::missing(format!("file {wanted} in {}", name.repo()), has(&ggufs)));
                }
                (None, _) => return Err(ambiguous(name, &like)),
            }
        }
        None => match ggufs[..] {
            [] => return Ok(directory(files)),
            [file] => file,
            _ => return Err(ambiguous(name, &ggufs)),
        },
    };
    let parts = parts(chosen);
    match parts.iter().find(|part| !files.contains(part)) {
        Some(missing) => {
            Err(Error::missing(format!("file {missing} in {}", name.repo()), format!("the other parts of {chosen}")))
        }
        None => Ok(Some(Choice::Gguf(parts))),
    }
}

/// All models among `files`; a split one that lacks a part is none.
pub(super) fn models(files: &[String]) -> Vec<Choice> {
    let all = ggufs(files).into_iter().map(|file| parts(file));
    let whole: Vec<Choice> =
        all.filter(|parts| parts.iter().all(|part| files.contains(part))).map(Choice::Gguf).collect();
    if whole.is_empty() { directory(files).into_iter().collect() } else { whole }
}

/// The GGUF files that may be models, of a split one the first part. Projectors of pictures are none.
fn ggufs(files: &[String]) -> Vec<&String> {
    let is_model = |file: &&String| {
        let lower = file.to_ascii_lowercase();
        let name = lower.rsplit('/').next().unwrap_or(&lower);
        name.ends_with(".gguf") && !name.starts_with("mmproj") && part_of(file).is_none_or(|(_, no, _)| no == 1)
    };
    files.iter().filter(is_model).collect()
}

/// The file and its other parts.
fn parts(file: &str) -> Vec<String> {
    match part_of(file) {
        Some((prefix, _, count)) => (1..=count).map(|no| format!("{prefix}-{no:05}-of-{count:05}.gguf")).collect(),
        None => vec![file.to_owned()],
    }
}

fn has(ggufs: &[&String]) -> String {
    match ggufs {
        [] => "what was asked for; it has no GGUF file".to_owned(),
        _ => format!("what was asked for; it has {}", list(ggufs)),
    }
}

fn ambiguous(name: &ModelName, files: &[&String]) -> Error {
    Error::Usage(format!(
        "{} has several models, one of which has to be named as {}:FILE: {}",
        name.repo(),
        name.repo(),
        list(files)
    ))
}

/// A few names, as a message is one line.
fn list(files: &[&String]) -> String {
    const SHOWN: usize = 12;
    let mut text = files.iter().take(SHOWN).map(|file| file.as_str()).collect::<Vec<_>>().join(", ");
    if files.len() > SHOWN {
        text += &format!(" and {} more", files.len() - SHOWN);
    }
    text
}

fn directory(files: &[String]) -> Option<Choice> {
    let is_weights = |file: &str| !file.contains('/') && file.starts_with("model") && file.ends_with(".safetensors");
    let is_template = |file: &str| {
        let name = file.strip_prefix("additional_chat_templates/");
        name.is_some_and(|name| !name.contains('/') && name.ends_with(".jinja"))
    };
    // The folder of the pooling module has the name that modules.json gives it.
    let has_modules = files.iter().any(|file| file == "modules.json");
    let is_module = |file: &str| has_modules && file.split_once('/').is_some_and(|(_, name)| name == "config.json");
    let is_beside = |file: &str| BESIDE.contains(&file) || is_template(file) || is_module(file);
    let has_config = files.iter().any(|file| file == "config.json");
    let chosen: Vec<String> = files.iter().filter(|file| is_beside(file) || is_weights(file)).cloned().collect();
    (has_config && chosen.iter().any(|file| is_weights(file))).then_some(Choice::Directory(chosen))
}

/// `PREFIX-00002-of-00003.gguf` -> prefix, 2, 3.
fn part_of(file: &str) -> Option<(&str, u32, u32)> {
    part_of_stem(file.strip_suffix(".gguf")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(name: &str, files: &[&str]) -> Result<Option<Vec<String>>, String> {
        let files: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
        let choice = choose(&ModelName::parse(name).unwrap(), &files).map_err(|e| e.to_string())?;
        Ok(choice.map(|choice| choice.files().to_vec()))
    }

    #[test]
    fn one_model_is_chosen_and_of_several_the_one_that_is_named() {
        let files = ["README.md", "m-Q2_0.gguf", "m-tq1_0.gguf"];
        assert_eq!(chosen("a/b:tq1_0", &files).unwrap().unwrap(), ["m-tq1_0.gguf"]);
        assert_eq!(chosen("a/b:m-Q2_0.gguf", &files).unwrap().unwrap(), ["m-Q2_0.gguf"]);
        let several = chosen("a/b", &files).unwrap_err();
        assert!(several.contains("a/b:FILE: m-Q2_0.gguf, m-tq1_0.gguf"), "{several}");
        let none = chosen("a/b:i2_s", &files).unwrap_err();
        assert!(none.starts_with("file i2_s in a/b is missing") && none.contains("m-tq1_0.gguf"), "{none}");
        assert_eq!(chosen("a/b", &files[..2]).unwrap().unwrap(), ["m-Q2_0.gguf"]);
        assert_eq!(chosen("a/b", &["README.md"]).unwrap(), None);
        assert_eq!(chosen("a/b", &["m-Q2_0.gguf", "mmproj-F16.gguf"]).unwrap().unwrap(), ["m-Q2_0.gguf"]);
    }

    #[test]
    fn all_parts_belong_to_a_split_model() {
        let files = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
        assert_eq!(chosen("a/b", &files).unwrap().unwrap(), files);
        let missing = chosen("a/b", &files[..1]).unwrap_err();
        assert!(missing.starts_with("file m-00002-of-00002.gguf in a/b is missing"), "{missing}");
    }

    #[test]
    fn all_models_are_found_and_halves_of_them_are_not() {
        let found = |files: &[&str]| {
            let files: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
            models(&files).iter().map(|model| model.files().join("+")).collect::<Vec<_>>()
        };
        let split = ["a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf", "c-00001-of-00002.gguf"];
        assert_eq!(found(&split), ["a.gguf", "b-00001-of-00002.gguf+b-00002-of-00002.gguf"]);
        assert_eq!(found(&["config.json", "model.safetensors"]), ["config.json+model.safetensors"]);
        assert_eq!(found(&["README.md", "mmproj.gguf"]), [""; 0]);
    }

    #[test]
    fn a_directory_is_its_weights_and_what_they_are_read_with() {
        let files =
            ["config.json", "model.safetensors", "onnx/model.safetensors", "pytorch_model.bin", "tokenizer.json"];
        assert_eq!(chosen("a/b", &files).unwrap().unwrap(), ["config.json", "model.safetensors", "tokenizer.json"]);
        assert_eq!(chosen("a/b", &files[1..]).unwrap(), None, "no config.json");
        let more = [
            "1_WordPooling/config.json",
            "additional_chat_templates/tool_use.jinja",
            "chat_template.json",
            "config.json",
            "model.safetensors",
            "modules.json",
            "tokenizer.model",
        ];
        assert_eq!(chosen("a/b", &more).unwrap().unwrap(), more);
        let others = [
            "additional_chat_templates/a/b.jinja",
            "config.json",
            "model.safetensors",
            "onnx/config.json",
            "x/tokenizer.model",
        ];
        assert_eq!(chosen("a/b", &others).unwrap().unwrap(), others[1..3]);
    }
}
