//! Messages that could not be decoded.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::{Context, answers, error::Problem};
use crate::{
    admin::{self, QuarantinedShown, QuarantinedWhole, Retried},
    store::{Error, Handle, Listing, Quarantined},
};

type Answer = Result<Json<Value>, Problem>;

/// A page of the list.
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
}

pub(super) const fn default_limit() -> usize {
    100
}

/// Messages that could not be decoded.
#[utoipa::path(
    get,
    path = "/api/v1/quarantine",
    tag = "quarantine",
    params(Page),
    responses(
        (status = 200, description = "Messages, oldest first", body = answers::Page<QuarantinedShown>),
    )
)]
pub(super) async fn list(State(context): State<Context>, Query(page): Query<Page>) -> Answer {
    let items = read(&context.store, move |listing| {
        listing.quarantine(page.after, page.limit.min(admin::PAGE_MAX))
    })
    .await?;
    let lines: Vec<Value> = items
        .iter()
        .map(|item| admin::quarantined_line(item, &context.boots))
        .collect();
    let last = items.last().map(|item| item.id);
    Ok(Json(json!(answers::Page {
        items: lines,
        next: last
    })))
}

/// A message with its payload.
#[utoipa::path(
    get,
    path = "/api/v1/quarantine/{id}",
    tag = "quarantine",
    params(("id" = u64, Path, description = "The number of the message")),
    responses(
        (status = 200, description = "The message", body = QuarantinedWhole),
        (status = 404, description = "There is none with this number", body = Problem),
    )
)]
pub(super) async fn show(State(context): State<Context>, Path(id): Path<u64>) -> Answer {
    Ok(Json(admin::quarantined_whole(
        &find(&context, id).await?,
        &context.boots,
    )))
}

/// Decodes a message once more, with the mappings of today.
#[utoipa::path(
    post,
    path = "/api/v1/quarantine/{id}/retry",
    tag = "quarantine",
    params(("id" = u64, Path, description = "The number of the message")),
    responses(
        (status = 200, description = "What came of it", body = Retried),
        (status = 404, description = "There is none with this number", body = Problem),
        (status = 507, description = "The journal is full; the message stays", body = Problem),
    )
)]
pub(super) async fn retry(State(context): State<Context>, Path(id): Path<u64>) -> Answer {
    let item = find(&context, id).await?;
    match admin::retry(&context.store, &context.ingest, item).await? {
        Retried::Missing => Err(Problem::not_found("quarantined message", id)),
        Retried::Full => Err(Problem::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "the journal is full; the message stays in quarantine",
        )),
        retried => Ok(Json(json!(retried))),
    }
}

/// Discards a message.
#[utoipa::path(
    delete,
    path = "/api/v1/quarantine/{id}",
    tag = "quarantine",
    params(("id" = u64, Path, description = "The number of the message")),
    responses(
        (status = 200, description = "It is gone", body = answers::Discarded),
        (status = 404, description = "There is none with this number", body = Problem),
    )
)]
pub(super) async fn discard(State(context): State<Context>, Path(id): Path<u64>) -> Answer {
    match context.store.discard_quarantined(vec![id]).await? {
        0 => Err(Problem::not_found("quarantined message", id)),
        count => Ok(Json(json!(answers::Discarded { discarded: count }))),
    }
}

async fn find(context: &Context, id: u64) -> Result<Quarantined, Problem> {
    let found = read(&context.store, move |listing| listing.quarantined(id)).await?;
    found.ok_or_else(|| Problem::not_found("quarantined message", id))
}

/// Reads the lists on a thread that may block.
pub(super) async fn read<T: Send + 'static>(
    store: &Handle,
    query: impl FnOnce(&Listing) -> Result<T, Error> + Send + 'static,
) -> Result<T, Problem> {
    let store = store.clone();
    let read = tokio::task::spawn_blocking(move || query(&store.listing()?)).await;
    let read = read.map_err(|error| {
        tracing::error!(%error, "a request for a list failed");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the list could not be read",
        )
    })?;
    Ok(read?)
}
