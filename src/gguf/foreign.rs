//! Says what a file is that is not GGUF, so that a wrong download is recognised at once.

use crate::error::{Error, Result};

/// The first four bytes of every GGUF file.
pub(super) const MAGIC: &[u8; 4] = b"GGUF";

const EXPECTED: &str = "a GGUF file";

/// Accepts bytes that start with the GGUF magic; else names what they look like.
pub(super) fn check_magic(bytes: &[u8]) -> Result<()> {
    if bytes.starts_with(MAGIC) {
        return Ok(());
    }
    let found = match recognise(bytes) {
        Some(what) => what.to_owned(),
        None if bytes.is_empty() => "an empty file".to_owned(),
        None if bytes.len() < MAGIC.len() => format!("only {} bytes", bytes.len()),
        None => format!("a file that begins with \"{}\"", bytes[..MAGIC.len()].escape_ascii()),
    };
    Err(Error::malformed("file", EXPECTED, found))
}

/// The format that the first bytes give away, where it is a well-known one.
pub(crate) fn recognise(bytes: &[u8]) -> Option<&'static str> {
    const MAGICS: &[(&[u8], &str)] = &[
        (b"FUGG", "a big-endian GGUF file (convert it to little-endian)"),
        // The old formats wrote their magic as a little-endian u32, so it reads backwards.
        (b"lmgg", "an old GGML file (convert it to GGUF)"),
        (b"ggml", "an old GGML file (convert it to GGUF)"),
        (b"GGML", "an old GGML file (convert it to GGUF)"),
        (b"fmgg", "an old GGMF file (convert it to GGUF)"),
        (b"ggmf", "an old GGMF file (convert it to GGUF)"),
        (b"tjgg", "an old ggjt file (convert it to GGUF)"),
        (b"ggjt", "an old ggjt file (convert it to GGUF)"),
        (b"algg", "an old ggla adapter file"),
        (b"ggla", "an old ggla adapter file"),
        (b"version https://git-lfs", "a Git-LFS pointer, not the file itself (fetch it with `git lfs pull`)"),
        (b"# xet version", "a Xet pointer, not the file itself"),
        (b"PK\x03\x04", "a zip archive or PyTorch checkpoint"),
        (b"PK\x05\x06", "an empty zip archive"),
        (b"\x1f\x8b", "a gzip archive (unpack it)"),
        (b"\x28\xb5\x2f\xfd", "a zstd archive (unpack it)"),
        (b"\xfd7zXZ\x00", "an xz archive (unpack it)"),
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive (unpack it)"),
        (b"\x7fELF", "a program, not a model"),
    ];
    if let Some((_, what)) = MAGICS.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(what);
    }
    if matches!(bytes, [0x80, 2..=5, ..]) {
        return Some("a Python pickle (convert the model to GGUF)");
    }
    // A safetensors file begins with the u64 length of its JSON header.
    if bytes.get(8) == Some(&b'{') && bytes[5..8] == [0; 3] {
        return Some("a safetensors file (convert the model to GGUF)");
    }
    recognise_text(bytes)
}

/// Web pages and documents saved in place of the model. Looks at the first non-blank bytes only.
fn recognise_text(bytes: &[u8]) -> Option<&'static str> {
    let start = &bytes[..bytes.len().min(1024)];
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let begins = |with: &str| start.get(..with.len()).is_some_and(|s| s.eq_ignore_ascii_case(with.as_bytes()));
    if begins("<!doctype") || begins("<html") || begins("<head") || begins("<!--") {
        Some("an HTML page (the download went wrong)")
    } else if begins("<?xml") || begins("<error") {
        Some("an XML document (the download went wrong)")
    } else if begins("{") {
        Some("a JSON document")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_and_case_do_not_hide_a_web_page() {
        let error = check_magic(b"\xef\xbb\xbf \n\t<!DOCTYPE HTML><title>404</title>").unwrap_err();
        assert_eq!(error.to_string(), "file: expected a GGUF file, found an HTML page (the download went wrong)");
    }

    #[test]
    fn unknown_bytes_are_shown_escaped() {
        let error = check_magic(b"\n\x1b[2").unwrap_err().to_string();
        assert!(error.ends_with(r#"begins with "\n\x1b[2""#), "{error}");
        assert!(check_magic(b"GGUF").is_ok());
    }
}
