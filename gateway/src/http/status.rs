//! The account, for programs.

use axum::{Json, extract::State, http::header, response::IntoResponse};

use super::Context;
use crate::{metrics, status::Status};

/// Everything at once; see [`Status`].
pub(super) async fn status(State(context): State<Context>) -> Json<Status> {
    Json(context.observer.status())
}

/// The same for Prometheus, in the OpenMetrics text format.
pub(super) async fn metrics(State(context): State<Context>) -> impl IntoResponse {
    let text = metrics::encode(&context.observer);
    ([(header::CONTENT_TYPE, metrics::MEDIA_TYPE)], text)
}
