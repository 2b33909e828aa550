//! Errors as clients get them: JSON with the status that decides what a client does next.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind};

/// Counts in the error of a prompt that is longer than the context.
const PROMPT_TOKENS: &str = "n_prompt_tokens";
const CONTEXT_TOKENS: &str = "n_ctx";

pub type ApiResult<T> = Result<T, ApiError>;

/// An answer that is an error.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub status: StatusCode,
    pub message: String,
    kind: &'static str,
    /// A word; without one the number of the status, as llama.cpp has it.
    code: Option<&'static str>,
    /// The field at fault.
    param: Option<String>,
    /// More fields of the error.
    more: Option<Box<Map<String, Value>>>,
    /// Seconds after which trying again makes sense.
    retry_after: Option<u32>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, message, kind, code: None, param: None, more: None, retry_after: None }
    }

    /// The request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// A field of the request makes no sense.
    pub fn bad_field(field: &str, message: impl Into<String>) -> Self {
        Self { param: Some(field.into()), ..Self::bad_request(message) }
    }

    /// The prompt is longer than the context. Clients know this one by its words or by its code, and shorten the history.
    pub fn context_exceeded(param: &str, prompt_tokens: usize, context_tokens: usize) -> Self {
        let message = format!(
            "request ({prompt_tokens} tokens) exceeds the available context size ({context_tokens} tokens), try \
             increasing it"
        );
        let mut more = Map::new();
        more.insert(PROMPT_TOKENS.into(), prompt_tokens.into());
        more.insert(CONTEXT_TOKENS.into(), context_tokens.into());
        Self {
            code: Some("context_length_exceeded"),
            param: Some(param.into()),
            more: Some(Box::new(more)),
            ..Self::new(StatusCode::BAD_REQUEST, "exceed_context_size_error", message)
        }
    }

    /// The error of a field that has no name in it yet.
    pub fn of_field(self, field: &str) -> Self {
        Self { param: self.param.or_else(|| Some(field.into())), ..self }
    }

    /// The error of an API that calls the field `ours` `theirs`.
    pub fn renamed(mut self, ours: &str, theirs: &str) -> Self {
        if self.param.as_deref() == Some(ours) {
            self.param = Some(theirs.into());
            self.message = self.message.replacen(ours, theirs, 1);
        }
        self
    }

    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", "Invalid API Key")
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found_error", "File Not Found")
    }

    pub fn no_model(name: &str) -> Self {
        let message = format!("The model `{name}` does not exist");
        let error = Self::new(StatusCode::NOT_FOUND, "not_found_error", message);
        Self { code: Some("model_not_found"), param: Some("model".into()), ..error }
    }

    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "Method Not Allowed")
    }

    pub fn too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "the body of the request took too long")
    }

    pub fn too_large(most: usize) -> Self {
        let message = format!("the body of the request is larger than {most} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    pub fn unsupported_encoding() -> Self {
        let message = "the body of the request is compressed, which this server does not read";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message)
    }

    pub fn loading() -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", "Loading model");
        Self { retry_after: Some(2), ..error }
    }

    pub fn busy() -> Self {
        let message = "server busy, please try again: the queue is full";
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", message);
        Self { retry_after: Some(5), ..error }
    }

    /// As many large bodies as the server holds are being read.
    pub fn no_room() -> Self {
        let message = "server busy, please try again: it has no memory for the body of the request beside others";
        Self { message: message.into(), ..Self::busy() }
    }

    pub fn no_slot() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", "no slot available")
    }

    pub fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", "the server is shutting down")
    }

    /// Something that this server or this model cannot do.
    pub fn not_supported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "not_supported_error", message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// A panic, or a reply that cannot be.
    pub fn bug() -> Self {
        Self::internal("the request met a bug of the server")
    }

    /// The object under `error`.
    pub fn to_json(&self) -> Value {
        let code = self.code.map_or_else(|| json!(self.status.as_u16()), |code| json!(code));
        let mut error = json!({ "message": self.message, "type": self.kind, "code": code, "param": self.param });
        if let Value::Object(fields) = &mut error {
            fields.extend(self.more.iter().flat_map(|more| (**more).clone()));
        }
        error
    }

    /// The object under `error` in Anthropic's words, by which its clients know that a conversation is too long.
    pub fn to_anthropic(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            503 => "overloaded_error",
            500 => "api_error",
            _ => "invalid_request_error",
        };
        let number = |name| self.more.as_ref().and_then(|more| more.get(name));
        let message = match (number(PROMPT_TOKENS), number(CONTEXT_TOKENS)) {
            (Some(prompt), Some(context)) => format!("prompt is too long: {prompt} tokens > {context} maximum"),
            _ => self.message.clone(),
        };
        json!({ "type": kind, "message": message })
    }
}

/// Form in which an API tells errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorForm {
    #[default]
    OpenAi,
    Ollama,
    Anthropic,
}

impl ErrorForm {
    /// That of the API which a path belongs to.
    pub fn of_path(path: &str) -> Self {
        match path {
            _ if path.starts_with("/api/") => Self::Ollama,
            _ if path.starts_with("/v1/messages") => Self::Anthropic,
            _ => Self::OpenAi,
        }
    }

    /// The response; one that was made of an [`ApiError`] in this form.
    pub fn apply(self, mut response: Response) -> Response {
        let body = response.extensions().get::<ApiError>().map(|error| match self {
            Self::OpenAi => json!({ "error": error.to_json() }),
            Self::Ollama => json!({ "error": error.message }),
            Self::Anthropic => json!({ "type": "error", "error": error.to_anthropic() }),
        });
        if let Some(body) = body {
            *response.body_mut() = Body::from(body.to_string());
        }
        response
    }
}

impl From<Error> for ApiError {
    /// What the library refuses before an answer begins is the request's fault, unless a device or the system failed.
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Usage | ErrorKind::Format | ErrorKind::Unsupported | ErrorKind::Missing => {
                Self::bad_request(error.to_string())
            }
            _ => Self::internal(error.to_string()),
        }
    }
}

/// Media type of an answer in one piece.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, JSON);
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response.extensions_mut().insert(self);
        ErrorForm::default().apply(response)
    }
}
