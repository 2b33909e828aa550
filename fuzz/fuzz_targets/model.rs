//! Arbitrary bytes as a GGUF file with a model, a tokenizer and a chat template in it.
#![no_main]

use bitnet_gpu::{
    bytes::Bytes,
    chat::{Message, Role, Template, Variables},
    gguf::File,
    model::Model,
    tokenizer::{EncodeOptions, Tokenizer},
};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(file) = File::parse(Bytes::from(data.to_vec())) else { return };
    drop(Model::from_gguf(&file));
    let Ok(tokenizer) = Tokenizer::from_gguf(file.metadata()) else { return };
    if let Ok(ids) =
        tokenizer.encode("Hello  wörld\n\n12 <s>", &EncodeOptions { add_special: true, parse_special: true })
    {
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()), "{ids:?}");
        let mut stream = tokenizer.stream();
        let streamed: String = ids.iter().map(|&id| stream.push(id)).collect();
        assert_eq!(streamed + &stream.flush(), tokenizer.decode(&ids, false));
    }
    let messages = [Message::new(Role::User, "Hi")];
    drop(Template::of(&tokenizer).and_then(|template| template.render(&messages, &Variables::default())));
});
