//! From the outputs of the engine to a response: a stream of events as they come, or one object at the end.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    answer::{Answers, Output, Progress},
    error::{ApiError, ApiResult, JSON},
    ids,
    late::{self, Patience},
    line::ClientSide,
    text::{Delta, Splitter},
};
use crate::generate::{Finish, Logprobs, Stats};

/// A token of an answer and its probabilities.
#[derive(Clone, Debug)]
pub struct Token {
    pub id: u32,
    pub logprobs: Option<Logprobs>,
}

/// A call of a tool.
#[derive(Clone, Debug)]
pub struct Call {
    pub id: String,
    pub name: String,
    pub arguments: String,
}

/// A choice of an answer.
#[derive(Debug)]
pub struct Choice {
    splitter: Splitter,
    pub content: String,
    pub reasoning: String,
    pub calls: Vec<Call>,
    pub tokens: Vec<Token>,
    /// Tokens that no piece of text has carried yet, from here on.
    carried: usize,
    /// Counts and times so far, where they are asked for.
    pub so_far: Option<Box<Stats>>,
    /// Set at its end.
    pub end: Option<End>,
}

/// End of a choice.
#[derive(Clone, Debug)]
pub struct End {
    pub finish: Finish,
    pub stats: Stats,
    pub place: usize,
}

impl Choice {
    fn new(splitter: Splitter) -> Self {
        Self {
            splitter,
            content: String::new(),
            reasoning: String::new(),
            calls: Vec::new(),
            tokens: Vec::new(),
            carried: 0,
            so_far: None,
            end: None,
        }
    }

    /// True where it was cut off by a limit.
    pub fn is_cut(&self) -> bool {
        self.end.as_ref().is_some_and(|end| matches!(end.finish, Finish::MaxTokens | Finish::ContextFull))
    }

    /// True where it ends with calls.
    pub fn is_call(&self) -> bool {
        self.splitter.complete_calls() > 0 && !self.is_cut()
    }

    /// OpenAI's word for its end.
    pub fn finish_reason(&self) -> &'static str {
        match (self.is_cut(), self.is_call()) {
            (true, _) => "length",
            (false, true) => "tool_calls",
            (false, false) => "stop",
        }
    }

    fn keep(&mut self, delta: &Delta) {
        match delta {
            Delta::Content(text) => self.content += text,
            Delta::Reasoning(text) => self.reasoning += text,
            Delta::Call { name, .. } => {
                let call = Call { id: ids::unique("call_"), name: name.clone(), arguments: String::new() };
                self.calls.push(call);
            }
            Delta::Arguments { index, text } => self.calls[*index].arguments += text,
        }
    }
}

/// All choices, as far as they are.
#[derive(Debug)]
pub struct Answered {
    pub choices: Vec<Choice>,
}

impl Answered {
    /// Choices that will be taken apart by these.
    pub fn new(splitters: impl IntoIterator<Item = Splitter>) -> Self {
        Self { choices: splitters.into_iter().map(Choice::new).collect() }
    }

    fn has_ended(&self) -> bool {
        self.choices.iter().all(|choice| choice.end.is_some())
    }

    /// Counts of each choice that has ended.
    pub fn stats(&self) -> impl Iterator<Item = &Stats> {
        self.choices.iter().filter_map(|choice| Some(&choice.end.as_ref()?.stats))
    }

    /// Takes an output in; tells `dialect` what is new.
    fn take(&mut self, output: Output, dialect: &mut dyn Dialect, frames: &mut Frames) -> ApiResult<()> {
        match output {
            Output::Begun => {}
            Output::Progress { choice, progress } => dialect.progress(choice, &progress, frames),
            Output::Times { choice, stats } => self.choices[choice].so_far = Some(stats),
            Output::Event { choice: number, event } => {
                let choice = &mut self.choices[number];
                choice.tokens.extend(event.id.map(|id| Token { id, logprobs: event.logprobs }));
                let mut deltas = Vec::new();
                choice.splitter.push(&event.text, &mut deltas);
                self.pass_on(number, &deltas, dialect, frames);
            }
            Output::Ended { choice: number, finish, stats, place } => {
                if finish == Finish::Cancelled {
                    return Err(ApiError::internal("the answer was cancelled: it was read too slowly"));
                }
                let mut deltas = Vec::new();
                self.choices[number].splitter.finish(&mut deltas);
                self.pass_on(number, &deltas, dialect, frames);
                self.choices[number].end = Some(End { finish, stats, place });
                dialect.ended(number, self, frames);
            }
            Output::Failed(error) => return Err(error.into()),
            Output::Broken(message) => return Err(ApiError::internal(message)),
            Output::Stopping => return Err(ApiError::stopping()),
        }
        Ok(())
    }

    fn pass_on(&mut self, number: usize, deltas: &[Delta], dialect: &mut dyn Dialect, frames: &mut Frames) {
        for delta in deltas {
            self.choices[number].keep(delta);
            let choice = &self.choices[number];
            dialect.delta(number, choice, delta, &choice.tokens[choice.carried..], frames);
            self.choices[number].carried = self.choices[number].tokens.len();
        }
    }
}

/// Events of a stream, as bytes.
#[derive(Default)]
pub struct Frames(String);

impl Frames {
    /// A server-sent event of JSON.
    pub fn data(&mut self, value: &Value) {
        self.0 += &format!("data: {value}\n\n");
    }

    /// A server-sent event with a name.
    pub fn event(&mut self, name: &str, value: &Value) {
        self.0 += &format!("event: {name}\ndata: {value}\n\n");
    }

    /// A line of JSON.
    pub fn line(&mut self, value: &Value) {
        self.0 += &format!("{value}\n");
    }

    /// As it stands.
    pub fn raw(&mut self, text: &str) {
        self.0 += text;
    }
}

/// The words of an API.
pub trait Dialect: Send + 'static {
    /// Media type of a stream.
    fn stream_type(&self) -> &'static str {
        "text/event-stream"
    }

    /// The answer has a place.
    fn begin(&mut self, answered: &Answered, frames: &mut Frames);

    /// More of a prompt has been read.
    fn progress(&mut self, _number: usize, _progress: &Progress, _frames: &mut Frames) {}

    /// More of a choice; `tokens` are those that came since the last piece.
    fn delta(&mut self, number: usize, choice: &Choice, delta: &Delta, tokens: &[Token], frames: &mut Frames);

    /// A choice has ended.
    fn ended(&mut self, number: usize, answered: &Answered, frames: &mut Frames);

    /// All have ended.
    fn close(&mut self, answered: &Answered, frames: &mut Frames);

    /// In place of the rest of a stream.
    fn error(&mut self, error: &ApiError, frames: &mut Frames) {
        frames.data(&json!({ "error": error.to_json() }));
    }

    /// A comment that keeps a silent connection open; empty where there is none.
    fn ping(&self) -> &'static str {
        ":\n\n"
    }

    /// Bytes between two events that mean nothing: they show whether the client is there.
    fn probe(&self) -> &'static str {
        self.ping()
    }

    /// The answer as one object.
    fn whole(&mut self, answered: &Answered) -> Value;
}

/// An answer on its way to a client.
struct Streaming {
    answers: Answers,
    answered: Answered,
    dialect: Box<dyn Dialect>,
    client: ClientSide,
    ping: Duration,
    first: Option<Bytes>,
    ended: bool,
}

/// Answers with a stream or with one object. What goes wrong before anything was sent is an error with a status.
pub async fn respond(
    mut answers: Answers,
    mut answered: Answered,
    mut dialect: Box<dyn Dialect>,
    is_stream: bool,
    mut client: ClientSide,
    ping: Duration,
) -> ApiResult<Response> {
    if !is_stream {
        let work = whole(answers, answered, dialect);
        return late::in_time(client, Patience::None, work).await.unwrap_or_else(Ok);
    }
    let mut frames = Frames::default();
    // Whoever waits long for a place gets the head of the response meanwhile.
    let first = tokio::select! {
        biased;
        output = answers.next() => Some(output.ok_or_else(ApiError::stopping)?),
        () = client.time_to_begin() => None,
        () = sleep(ping) => None,
    };
    dialect.begin(&answered, &mut frames);
    if let Some(output) = first {
        answered.take(output, &mut *dialect, &mut frames)?;
    }
    let content_type = dialect.stream_type();
    let first = Some(Bytes::from(frames.0));
    let streaming = Streaming { answers, answered, dialect, client, ping, first, ended: false };
    let body = Body::from_stream(stream::unfold(streaming, |mut streaming| async {
        let bytes = streaming.next().await?;
        Some((Ok::<_, Infallible>(bytes), streaming))
    }));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, body).into_response())
}

/// The answer as one object.
async fn whole(mut answers: Answers, mut answered: Answered, mut dialect: Box<dyn Dialect>) -> ApiResult<Response> {
    let mut frames = Frames::default();
    while !answered.has_ended() {
        let output = answers.next().await.ok_or_else(ApiError::stopping)?;
        answered.take(output, &mut *dialect, &mut frames)?;
        // Written to nobody.
        frames.0.clear();
    }
    Ok(json_response(&dialect.whole(&answered)))
}

impl Streaming {
    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take().filter(|first| !first.is_empty()) {
            return Some(first);
        }
        let mut frames = Frames::default();
        while frames.0.is_empty() {
            if self.ended {
                return None;
            }
            let output = tokio::select! {
                biased;
                output = self.answers.next() => output.unwrap_or(Output::Stopping),
                () = self.client.time_to_probe() => return Some(self.dialect.probe().into()),
                () = sleep(self.ping), if !self.dialect.ping().is_empty() => return Some(self.dialect.ping().into()),
            };
            self.take(output, &mut frames);
            // What else there is goes in the same packet.
            while !self.ended
                && let Some(output) = self.answers.ready()
            {
                self.take(output, &mut frames);
            }
        }
        Some(Bytes::from(frames.0))
    }

    fn take(&mut self, output: Output, frames: &mut Frames) {
        let taken = self.answered.take(output, &mut *self.dialect, frames);
        if let Err(error) = &taken {
            self.dialect.error(error, frames);
        }
        let complete = taken.is_ok() && self.answered.has_ended();
        if complete {
            self.dialect.close(&self.answered, frames);
        }
        self.ended |= complete || taken.is_err();
    }
}

/// A response of JSON.
pub fn json_response(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, JSON)], Body::from(value.to_string())).into_response()
}
