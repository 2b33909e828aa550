//! `tokenize`: the ids of a text, in llama-tokenize's forms.

use serde_json::json;

use super::{args::TokenizeArgs, input, output, source, usage};
use crate::{error::Result, tokenizer::EncodeOptions};

pub fn run(args: &TokenizeArgs) -> Result<()> {
    let text = input::text(args.text.prompt.as_deref(), args.text.file.as_deref())?
        .ok_or_else(|| usage("no text", "bitnet-gpu tokenize -m model.gguf -p \"Hello\""))?;
    let source = source::glance(&args.model)?;
    let tokenizer = source.tokenizer()?;
    let ids = tokenizer.encode(&text, &EncodeOptions { add_special: !args.no_bos, parse_special: args.special })?;
    if args.json {
        return output::print_json(&json!({ "ids": ids }));
    }
    if args.ids {
        return output::print(&format!("{ids:?}\n"));
    }
    let mut lines = String::new();
    for id in ids {
        // Escaped, where llama-tokenize is not: a token can be a line break or half a character.
        let text = tokenizer.token_text(id).unwrap_or_default();
        lines += &format!("{id:6} -> '{}'\n", text.escape_debug());
    }
    output::print(&lines)
}
