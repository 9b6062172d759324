//! How often devices sent the same thing again.

use axum::{
    Json,
    extract::{Query, State},
};
use serde::Deserialize;

use super::{Context, error::Problem};
use crate::{admin, ingest::Report};

/// How many devices to show.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Top {
    #[serde(default = "default_limit")]
    limit: usize,
}

const fn default_limit() -> usize {
    20
}

pub(super) async fn report(
    State(context): State<Context>,
    Query(top): Query<Top>,
) -> Result<Json<Report>, Problem> {
    let limit = top.limit.min(admin::PAGE_MAX);
    Ok(Json(context.ingest.duplicates().report(limit)))
}
