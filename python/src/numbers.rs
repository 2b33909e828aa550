//! Numbers of a model: logits, vectors, perplexity.

use bitnet_gpu::{
    BackendKind, EncodeOptions, Error, Pooling, Purpose, Result, Want,
    generate::{Prompts, embeddings, losses, perplexity_by},
    session::{Runtime, Sequence},
};
use serde_json::json;

use super::{model::Model, work::Cancel};

/// Tokens of a chunk whose perplexity is measured, where none are asked for; as in llama-perplexity.
const CHUNK_TOKENS: usize = 512;

/// As [`perplexity_by`] has it.
const LEAST_CHUNK: usize = 4;

/// Vectors of texts.
pub struct Embedded {
    /// (texts, dim)
    pub vectors: Vec<Vec<f32>>,
    pub dim: usize,
    /// Tokens of all texts.
    pub tokens: usize,
}

impl Model {
    /// Logits after the last of `ids`, (vocab), or after each, (ids, vocab).
    pub fn logits(&self, ids: Vec<u32>, after_each: bool, cancel: &Cancel) -> Result<Vec<f32>> {
        if ids.is_empty() {
            return Err(Error::Usage("logits: expected at least one token id, found none".into()));
        }
        let vocab = self.file.model()?.config.vocab;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::Usage(format!("logits: expected token ids below {vocab} (the vocabulary), found {id}")));
        }
        let cancel = cancel.clone();
        self.with_sequence(move |runtime, sequence| {
            if !after_each {
                runtime.prefill_while(sequence, &ids, Want::Last, || !cancel.is_set())?;
                cancel.check()?;
                return Ok(runtime.output_and_logits(0).1.to_vec());
            }
            let context = runtime.sizes().context_tokens;
            if ids.len() > context {
                return Err(Error::ContextFull { needed: ids.len(), context });
            }
            let mut all = room(ids.len() * runtime.vocab())?;
            for batch in ids.chunks(runtime.sizes().batch_tokens) {
                cancel.check()?;
                runtime.score(sequence, batch, |logits| all.extend_from_slice(logits))?;
            }
            Ok(all)
        })
    }

    /// Vectors of texts, in their order.
    pub fn embed(
        &self,
        texts: &[String],
        pooling: Option<Pooling>,
        prompt_name: Option<&str>,
        cancel: &Cancel,
    ) -> Result<Embedded> {
        let pooling = pooling.or(self.pooling).ok_or_else(|| {
            let reason = "it was made to write text; with pooling=\"mean\" or \"last\" it gives vectors all the same";
            Error::unsupported("embedding with this model", reason)
        })?;
        let (model, tokenizer) = (self.file.model()?, self.file.tokenizer()?);
        let prompts = Prompts::stated(self.file.file().metadata())?;
        let before = prompts.text(prompt_name)?;
        let options = EncodeOptions { add_special: true, parse_special: true };
        let encode = |(number, text): (usize, &String)| {
            cancel.check()?;
            let ids = tokenizer.encode(&format!("{before}{text}"), &options)?;
            if ids.is_empty() { Err(Error::Usage(format!("text {number} is empty"))) } else { Ok(ids) }
        };
        let ids = texts.iter().enumerate().map(encode).collect::<Result<Vec<_>>>()?;
        let purpose = (&Purpose::Hidden, self.sequences_of_texts()?);
        let vectors = self.with_runtime(&self.hidden, purpose, |runtime| {
            embeddings(runtime, model, &ids, pooling, |_| !(cancel.is_set() || self.is_closed()))
        })?;
        Ok(Embedded { vectors, dim: model.config.dim, tokens: ids.iter().map(Vec::len).sum() })
    }

    /// Texts whose vectors are made side by side. Beside a model that writes text there is one on a GPU: its long texts share no
    /// batch anyway, and the memory of each counts.
    fn sequences_of_texts(&self) -> Result<usize> {
        let is_second = self.pooling.is_none();
        let on_gpu = is_second && self.engine.plan(&Purpose::Hidden)?.runs_on(BackendKind::Gpu);
        Ok(if on_gpu { 1 } else { self.engine.options().sequences })
    }

    /// How well the model predicts a text, as JSON.
    pub fn perplexity(&self, text: &str, chunk: Option<i64>, cancel: &Cancel) -> Result<String> {
        let tokenizer = self.file.tokenizer()?;
        let ids = tokenizer.encode(text, &EncodeOptions { add_special: true, parse_special: false })?;
        let bos = tokenizer.bos().filter(|&bos| ids.first() == Some(&bos));
        let context = self.engine.context_tokens()?;
        let chunk = match chunk {
            None => CHUNK_TOKENS.min(context),
            Some(tokens) => {
                usize::try_from(tokens).ok().filter(|tokens| (LEAST_CHUNK..=context).contains(tokens)).ok_or_else(
                    || Error::Usage(format!("chunk: expected {LEAST_CHUNK} to {context} tokens, found {tokens}")),
                )?
            }
        };
        if ids.len() < chunk {
            let found = ids.len();
            return Err(Error::Usage(format!("text: expected at least a chunk of {chunk} tokens, found {found}")));
        }
        // Answers of other threads go on between two chunks.
        let losses_of = |ids: &[u32]| {
            let (ids, cancel) = (ids.to_vec(), cancel.clone());
            self.with_sequence(move |runtime, sequence| {
                cancel.check()?;
                losses(runtime, sequence, &ids)
            })
        };
        let likelihood = perplexity_by(losses_of, &ids, (chunk, context), bos, |_, _, _| !cancel.is_set())?;
        cancel.check()?;
        Ok(json!({
            "perplexity": likelihood.perplexity(),
            "standard_error": likelihood.standard_error(),
            "mean_nll": likelihood.mean_nll(),
            "tokens_scored": likelihood.tokens(),
            "chunk": chunk,
        })
        .to_string())
    }

    /// Lends the model that writes texts, and an empty sequence. A model that was made for vectors writes none and is loaded with
    /// its head.
    fn with_sequence<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Runtime, &mut Sequence) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.pooling.is_none() {
            return self.with_text(|local| local.lend(work))?.wait();
        }
        self.with_runtime(&self.logits, (&Purpose::Logits, 1), |runtime| {
            let sequence = runtime.begin();
            let mut sequence = sequence.ok_or_else(|| Error::missing("a free sequence", "logits"))?;
            let done = work(runtime, &mut sequence);
            runtime.end(sequence);
            done
        })
    }
}

/// Room for so many numbers.
fn room(values: usize) -> Result<Vec<f32>> {
    let mut room = Vec::new();
    let reserved = room.try_reserve_exact(values);
    let refused = |_| Error::OutOfMemory { what: "logits".into(), bytes: (values * size_of::<f32>()) as u64 };
    reserved.map(|()| room).map_err(refused)
}
