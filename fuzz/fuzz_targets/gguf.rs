//! Parses arbitrary bytes as GGUF and reads all that is found. The check is shared with `tests/gguf/mutations.rs`.
#![no_main]

#[path = "../../tests/common/touch.rs"]
mod touch;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // A refusal is a good outcome; a panic is not.
    drop(touch::parse_and_touch(data));
});
