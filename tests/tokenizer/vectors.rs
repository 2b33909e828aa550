//! Token ids of llama.cpp's vocabularies against its own expected ids (shared `vocab/`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use bitnet_gpu::{
    gguf,
    tokenizer::{EncodeOptions, Tokenizer},
};

use crate::common::shared;

const SEPARATOR: &str = "\n__ggml_vocab_test__\n";

/// Every vocabulary with test strings, by path.
fn vocabularies() -> Vec<PathBuf> {
    let Some(folder) = shared("vocab") else { return Vec::new() };
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|e| e == "gguf") && with_suffix(path, ".inp").exists())
        .collect();
    files.sort();
    files
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The text as it comes, token by token.
fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.stream();
    let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
    text.push_str(&stream.flush());
    text
}

#[test]
fn ids_are_those_of_llama_cpp() {
    for path in vocabularies() {
        let name = path.display();
        let tokenizer = Tokenizer::from_gguf(gguf::File::open(&path).unwrap().metadata()).unwrap();
        let texts = fs::read_to_string(with_suffix(&path, ".inp")).unwrap();
        let expected = fs::read_to_string(with_suffix(&path, ".out")).unwrap();
        // The separator also ends the last string.
        let texts: Vec<_> = texts.strip_suffix(SEPARATOR).unwrap().split(SEPARATOR).collect();
        let expected: Vec<_> = expected.lines().collect();
        assert!(texts.len() > 40 && texts.len() == expected.len(), "{name}: {} {}", texts.len(), expected.len());
        for (text, expected) in texts.iter().zip(expected) {
            let expected: Vec<u32> = expected.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let ids = tokenizer.encode(text, &EncodeOptions::default()).unwrap();
            assert_eq!(ids, expected, "{name}: {text:?}");
            assert_eq!(&tokenizer.decode(&ids, false), text, "{name}");
            assert_eq!(&streamed(&tokenizer, &ids), text, "{name}");
        }
    }
}

#[test]
fn a_long_text_comes_back_from_its_ids() {
    let Some(path) = shared("demo-model/valid.txt") else { return };
    let text = fs::read_to_string(path).unwrap();
    let text = &text[..text.floor_char_boundary(100_000)];
    for path in vocabularies() {
        let tokenizer = Tokenizer::from_gguf(gguf::File::open(&path).unwrap().metadata()).unwrap();
        let ids = tokenizer.encode(text, &EncodeOptions::default()).unwrap();
        assert!(tokenizer.decode(&ids, false) == text, "{}", path.display());
        assert!(streamed(&tokenizer, &ids) == text, "{}", path.display());
    }
}
