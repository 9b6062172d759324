//! Is it alive, and do events get on their way?

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};

use super::Context;
use crate::status::Readiness;

/// Whether the process answers.
///
/// 200 as long as the process answers: restarting it would not help against
/// anything that `readyz` complains about.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "gateway",
    responses(
        (status = 200, description = "It does", body = String),
    )
)]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether events get on their way.
///
/// 200 when every destination with a backlog makes progress and devices are not
/// pushed back, else 503 with the reasons. A connection by itself is no progress.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "gateway",
    responses(
        (status = 200, description = "They do", body = Readiness),
        (status = 503, description = "They do not, with the reasons", body = Readiness),
    )
)]
pub(super) async fn readyz(State(context): State<Context>) -> impl IntoResponse {
    let readiness: Readiness = context.observer.readiness();
    let code = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(readiness))
}
