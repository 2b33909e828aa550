//! The vector of a text: the residual stream behind the last block, normed, pooled and brought to length 1.
//!
//! The session's plan has no head: its last segment hands the stream over, on whatever backend it ran.

use crate::{
    backend::Want,
    error::{Error, Result, shown},
    gguf::Metadata,
    model::{Config, Model, Norm},
    session::{Phase, Runtime, Sequence, Session, Work},
};

/// How the tokens of a text become one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The last token, which has seen all others.
    #[default]
    Last,
    /// The mean of all tokens.
    Mean,
}

/// `pooling_type` of llama.cpp.
const POOLING_MEAN: u64 = 1;
const POOLING_LAST: u64 = 3;

impl Pooling {
    /// `pooling_type` as the files of sentence-transformers say it; a key of our own, as that of llama.cpp is not always
    /// meant.
    pub(crate) const OWN_KEY: &'static str = "sentence_transformers.pooling_type";

    /// That of a model made for embeddings; `None` for one that writes text.
    ///
    /// # Errors
    /// If the file states one that is not known, or in another type.
    #[doc(hidden)]
    pub fn stated(config: &Config, metadata: &Metadata) -> Result<Option<Self>> {
        let key = format!("{}.pooling_type", config.arch);
        let stated = match metadata.uint(Self::OWN_KEY)? {
            // The converter of BitNet's embedding models writes the mean, and they were trained with the last token.
            None if config.input_norms.is_some_and(|norms| norms.embedder) => Some(POOLING_LAST),
            None => metadata.uint(&key)?,
            own => own,
        };
        match stated {
            None | Some(0) => Ok(None),
            Some(POOLING_MEAN) => Ok(Some(Self::Mean)),
            Some(POOLING_LAST) => Ok(Some(Self::Last)),
            Some(other) => {
                let name = if other == 2 { " (CLS)" } else { "" };
                Err(Error::unsupported(format!("key {key} = {other}{name}"), "only mean (1) and last (3) are"))
            }
        }
    }
}

/// Texts that a model was trained to find before others, such as an instruction before questions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompts {
    /// By name.
    pub named: Vec<(String, String)>,
    /// The name of the one that is taken where none is asked for.
    pub usual: Option<String>,
}

impl Prompts {
    const NAMES: &'static str = "sentence_transformers.prompts";
    const USUAL: &'static str = "sentence_transformers.default_prompt";

    /// Those that a converted directory of sentence-transformers has.
    ///
    /// # Errors
    /// If a key has another type.
    pub fn stated(metadata: &Metadata) -> Result<Self> {
        let mut named = Vec::new();
        for name in metadata.strings(Self::NAMES)?.into_iter().flatten() {
            let text = metadata.str(&format!("{}.{name}", Self::NAMES))?.unwrap_or_default();
            named.push((name.clone(), text.to_owned()));
        }
        Ok(Self { named, usual: metadata.str(Self::USUAL)?.map(str::to_owned) })
    }

    /// The text of this name, or the usual one.
    ///
    /// # Errors
    /// If there is none of this name; names those there are.
    pub fn text(&self, name: Option<&str>) -> Result<&str> {
        let Some(wanted) = name.or(self.usual.as_deref()) else { return Ok("") };
        let found = self.named.iter().find(|(name, _)| name == wanted);
        found.map(|(_, text)| text.as_str()).ok_or_else(|| {
            let names: Vec<_> = self.named.iter().map(|(name, _)| shown(name)).collect();
            let expected = if names.is_empty() { "no name, as the model has none".into() } else { names.join(", ") };
            Error::argument("name of the prompt", expected, shown(wanted))
        })
    }

    /// Puts them into metadata.
    #[cfg(feature = "convert")]
    pub(crate) fn write(&self, metadata: &mut Metadata) {
        use crate::gguf::{Array, Value};

        let names = self.named.iter().map(|(name, _)| name.clone()).collect();
        metadata.set(Self::NAMES, Value::Array(Array::String(names)));
        for (name, text) in &self.named {
            metadata.set(format!("{}.{name}", Self::NAMES), Value::String(text.clone()));
        }
        if let Some(usual) = &self.usual {
            metadata.set(Self::USUAL, Value::String(usual.clone()));
        }
    }
}

/// The embedding of a text given as ids; (dim), of length 1.
///
/// # Errors
/// If the text is empty or too long, or a backend fails.
pub fn embedding(session: &mut Session, model: &Model, ids: &[u32], pooling: Pooling) -> Result<Vec<f32>> {
    session.truncate(0)?;
    let mut pooled = Pooled::new(model, ids.len(), pooling);
    session.hidden(ids, |stream| pooled.add(stream))?;
    pooled.vector()
}

/// The embeddings of texts given as ids, in their order; each (dim), of length 1. Short texts share batches, as many as the
/// runtime has sequences, and each gets what it gets alone, bit for bit. `go_on` is asked before each step, with the number of
/// texts that are done.
///
/// # Errors
/// If a text is empty or too long, which is found before anything runs; if a backend fails, or `go_on` says no.
pub fn embeddings(
    runtime: &mut Runtime,
    model: &Model,
    texts: &[Vec<u32>],
    pooling: Pooling,
    go_on: impl FnMut(usize) -> bool,
) -> Result<Vec<Vec<f32>>> {
    let context = runtime.sizes().context_tokens;
    for (number, ids) in texts.iter().enumerate() {
        match ids.len() {
            0 => return Err(Error::malformed(format!("text {number}"), "at least one token", "none")),
            needed if needed > context => return Err(Error::ContextFull { needed, context }),
            _ => {}
        }
    }
    let mut running = Vec::new();
    let done = read_all(runtime, model, texts, pooling, &mut running, go_on);
    running.into_iter().for_each(|reading: Reading<'_>| runtime.end(reading.sequence));
    done
}

/// A text on its way, and the sequence that holds what is read of it.
struct Reading<'a> {
    text: usize,
    sequence: Sequence,
    pooled: Pooled<'a>,
}

/// As [`embeddings`]; texts that have a sequence are in `running`.
fn read_all<'a>(
    runtime: &mut Runtime,
    model: &'a Model,
    texts: &[Vec<u32>],
    pooling: Pooling,
    running: &mut Vec<Reading<'a>>,
    mut go_on: impl FnMut(usize) -> bool,
) -> Result<Vec<Vec<f32>>> {
    let batch_tokens = runtime.sizes().batch_tokens;
    let mut vectors = vec![Vec::new(); texts.len()];
    let (mut done, mut begun) = (0, 0);
    while done < texts.len() {
        if !go_on(done) {
            return Err(Error::Cancelled);
        }
        // Each is cut as it would be alone, so that one that is longer than a batch ends in a step with others.
        let piece = |text: usize, held: usize| &texts[text][held..texts[text].len().min(held + batch_tokens)];
        let mut tokens: usize = running.iter().map(|one| piece(one.text, one.sequence.tokens().len()).len()).sum();
        while begun < texts.len() && (tokens == 0 || tokens + piece(begun, 0).len() <= batch_tokens) {
            let Some(sequence) = runtime.begin() else { break };
            tokens += piece(begun, 0).len();
            let pooled = Pooled::new(model, texts[begun].len(), pooling);
            running.push(Reading { text: begun, sequence, pooled });
            begun += 1;
        }
        if running.is_empty() {
            return Err(Error::missing("a free sequence", "a text"));
        }
        let work = running.iter_mut().map(|Reading { text, sequence, .. }| {
            let ids = piece(*text, sequence.tokens().len());
            Work { sequence, ids, want: Want::Nothing, phase: Phase::Prefill }
        });
        runtime.run(&mut work.collect::<Vec<_>>())?;
        for (at, Reading { pooled, .. }) in running.iter_mut().enumerate() {
            runtime.hidden(at).chunks_exact(model.config.dim).for_each(|stream| pooled.add(stream));
        }
        for ended in running.extract_if(.., |one| one.pooled.is_whole()) {
            runtime.end(ended.sequence);
            vectors[ended.text] = ended.pooled.vector()?;
            done += 1;
        }
    }
    Ok(vectors)
}

/// The vector of a text whose hidden states come one by one.
struct Pooled<'a> {
    model: &'a Model,
    pooling: Pooling,
    sum: Vec<f64>,
    /// Tokens that came, and all that the text has.
    position: usize,
    len: usize,
}

impl<'a> Pooled<'a> {
    fn new(model: &'a Model, len: usize, pooling: Pooling) -> Self {
        Self { model, pooling, sum: vec![0.0; model.config.dim], position: 0, len }
    }

    fn is_whole(&self) -> bool {
        self.position == self.len
    }

    fn add(&mut self, stream: &[f32]) {
        self.position += 1;
        if self.pooling == Pooling::Mean || self.is_whole() {
            let Model { weights, config, .. } = self.model;
            add_normed(&mut self.sum, stream, &weights.output_norm, config.eps(Norm::Output));
        }
    }

    /// The vector, of length 1.
    fn vector(&self) -> Result<Vec<f32>> {
        // The mean needs no division, as the length is set to 1 anyway.
        let length = self.sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        if !(length.is_normal() && length > 0.0) {
            return Err(Error::malformed("the embedding", "a vector with a length", length));
        }
        Ok(self.sum.iter().map(|x| (x / length) as f32).collect())
    }
}

/// sum += x / sqrt(mean(x^2) + eps) * weight
fn add_normed(sum: &mut [f64], x: &[f32], weight: &[f32], eps: f32) {
    let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (mean + f64::from(eps)).sqrt();
    for ((sum, &x), &weight) in sum.iter_mut().zip(x).zip(weight) {
        *sum += f64::from(x) * factor * f64::from(weight);
    }
}
