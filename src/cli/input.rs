//! Where a text comes from: the command line, a file, or standard input.

use std::{
    fs,
    io::{self, IsTerminal, Read},
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::error::{Error, Result};

/// A device or a pipe may have no end. The longest context has some megabytes.
const MAX_BYTES: u64 = 64 << 20;

/// Grammars, templates and lists of keys have kilobytes.
const MAX_SMALL_BYTES: u64 = 4 << 20;

/// The text of `-p` as it is, of `-f`, or of standard input; `None` when that is a terminal.
pub fn text(prompt: Option<&str>, file: Option<&Path>) -> Result<Option<String>> {
    match (prompt, file) {
        (Some(prompt), _) => Ok(Some(prompt.to_owned())),
        (None, Some(path)) => file_of(path, MAX_BYTES).map(Some),
        (None, None) if io::stdin().is_terminal() => Ok(None),
        (None, None) => standard_input().and_then(utf8).map(Some),
    }
}

/// The text of a file that describes something: a grammar, a template, keys.
pub fn small_file(path: &Path) -> Result<String> {
    file_of(path, MAX_SMALL_BYTES)
}

fn file_of(path: &Path, most_bytes: u64) -> Result<String> {
    let failed = |e| Error::io("read", path, e);
    let bytes = all_of(fs::File::open(path).map_err(failed)?, most_bytes, failed);
    bytes.and_then(utf8).map_err(|e| e.in_file(path.display().to_string()))
}

/// Standard input, if there is any: `None` when it is a terminal, empty, or silent for two seconds. For the
/// run without any arguments, which must not hang where a parent process left an unused pipe open.
pub fn standard_input_if_any() -> Result<Option<String>> {
    if io::stdin().is_terminal() {
        return Ok(None);
    }
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut first = [0];
        let mut read = || -> Result<Vec<u8>> {
            let count = io::stdin().read(&mut first).map_err(stdin_error)?;
            let _ = sender.send(None);
            let mut bytes = first[..count].to_vec();
            bytes.extend(standard_input()?);
            Ok(bytes)
        };
        let all = read();
        // The receiver is gone when the wait was given up.
        let _ = sender.send(Some(all));
    });
    match receiver.recv_timeout(Duration::from_secs(2)) {
        Err(_) => {
            log::warn!("nothing came on standard input: it is not waited for (-p gives a text)");
            Ok(None)
        }
        Ok(first) => {
            let all = match first {
                Some(all) => all,
                None => receiver.recv().ok().flatten().unwrap_or_else(|| Ok(Vec::new())),
            };
            let text = utf8(all?)?;
            Ok(Some(text).filter(|text| !text.is_empty()))
        }
    }
}

fn standard_input() -> Result<Vec<u8>> {
    all_of(io::stdin(), MAX_BYTES, stdin_error)
}

fn all_of(from: impl Read, most_bytes: u64, failed: impl Fn(io::Error) -> Error) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most_bytes + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most_bytes {
        return Err(Error::malformed("text", format!("at most {} MiB", most_bytes >> 20), "more"));
    }
    Ok(bytes)
}

fn stdin_error(error: io::Error) -> Error {
    Error::io("read", "standard input", error)
}

/// Without a byte order mark, which editors on Windows put in front.
fn utf8(mut bytes: Vec<u8>) -> Result<String> {
    let is_wide = |at: usize| bytes.len() >= 4 && bytes.iter().take(64).skip(at).step_by(2).all(|&byte| byte == 0);
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) || is_wide(0) || is_wide(1) {
        let found = "UTF-16 (as PowerShell's > writes it; Out-File -Encoding utf8 does not)";
        return Err(Error::malformed("the text", "UTF-8", found));
    }
    if bytes.starts_with(&[0xEF, 0xBB, 0xBF]) {
        bytes.drain(..3);
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::malformed(format!("byte {at} of the text"), "UTF-8", format!("{:#04x}", error.as_bytes()[at]))
    })
}

/// Line breaks as models know them.
pub fn with_plain_line_breaks(text: String) -> String {
    if text.contains('\r') { text.replace("\r\n", "\n") } else { text }
}

/// A text file ends with a line break that is not meant to be part of the prompt; llama.cpp drops it too.
pub fn without_last_line_break(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

/// llama.cpp's escapes: `\n \r \t \' \" \\ \xHH`; any other backslash stays.
pub fn unescape(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let (replacement, used) = match (byte, tail) {
            (b'\\', [b'n', ..]) => (b'\n', 2),
            (b'\\', [b'r', ..]) => (b'\r', 2),
            (b'\\', [b't', ..]) => (b'\t', 2),
            (b'\\', [quoted @ (b'\'' | b'"' | b'\\'), ..]) => (*quoted, 2),
            (b'\\', [b'x', high, low, ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (16 * high + low, 4),
                _ => (byte, 1),
            },
            _ => (byte, 1),
        };
        bytes.push(replacement);
        rest = &rest[used..];
    }
    String::from_utf8(bytes).map_err(|_| {
        Error::Usage(format!("the \\x escapes in {text:?} do not give UTF-8 (--no-escape takes backslashes literally)"))
    })
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        let cases = [
            ("plain", "plain"),
            (r"a\nb\r\tc", "a\nb\r\tc"),
            (r#"\'\"\\n"#, "'\"\\n"),
            (r"\x41\x6a\xc3\xa9", "Ajé"),
            (r"\q \x4 \xgg \", r"\q \x4 \xgg \"),
            ("é\\", "é\\"),
        ];
        for (written, meant) in cases {
            assert_eq!(unescape(written).unwrap(), meant, "{written}");
        }
        assert!(matches!(unescape(r"\xff"), Err(Error::Usage(_))));
    }

    #[test]
    fn one_line_break_is_dropped() {
        for (read, meant) in [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("\n", ""), ("", "")] {
            assert_eq!(without_last_line_break(read.into()), meant);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_named() {
        let error = utf8(b"ab\xFFc".to_vec()).unwrap_err();
        assert_eq!(error.to_string(), "byte 2 of the text: expected UTF-8, found 0xff");
        for wide in [&b"\xFF\xFEa\0"[..], b"\xFE\xFF\0a", b"a\0b\0", b"\0a\0b"] {
            assert!(utf8(wide.to_vec()).unwrap_err().to_string().contains("found UTF-16"), "{wide:?}");
        }
        assert_eq!(utf8(b"\xEF\xBB\xBFa\0b".to_vec()).unwrap(), "a\0b", "a mark is no text");
        assert_eq!(with_plain_line_breaks("a\r\nb\rc\n".into()), "a\nb\rc\n");
    }
}
