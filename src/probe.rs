//! Which packing the I2_S matrices of a file have. No file says it and all packings share one size, so a short text
//! is tried: a trained model finds it likely under the right packing, and as likely as noise under a wrong one.

use std::{sync::Arc, time::Instant};

use bitnet_cpu_kernels::isa::Isa;

use crate::{
    backend::{Backend, cpu::CpuBackend},
    error::Result,
    generate::negative_log_likelihood,
    gguf::{File, I2S_TRAILER_BYTES, TensorType},
    model::{I2sPacking, Model, OpenOptions},
    plan::{BackendKind, KvType, Plan, Sizes},
    session::Session,
    tokenizer::{EncodeOptions, Tokenizer},
};

/// A beginning that every model that has read English continues like this, small story models as well.
const TEXT: &str = "Once upon a time, there was a little girl named Lily.";

/// Tokens at the start that are not scored: nothing foretells them.
const UNSCORED: usize = 3;

/// A packing explains the text if a token costs less than this share of a guess among the whole vocabulary. Trained
/// models lie near 0.2, and wrong packings near 1 or above.
const EXPLAINED: f64 = 0.6;

/// The packing, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Packing {
    /// To be read as.
    pub packing: I2sPacking,
    /// In words, for a user.
    pub reason: String,
}

/// True where the packing is worth a look: bytes that a quantiser in C left undefined stand behind a scale.
///
/// Only bitnet.cpp's `llama-quantize` has written other packings than the usual one, and it leaves there what was in
/// memory, for most tensors bits of the one before; converters in Python and this program write zeros.
pub fn is_doubtful(file: &File) -> bool {
    let i2_s = file.tensors().iter().filter(|info| info.ty == TensorType::I2_S);
    i2_s.map(|info| file.data(info)).any(|data| {
        let trailer = data.last_chunk::<I2S_TRAILER_BYTES>().expect("the reader checked the length");
        trailer[4..].iter().any(|&byte| byte != 0)
    })
}

/// Tries the text on the CPU, with `threads` threads: with the usual packing first, and where that does not explain it,
/// with all others.
///
/// # Errors
/// If the model cannot run at all.
pub fn i2s_packing(file: &File, threads: usize) -> Result<Packing> {
    const USUAL: I2sPacking = I2sPacking::P128;
    let keep = |reason: String| Ok(Packing { packing: USUAL, reason });
    if !file.tensors().iter().any(|info| info.ty == TensorType::I2_S) {
        return keep("the file has no I2_S matrix".into());
    }
    let Ok(tokenizer) = Tokenizer::from_gguf(file.metadata()) else {
        return keep("there is no tokenizer to try a text with".into());
    };
    let ids = tokenizer.encode(TEXT, &EncodeOptions { add_special: true, parse_special: false })?;
    let vocab = tokenizer.vocab_size();
    let guess = (vocab as f64).ln();
    let usual = cost(file, USUAL, &ids, threads)?;
    if usual < EXPLAINED * guess {
        return keep(format!("a test text costs {usual:.2} nats a token so, where a guess costs {guess:.2}"));
    }
    let mut best: Option<(I2sPacking, f64)> = None;
    for packing in [I2sPacking::P64, I2sPacking::R4, I2sPacking::Seq] {
        // A shape that a packing cannot have rules it out.
        let Ok(cost) = cost(file, packing, &ids, threads) else { continue };
        if best.is_none_or(|(_, least)| cost < least) {
            best = Some((packing, cost));
        }
    }
    match best {
        Some((packing, cost)) if cost < EXPLAINED * guess => {
            let usual_name = USUAL.name();
            let reason = format!("a test text costs {cost:.2} nats a token so, and {usual:.2} as {usual_name}");
            Ok(Packing { packing, reason })
        }
        _ => keep(format!("no packing makes a test text likelier than a guess ({usual:.2} nats a token so)")),
    }
}

/// Mean negative log-likelihood of the text, in nats a token; infinite where the numbers go bad.
fn cost(file: &File, packing: I2sPacking, ids: &[u32], threads: usize) -> Result<f64> {
    let begin = Instant::now();
    let options = OpenOptions { i2s: packing, ..OpenOptions::default() };
    let model = Arc::new(Model::from_gguf_with(file, &options)?);
    let tokens = ids.len();
    let sizes = Sizes::new(tokens, tokens).with_kv(KvType::F32, KvType::F32);
    let plan = Plan::all_cpu(model.config.layers, sizes, "a trial");
    let cpu: Box<dyn Backend> = Box::new(CpuBackend::new(Isa::detect(), threads));
    let mut session = Session::load(&model, &plan, vec![(BackendKind::Cpu, cpu)], &mut |_| ())?;
    let (mut sum, mut scored, mut position) = (0.0, 0, 0);
    let outcome = session.score(ids, |logits| {
        position += 1;
        if position >= UNSCORED && position < tokens {
            sum += negative_log_likelihood(logits, ids[position] as usize);
            scored += 1;
        }
    });
    let cost = if outcome.is_ok() && scored > 0 { sum / f64::from(scored) } else { f64::INFINITY };
    log::debug!("as {}: {cost:.2} nats a token, found in {:.0?}", packing.name(), begin.elapsed());
    Ok(cost)
}
