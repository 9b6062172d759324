//! The account, for programs.

use axum::{Json, extract::State, http::header, response::IntoResponse};

use super::Context;
use crate::{metrics, status::Status};

/// Everything at once.
#[utoipa::path(
    get,
    path = "/api/v1/status",
    tag = "gateway",
    responses(
        (status = 200, description = "The account", body = Status),
    )
)]
pub(super) async fn status(State(context): State<Context>) -> Json<Status> {
    Json(context.observer.status())
}

/// The same for Prometheus, in the OpenMetrics text format.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "gateway",
    responses(
        (status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"),
    )
)]
pub(super) async fn metrics(State(context): State<Context>) -> impl IntoResponse {
    let text = metrics::encode(&context.observer);
    ([(header::CONTENT_TYPE, metrics::MEDIA_TYPE)], text)
}
