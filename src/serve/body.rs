//! Bodies of requests: JSON objects, each of bounded size, and all that are read or prepared at a time as well.

use std::{ops::Deref, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, header},
};
use futures_util::StreamExt;
use serde_json::{Map, Value};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    app::App,
    beside::beside,
    error::{ApiError, ApiResult},
};

/// Time in which a body has to arrive.
const BODY_TIME: Duration = Duration::from_secs(60);

/// The largest bodies that are in memory at the same time. What is prepared from one takes up to 13 times its size (ids of a
/// text of short words, 32 MiB: 0.4 GB).
const LARGEST_AT_ONCE: usize = 4;

/// Bytes of a body that need no room among the others: most bodies are smaller, and large ones must not keep them out.
const FREE_BYTES: usize = 64 << 10;

/// Bytes of the largest body for each value in a body, so that 32 MiB may hold 1,048,576: ids of a million tokens. Values take
/// far more memory than their text: 4.7 million objects `{"":1}`, which are 32 MiB, took 2.2 GB.
const BYTES_PER_VALUE: usize = 32;

/// Values that an object counts as: with one field it takes as much memory as so many numbers (460 bytes to 32).
const VALUES_PER_OBJECT: usize = 8;

/// The room for bodies.
pub struct Room {
    bytes: Arc<Semaphore>,
    /// Bytes of a body at most.
    most: usize,
}

/// The fields of a request, and the room that they take until they are dropped.
pub struct Parsed {
    fields: Map<String, Value>,
    _room: Option<OwnedSemaphorePermit>,
}

impl Deref for Parsed {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Self::Target {
        &self.fields
    }
}

impl Room {
    /// For bodies of at most so many bytes.
    pub fn new(most: usize) -> Self {
        let all = most.saturating_mul(LARGEST_AT_ONCE).min(Semaphore::MAX_PERMITS);
        Self { bytes: Arc::new(Semaphore::new(all)), most }
    }

    async fn collect(&self, body: Body) -> ApiResult<(Vec<u8>, Option<OwnedSemaphorePermit>)> {
        let (mut bytes, mut room) = (Vec::new(), None::<OwnedSemaphorePermit>);
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| ApiError::bad_request("the body of the request could not be read"))?;
            bytes.extend_from_slice(&chunk);
            if bytes.len() > self.most {
                return Err(ApiError::too_large(self.most));
            }
            let taken = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let lacks = bytes.len().saturating_sub(FREE_BYTES + taken);
            if lacks > 0 {
                let lacks = u32::try_from(lacks).map_err(|_| ApiError::too_large(self.most))?;
                let more = Arc::clone(&self.bytes).try_acquire_many_owned(lacks).map_err(|_| ApiError::no_room())?;
                match &mut room {
                    Some(room) => room.merge(more),
                    None => room = Some(more),
                }
            }
        }
        Ok((bytes, room))
    }
}

/// The fields of a request's body, whatever type its header claims.
pub async fn read(app: &App, request: Request) -> ApiResult<Parsed> {
    read_as(app, request, parse).await
}

/// As [`read`]; nothing is as good as no fields.
pub async fn read_or_nothing(app: &App, request: Request) -> ApiResult<Parsed> {
    read_as(app, request, |body, most| if body.is_empty() { Ok(Map::new()) } else { parse(body, most) }).await
}

async fn read_as(
    app: &App,
    request: Request,
    parse: impl FnOnce(&[u8], usize) -> ApiResult<Map<String, Value>> + Send + 'static,
) -> ApiResult<Parsed> {
    refuse(request.headers(), app.room.most)?;
    let collected = timeout(BODY_TIME, app.room.collect(request.into_body())).await;
    let (bytes, room) = collected.map_err(|_| ApiError::too_slow())??;
    let most = app.room.most / BYTES_PER_VALUE;
    beside((), move || Ok(Parsed { fields: parse(&bytes, most)?, _room: room })).await
}

/// Refuses what need not be read.
fn refuse(headers: &HeaderMap, most: usize) -> ApiResult<()> {
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(ApiError::unsupported_encoding());
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > most as u64) {
        return Err(ApiError::too_large(most));
    }
    Ok(())
}

fn parse(body: &[u8], most_values: usize) -> ApiResult<Map<String, Value>> {
    // Clients on Windows begin their texts with the mark of UTF-8.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let values = weight(body);
    if values > most_values {
        let message = format!(
            "the body of the request has {values} values (an object counts as {VALUES_PER_OBJECT}), {most_values} at most"
        );
        return Err(ApiError::bad_request(message));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ApiError::bad_request("the body of the request must be a JSON object")),
        Err(error) => Err(ApiError::bad_request(format!("the body of the request is no JSON: {error}"))),
    }
}

/// Values in a text of JSON, as far as they cost memory: what a comma or a bracket outside of strings precedes.
fn weight(body: &[u8]) -> usize {
    let (mut weight, mut in_string, mut is_escaped) = (0, false, false);
    for byte in body {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b',' | b'[' => weight += 1,
            b'{' => weight += VALUES_PER_OBJECT,
            _ => {}
        }
    }
    weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_strings() {
        assert_eq!(weight(b"{}"), 8);
        assert_eq!(weight(br#"{"a": [1, 2, "x,[{", "\",\\"], "b": {}}"#), 8 + 1 + 3 + 1 + 8);
        let error = parse(b"{\"a\": [1, 2, 3]}", 10).unwrap_err();
        assert_eq!(error.message.split(" values").next(), Some("the body of the request has 11"));
        assert!(parse(b"{\"a\": [1, 2, 3]}", 11).is_ok());
    }
}
