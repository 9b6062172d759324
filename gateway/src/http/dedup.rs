//! How often devices sent the same thing again.

use axum::{
    Json,
    extract::{Query, State},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Context, error::Problem};
use crate::{admin, ingest::Report};

/// How many devices to show.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Top {
    /// At most so many, and never more than 1,000.
    #[serde(default = "default_limit")]
    #[param(default = 20)]
    limit: usize,
}

const fn default_limit() -> usize {
    20
}

/// How often devices sent the same thing again.
#[utoipa::path(
    get,
    path = "/api/v1/dedup",
    tag = "devices",
    params(Top),
    responses(
        (status = 200, description = "Since the gateway started, those with the most duplicates first", body = Report),
    )
)]
pub(super) async fn report(
    State(context): State<Context>,
    Query(top): Query<Top>,
) -> Result<Json<Report>, Problem> {
    let limit = top.limit.min(admin::PAGE_MAX);
    Ok(Json(context.ingest.duplicates().report(limit)))
}
