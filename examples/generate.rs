//! Continues a text: `cargo run --example generate -- model.gguf "Once upon a time"`.

use std::io::{Write, stdout};

use bitnet_gpu::{AnswerOptions, Engine, EngineOptions, Purpose, Result};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or("assets/llama-stories-ternary-4m.gguf".into());
    let prompt = args.next().unwrap_or("Once upon a time".into());
    run(&model, &prompt, 100, |text| {
        print!("{text}");
        let _ = stdout().flush();
    })
}

/// Hands each piece of the answer to `show`, as soon as it is certain.
pub fn run(model: &str, prompt: &str, max_tokens: usize, mut show: impl FnMut(&str)) -> Result<()> {
    let model = bitnet_gpu::open(model)?;
    let engine = Engine::new(&model, EngineOptions::default());
    let mut sample = model.recommended().options();
    sample.seed = Some(1);
    let mut session = engine.session(&Purpose::Sample(&sample))?;
    let mut options = AnswerOptions::default();
    options.max_tokens = Some(max_tokens);
    for event in session.answer(prompt, &options)? {
        show(&event?.text);
    }
    Ok(())
}
