//! How destinations are run.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, error::Problem};
use crate::{destinations::Refusal, store::Mode};

type Answer = Result<Json<Value>, Problem>;

/// What may be given up.
#[derive(Debug, Deserialize)]
pub(super) struct Removal {
    /// What waits, and the dead letters.
    #[serde(default)]
    discard: bool,
}

pub(super) async fn list(State(context): State<Context>) -> Json<Value> {
    Json(json!({ "items": context.observer.status().destinations }))
}

pub(super) async fn show(State(context): State<Context>, Path(name): Path<String>) -> Answer {
    let status = context.observer.status();
    let mut all = status.destinations.iter();
    let found = all.find(|destination| *destination.name == *name);
    let found = found.ok_or_else(|| Refusal::Unknown(name.into()))?;
    Ok(Json(json!(found)))
}

pub(super) async fn pause(context: State<Context>, name: Path<String>) -> Answer {
    set(context, name, Mode::Paused).await
}

pub(super) async fn resume(context: State<Context>, name: Path<String>) -> Answer {
    set(context, name, Mode::Running).await
}

pub(super) async fn drain(context: State<Context>, name: Path<String>) -> Answer {
    set(context, name, Mode::Draining).await
}

async fn set(State(context): State<Context>, Path(name): Path<String>, mode: Mode) -> Answer {
    context.destinations.set_mode(&name, mode).await?;
    Ok(Json(json!({ "name": name, "mode": mode.as_str() })))
}

pub(super) async fn remove(
    State(context): State<Context>,
    Path(name): Path<String>,
    Query(removal): Query<Removal>,
) -> Answer {
    context.destinations.remove(&name, removal.discard).await?;
    Ok(Json(json!({ "removed": name })))
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::Unknown(_) => StatusCode::NOT_FOUND,
            Refusal::Ending => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::CONFLICT,
        };
        Self::new(code, refusal.to_string())
    }
}
