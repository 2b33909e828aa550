//! A model as Python holds it: its file, where it runs, and what is loaded of it.
//!
//! Texts are written by a [`Local`] server, which also lends its model for logits. Vectors come from a runtime without a head,
//! which is loaded when they are first asked for.

use std::{
    mem,
    path::PathBuf,
    process,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bitnet_gpu::{
    EncodeOptions, Engine, EngineOptions, Error, ModelFile, OpenOptions, Pooling, Purpose, Result, Segment,
    chat::{Format, Template},
    serve::{Local, Opened, ServeOptions, short_name},
    session::Runtime,
};
use pyo3::{
    prelude::*,
    types::{PyByteArray, PyBytes},
};
use serde_json::{Value, json};

use super::{
    errors,
    notices::Notices,
    numbers::Embedded,
    options::{Arguments, i2s_layout},
    reply::Reply,
    work::{Cancel, do_long},
};

/// A model and what is loaded of it.
pub struct Model {
    pub file: ModelFile,
    pub engine: Engine,
    /// The form of prompts that was asked for.
    template: Option<String>,
    prefix_bytes: usize,
    notices: Arc<Notices>,
    /// How vectors are made, where the model was made for those.
    pub pooling: Option<Pooling>,
    text: Mutex<Option<Local>>,
    /// The head of a model that was made for vectors; the others have theirs in `text`.
    pub logits: Mutex<Option<Runtime>>,
    pub hidden: Mutex<Option<Runtime>>,
    is_closed: AtomicBool,
}

/// A panic elsewhere leaves none of them half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A model and where it runs.
#[pyclass(frozen, module = "bitnet_gpu._core")]
pub struct Core {
    model: Arc<Model>,
    /// Threads do not go along where the process forks.
    process: u32,
}

#[pymethods]
impl Core {
    /// Opens a model: a path, a name of the Hub's cache, or `None` for the built-in one.
    #[new]
    #[pyo3(signature = (
        model, *, backend="auto", n_gpu_layers=None, device=None, gpu_memory=None, n_ctx=None, n_threads=None, n_batch=512,
        n_seqs=8, type_k="f16", type_v="f16", use_mmap=true, kernel=None, prefer="speed", i2s_layout=None,
        chat_template=None, prefix_cache=0
    ))]
    #[allow(clippy::too_many_arguments, reason = "they are the arguments of Python's constructor")]
    fn new(
        py: Python<'_>,
        model: Option<PathBuf>,
        backend: &str,
        n_gpu_layers: Option<i64>,
        device: Option<String>,
        gpu_memory: Option<u64>,
        n_ctx: Option<i64>,
        n_threads: Option<i64>,
        n_batch: i64,
        n_seqs: i64,
        type_k: &str,
        type_v: &str,
        use_mmap: bool,
        kernel: Option<&str>,
        prefer: &str,
        i2s_layout: Option<&str>,
        chat_template: Option<String>,
        prefix_cache: usize,
    ) -> PyResult<Self> {
        let arguments = Arguments {
            backend,
            n_gpu_layers,
            device,
            gpu_memory,
            n_ctx,
            n_threads,
            n_batch,
            n_seqs,
            type_k,
            type_v,
            kernel,
            prefer,
        };
        let fail = |error| errors::exception(py, &error);
        let options = arguments.options().map_err(fail)?;
        let mut open = OpenOptions::default();
        open.copy = !use_mmap;
        open.i2s = self::i2s_layout(i2s_layout).map_err(fail)?;
        let opened =
            do_long(py, Cancel::default(), move |_| Model::open(model, &open, options, chat_template, prefix_cache));
        Ok(Self { model: Arc::new(opened?.map_err(fail)?), process: process::id() })
    }

    /// Loads what writes texts, where it is not loaded yet.
    fn load(&self, py: Python<'_>) -> PyResult<()> {
        self.long(py, Cancel::default(), |model, _| model.with_text(|_| Ok(())))
    }

    /// Sends the JSON of a request to a route of the server in this process.
    fn ask(&self, py: Python<'_>, path: String, body: String) -> PyResult<Reply> {
        self.long(py, Cancel::default(), move |model, _| {
            model.with_text(|local| Reply::of(|told| local.ask(&path, body, told)))
        })
    }

    /// Token ids of a text.
    fn tokenize(&self, py: Python<'_>, text: &str, add_special: bool, parse_special: bool) -> PyResult<Vec<u32>> {
        let tokenizer = self.model.file.tokenizer();
        let options = EncodeOptions { add_special, parse_special };
        let ids = py.detach(|| tokenizer.and_then(|tokenizer| tokenizer.encode(text, &options)));
        ids.map_err(|error| errors::exception(py, &error))
    }

    /// Text of token ids.
    fn detokenize(&self, py: Python<'_>, ids: Vec<u32>, special: bool) -> PyResult<String> {
        let text = py.detach(|| self.model.file.tokenizer().map(|tokenizer| tokenizer.decode(&ids, special)));
        text.map_err(|error| errors::exception(py, &error))
    }

    /// Bytes that a token prints; none for markup.
    fn token_bytes<'py>(&self, py: Python<'py>, id: u32) -> PyResult<Bound<'py, PyBytes>> {
        let tokenizer = self.model.file.tokenizer().map_err(|error| errors::exception(py, &error))?;
        let is_known = (id as usize) < tokenizer.vocab_size();
        Ok(PyBytes::new(py, if is_known { tokenizer.token_bytes(id) } else { &[] }))
    }

    /// Logits after the last of `ids`, (vocab), or after each, (ids, vocab); f32, as bytes.
    #[pyo3(signature = (ids, after_each, cancel=None))]
    fn logits<'py>(
        &self,
        py: Python<'py>,
        ids: Vec<u32>,
        after_each: bool,
        cancel: Option<Cancel>,
    ) -> PyResult<Bound<'py, PyByteArray>> {
        let logits =
            self.long(py, cancel.unwrap_or_default(), move |model, cancel| model.logits(ids, after_each, cancel))?;
        bytes(py, [&logits[..]].into_iter())
    }

    /// Vectors of texts, (texts, dim) f32 as bytes; dim; the tokens of all texts.
    #[pyo3(signature = (texts, pooling=None, prompt_name=None, cancel=None))]
    fn embed<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<String>,
        pooling: Option<&str>,
        prompt_name: Option<String>,
        cancel: Option<Cancel>,
    ) -> PyResult<(Bound<'py, PyByteArray>, usize, usize)> {
        let pooling = match pooling {
            None => None,
            Some("last") => Some(Pooling::Last),
            Some("mean") => Some(Pooling::Mean),
            Some(other) => {
                let message = format!("pooling: expected \"last\" or \"mean\", found {other:?}");
                return Err(errors::exception(py, &Error::Usage(message)));
            }
        };
        let Embedded { vectors, dim, tokens } = self.long(py, cancel.unwrap_or_default(), move |model, cancel| {
            model.embed(&texts, pooling, prompt_name.as_deref(), cancel)
        })?;
        Ok((bytes(py, vectors.iter().map(Vec::as_slice))?, dim, tokens))
    }

    /// How well the model predicts a text, as JSON.
    #[pyo3(signature = (text, chunk=None, cancel=None))]
    fn perplexity(&self, py: Python<'_>, text: String, chunk: Option<i64>, cancel: Option<Cancel>) -> PyResult<String> {
        self.long(py, cancel.unwrap_or_default(), move |model, cancel| model.perplexity(&text, chunk, cancel))
    }

    /// Which layers would run where, and why, as JSON.
    fn plan(&self, py: Python<'_>) -> PyResult<String> {
        self.long(py, Cancel::default(), |model, _| model.plan())
    }

    /// Numbers and names of the model, as JSON.
    fn facts(&self, py: Python<'_>) -> PyResult<String> {
        self.model.facts().map_err(|error| errors::exception(py, &error))
    }

    /// Decisions of the engine since the last call, a line each.
    fn notices(&self) -> Vec<String> {
        self.model.notices.take()
    }

    /// Ends all answers and frees the memory of the model. Does nothing the second time.
    fn close(&self, py: Python<'_>) {
        let model = Arc::clone(&self.model);
        if self.process == process::id() && !model.is_closed.swap(true, Ordering::Relaxed) {
            py.detach(|| model.close());
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if self.process != process::id() {
            // It would let go of threads that a forked process does not have.
            mem::forget(Arc::clone(&self.model));
        }
    }
}

impl Core {
    /// Does what takes long with the model.
    fn long<T: Send + 'static>(
        &self,
        py: Python<'_>,
        cancel: Cancel,
        work: impl FnOnce(&Model, &Cancel) -> Result<T> + Send + 'static,
    ) -> PyResult<T> {
        let model = self.usable(py)?;
        let of_work = Arc::clone(&model);
        let done = do_long(py, cancel, move |cancel| work(&of_work, cancel))?;
        done.map_err(|error| {
            if model.is_closed() {
                errors::of_kind(py, "Closed", "the model was closed meanwhile")
            } else {
                errors::exception(py, &error)
            }
        })
    }

    /// The model, where it can be used.
    fn usable(&self, py: Python<'_>) -> PyResult<Arc<Model>> {
        if self.process != process::id() {
            return Err(errors::forked(py));
        }
        if self.model.is_closed() {
            return Err(errors::of_kind(py, "Closed", "the model is closed"));
        }
        Ok(Arc::clone(&self.model))
    }
}

/// Rows of numbers as the bytes of an array that Python may write to.
fn bytes<'py, 'a>(py: Python<'py>, rows: impl Iterator<Item = &'a [f32]> + Clone) -> PyResult<Bound<'py, PyByteArray>> {
    let values = rows.clone().map(<[f32]>::len).sum::<usize>();
    PyByteArray::new_with(py, values * size_of::<f32>(), |bytes| {
        let places = bytes.chunks_exact_mut(size_of::<f32>());
        places.zip(rows.flatten()).for_each(|(place, value)| place.copy_from_slice(&value.to_ne_bytes()));
        Ok(())
    })
}

/// The form of prompts: a built-in one by its name, a Jinja template, or that of the file.
fn template(file: &ModelFile, asked: Option<&str>) -> Result<Template> {
    let tokenizer = file.tokenizer()?;
    match asked {
        None => Template::of(tokenizer).map_err(|error| error.in_file(file.name())),
        Some(source) if source.contains("{{") || source.contains("{%") => Template::jinja(source, tokenizer),
        Some(name) => {
            let format = Format::by_name(name).ok_or_else(|| {
                let names: Vec<&str> = Format::ALL.iter().map(|format| format.name()).collect();
                Error::malformed("chat_template", format!("Jinja, or one of {}", names.join(", ")), name)
            })?;
            Ok(Template::built_in(format, tokenizer))
        }
    }
}

impl Model {
    fn open(
        place: Option<PathBuf>,
        open: &OpenOptions,
        options: EngineOptions,
        template: Option<String>,
        prefix_bytes: usize,
    ) -> Result<Self> {
        let notices = Arc::<Notices>::default();
        let file = match place {
            Some(path) => ModelFile::open(path, open, Arc::clone(&notices) as _)?,
            None => ModelFile::built_in(open, Arc::clone(&notices) as _)?,
        };
        self::template(&file, template.as_deref())?;
        let pooling = file.pooling()?;
        let engine = Engine::new(&file, options);
        // What cannot fit is said now.
        engine.sizes(&Purpose::Logits)?;
        let (text, logits, hidden) = (Mutex::new(None), Mutex::new(None), Mutex::new(None));
        let is_closed = AtomicBool::new(false);
        Ok(Self { file, engine, template, prefix_bytes, notices, pooling, text, logits, hidden, is_closed })
    }

    /// Lends what writes texts, which is loaded where it is not yet.
    pub fn with_text<T>(&self, lend: impl FnOnce(&Local) -> Result<T>) -> Result<T> {
        let mut text = lock(&self.text);
        self.check_open()?;
        if let Some(local) = &*text {
            return lend(local);
        }
        let opened = Opened {
            file: self.file.clone(),
            engine: self.engine.clone(),
            template: template(&self.file, self.template.as_deref())?,
            sample: self.file.recommended().options(),
        };
        let mut options = ServeOptions::default();
        options.names = vec![short_name(self.file.name())];
        options.prefix_bytes = self.prefix_bytes;
        let log = Arc::clone(&self.notices) as _;
        lend(text.insert(Local::start(options, opened, log)?))
    }

    /// Lends a runtime of its own, which is loaded where it is not yet.
    pub fn with_runtime<T>(
        &self,
        of: &Mutex<Option<Runtime>>,
        (purpose, sequences): (&Purpose<'_>, usize),
        lend: impl FnOnce(&mut Runtime) -> Result<T>,
    ) -> Result<T> {
        let mut held = lock(of);
        self.check_open()?;
        let runtime = match &mut *held {
            Some(runtime) => runtime,
            None => {
                let mut options = self.engine.options().clone();
                options.sequences = sequences;
                held.insert(self.engine.with_options(options).runtime(purpose)?)
            }
        };
        let done = lend(runtime);
        if done.as_ref().is_err_and(Error::is_of_device) {
            *held = None;
        }
        done
    }

    /// An error where the model is closed.
    fn check_open(&self) -> Result<()> {
        if self.is_closed() { Err(Error::missing("the model", "a request: it is closed")) } else { Ok(()) }
    }

    /// True from the beginning of its end on.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    fn plan(&self) -> Result<String> {
        let sample = self.file.recommended().options();
        let purpose = if self.pooling.is_some() { Purpose::Hidden } else { Purpose::Sample(&sample) };
        let placement = self.engine.place(&purpose)?;
        let plan = &placement.plan;
        let of = |segments: &[Segment]| -> Vec<Value> {
            let one = |segment: &Segment| {
                json!({
                    "layers": [segment.layers.start, segment.layers.end],
                    "backend": segment.backend.to_string().to_lowercase(),
                    "device": placement.device(segment.backend),
                    "embed": segment.embed,
                    "head": segment.head,
                    "reason": segment.reason,
                    "bytes": placement.bytes(segment).total(),
                })
            };
            segments.iter().map(one).collect()
        };
        Ok(json!({
            "n_ctx": plan.sizes.context_tokens,
            "n_batch": plan.sizes.batch_tokens,
            "n_seqs": plan.sizes.sequences,
            "n_threads": self.engine.options().thread_count(),
            "segments": of(&plan.segments),
            "prefill_segments": plan.prefill.as_deref().map(of),
        })
        .to_string())
    }

    fn facts(&self) -> Result<String> {
        let (config, tokenizer) = (&self.file.model()?.config, self.file.tokenizer()?);
        Ok(json!({
            "path": self.file.name(),
            "name": short_name(self.file.name()),
            "architecture": config.arch,
            "n_ctx": self.engine.context_tokens()?,
            "n_ctx_train": config.context,
            "n_vocab": config.vocab,
            "n_embd": config.dim,
            "n_layer": config.layers,
            "n_seqs": self.engine.options().sequences,
            "n_threads": self.engine.options().thread_count(),
            "bos": tokenizer.bos(),
            "eos": tokenizer.eos(),
            "embeds": self.pooling.is_some(),
        })
        .to_string())
    }

    fn close(&self) {
        if let Some(mut local) = lock(&self.text).take() {
            local.close();
        }
        lock(&self.logits).take();
        lock(&self.hidden).take();
    }
}
