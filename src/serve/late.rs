//! Answers in one piece that take their time: a client that has ended its side of the line, and knows no interim responses,
//! gets white space meanwhile, which shows whether it is there. Where it is gone, the work for it is dropped.

use std::pin::Pin;

use axum::{
    body::{Body, to_bytes},
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;

use super::{error::JSON, line::ClientSide};

/// How soon white space is sent to a client that has ended its side.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// At once: the work takes the engine's time, which is not for clients that are gone.
    None,
    /// After a while: most work is done by then.
    Some,
}

/// Answers with what `work` gives. Once white space was sent, the status of an error is 200 as well.
pub async fn answer<T: IntoResponse + Send + 'static>(
    client: ClientSide,
    work: impl Future<Output = T> + Send + 'static,
) -> Response {
    in_time(client, Patience::Some, work).await.map_or_else(|late| late, IntoResponse::into_response)
}

/// Waits for `work`: its result if it comes before anything has to be sent; else, as an error, the response that ends with it.
pub async fn in_time<T: IntoResponse + Send + 'static>(
    mut client: ClientSide,
    patience: Patience,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Response> {
    let mut work: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(work);
    let is_late = async {
        match patience {
            Patience::None => client.time_to_begin().await,
            Patience::Some => client.ended_long().await,
        }
    };
    tokio::select! {
        biased;
        done = &mut work => return Ok(done),
        () = is_late => {}
    }
    let body = Body::from_stream(stream::unfold(Some((work, client)), |state| async {
        let (mut work, mut client) = state?;
        tokio::select! {
            biased;
            done = &mut work => {
                let response = client.error_form().apply(done.into_response());
                Some((to_bytes(response.into_body(), usize::MAX).await, None))
            }
            () = client.time_to_probe() => Some((Ok("\n".into()), Some((work, client)))),
        }
    }));
    Err(([(header::CONTENT_TYPE, JSON)], body).into_response())
}
