//! Events that a destination will not take.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde_json::{Value, json};

use super::{
    Context,
    error::Problem,
    quarantine::{Page, read},
};
use crate::{admin, store::DeadLetter};

type Answer = Result<Json<Value>, Problem>;

pub(super) async fn list(State(context): State<Context>, Query(page): Query<Page>) -> Answer {
    let destination = match &page.destination {
        None => None,
        Some(name) => Some(context.store.destination_id(name).ok_or_else(|| {
            Problem::new(
                StatusCode::NOT_FOUND,
                format!("there is no destination {name:?}"),
            )
        })?),
    };
    let letters = read(&context.store, move |listing| {
        listing.dead_letters(destination, page.after, page.limit.min(admin::PAGE_MAX))
    })
    .await?;
    let lines: Vec<Value> = letters.iter().map(admin::dead_letter_line).collect();
    Ok(Json(json!({ "items": lines })))
}

pub(super) async fn show(State(context): State<Context>, Path(id): Path<u64>) -> Answer {
    Ok(Json(admin::dead_letter_whole(
        &find(&context, id).await?,
        &context.boots,
    )))
}

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
        count => Ok(Json(json!({ "redriven": count }))),
    }
}

pub(super) async fn discard(State(context): State<Context>, Path(id): Path<u64>) -> Answer {
    match context.store.discard_dead(vec![id]).await? {
        0 => Err(Problem::not_found("dead letter", id)),
        count => Ok(Json(json!({ "discarded": count }))),
    }
}

async fn find(context: &Context, id: u64) -> Result<DeadLetter, Problem> {
    let found = read(&context.store, move |listing| listing.dead_letter(id)).await?;
    found.ok_or_else(|| Problem::not_found("dead letter", id))
}
