//! Makes events again from the messages as they came, a page at a time.

use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;
use utoipa::{IntoParams, ToSchema};

use super::{Context, error::Problem, quarantine::read};
use crate::{
    admin::{self, replay},
    event::Timestamp,
    normalise::topic::Template,
    record::Position,
};

/// How far ahead of the clock a replay may say that it began.
const AHEAD_NANOS_MAX: i64 = 60_000_000_000;

/// One page at a time: what it makes is in memory until it is kept.
static REPLAYING: Semaphore = Semaphore::const_new(1);

/// What to make again; see [`replay::Replay`].
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// The `next` of the page before.
    #[serde(default)]
    after: u64,
    /// Up to this position; by default what is committed now.
    until: Option<u64>,
    /// At most so many messages, and never more than 200.
    #[serde(default = "default_limit")]
    #[param(default = 200)]
    limit: usize,
    /// When the replay began: the same for all of its pages.
    at: Option<String>,
    /// Only messages that were received from here on.
    from: Option<String>,
    /// Only messages that were received before this.
    to: Option<String>,
    /// Only of this device.
    device: Option<String>,
    /// Only messages whose topic this template takes.
    topic: Option<String>,
    /// Only to this destination.
    destination: Option<String>,
    /// Also events that the messages did not make before.
    #[serde(default)]
    new: bool,
    /// Only events that have become others.
    #[serde(default)]
    only_changed: bool,
    /// Shows what would be made, and stores nothing.
    #[serde(default)]
    dry_run: bool,
}

const fn default_limit() -> usize {
    replay::MESSAGES_MAX
}

/// What came of a page.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReplayAnswer)]
pub(super) struct Answer {
    #[serde(flatten)]
    done: replay::Done,
    /// When the replay began: the same for all of its pages.
    #[schema(value_type = String, format = DateTime)]
    at: Value,
    /// Up to which position messages are made again.
    until: u64,
}

/// Makes the events of kept messages again, a page at a time.
#[utoipa::path(
    post,
    path = "/api/v1/replay",
    tag = "events",
    params(Asked),
    responses(
        (status = 200, description = "What came of the page", body = Answer),
        (status = 409, description = "Another page is being made", body = Problem),
    )
)]
pub(super) async fn page(
    State(context): State<Context>,
    Query(asked): Query<Asked>,
) -> Result<Json<Answer>, Problem> {
    let wrong = |what: String| Problem::new(StatusCode::BAD_REQUEST, what);
    let instant = |name: &str, text: &Option<String>| -> Result<Option<Timestamp>, Problem> {
        let Some(text) = text else { return Ok(None) };
        let at = admin::parse_instant(text);
        let what = || format!("{name}: {text:?} is not a time such as 2026-03-01T12:00:00Z");
        at.map(Some).ok_or_else(|| wrong(what()))
    };
    let destination = match &asked.destination {
        None => None,
        Some(name) => {
            Some(replay::destination(&context.store, &context.ingest, name).map_err(wrong)?)
        }
    };
    let topic = asked.topic.as_deref().map(Template::parse).transpose();
    let now = context.ingest.now();
    let at = instant("at", &asked.at)?.unwrap_or(now);
    if at.as_nanos() > now.as_nanos().saturating_add(AHEAD_NANOS_MAX) {
        return Err(wrong(format!(
            "at: {} has not come yet; the latest correction of an event is the right one, \
             so give the instant at which the replay began",
            admin::instant(at)
        )));
    }
    let wanted = replay::Replay {
        at: replay::Replay::instant(at),
        from: instant("from", &asked.from)?,
        to: instant("to", &asked.to)?,
        device: asked.device,
        topic: topic.map_err(|error| wrong(format!("topic: {error}")))?,
        destination,
        with_new: asked.new,
        only_changed: asked.only_changed,
        dry_run: asked.dry_run,
    };
    let until = asked
        .until
        .map_or(context.store.status().committed, Position);
    let limit = asked.limit.clamp(1, replay::MESSAGES_MAX);
    let Ok(turn) = REPLAYING.try_acquire() else {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "another replay is under way; when it is over, go on with the same \"at\"",
        ));
    };
    let (filter, received) = (wanted.clone(), wanted.received());
    let after = Position(asked.after);
    let kept = read(&context.store, move |listing| {
        listing.kept(after, until, limit, &received, |view| filter.wants(view))
    })
    .await?;
    let at = wanted.at;
    // Making events takes long, and goes on where nobody waits for the answer any more.
    let runtime = tokio::runtime::Handle::current();
    let done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        runtime.block_on(wanted.page(&context.store, &context.ingest, after, kept))
    });
    let done = done.await.map_err(|error| {
        tracing::error!(%error, "a replay failed");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the replay failed")
    })??;
    Ok(Json(Answer {
        done,
        at: admin::instant(at),
        until: until.0,
    }))
}
