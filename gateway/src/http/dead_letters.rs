//! Events that a destination will not take.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{
    Context, answers,
    error::Problem,
    quarantine::{default_limit, read},
};
use crate::{
    admin::{self, DeadLetterShown, DeadLetterWhole},
    store::DeadLetter,
};

type Answer = Result<Json<Value>, Problem>;

/// What is tried again.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Redriven {
    /// How many.
    redriven: u64,
}

/// A page of dead letters.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct OfDestination {
    /// The `next` of the page before.
    #[serde(default)]
    after: u64,
    /// At most so many, and never more than 1,000.
    #[serde(default = "default_limit")]
    #[param(default = 100)]
    limit: usize,
    /// Only of this destination.
    destination: Option<String>,
}

/// Events that a destination will not take.
#[utoipa::path(
    get,
    path = "/api/v1/dead-letters",
    tag = "dead-letters",
    params(OfDestination),
    responses(
        (status = 200, description = "Dead letters, oldest first", body = answers::Page<DeadLetterShown>),
        (status = 404, description = "There is no such destination", body = Problem),
    )
)]
pub(super) async fn list(
    State(context): State<Context>,
    Query(page): Query<OfDestination>,
) -> Answer {
    let destination = match &page.destination {
        None => None,
        Some(name) => Some(context.store.destination_id(name).ok_or_else(|| {
            Problem::new(
                StatusCode::NOT_FOUND,
                format!("there is no destination {name:?}"),
            )
        })?),
    };
    let limit = page.limit.min(admin::PAGE_MAX);
    let letters = read(&context.store, move |listing| {
        listing.dead_letters(destination, page.after, limit)
    })
    .await?;
    let lines: Vec<Value> = letters.iter().map(admin::dead_letter_line).collect();
    let last = letters.last().map(|letter| letter.id);
    Ok(Json(json!(answers::Page {
        items: lines,
        next: last
    })))
}

/// A dead letter with its event.
#[utoipa::path(
    get,
    path = "/api/v1/dead-letters/{id}",
    tag = "dead-letters",
    params(("id" = u64, Path, description = "The number of the dead letter")),
    responses(
        (status = 200, description = "The dead letter", body = DeadLetterWhole),
        (status = 404, description = "There is none with this number", body = Problem),
    )
)]
pub(super) async fn show(State(context): State<Context>, Path(id): Path<u64>) -> Answer {
    Ok(Json(admin::dead_letter_whole(
        &find(&context, id).await?,
        &context.boots,
    )))
}

/// Tries a dead letter again.
#[utoipa::path(
    post,
    path = "/api/v1/dead-letters/{id}/redrive",
    tag = "dead-letters",
    params(("id" = u64, Path, description = "The number of the dead letter")),
    responses(
        (status = 200, description = "It is tried again", body = Redriven),
        (status = 404, description = "There is none with this number", body = Problem),
        (status = 409, description = "The record is damaged", body = Problem),
    )
)]
pub(super) async fn redrive(State(context): State<Context>, Path(id): Path<u64>) -> Answer {
    let letter = find(&context, id).await?;
    if letter.damaged {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "the record is damaged: it can be looked at or discarded, not delivered",
        ));
    }
    match context.store.redrive(vec![id]).await? {
        0 => Err(Problem::not_found("dead letter", id)),
        count => Ok(Json(json!(Redriven { redriven: count }))),
    }
}

/// Discards a dead letter.
#[utoipa::path(
    delete,
    path = "/api/v1/dead-letters/{id}",
    tag = "dead-letters",
    params(("id" = u64, Path, description = "The number of the dead letter")),
    responses(
        (status = 200, description = "It is gone; it stays counted as dead", body = answers::Discarded),
        (status = 404, description = "There is none with this number", body = Problem),
    )
)]
pub(super) async fn discard(State(context): State<Context>, Path(id): Path<u64>) -> Answer {
    match context.store.discard_dead(vec![id]).await? {
        0 => Err(Problem::not_found("dead letter", id)),
        count => Ok(Json(json!(answers::Discarded { discarded: count }))),
    }
}

async fn find(context: &Context, id: u64) -> Result<DeadLetter, Problem> {
    let found = read(&context.store, move |listing| listing.dead_letter(id)).await?;
    found.ok_or_else(|| Problem::not_found("dead letter", id))
}
