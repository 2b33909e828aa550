//! Arbitrary bytes as `tokenizer.json`; what is accepted has to cut a text, and to be written as GGUF metadata.
#![no_main]

use bitnet_gpu::tokenizer::{EncodeOptions, JsonOptions, Tokenizer, to_gguf};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(tokenizer) = Tokenizer::from_json(data) else { return };
    let options = EncodeOptions { add_special: true, parse_special: true };
    if let Ok(ids) = tokenizer.encode("Hello  wörld\n\n12 \t\t<|eot_id|>", &options) {
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()), "{ids:?}");
        tokenizer.decode(&ids, true);
    }
    drop(to_gguf(data, &JsonOptions::default(), tokenizer.vocab_size()));
});
