//! What rules could not do for an event.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{Context, answers, error::Problem};
use crate::{
    actions::{self, Failed},
    admin,
    event::View,
};

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

/// What a rule could not do for an event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RuleFailure)]
pub(super) struct Failure {
    /// Its number.
    id: u64,
    /// The rule.
    #[schema(value_type = String)]
    rule: Arc<str>,
    /// The device of the event.
    #[schema(value_type = String)]
    device: Arc<str>,
    /// The position of the event; 0 for one that the rule made.
    position: u64,
    /// When it was tried.
    #[schema(value_type = String, format = DateTime)]
    at: Value,
    /// Why it could not be done.
    reason: String,
    /// The event, as destinations receive it; not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<Value>,
}

/// It worked.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RuleFailureDone)]
pub(super) struct Done {
    /// It is done.
    done: bool,
}

/// What rules could not do for an event.
#[utoipa::path(
    get,
    path = "/api/v1/rule-failures",
    tag = "rules",
    params(Page),
    responses(
        (status = 200, description = "Failures, by number", body = answers::Page<Failure>),
    )
)]
pub(super) async fn failed(
    State(context): State<Context>,
    Query(page): Query<Page>,
) -> Result<Json<answers::Page<Failure>>, Problem> {
    let limit = page.limit.min(admin::PAGE_MAX);
    let listed = context.actions.failed(page.rule, page.after, limit);
    let (items, next) = listed.await?;
    let items = items.iter().map(line).collect();
    Ok(Json(answers::Page { items, next }))
}

/// A failure with its event.
#[utoipa::path(
    get,
    path = "/api/v1/rule-failures/{id}",
    tag = "rules",
    params(("id" = u64, Path, description = "The number of the failure")),
    responses(
        (status = 200, description = "The failure", body = Failure),
        (status = 404, description = "There is none with this number", body = Problem),
    )
)]
pub(super) async fn failure(
    State(context): State<Context>,
    Path(id): Path<u64>,
) -> Result<Json<Failure>, Problem> {
    let found = context.actions.failure(id).await?;
    let found = found.ok_or_else(|| Problem::not_found("failure of a rule", id))?;
    let mut whole = line(&found);
    let mut text = Vec::new();
    if let Ok(view) = View::parse(&found.body) {
        view.to_json(Some(&found.position.to_string()), &mut text);
    }
    whole.event = Some(serde_json::from_slice(&text).unwrap_or_default());
    Ok(Json(whole))
}

/// Tries again what a rule could not do.
#[utoipa::path(
    post,
    path = "/api/v1/rule-failures/{id}/retry",
    tag = "rules",
    params(("id" = u64, Path, description = "The number of the failure")),
    responses(
        (status = 200, description = "It is done", body = Done),
        (status = 404, description = "There is none with this number", body = Problem),
        (status = 409, description = "It failed again", body = Problem),
    )
)]
pub(super) async fn retry(
    State(context): State<Context>,
    Path(id): Path<u64>,
) -> Result<Json<Done>, Problem> {
    match context.actions.retry(id).await? {
        None => Err(Problem::not_found("failure of a rule", id)),
        Some(Ok(())) => Ok(Json(Done { done: true })),
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
        (status = 200, description = "It is gone", body = answers::Discarded),
        (status = 404, description = "There is none with this number", body = Problem),
    )
)]
pub(super) async fn discard(
    State(context): State<Context>,
    Path(id): Path<u64>,
) -> Result<Json<answers::Discarded>, Problem> {
    match context.actions.discard(id).await? {
        false => Err(Problem::not_found("failure of a rule", id)),
        true => Ok(Json(answers::Discarded { discarded: 1 })),
    }
}

fn line(failed: &Failed) -> Failure {
    Failure {
        id: failed.id,
        rule: failed.rule.clone(),
        device: failed.device.clone(),
        position: failed.position.0,
        at: admin::instant(failed.at),
        reason: failed.reason.clone(),
        event: None,
    }
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
