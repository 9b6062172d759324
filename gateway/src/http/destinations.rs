//! How destinations are run.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{Context, answers, error::Problem};
use crate::{destinations::Refusal, status::Destination, store::Mode};

type Answer = Result<Json<Value>, Problem>;

/// What may be given up.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Removal {
    /// What waits, and the dead letters.
    #[serde(default)]
    discard: bool,
}

/// How a destination is run.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DestinationRun)]
pub(super) struct Run {
    /// Its name.
    name: String,
    /// `running`, `paused` or `draining`.
    #[schema(value_type = String)]
    mode: &'static str,
}

/// What is forgotten.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DestinationRemoved)]
pub(super) struct Removed {
    /// The name of the destination.
    removed: String,
}

/// The destinations, and how they are run.
#[utoipa::path(
    get,
    path = "/api/v1/destinations",
    tag = "destinations",
    responses(
        (status = 200, description = "Each as in the status", body = answers::All<Destination>),
    )
)]
pub(super) async fn list(State(context): State<Context>) -> Json<answers::All<Destination>> {
    Json(answers::All {
        items: context.observer.status().destinations,
    })
}

/// One destination.
#[utoipa::path(
    get,
    path = "/api/v1/destinations/{name}",
    tag = "destinations",
    params(("name" = String, Path, description = "The name of the destination")),
    responses(
        (status = 200, description = "The destination", body = Destination),
        (status = 404, description = "There is no such destination", body = Problem),
    )
)]
pub(super) async fn show(State(context): State<Context>, Path(name): Path<String>) -> Answer {
    let status = context.observer.status();
    let mut all = status.destinations.iter();
    let found = all.find(|destination| *destination.name == *name);
    let found = found.ok_or_else(|| Refusal::Unknown(name.into()))?;
    Ok(Json(json!(found)))
}

/// Sends nothing to a destination until it is resumed.
#[utoipa::path(
    post,
    path = "/api/v1/destinations/{name}/pause",
    tag = "destinations",
    params(("name" = String, Path, description = "The name of the destination")),
    responses(
        (status = 200, description = "How it is run", body = Run),
        (status = 404, description = "There is no such destination", body = Problem),
        (status = 409, description = "The configuration does not name it", body = Problem),
    )
)]
pub(super) async fn pause(context: State<Context>, name: Path<String>) -> Answer {
    set(context, name, Mode::Paused).await
}

/// Lets a destination run as usual.
#[utoipa::path(
    post,
    path = "/api/v1/destinations/{name}/resume",
    tag = "destinations",
    params(("name" = String, Path, description = "The name of the destination")),
    responses(
        (status = 200, description = "How it is run", body = Run),
        (status = 404, description = "There is no such destination", body = Problem),
        (status = 409, description = "The configuration does not name it", body = Problem),
    )
)]
pub(super) async fn resume(context: State<Context>, name: Path<String>) -> Answer {
    set(context, name, Mode::Running).await
}

/// Sends a destination what it has coming, and routes nothing more to it.
#[utoipa::path(
    post,
    path = "/api/v1/destinations/{name}/drain",
    tag = "destinations",
    params(("name" = String, Path, description = "The name of the destination")),
    responses(
        (status = 200, description = "How it is run", body = Run),
        (status = 404, description = "There is no such destination", body = Problem),
        (status = 409, description = "The configuration does not name it", body = Problem),
    )
)]
pub(super) async fn drain(context: State<Context>, name: Path<String>) -> Answer {
    set(context, name, Mode::Draining).await
}

async fn set(State(context): State<Context>, Path(name): Path<String>, mode: Mode) -> Answer {
    context.destinations.set_mode(&name, mode).await?;
    Ok(Json(json!(Run {
        name,
        mode: mode.as_str()
    })))
}

/// Forgets a destination that the configuration no longer names.
#[utoipa::path(
    delete,
    path = "/api/v1/destinations/{name}",
    tag = "destinations",
    params(("name" = String, Path, description = "The name of the destination"), Removal),
    responses(
        (status = 200, description = "It is forgotten", body = Removed),
        (status = 404, description = "There is no such destination", body = Problem),
        (status = 409, description = "It is still named, or something waits for it", body = Problem),
    )
)]
pub(super) async fn remove(
    State(context): State<Context>,
    Path(name): Path<String>,
    Query(removal): Query<Removal>,
) -> Answer {
    context.destinations.remove(&name, removal.discard).await?;
    Ok(Json(json!(Removed { removed: name })))
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::Unknown(_) => StatusCode::NOT_FOUND,
            Refusal::Notes { .. } | Refusal::Ending => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::CONFLICT,
        };
        Self::new(code, refusal.to_string())
    }
}
