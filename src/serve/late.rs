//! Answers in one piece that take their time: a client that has ended its side of the line gets white space meanwhile, which
//! shows whether it is there. Where it is gone, the work for it is dropped.

use std::pin::Pin;

use axum::{
    body::{Body, to_bytes},
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;

use super::{line::ClientSide, respond::JSON};

/// Answers with what `work` gives. Once white space was sent, the status of an error is 200 as well.
pub async fn answer<T: IntoResponse>(
    mut client: ClientSide,
    work: impl Future<Output = T> + Send + 'static,
) -> Response {
    let mut work: Pin<Box<dyn Future<Output = Response> + Send>> = Box::pin(async move { work.await.into_response() });
    tokio::select! {
        biased;
        response = &mut work => return response,
        () = client.ended_long() => {}
    }
    let body = Body::from_stream(stream::unfold(Some((work, client)), |state| async {
        let (mut work, mut client) = state?;
        tokio::select! {
            biased;
            response = &mut work => Some((to_bytes(response.into_body(), usize::MAX).await, None)),
            () = client.time_to_probe() => Some((Ok("\n".into()), Some((work, client)))),
        }
    }));
    ([(header::CONTENT_TYPE, JSON)], body).into_response()
}
