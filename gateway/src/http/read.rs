//! Questions to the read side.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{Context, error::Problem};
use crate::{
    event::Timestamp,
    query::{
        Error, Reader, Status,
        read::{History, In, Last, Ledger, Search, Which, parse_instant, shown},
    },
    record::Position,
};

type Answer = Result<Response, Problem>;

const fn default_limit() -> usize {
    100
}

/// A question for last values.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct LastOf {
    /// Only of this device.
    device: Option<String>,
    /// Only of this measurement.
    name: Option<String>,
    /// The `next` of the page before.
    after: Option<String>,
    /// At most so many, and never more than 1,000.
    #[serde(default = "default_limit")]
    #[param(default = 100)]
    limit: usize,
    /// Waits, up to ten seconds, until the answer reflects this position.
    #[serde(default)]
    min_position: u64,
}

/// A question for the ledger by device.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct LedgerOf {
    /// Only of this device.
    device: Option<String>,
    /// The `next` of the page before.
    after: Option<String>,
    /// At most so many devices, and never more than 1,000.
    #[serde(default = "default_limit")]
    #[param(default = 100)]
    limit: usize,
    /// Waits, up to ten seconds, until the answer reflects this position.
    #[serde(default)]
    min_position: u64,
}

/// A question for history.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryOf {
    /// The device.
    device: String,
    /// The measurement.
    name: String,
    /// From here on: an instant such as `2026-03-01T12:00:00Z`, or so long ago, as in `6h`.
    from: Option<String>,
    /// Up to here.
    to: Option<String>,
    /// By steps, as in `5m`; without it every number.
    step: Option<String>,
    /// The `next` of the page before.
    after: Option<String>,
    /// At most so many, and never more than 1,000.
    #[serde(default = "default_limit")]
    #[param(default = 100)]
    limit: usize,
    /// Waits, up to ten seconds, until the answer reflects this position.
    #[serde(default)]
    min_position: u64,
}

/// A question for words.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchFor {
    /// Words that must all be there; see the documentation of queries.
    q: String,
    /// Where to look.
    #[serde(default, rename = "in")]
    #[param(inline)]
    among: In,
    /// The `next` of the page before.
    after: Option<String>,
    /// At most so many, and never more than 1,000.
    #[serde(default = "default_limit")]
    #[param(default = 100)]
    limit: usize,
    /// Waits, up to ten seconds, until the answer reflects this position.
    #[serde(default)]
    min_position: u64,
}

/// A question for one event.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Where {
    /// Waits, up to ten seconds, until the answer reflects this position.
    #[serde(default)]
    min_position: u64,
}

/// The read side is built anew.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReadRebuilding)]
pub(super) struct Rebuilding {
    /// It begins.
    rebuilding: bool,
}

/// The read side.
#[utoipa::path(
    get,
    path = "/api/v1/read",
    tag = "read",
    responses(
        (status = 200, description = "How far it is, and how large", body = Status),
    )
)]
pub(super) async fn status(State(context): State<Context>) -> Json<Status> {
    Json(context.read.status())
}

/// Builds the read side anew, from what the journal has.
#[utoipa::path(
    post,
    path = "/api/v1/read/rebuild",
    tag = "read",
    responses(
        (status = 200, description = "It begins", body = Rebuilding),
        (status = 503, description = "The read side is off, behind, or has no room", body = Problem),
    )
)]
pub(super) async fn rebuild(State(context): State<Context>) -> Answer {
    context.read.rebuild().await?;
    Ok(Json(Rebuilding { rebuilding: true }).into_response())
}

/// The last value of each series.
#[utoipa::path(
    get,
    path = "/api/v1/last",
    tag = "read",
    params(LastOf),
    responses(
        (status = 200, description = "By device and name", body = shown::Answer<shown::LastValue>),
        (status = 503, description = "The read side is off, behind, or has no room", body = Problem),
    )
)]
pub(super) async fn last(State(context): State<Context>, Query(of): Query<LastOf>) -> Answer {
    let asked = Last {
        device: of.device,
        name: of.name,
        after: of.after,
        limit: of.limit,
    };
    ask(&context, of.min_position, move |reader| reader.last(&asked)).await
}

/// What became of the events of each device, by destination.
#[utoipa::path(
    get,
    path = "/api/v1/ledger",
    tag = "read",
    params(LedgerOf),
    responses(
        (status = 200, description = "By device", body = shown::LedgerShown),
        (status = 503, description = "The read side is off, behind, or has no room", body = Problem),
    )
)]
pub(super) async fn ledger(State(context): State<Context>, Query(of): Query<LedgerOf>) -> Answer {
    let asked = Ledger {
        device: of.device,
        after: of.after,
        limit: of.limit,
    };
    ask(&context, of.min_position, move |reader| {
        reader.ledger(&asked)
    })
    .await
}

/// The numbers of a series: every one, or by steps.
#[utoipa::path(
    get,
    path = "/api/v1/history",
    tag = "read",
    params(HistoryOf),
    responses(
        (status = 200, description = "Oldest first", body = shown::Answer<shown::Recorded>),
        (status = 503, description = "The read side is off, behind, or has no room", body = Problem),
    )
)]
pub(super) async fn history(State(context): State<Context>, Query(of): Query<HistoryOf>) -> Answer {
    let asked = history_of(&of, context.observer.now())?;
    ask(&context, of.min_position, move |reader| {
        reader.history(&asked)
    })
    .await
}

fn history_of(of: &HistoryOf, now: Timestamp) -> Result<History, Error> {
    let instant = |text: &Option<String>, default: Timestamp| match text {
        Some(text) => parse_instant(text, now),
        None => Ok(default),
    };
    Ok(History {
        device: of.device.clone(),
        name: of.name.clone(),
        from: instant(&of.from, Timestamp::from_nanos(i64::MIN))?,
        to: instant(&of.to, Timestamp::from_nanos(i64::MAX))?,
        step_secs: of.step.as_deref().map_or(Ok(0), History::step)?,
        after: of.after.clone(),
        limit: of.limit,
    })
}

/// Events, quarantine and dead letters with these words.
#[utoipa::path(
    get,
    path = "/api/v1/search",
    tag = "read",
    params(SearchFor),
    responses(
        (status = 200, description = "Newest first", body = shown::Answer<shown::Found>),
        (status = 503, description = "The read side is off, behind, or has no room", body = Problem),
    )
)]
pub(super) async fn search(State(context): State<Context>, Query(of): Query<SearchFor>) -> Answer {
    let asked = Search {
        q: of.q,
        among: of.among,
        after: of.after,
        limit: of.limit,
    };
    ask(&context, of.min_position, move |reader| {
        reader.search(&asked)
    })
    .await
}

/// Where an event is: in the journal, delivered, waiting, given up.
#[utoipa::path(
    get,
    path = "/api/v1/events/{event}/where",
    tag = "read",
    params(("event" = String, Path, description = "Its `eventkey`, or its position"), Where),
    responses(
        (status = 200, description = "The event, and its corrections", body = shown::Answer<shown::Whereabouts>),
        (status = 404, description = "None is known", body = Problem),
        (status = 503, description = "The read side is off, behind, or has no room", body = Problem),
    )
)]
pub(super) async fn whereabouts(
    State(context): State<Context>,
    Path(event): Path<String>,
    Query(of): Query<Where>,
) -> Answer {
    let which = Which::parse(&event)?;
    let least = given(&context, of.min_position)?;
    let found = context.read.ask_from(least, move |reader| {
        let found = reader.whereabouts(which)?;
        Ok(match found["items"].as_array().is_none_or(Vec::is_empty) {
            true => Err(found["position"].to_string()),
            false => Ok(found.to_string()),
        })
    });
    match found.await? {
        Ok(found) => Ok(response(found)),
        Err(position) => {
            let what = format!("no event {event} is known up to position {position}");
            Err(Problem::new(StatusCode::NOT_FOUND, what))
        }
    }
}

async fn ask(
    context: &Context,
    min_position: u64,
    question: impl Fn(&mut Reader) -> Result<Value, Error> + Send + Sync + 'static,
) -> Answer {
    let least = given(context, min_position)?;
    // Written on the thread that answers: what is left for this one is little.
    let answer = context
        .read
        .ask_from(least, move |reader| Ok(question(reader)?.to_string()));
    Ok(response(answer.await?))
}

/// A position that answers may be waited for to reflect: one that is not given yet may
/// never be.
fn given(context: &Context, min_position: u64) -> Result<Position, Problem> {
    let committed = *context.store.committed().borrow();
    match Position(min_position) {
        least if least <= committed => Ok(least),
        least => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            format!("min_position: {least} is not given yet; the last one is {committed}"),
        )),
    }
}

fn response(answer: String) -> Response {
    ([(CONTENT_TYPE, "application/json")], answer).into_response()
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Asked(_) => StatusCode::BAD_REQUEST,
            Error::Behind { .. }
            | Error::TooLong
            | Error::Stale(_)
            | Error::NoRoom(_)
            | Error::Waits(_)
            | Error::Off => StatusCode::SERVICE_UNAVAILABLE,
            Error::Sqlite(_) | Error::Io(_) | Error::Store(_) => {
                tracing::info!(%error, "the read side could not answer a question");
                let what = "the read side cannot answer at the moment; GET /api/v1/read says why";
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, what);
            }
        };
        Self::new(status, error.to_string())
    }
}
