//! Questions to the read side.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, error::Problem};
use crate::{
    event::Timestamp,
    query::{
        Error, Reader, Status,
        read::{History, In, Last, Search, Which, parse_instant},
    },
    record::Position,
};

type Answer = Result<Response, Problem>;

const fn default_limit() -> usize {
    100
}

/// A question for last values.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LastOf {
    device: Option<String>,
    name: Option<String>,
    after: Option<String>,
    #[serde(default = "default_limit")]
    limit: usize,
    #[serde(default)]
    min_position: u64,
}

/// A question for history.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryOf {
    device: String,
    name: String,
    from: Option<String>,
    to: Option<String>,
    step: Option<String>,
    after: Option<String>,
    #[serde(default = "default_limit")]
    limit: usize,
    #[serde(default)]
    min_position: u64,
}

/// A question for words.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchFor {
    q: String,
    #[serde(default, rename = "in")]
    among: In,
    after: Option<String>,
    #[serde(default = "default_limit")]
    limit: usize,
    #[serde(default)]
    min_position: u64,
}

/// A question for one event.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Where {
    #[serde(default)]
    min_position: u64,
}

pub(super) async fn status(State(context): State<Context>) -> Json<Status> {
    Json(context.read.status())
}

pub(super) async fn rebuild(State(context): State<Context>) -> Answer {
    context.read.rebuild().await?;
    Ok(Json(json!({ "rebuilding": true })).into_response())
}

pub(super) async fn last(State(context): State<Context>, Query(of): Query<LastOf>) -> Answer {
    let asked = Last {
        device: of.device,
        name: of.name,
        after: of.after,
        limit: of.limit,
    };
    ask(&context, of.min_position, move |reader| reader.last(&asked)).await
}

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

pub(super) async fn whereabouts(
    State(context): State<Context>,
    Path(event): Path<String>,
    Query(of): Query<Where>,
) -> Answer {
    let which = Which::parse(&event)?;
    let least = Position(of.min_position);
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
    let least = Position(min_position);
    // Written on the thread that answers: what is left for this one is little.
    let answer = context
        .read
        .ask_from(least, move |reader| Ok(question(reader)?.to_string()));
    Ok(response(answer.await?))
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
