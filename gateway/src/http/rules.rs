//! What rules could not do for an event.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::{Context, error::Problem};
use crate::{
    actions::{self, Failed},
    admin,
    event::View,
};

type Answer = Result<Json<Value>, Problem>;

/// A page of failures.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// The `next` of the page before.
    #[serde(default)]
    after: u64,
    /// At most so many, and never more than 1,000.
    #[serde(default = "default_limit")]
    #[param(default = 100)]
    limit: usize,
    /// Only of this rule.
    rule: Option<String>,
}

const fn default_limit() -> usize {
    100
}

/// What rules could not do for an event.
#[utoipa::path(
    get,
    path = "/api/v1/rule-failures",
    tag = "rules",
    params(Page),
    responses(
        (status = 200, description = "Failures, by number", body = Value),
    )
)]
pub(super) async fn failed(State(context): State<Context>, Query(page): Query<Page>) -> Answer {
    let limit = page.limit.min(admin::PAGE_MAX);
    let listed = context.actions.failed(page.rule, page.after, limit);
    let (items, next) = listed.await?;
    let items: Vec<Value> = items.iter().map(line).collect();
    Ok(Json(json!({ "items": items, "next": next })))
}

/// A failure with its event.
#[utoipa::path(
    get,
    path = "/api/v1/rule-failures/{id}",
    tag = "rules",
    params(("id" = u64, Path, description = "The number of the failure")),
    responses(
        (status = 200, description = "The failure", body = Value),
        (status = 404, description = "There is none with this number", body = Problem),
    )
)]
pub(super) async fn failure(State(context): State<Context>, Path(id): Path<u64>) -> Answer {
    let found = context.actions.failure(id).await?;
    let found = found.ok_or_else(|| Problem::not_found("failure of a rule", id))?;
    let mut whole = line(&found);
    let mut text = Vec::new();
    if let Ok(view) = View::parse(&found.body) {
        view.to_json(Some(&found.position.to_string()), &mut text);
    }
    whole["event"] = serde_json::from_slice(&text).unwrap_or_default();
    Ok(Json(whole))
}

/// Tries again what a rule could not do.
#[utoipa::path(
    post,
    path = "/api/v1/rule-failures/{id}/retry",
    tag = "rules",
    params(("id" = u64, Path, description = "The number of the failure")),
    responses(
        (status = 200, description = "It is done", body = Value),
        (status = 404, description = "There is none with this number", body = Problem),
        (status = 409, description = "It failed again", body = Problem),
    )
)]
pub(super) async fn retry(State(context): State<Context>, Path(id): Path<u64>) -> Answer {
    match context.actions.retry(id).await? {
        None => Err(Problem::not_found("failure of a rule", id)),
        Some(Ok(())) => Ok(Json(json!({ "done": true }))),
        Some(Err(reason)) => Err(Problem::new(StatusCode::CONFLICT, reason)),
    }
}

/// Discards a failure.
#[utoipa::path(
    delete,
    path = "/api/v1/rule-failures/{id}",
    tag = "rules",
    params(("id" = u64, Path, description = "The number of the failure")),
    responses(
        (status = 200, description = "It is gone", body = Value),
        (status = 404, description = "There is none with this number", body = Problem),
    )
)]
pub(super) async fn discard(State(context): State<Context>, Path(id): Path<u64>) -> Answer {
    match context.actions.discard(id).await? {
        false => Err(Problem::not_found("failure of a rule", id)),
        true => Ok(Json(json!({ "discarded": 1 }))),
    }
}

fn line(failed: &Failed) -> Value {
    json!({
        "id": failed.id,
        "rule": failed.rule,
        "device": failed.device,
        "position": failed.position.0,
        "at": admin::instant(failed.at),
        "reason": failed.reason,
    })
}

impl From<actions::Error> for Problem {
    fn from(error: actions::Error) -> Self {
        match error {
            actions::Error::Ending | actions::Error::Stopped(_) | actions::Error::Busy(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
            error => {
                tracing::error!(%error, "rules.db could not answer a request");
                let what = "rules.db could not answer";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, what)
            }
        }
    }
}
