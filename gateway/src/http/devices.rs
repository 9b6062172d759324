//! What waits, by device, and what devices' clocks are like.

use axum::{
    Json,
    extract::{Query, State},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{Context, error::Problem, quarantine::read};
use crate::{admin, ingest::DeviceClock};

/// How many to show.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Top {
    /// At most so many, and never more than 1,000.
    #[serde(default = "default_limit")]
    #[param(default = 20)]
    limit: usize,
}

/// What devices' clocks look like from here.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Clocks {
    /// Those that are off the most first.
    devices: Vec<DeviceClock>,
    /// How many devices are known.
    known: usize,
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
        (status = 200, description = "Those with the most events first", body = admin::DevicesWaiting),
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
        (status = 200, description = "Clocks that are off the most first", body = Clocks),
    )
)]
pub(super) async fn clocks(State(context): State<Context>, Query(top): Query<Top>) -> Json<Clocks> {
    let (devices, known) = context.ingest.clocks(top.limit.min(admin::PAGE_MAX));
    Json(Clocks { devices, known })
}
