//! The tokens a model holds for most probable after a text: `cargo run --example logits -- model.gguf "Once upon a"`.

use bitnet_gpu::{EncodeOptions, Engine, EngineOptions, Purpose, Result};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or("assets/llama-stories-ternary-4m.gguf".into());
    let prompt = args.next().unwrap_or("Once upon a".into());
    for (token, logit) in run(&model, &prompt, 10)? {
        println!("{logit:8.3} {token:?}");
    }
    Ok(())
}

/// The `count` highest logits with their tokens, the highest first.
pub fn run(model: &str, prompt: &str, count: usize) -> Result<Vec<(String, f32)>> {
    let file = bitnet_gpu::open(model)?;
    let tokenizer = file.tokenizer()?;
    let ids = tokenizer.encode(prompt, &EncodeOptions { add_special: true, parse_special: false })?;
    let mut session = Engine::new(&file, EngineOptions::default()).load(&Purpose::Logits)?;
    let mut ranked: Vec<(u32, f32)> = (0..).zip(session.prefill(&ids)?.iter().copied()).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let text = |id| tokenizer.token_text(id).unwrap_or_default().to_owned();
    Ok(ranked.into_iter().take(count).map(|(id, logit)| (text(id), logit)).collect())
}
