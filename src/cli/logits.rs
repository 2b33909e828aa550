//! `logits`: what the model says after a sequence of ids; works without a tokenizer.

use serde::Serialize;

use super::{args::LogitsArgs, engine::Engine, format, output, source::Source};
use crate::error::{Error, Result};

/// How many of the highest logits are shown without `--json`.
const SHOWN: usize = 10;

/// f32 values are printed with as many digits as it takes to read the same value back.
#[derive(Serialize)]
struct Logits<'a> {
    tokens: &'a [u32],
    logits: &'a [f32],
}

pub fn run(args: &LogitsArgs) -> Result<()> {
    let source = Source::open(&args.model)?;
    let engine = Engine::new(&source)?;
    let vocab = engine.model.config.vocab;
    let ids: Vec<u32> = args.ids.0.iter().map(|&id| in_vocabulary(id, vocab)).collect::<Result<_>>()?;
    let mut sizes = engine.sizes(&args.engine)?;
    sizes.head_screen = false; // All logits are needed.
    if args.engine.ctx_size.is_none() {
        sizes.context_tokens = ids.len();
        sizes.batch_tokens = sizes.batch_tokens.min(ids.len());
    }
    let mut session = engine.load(&args.engine, args.engine.request(), sizes)?;
    let logits = session.prefill(&ids)?;
    if args.json {
        return output::print_json(&Logits { tokens: &ids, logits });
    }
    let mut ranked: Vec<usize> = (0..logits.len()).collect();
    ranked.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let tokenizer = source.tokenizer().ok();
    let mut rows = vec![vec!["id".to_owned(), "logit".into(), "text".into()]];
    for &id in ranked.iter().take(SHOWN) {
        let text = tokenizer.as_ref().and_then(|t| t.token_text(id as u32)).unwrap_or_default();
        rows.push(vec![id.to_string(), format!("{:.4}", logits[id]), text.escape_debug().to_string()]);
    }
    output::print(&format::table(&rows))
}

fn in_vocabulary(id: i64, vocab: usize) -> Result<u32> {
    u32::try_from(id)
        .ok()
        .filter(|&id| (id as usize) < vocab)
        .ok_or_else(|| Error::malformed("token id", format!("0 to {}", vocab - 1), id))
}
