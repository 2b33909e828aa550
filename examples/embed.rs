//! How near two texts are in meaning: `cargo run --example embed -- model.gguf "a cat" "a kitten"`. Takes a model that was
//! made for embeddings; others give numbers that mean little.

use bitnet_gpu::{EncodeOptions, Engine, EngineOptions, Pooling, Purpose, Result, embedding};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or("assets/llama-stories-ternary-4m.gguf".into());
    let texts = [args.next().unwrap_or("a cat".into()), args.next().unwrap_or("a kitten".into())];
    println!("{:.3}", run(&model, [&texts[0], &texts[1]])?);
    Ok(())
}

/// The cosine of the angle between the vectors of two texts.
pub fn run(model: &str, texts: [&str; 2]) -> Result<f32> {
    let file = bitnet_gpu::open(model)?;
    let mut session = Engine::new(&file, EngineOptions::default()).load(&Purpose::Hidden)?;
    let mut vector = |text: &str| {
        let ids = file.tokenizer()?.encode(text, &EncodeOptions { add_special: true, parse_special: false })?;
        embedding(&mut session, file.model()?, &ids, Pooling::Last)
    };
    let (a, b) = (vector(texts[0])?, vector(texts[1])?);
    Ok(a.iter().zip(&b).map(|(a, b)| a * b).sum())
}
