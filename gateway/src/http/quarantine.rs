//! Messages that could not be decoded.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, error::Problem};
use crate::{
    admin::{self, Retried},
    store::{Error, Handle, Listing, Quarantined},
};

type Answer = Result<Json<Value>, Problem>;

/// A page of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    #[serde(default)]
    pub(super) after: u64,
    #[serde(default = "default_limit")]
    pub(super) limit: usize,
    /// Dead letters only: of this destination.
    pub(super) destination: Option<String>,
}

const fn default_limit() -> usize {
    100
}

pub(super) async fn list(State(context): State<Context>, Query(page): Query<Page>) -> Answer {
    let items = read(&context.store, move |listing| {
        listing.quarantine(page.after, page.limit.min(admin::PAGE_MAX))
    })
    .await?;
    let lines: Vec<Value> = items
        .iter()
        .map(|item| admin::quarantined_line(item, &context.boots))
        .collect();
    Ok(Json(json!({ "items": lines })))
}

pub(super) async fn show(State(context): State<Context>, Path(id): Path<u64>) -> Answer {
    Ok(Json(admin::quarantined_whole(
        &find(&context, id).await?,
        &context.boots,
    )))
}

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

pub(super) async fn discard(State(context): State<Context>, Path(id): Path<u64>) -> Answer {
    match context.store.discard_quarantined(vec![id]).await? {
        0 => Err(Problem::not_found("quarantined message", id)),
        count => Ok(Json(json!({ "discarded": count }))),
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
