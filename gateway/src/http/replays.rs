//! Sends events again that the journal has, a page at a time.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use utoipa::{IntoParams, ToSchema};

use super::{Context, answers, error::Problem, quarantine::read};
use crate::{
    admin::{self, ReplayShown},
    archive::{self, Choice, Chosen, Error, Identity, Page, Replay, Selection},
    event::Timestamp,
};

/// Events of a page, at most.
const EVENTS_MAX: usize = 1_000;

/// What to send again; see [`Choice`].
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// When the replay begins, which is its name; by default now. With that of one that has
    /// begun, and the same choice, that one goes on.
    at: Option<String>,
    /// Only events that were received from here on.
    from: Option<String>,
    /// Only events that were received before this.
    to: Option<String>,
    /// Only of this device.
    device: Option<String>,
    /// Only what this rule in force takes; or a pattern.
    rule: Option<String>,
    /// To this destination.
    destination: String,
    /// As what.
    #[serde(default)]
    identity: Identity,
}

/// How much of it.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    /// At most so many events, and never more than 1,000.
    #[serde(default = "default_limit")]
    #[param(default = 1000)]
    limit: usize,
}

const fn default_limit() -> usize {
    EVENTS_MAX
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Missing(_) => StatusCode::NOT_FOUND,
            Error::Other(_) => StatusCode::CONFLICT,
            Error::NoSuchRule(_) | Error::Pattern(_) | Error::Destination(_) => {
                StatusCode::BAD_REQUEST
            }
            Error::NotEdited(crate::store::NotEdited::Full) => StatusCode::INSUFFICIENT_STORAGE,
            Error::NotEdited(_) | Error::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

/// Replays that are remembered.
#[utoipa::path(
    get,
    path = "/api/v1/replays",
    tag = "events",
    operation_id = "replays",
    responses(
        (status = 200, description = "Replays, the latest first", body = answers::All<ReplayShown>),
    )
)]
pub(super) async fn list(State(context): State<Context>) -> Result<Json<Value>, Problem> {
    let all = read(&context.store, |listing| {
        Ok(archive::list(listing.tables())?)
    })
    .await?;
    let items: Vec<Value> = all.iter().map(admin::replay_line).collect();
    Ok(Json(json!(answers::All { items })))
}

/// Begins to send events again.
#[utoipa::path(
    post,
    path = "/api/v1/replays",
    tag = "events",
    operation_id = "begin_replay",
    params(Asked),
    responses(
        (status = 200, description = "The replay, of which nothing was sent by this", body = ReplayShown),
        (status = 409, description = "Another one began at that instant", body = Problem),
        (status = 507, description = "There is no room to spare", body = Problem),
    )
)]
pub(super) async fn begin(
    State(context): State<Context>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Problem> {
    let instant = |name: &str, text: &Option<String>| -> Result<Option<Timestamp>, Problem> {
        let Some(text) = text else { return Ok(None) };
        let at = admin::parse_instant(text);
        let what = || format!("{name}: {text:?} is not a time such as 2026-03-01T12:00:00Z");
        at.map(Some)
            .ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, what()))
    };
    let at = instant("at", &asked.at)?.unwrap_or_else(|| context.ingest.now());
    let choice = Choice {
        from: instant("from", &asked.from)?.map(Timestamp::as_nanos),
        to: instant("to", &asked.to)?.map(Timestamp::as_nanos),
        device: asked.device,
        rule: asked.rule,
        destination: asked.destination,
        identity: asked.identity,
    };
    destination(&context, &choice.destination)?;
    selection(&context, &choice).await?;
    let until = *context.store.committed().borrow();
    let replay = archive::begin(&context.store, Replay::new(at, choice, until)).await?;
    Ok(Json(admin::replay_line(&replay)))
}

/// Sends the next page of a replay.
#[utoipa::path(
    post,
    path = "/api/v1/replays/{at}/next",
    tag = "events",
    operation_id = "advance_replay",
    params(("at" = String, Path, description = "When the replay began"), Limit),
    responses(
        (status = 200, description = "What became of the page: `copied`, `busy` or `full`, and the replay", body = Advanced),
        (status = 404, description = "No replay began then", body = Problem),
    )
)]
pub(super) async fn next(
    State(context): State<Context>,
    Path(at): Path<String>,
    Query(Limit { limit }): Query<Limit>,
) -> Result<Json<Value>, Problem> {
    let at = admin::parse_instant(&at).ok_or_else(|| {
        let what = format!("{at:?} is not a time such as 2026-03-01T12:00:00Z");
        Problem::new(StatusCode::BAD_REQUEST, what)
    })?;
    let name = archive::name(at);
    let wanted = name.clone();
    let replay = read(&context.store, move |listing| {
        Ok(archive::read(listing.tables(), &wanted)?)
    })
    .await?;
    let replay = replay.ok_or(Error::Missing(name))?;
    if replay.is_done() {
        return Ok(answer(&archive::Stepped::Copied, &replay));
    }
    let id = destination(&context, &replay.choice.destination)?;
    let mut selection = selection(&context, &replay.choice).await?;
    let place = archive::place(&context.store, &replay.choice.destination);
    let (boots, of) = (context.boots.clone(), replay.clone());
    let mut chosen = read(&context.store, move |listing| {
        Chosen::read(listing, &of, limit, &mut selection)
    })
    .await?;
    let repaired = chosen
        .records
        .into_iter()
        .map(|record| boots.repaired(record));
    chosen.records = repaired.collect();
    let page = Page::new(replay, chosen, id, place, context.ingest.now());
    let (stepped, replay) = archive::advance(&context.store, page).await?;
    Ok(answer(&stepped, &replay))
}

/// What became of a page, and of its replay.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReplayAdvanced)]
pub(super) struct Advanced {
    #[serde(flatten)]
    replay: ReplayShown,
    /// What became of the page.
    page: archive::Stepped,
}

fn answer(stepped: &archive::Stepped, replay: &Replay) -> Json<Value> {
    Json(json!(Advanced {
        replay: ReplayShown::of(replay),
        page: stepped.clone(),
    }))
}

fn destination(context: &Context, name: &str) -> Result<crate::record::DestinationId, Error> {
    archive::destination(&context.store, name, |id| {
        context.ingest.sends_original_to(id)
    })
}

async fn selection(context: &Context, choice: &Choice) -> Result<Selection, Problem> {
    let (book, choice) = (context.rulebook.clone(), choice.clone());
    let made = spawn_blocking(move || Selection::new(&choice, |name| book.pattern(name))).await;
    let made = made.map_err(|error| {
        tracing::error!(%error, "a replay could not be chosen");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the request failed")
    })?;
    Ok(made?)
}
