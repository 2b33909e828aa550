//! `logits`: what the model says after a sequence of ids; works without a tokenizer.

use serde::Serialize;

use super::{args::LogitsArgs, format, output, source};
use crate::{
    engine::{Engine, EngineOptions, Purpose},
    error::{Error, Result},
};

/// How many of the highest logits are shown without `--json`.
const SHOWN: usize = 10;

/// f32 values are printed with as many digits as it takes to read the same value back.
#[derive(Serialize)]
struct Logits<'a> {
    tokens: &'a [u32],
    logits: &'a [f32],
}

pub fn run(args: &LogitsArgs) -> Result<()> {
    let source = source::open(&args.model)?;
    let vocab = source.model()?.config.vocab;
    let ids: Vec<u32> = args.ids.0.iter().map(|&id| in_vocabulary(id, vocab)).collect::<Result<_>>()?;
    let mut options = EngineOptions { failover: false, ..(&args.engine).into() };
    options.context_tokens.get_or_insert(ids.len());
    let mut session = Engine::new(&source, options).load(&Purpose::Logits)?;
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
