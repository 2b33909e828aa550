//! Routes, and the way of a request through them.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError, mpsc::Sender},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::{Request, State},
    http::header,
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use serde_json::{Map, Value, json};
use tokio::{sync::oneshot, task::spawn_blocking, time::timeout};

use super::{
    Log, ServeOptions,
    answer::{self, Answers},
    anthropic,
    embedding::EmbeddingJob,
    engine::{Job, JobSender},
    error::{ApiError, ApiResult},
    fields::Fields,
    guard,
    llama::{self, completion},
    metrics::Metrics,
    model::Served,
    ollama,
    openai::{
        chat, completions,
        embeddings::{self, Asked},
        models, responses,
    },
    page,
    request::Wishes,
    respond::{Answered, Dialect, json_response, respond},
};
use crate::{
    generate::{Chooser, Generation, PlaceState, Sampler},
    tokenizer::TokenStream,
};

/// Time in which a request's body has to arrive.
const BODY_TIME: Duration = Duration::from_secs(60);

/// What all requests share.
pub struct App {
    pub options: ServeOptions,
    /// Set when it is loaded.
    pub model: OnceLock<Arc<Served>>,
    pub jobs: JobSender,
    /// Jobs of a model that was made for embeddings.
    pub embeddings: Mutex<Sender<EmbeddingJob>>,
    pub metrics: Arc<Metrics>,
    /// The slots after the last step.
    pub places: Arc<Mutex<Vec<PlaceState>>>,
    pub log: Arc<dyn Log>,
}

/// A request that is ready for the engine, and all that its answer needs.
pub struct Prepared {
    jobs: Vec<Job>,
    answers: Answers,
    answered: Answered,
    dialect: Box<dyn Dialect>,
    is_stream: bool,
}

impl App {
    /// The model.
    ///
    /// # Errors
    /// While it is being loaded.
    pub fn model(&self) -> ApiResult<&Arc<Served>> {
        self.model.get().ok_or_else(ApiError::loading)
    }

    /// Generations for `wishes.n` answers to each of `prompts`, which `param` of the request has.
    ///
    /// # Errors
    /// If a prompt does not fit the context, or a wish makes no sense.
    #[allow(clippy::too_many_arguments, reason = "each is another part of one thing that is made here")]
    pub fn prepared(
        &self,
        model: &Arc<Served>,
        id: String,
        prompts: &[Vec<u32>],
        param: &str,
        wishes: Wishes,
        answered: Answered,
        dialect: Box<dyn Dialect>,
    ) -> ApiResult<Prepared> {
        if model.pooling.is_some() {
            return Err(ApiError::not_supported("this model was made for embeddings: it writes no text"));
        }
        let (reply, answers) = answer::channel();
        let constraint = wishes.grammar.as_ref();
        let mut jobs = Vec::with_capacity(prompts.len());
        for (number, prompt) in prompts.iter().enumerate() {
            if prompt.len() >= model.context_tokens {
                return Err(ApiError::context_exceeded(param, prompt.len(), model.context_tokens));
            }
            let mut choices = Vec::with_capacity(wishes.n);
            for choice in 0..wishes.n {
                let mut sample = wishes.sample.clone();
                // Answers to one prompt differ.
                sample.seed = sample.seed.map(|seed| seed.wrapping_add(choice as u32));
                let chooser = Chooser {
                    sampler: Sampler::new(sample, model.context_tokens)?,
                    drafter: None,
                    constraint: constraint.map(|grammar| model.constraint(grammar)).transpose()?,
                };
                let decoder = Box::new(TokenStream::after(Arc::clone(&model.tokenizer), prompt));
                let options = wishes.answer.clone();
                let flag = reply.cancel_flag();
                let made = Generation::new(chooser, decoder, prompt.clone(), options, model.context_tokens, flag);
                choices.push(made.map_err(|refused| refused.0)?);
            }
            let first_choice = number * wishes.n;
            jobs.push(Job { id: id.clone(), choices, first_choice, reply: reply.clone(), arrived: Instant::now() });
        }
        Ok(Prepared { jobs, answers, answered, dialect, is_stream: wishes.stream })
    }
}

type Shared = State<Arc<App>>;

/// Checks a request and makes it ready for the engine.
type Prepare = fn(&App, &Arc<Served>, Fields<'_>) -> ApiResult<Prepared>;

/// Answers a request without the engine.
type Compute = fn(&App, &Arc<Served>, Fields<'_>) -> ApiResult<Value>;

/// All routes.
pub fn router(app: &Arc<App>) -> Router {
    let chat = || answered_by(chat::prepare);
    let computed =
        |compute: Compute| post(move |State(app): Shared, request: Request| run_compute(app, request, compute));
    let models =
        || get(|State(app): Shared| async move { Ok::<_, ApiError>(json_response(&models::list(app.model()?))) });
    let health =
        || get(|State(app): Shared| async move { app.model().map(|_| json_response(&json!({ "status": "ok" }))) });
    Router::new()
        .route("/health", health())
        .route("/v1/health", health())
        .route("/models", models())
        .route("/v1/models", models())
        .route("/v1/models/{*id}", get(one_model))
        .route("/chat/completions", chat())
        .route("/v1/chat/completions", chat())
        .route("/v1/completions", answered_by(completions::prepare))
        .route("/completion", answered_by(completion::prepare))
        .route("/completions", answered_by(completion::prepare))
        .route("/responses", answered_by(responses::prepare))
        .route("/v1/responses", answered_by(responses::prepare))
        .route("/v1/messages", answered_by(anthropic::prepare))
        .route("/v1/messages/count_tokens", computed(anthropic::count_tokens))
        .route("/v1/embeddings", embedded("input", false, Asked::openai))
        .route("/embedding", embedded("content", false, Asked::llama))
        .route("/embeddings", embedded("content", false, Asked::llama))
        .merge(ollama_routes())
        .merge(page::routes())
        .route("/v1/chat/completions/input_tokens", computed(llama::input_tokens))
        .route("/tokenize", computed(llama::tokenize))
        .route("/detokenize", computed(llama::detokenize))
        .route("/apply-template", computed(llama::apply_template))
        .route("/props", get(props))
        .route("/slots", get(slots))
        .route("/metrics", get(metrics))
        .fallback(|| async { ApiError::not_found() })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(from_fn_with_state(Arc::clone(app), guard::check))
        .with_state(Arc::clone(app))
}

fn ollama_routes() -> Router<Arc<App>> {
    let shown = |show: fn(&Served) -> Value| {
        move |State(app): Shared| async move {
            match app.model() {
                Ok(model) => json_response(&show(model)),
                Err(error) => ollama::error_response(&error),
            }
        }
    };
    let answered = |prepare: Prepare| {
        post(move |State(app): Shared, request: Request| async move {
            run_prepared(app, request, prepare).await.unwrap_or_else(|error| ollama::error_response(&error))
        })
    };
    let embed = |State(app): Shared, request: Request| async move {
        let done = run_embedding(app, request, "input", true, Asked::ollama).await;
        done.unwrap_or_else(|error| ollama::error_response(&error))
    };
    Router::new()
        .route("/api/version", get(|| async { json_response(&ollama::version()) }))
        .route("/api/tags", get(shown(ollama::tags)))
        .route("/api/ps", get(shown(ollama::processes)))
        .route("/api/show", post(shown(ollama::show)))
        .route("/api/chat", answered(ollama::chat))
        .route("/api/generate", answered(ollama::generate))
        .route("/api/embed", post(embed))
}

/// Writes vectors in the words of an API.
type Form = fn(&Asked, &Served, &[Vec<f32>]) -> Value;

fn embedded(field: &'static str, cuts: bool, form: Form) -> MethodRouter<Arc<App>> {
    post(move |State(app): Shared, request: Request| run_embedding(app, request, field, cuts, form))
}

async fn run_embedding(
    app: Arc<App>,
    request: Request,
    field: &'static str,
    cuts: bool,
    form: Form,
) -> ApiResult<Response> {
    let body = read_body(&app, request).await?;
    let asked = {
        let app = Arc::clone(&app);
        beside(move || {
            let fields = parse(&body)?;
            let field = if fields.contains_key(field) { field } else { "input" };
            embeddings::read(app.model()?, Fields(&fields), field, cuts)
        })
        .await?
    };
    let (reply, vectors) = oneshot::channel();
    let job = EmbeddingJob { texts: asked.texts.clone(), reply };
    let sent = app.embeddings.lock().unwrap_or_else(PoisonError::into_inner).send(job);
    sent.map_err(|_| ApiError::stopping())?;
    let vectors = vectors.await.map_err(|_| ApiError::stopping())??;
    Ok(json_response(&form(&asked, app.model()?, &vectors)))
}

fn answered_by(prepare: Prepare) -> MethodRouter<Arc<App>> {
    post(move |State(app): Shared, request: Request| run_prepared(app, request, prepare))
}

/// Reads a request, prepares it beside the network's threads, and answers as the engine does.
async fn run_prepared(app: Arc<App>, request: Request, prepare: Prepare) -> ApiResult<Response> {
    let body = read_body(&app, request).await?;
    let ping = app.options.ping;
    let (jobs, prepared) = {
        let app = Arc::clone(&app);
        let work = move || -> ApiResult<_> {
            let fields = parse(&body)?;
            let mut prepared = prepare(&app, app.model()?, Fields(&fields))?;
            Ok((std::mem::take(&mut prepared.jobs), prepared))
        };
        beside(work).await?
    };
    for job in jobs {
        app.jobs.submit(job)?;
    }
    let Prepared { answers, answered, dialect, is_stream, .. } = prepared;
    respond(answers, answered, dialect, is_stream, ping).await
}

async fn run_compute(app: Arc<App>, request: Request, compute: Compute) -> ApiResult<Response> {
    let body = read_body(&app, request).await?;
    let work = move || compute(&app, app.model()?, Fields(&parse(&body)?)).map(|value| json_response(&value));
    beside(work).await
}

/// Runs what takes long on a thread of its own, so that connections are served meanwhile.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> ApiResult<T> + Send + 'static) -> ApiResult<T> {
    spawn_blocking(work).await.unwrap_or_else(|_| Err(ApiError::internal("the request met a bug of the server")))
}

async fn read_body(app: &App, request: Request) -> ApiResult<Bytes> {
    let most = app.options.body_bytes;
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > most as u64) {
        return Err(ApiError::too_large(most));
    }
    let read = timeout(BODY_TIME, to_bytes(request.into_body(), most)).await.map_err(|_| ApiError::too_slow())?;
    read.map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        if source.contains("length limit") {
            ApiError::too_large(most)
        } else {
            ApiError::bad_request("the body of the request could not be read")
        }
    })
}

/// The fields of a body, whatever type its header claims.
fn parse(body: &[u8]) -> ApiResult<Map<String, Value>> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ApiError::bad_request("the body of the request must be a JSON object")),
        Err(error) => Err(ApiError::bad_request(format!("the body of the request is no JSON: {error}"))),
    }
}

async fn one_model(State(app): Shared, request: Request) -> ApiResult<Response> {
    let name = request.uri().path().trim_start_matches("/v1/models/");
    let name = percent_decoded(name);
    models::one(app.model()?, &name).map(|value| json_response(&value))
}

/// `%2F` and the like as characters.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let code = text.get(at + 1..at + 3).filter(|_| byte == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(code.unwrap_or(byte));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

async fn props(State(app): Shared) -> ApiResult<Response> {
    Ok(json_response(&llama::props(&app, app.model()?)))
}

async fn slots(State(app): Shared, request: Request) -> ApiResult<Response> {
    let places = app.places.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let query = request.uri().query().unwrap_or_default();
    llama::slots(&app, app.model()?, &places, query).map(|value| json_response(&value))
}

async fn metrics(State(app): Shared) -> ApiResult<Response> {
    if !app.options.metrics {
        return Err(ApiError::not_supported("This server does not show metrics. Start it with `--metrics`"));
    }
    let headers = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    Ok((headers, app.metrics.to_text()).into_response())
}
