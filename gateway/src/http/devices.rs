//! What waits, by device, and what devices' clocks are like.

use axum::{
    Json,
    extract::{Query, State},
};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::{Context, error::Problem, quarantine::read};
use crate::admin;

/// How many to show.
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

/// What waits, by device.
///
/// Counted from the journal for each request; 10,000 devices are told apart.
#[utoipa::path(
    get,
    path = "/api/v1/devices/waiting",
    tag = "devices",
    params(Top),
    responses(
        (status = 200, description = "Those with the most events first", body = Value),
    )
)]
pub(super) async fn waiting(
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

/// What the clocks of devices look like from here.
#[utoipa::path(
    get,
    path = "/api/v1/devices/clocks",
    tag = "devices",
    params(Top),
    responses(
        (status = 200, description = "Clocks that are off the most first", body = Value),
    )
)]
pub(super) async fn clocks(State(context): State<Context>, Query(top): Query<Top>) -> Json<Value> {
    let (clocks, known) = context.ingest.clocks(top.limit.min(admin::PAGE_MAX));
    Json(json!({ "devices": clocks, "known": known }))
}
