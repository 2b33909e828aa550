//! Several answers at once, two at a time: `cargo run --example side_by_side -- model.gguf "Once upon a time" "The cat"`.

use std::{collections::HashMap, sync::Arc};

use bitnet_gpu::{
    AnswerOptions, Batcher, Chooser, EncodeOptions, Engine, EngineOptions, Generation, Purpose, Result, SampleOptions,
    Sampler, TokenStream,
};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or("assets/llama-stories-ternary-4m.gguf".into());
    let mut prompts: Vec<String> = args.collect();
    if prompts.is_empty() {
        prompts = ["Once upon a time", "The cat", "One day"].map(String::from).to_vec();
    }
    for (prompt, answer) in prompts.iter().zip(run(&model, &prompts, 40)?) {
        println!("{prompt}{answer}\n");
    }
    Ok(())
}

/// The answer to each prompt, which is what that prompt gets alone.
pub fn run(model: &str, prompts: &[String], max_tokens: usize) -> Result<Vec<String>> {
    let file = bitnet_gpu::open(model)?;
    let tokenizer = file.tokenizer()?;
    let (mut options, mut sample) = (EngineOptions::default(), SampleOptions::default());
    (options.sequences, sample.seed) = (2, Some(1));
    let mut answer = AnswerOptions::default();
    (answer.max_tokens, answer.end_ids) = (Some(max_tokens), tokenizer.end_ids().to_vec());
    let mut batcher = Batcher::new(Engine::new(&file, options).runtime(&Purpose::Sample(&sample))?);
    let context_tokens = batcher.runtime().sizes().context_tokens;

    let mut waiting = prompts.iter().enumerate();
    let (mut number_of, mut texts) = (HashMap::new(), vec![String::new(); prompts.len()]);
    loop {
        while batcher.room() > 0
            && let Some((number, prompt)) = waiting.next()
        {
            let ids = tokenizer.encode(prompt, &EncodeOptions { add_special: true, parse_special: false })?;
            let decoder = Box::new(TokenStream::after(Arc::clone(tokenizer), &ids));
            let chooser = Chooser::from(Sampler::new(sample.clone(), context_tokens)?);
            // The last argument is a flag that cancels this answer alone.
            let made = Generation::new(chooser, decoder, ids, answer.clone(), context_tokens, Arc::default());
            let generation = made.map_err(|refused| refused.0)?;
            let id = batcher.add(generation).unwrap_or_else(|_| unreachable!("there was room"));
            number_of.insert(id, number);
        }
        batcher.step()?;
        while let Some((id, event)) = batcher.event() {
            texts[number_of[&id]] += &event.text;
        }
        while let Some(finished) = batcher.finished() {
            // What is wrong with one answer does not end the others; this program ends all the same.
            finished.error.map_or(Ok(()), Err)?;
        }
        if batcher.is_empty() && waiting.len() == 0 {
            return Ok(texts);
        }
    }
}
