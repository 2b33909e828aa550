//! `perplexity`: how well the model predicts a text, as llama-perplexity defines it.

use serde_json::json;

use super::{args::PerplexityArgs, input, interrupt, output, progress, source, usage};
use crate::{
    engine::{Engine, EngineOptions, Purpose},
    error::Result,
    generate::{Likelihood, perplexity},
    tokenizer::EncodeOptions,
};

/// Tokens of a chunk where -c is absent, as in llama-perplexity.
const DEFAULT_CHUNK_TOKENS: usize = 512;

pub fn run(args: &PerplexityArgs) -> Result<()> {
    let text = input::text(args.text.prompt.as_deref(), args.text.file.as_deref())?
        .ok_or_else(|| usage("no text", "bitnet-gpu perplexity -m model.gguf -f text.txt"))?;
    let source = source::open(&args.model)?;
    let tokenizer = source.tokenizer()?;
    let mut options = EngineOptions { failover: false, ..(&args.engine).into() };
    let trained = source.model()?.config.context;
    options.context_tokens.get_or_insert(DEFAULT_CHUNK_TOKENS.min(trained));
    let engine = Engine::new(&source, options);
    let context = engine.context_tokens()?;

    // Text collections separate their documents by the end-of-text token, written out.
    let ids = tokenizer.encode(&text, &EncodeOptions { add_special: true, parse_special: args.special })?;
    let bos = tokenizer.bos().filter(|&bos| ids.first() == Some(&bos));
    let mut session = engine.load(&Purpose::Logits)?;
    session.cancel_when(Some(interrupt::catch()));
    let bar = progress::count_bar((ids.len() / context) as u64);
    let likelihood = perplexity(&mut session, &ids, context, bos, |done, _, so_far| {
        bar.set_position(done as u64);
        bar.set_message(format!("perplexity {:.4}", so_far.perplexity()));
        !interrupt::raised()
    })?;
    bar.finish_and_clear();
    if likelihood.tokens() == 0 {
        // Ended in the first chunk.
        return Ok(());
    }
    print(args, source.name(), context, &likelihood)
}

fn print(args: &PerplexityArgs, model: &str, context: usize, likelihood: &Likelihood) -> Result<()> {
    if args.json {
        return output::print_json(&json!({
            "model": model,
            "context": context,
            "tokens_scored": likelihood.tokens(),
            "mean_nll": likelihood.mean_nll(),
            "perplexity": likelihood.perplexity(),
            "standard_error": likelihood.standard_error(),
        }));
    }
    output::print(&format!(
        "perplexity {:.4} +/- {:.4} ({} tokens scored, context {context})\n",
        likelihood.perplexity(),
        likelihood.standard_error(),
        likelihood.tokens(),
    ))
}
