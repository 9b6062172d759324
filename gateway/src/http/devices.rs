//! What waits, by device, and what devices' clocks are like.

use axum::{
    Json,
    extract::{Query, State},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, error::Problem, quarantine::read};
use crate::admin;

/// How many to show.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Top {
    #[serde(default = "default_limit")]
    limit: usize,
}

const fn default_limit() -> usize {
    20
}

pub(super) async fn list(
    State(context): State<Context>,
    Query(top): Query<Top>,
) -> Result<Json<Value>, Problem> {
    let limit = top.limit.min(admin::PAGE_MAX);
    let counted = read(&context.store, move |listing| {
        Ok((listing.devices(limit)?, listing.destinations()?))
    });
    let (devices, names) = counted.await?;
    Ok(Json(admin::devices(&devices, &names)))
}

/// Clocks that are off the most first.
pub(super) async fn clocks(State(context): State<Context>, Query(top): Query<Top>) -> Json<Value> {
    let (clocks, known) = context.ingest.clocks(top.limit.min(admin::PAGE_MAX));
    Json(json!({ "devices": clocks, "known": known }))
}
