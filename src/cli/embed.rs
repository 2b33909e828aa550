//! `embed`: texts -> vectors, as JSON or as a NumPy file.

use std::io::Write;

use serde_json::json;

use super::{args::EmbedArgs, input, interrupt, output, progress, source, usage};
use crate::{
    convert::target::Target,
    engine::{Engine, EngineOptions, Purpose},
    error::{Error, Result},
    generate::{Pooling, Prompts, embeddings},
    gguf::Metadata,
    model::Config,
    tokenizer::EncodeOptions,
};

/// Text that bitnet.cpp's guide puts before a question to a collection of documents.
const QUERY: &str = "query: ";

/// Short texts that are read in one batch.
const SIDE_BY_SIDE: usize = 8;

/// `pooling_type` of llama.cpp.
const POOLING_MEAN: u64 = 1;

pub fn run(args: &EmbedArgs) -> Result<()> {
    if args.output.as_deref().is_some_and(|path| path.extension().is_none_or(|ending| ending != "npy")) {
        return Err(usage("-o writes a NumPy file", "bitnet-gpu embed -m model.gguf -f texts.txt --lines -o out.npy"));
    }
    let text = input::text(args.text.prompt.as_deref(), args.text.file.as_deref())?
        .ok_or_else(|| usage("no text", "bitnet-gpu embed -m model.gguf -p \"Hello\""))?;
    let texts: Vec<&str> =
        if args.lines { text.lines().filter(|line| !line.trim().is_empty()).collect() } else { vec![&text] };
    let source = source::open(&args.model)?;
    let model = source.model()?;
    let config = &model.config;
    let metadata = source.file().metadata();
    let pooling = pooling(config, metadata, args.pooling.map(Into::into)).map_err(|e| e.in_file(source.name()))?;
    let tokenizer = source.tokenizer()?;
    let prompts = Prompts::stated(metadata).map_err(|e| e.in_file(source.name()))?;
    let prefix = match &args.prefix {
        Some(prefix) => prefix.as_str(),
        None if args.query => QUERY,
        None => prompts.text(args.prompt_name.as_deref()).map_err(|e| e.in_file(source.name()))?,
    };
    let encode = |text: &&str| {
        let text = input::without_last_line_break((*text).to_owned());
        tokenizer.encode(&format!("{prefix}{text}"), &EncodeOptions { add_special: true, parse_special: true })
    };
    let ids = texts.iter().map(encode).collect::<Result<Vec<_>>>()?;
    let Some(longest) = ids.iter().map(Vec::len).max().filter(|&longest| longest > 0) else {
        return Err(usage("no text", "bitnet-gpu embed -m model.gguf -p \"Hello\""));
    };

    // As much as the longest text needs, up to what -c says or the model was trained for.
    let most = match args.engine.ctx_size {
        None | Some(0) => config.context,
        Some(tokens) => tokens as usize,
    };
    if longest > most {
        return Err(Error::ContextFull { needed: longest, context: most });
    }
    let mut options = EngineOptions::from(&args.engine);
    (options.context_tokens, options.failover) = (Some(longest), false);
    // Longer ones share no batch, and their caches take memory.
    options.sequences = if longest <= options.batch_tokens { ids.len().min(SIDE_BY_SIDE) } else { 1 };
    // A path that cannot be written is refused before the work.
    let target = args.output.as_deref().map(|path| Target::create(path, &[], true)).transpose()?;
    let mut runtime = Engine::new(&source, options).runtime(&Purpose::Hidden)?;

    runtime.cancel_when(Some(interrupt::catch()));
    let bar = progress::count_bar(ids.len() as u64);
    let made = embeddings(&mut runtime, model, &ids, pooling, |done| {
        bar.set_position(done as u64);
        !interrupt::raised()
    });
    let vectors = match made {
        Err(Error::Cancelled) => return Ok(()),
        vectors => vectors?,
    };
    bar.finish_and_clear();
    if let Some(target) = target {
        return write_npy(target, &vectors, config.dim);
    }
    let embeddings: Vec<_> =
        ids.iter().zip(&vectors).map(|(ids, vector)| json!({"tokens": ids.len(), "embedding": vector})).collect();
    output::print_json(&json!({
        "model": source.name(),
        "dim": config.dim,
        "pooling": if pooling == Pooling::Mean { "mean" } else { "last" },
        "devices": runtime.devices(),
        "embeddings": embeddings,
    }))
}

/// The pooling that is asked for, or that of the file. Models that write text have no use for this, and their vectors would
/// look like any others.
fn pooling(config: &Config, metadata: &Metadata, asked: Option<Pooling>) -> Result<Pooling> {
    let stated = Pooling::stated(config, metadata)?.ok_or_else(|| {
        let reason =
            "it was made to write text: it has neither a pooling type nor norms on the inputs of its projections";
        Error::unsupported("embedding with this model", reason)
    })?;
    // The converter writes this where it finds nothing about pooling; the models were trained with the last token.
    let key = format!("{}.pooling_type", config.arch);
    if asked.is_none() && stated == Pooling::Last && metadata.uint(&key)? == Some(POOLING_MEAN) {
        log::info!("the file asks for mean pooling, and BitNet embedding models use the last token (--pooling mean)");
    }
    Ok(asked.unwrap_or(stated))
}

/// NumPy's format 1.0: a header of text, padded to 64 bytes, and the rows.
fn write_npy(target: Target, vectors: &[Vec<f32>], dim: usize) -> Result<()> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {dim}), }}", vectors.len());
    const BEFORE: usize = 10;
    let padded = (BEFORE + header.len() + 1).next_multiple_of(64) - BEFORE;
    header += &" ".repeat(padded - header.len() - 1);
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(vectors.iter().flatten().flat_map(|value| value.to_le_bytes()));
    let mut out = target.buffered();
    out.write_all(&bytes).and_then(|()| out.flush()).map_err(|e| Error::io("write", target.path(), e))?;
    drop(out);
    target.finish().map(drop)
}
