//! Routes, and the way of a request through them.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, Request, State},
    http::header,
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use serde_json::{Map, Value, json};
use tokio::{sync::oneshot, time::timeout};

use super::{
    anthropic,
    app::{App, Prepared},
    beside::beside,
    body::{self, Parsed},
    error::{ApiError, ApiResult},
    fields::Fields,
    grammars, guard,
    host::Host,
    job::VectorsJob,
    late,
    line::ClientSide,
    llama::{self, completion},
    model::Served,
    models::{KeepAlive, Listed},
    ollama,
    openai::{
        chat, completions,
        embeddings::{self, Asked},
        models, responses,
    },
    page,
    respond::{json_response, respond},
    slots as slot_actions,
};

/// Time for what comes before an answer: prompts, grammars. Only a hostile one needs a part of it.
const PREPARATION_TIME: Duration = Duration::from_secs(30);

type Shared = State<Arc<App>>;

/// Checks a request and makes it ready for the engine.
type Prepare = fn(&App, &Arc<Served>, Fields<'_>) -> ApiResult<Prepared>;

/// Answers a request without the engine.
type Compute = fn(&App, &Arc<Served>, Fields<'_>) -> ApiResult<Value>;

/// All routes.
pub fn router(app: &Arc<App>) -> Router {
    let chat = || answered_by(chat::prepare);
    let computed = |compute: Compute| {
        post(move |State(app): Shared, request: Request| {
            late::answer(ClientSide::of(&request), run_compute(app, request, compute))
        })
    };
    let models = || get(|State(app): Shared| shown(app, |app| Ok(models::list(&app.models.list()))));
    let health = || get(|| async { json_response(&json!({ "status": "ok" })) });
    Router::new()
        .route("/health", health())
        .route("/v1/health", health())
        .route("/models", models())
        .route("/v1/models", models())
        .route("/v1/models/{*id}", get(one_model))
        .route("/models/load", post(load_model))
        .route("/models/unload", post(unload_model))
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
        .merge(page::routes(&app.options))
        .route("/chat/completions/input_tokens", computed(llama::input_tokens))
        .route("/v1/chat/completions/input_tokens", computed(llama::input_tokens))
        .route("/tokenize", computed(llama::tokenize))
        .route("/detokenize", computed(llama::detokenize))
        .route("/apply-template", computed(llama::apply_template))
        .route("/props", get(props))
        .route("/slots", get(slots))
        .route("/slots/{id}", post(slot_action))
        .route("/metrics", get(metrics))
        .fallback(|| async { ApiError::not_found() })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(from_fn_with_state(Arc::clone(app), guard::check))
        .with_state(Arc::clone(app))
}

fn ollama_routes() -> Router<Arc<App>> {
    let listed = |list: fn(&[Listed]) -> Value| {
        get(move |State(app): Shared| shown(app, move |app| Ok(list(&app.models.list()))))
    };
    let answered = |prepare: Prepare, form: ollama::Form| {
        post(move |State(app): Shared, request: Request| run_ollama(app, request, prepare, form))
    };
    Router::new()
        .route("/api/version", get(|| async { json_response(&ollama::version()) }))
        .route("/api/tags", listed(ollama::tags))
        .route("/api/ps", listed(ollama::processes))
        .route("/api/show", post(|State(app): Shared, request: Request| show_one(app, request)))
        .route("/api/chat", answered(ollama::chat, ollama::Form::Chat))
        .route("/api/generate", answered(ollama::generate, ollama::Form::Generate))
        .route("/api/embed", embedded("input", true, Asked::ollama))
        .route("/api/embeddings", embedded("prompt", true, Asked::ollama_one))
}

/// Writes vectors in the words of an API.
type Form = fn(&Asked, &Served, &[Vec<f32>]) -> Value;

fn embedded(field: &'static str, cuts: bool, form: Form) -> MethodRouter<Arc<App>> {
    post(move |State(app): Shared, request: Request| {
        late::answer(ClientSide::of(&request), run_embedding(app, request, field, cuts, form))
    })
}

async fn run_embedding(
    app: Arc<App>,
    request: Request,
    field: &'static str,
    cuts: bool,
    form: Form,
) -> ApiResult<Response> {
    let fields = body::read(&app, request).await?;
    let host = host_of(&app, &fields).await?;
    let asked = {
        let served = Arc::clone(&host.served);
        beside((), move || {
            let field = if fields.contains_key(field) { field } else { "input" };
            embeddings::read(&served, Fields(&fields), field, cuts)
        })
        .await?
    };
    let (reply, vectors) = oneshot::channel();
    host.jobs.submit_vectors(VectorsJob { texts: asked.texts.clone(), reply })?;
    let vectors = vectors.await.map_err(|_| ApiError::stopping())??;
    Ok(json_response(&form(&asked, &host.served, &vectors)))
}

/// The model that the request names, loaded. Its `keep_alive` counts from now on.
async fn host_of(app: &Arc<App>, fields: &Map<String, Value>) -> ApiResult<Arc<Host>> {
    let fields = Fields(fields);
    let name = fields.text("model")?;
    let keep_alive = fields.get("keep_alive").map(KeepAlive::read).transpose()?;
    let host = app.models.host(name).await?;
    if let Some(keep_alive) = keep_alive {
        app.models.keep(name, keep_alive);
    }
    Ok(host)
}

/// `/api/show` of one model.
async fn show_one(app: Arc<App>, request: Request) -> ApiResult<Response> {
    let fields = body::read(&app, request).await?;
    shown(app, move |app| {
        let fields = Fields(&fields);
        let name = fields.text("model")?.or(fields.text("name")?);
        // The only model answers to every name.
        let found = match name {
            Some(name) if app.models.are_several() => app.models.find(name)?,
            _ => app.models.list().pop().ok_or_else(|| ApiError::no_model(name.unwrap_or_default()))?,
        };
        Ok(ollama::show(&found))
    })
    .await
}

/// Shows what takes no engine; files may be looked into.
async fn shown(app: Arc<App>, show: impl FnOnce(&App) -> ApiResult<Value> + Send + 'static) -> ApiResult<Response> {
    beside((), move || show(&app).map(|value| json_response(&value))).await
}

fn answered_by(prepare: Prepare) -> MethodRouter<Arc<App>> {
    post(move |State(app): Shared, request: Request| run_prepared(app, request, prepare))
}

/// Reads a request, prepares it beside the network's threads, and answers as the engine does.
async fn run_prepared(app: Arc<App>, request: Request, prepare: Prepare) -> ApiResult<Response> {
    let client = ClientSide::of(&request);
    let fields = body::read(&app, request).await?;
    answer(app, fields, client, prepare).await
}

/// As [`run_prepared`]; a request without a question loads or unloads its model.
async fn run_ollama(app: Arc<App>, request: Request, prepare: Prepare, form: ollama::Form) -> ApiResult<Response> {
    let client = ClientSide::of(&request);
    let fields = body::read(&app, request).await?;
    let name = Fields(&fields).text("model")?;
    let Some(done) = ollama::without_question(Fields(&fields), name.unwrap_or_default(), form)? else {
        return answer(app, fields, client, prepare).await;
    };
    if ollama::unloads(Fields(&fields))? {
        app.models.unload(name)?;
    } else {
        host_of(&app, &fields).await?;
    }
    Ok(json_response(&done))
}

async fn answer(app: Arc<App>, fields: Parsed, mut client: ClientSide, prepare: Prepare) -> ApiResult<Response> {
    let ping = app.options.ping;
    let host = host_of(&app, &fields).await?;
    let (jobs, prepared) = {
        let served = Arc::clone(&host.served);
        let prepared = timeout(PREPARATION_TIME, async {
            let turn = tokio::select! {
                biased;
                turn = grammars::turn(&app.grammar_turns, &fields) => turn?,
                // It may be gone: those who are there go first.
                () = client.ended_long() => return Err(ApiError::busy()),
            };
            beside(turn, move || {
                let mut prepared = prepare(&app, &served, Fields(&fields))?;
                Ok((std::mem::take(&mut prepared.jobs), prepared))
            })
            .await
        });
        let prepared = prepared.await;
        prepared.map_err(|_| {
            ApiError::bad_request(
                "the request takes too long to prepare: its grammar, or those of others, are too large",
            )
        })??
    };
    for job in jobs {
        host.jobs.submit(job)?;
    }
    // From here on it may be unloaded: its thread answers what it was sent.
    drop(host);
    let Prepared { answers, answered, dialect, is_stream, .. } = prepared;
    respond(answers, answered, dialect, is_stream, client, ping).await
}

async fn run_compute(app: Arc<App>, request: Request, compute: Compute) -> ApiResult<Response> {
    let fields = body::read(&app, request).await?;
    let host = host_of(&app, &fields).await?;
    beside((), move || compute(&app, &host.served, Fields(&fields)).map(|value| json_response(&value))).await
}

async fn one_model(State(app): Shared, request: Request) -> ApiResult<Response> {
    let name = request.uri().path().trim_start_matches("/v1/models/");
    let name = percent_decoded(name);
    shown(app, move |app| Ok(models::entry(&app.models.find(&name)?))).await
}

/// llama.cpp's way to load a model before it is asked something.
async fn load_model(State(app): Shared, request: Request) -> ApiResult<Response> {
    let fields = body::read(&app, request).await?;
    host_of(&app, &fields).await?;
    Ok(json_response(&json!({ "success": true })))
}

async fn unload_model(State(app): Shared, request: Request) -> ApiResult<Response> {
    let fields = body::read(&app, request).await?;
    if !app.models.are_several() {
        return Err(ApiError::not_supported("this server has one model, which stays loaded"));
    }
    app.models.unload(Fields(&fields).text("model")?)?;
    Ok(json_response(&json!({ "success": true })))
}

/// The loaded model that a query means: `model=NAME`, else the one that was used last.
fn queried(app: &App, request: &Request) -> ApiResult<Option<Arc<Host>>> {
    let query = request.uri().query().unwrap_or_default();
    let name = query.split('&').find_map(|pair| pair.strip_prefix("model=")).map(percent_decoded);
    app.models.loaded(name.as_deref())
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

async fn props(State(app): Shared, request: Request) -> ApiResult<Response> {
    Ok(json_response(&match queried(&app, &request)? {
        Some(host) => llama::props(&app, &host.served),
        None => llama::props_of_none(),
    }))
}

async fn slots(State(app): Shared, request: Request) -> ApiResult<Response> {
    let host = queried(&app, &request)?;
    let slots = match &host {
        Some(host) => {
            let places = host.places.lock().unwrap_or_else(PoisonError::into_inner).clone();
            llama::slots(&app, &host.served, &places, request.uri().query().unwrap_or_default())?
        }
        None => json!([]),
    };
    Ok(json_response(&slots))
}

async fn slot_action(State(app): Shared, Path(slot): Path<String>, request: Request) -> Response {
    late::answer(ClientSide::of(&request), act_on_slot(app, slot, request)).await
}

async fn act_on_slot(app: Arc<App>, slot: String, request: Request) -> ApiResult<Response> {
    let host = queried(&app, &request)?.ok_or_else(ApiError::loading)?;
    let query = request.uri().query().unwrap_or_default().to_owned();
    // To erase takes no fields.
    let fields = body::read_or_nothing(&app, request).await?;
    let folder = app.options.slot_folder.as_deref();
    Ok(json_response(&slot_actions::act(&app.slot_turns, &host, folder, &slot, &query, &fields).await?))
}

async fn metrics(State(app): Shared) -> ApiResult<Response> {
    if !app.options.metrics {
        return Err(ApiError::not_supported("This server does not show metrics. Start it with `--metrics`"));
    }
    let headers = [
        (header::CONTENT_TYPE, "text/plain; version=0.0.4".to_owned()),
        // llama.cpp's, for those who compute rates across restarts.
        (header::HeaderName::from_static("process-start-time-unix"), app.started.to_string()),
    ];
    Ok((headers, app.metrics.to_text()).into_response())
}
