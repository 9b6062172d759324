//! Makes events again from the messages as they came, a page at a time.

use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, error::Problem, quarantine::read};
use crate::{
    admin::{self, replay},
    event::Timestamp,
    normalise::topic::Template,
    record::Position,
};

/// What to make again; see [`replay::Replay`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    #[serde(default)]
    after: u64,
    until: Option<u64>,
    #[serde(default = "default_limit")]
    limit: usize,
    at: Option<String>,
    from: Option<String>,
    to: Option<String>,
    device: Option<String>,
    topic: Option<String>,
    destination: Option<String>,
    #[serde(default)]
    only_changed: bool,
    #[serde(default)]
    dry_run: bool,
}

const fn default_limit() -> usize {
    replay::MESSAGES_MAX
}

pub(super) async fn page(
    State(context): State<Context>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Problem> {
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
    let wanted = replay::Replay {
        at: instant("at", &asked.at)?.unwrap_or_else(|| context.ingest.now()),
        from: instant("from", &asked.from)?,
        to: instant("to", &asked.to)?,
        device: asked.device,
        topic: topic.map_err(|error| wrong(format!("topic: {error}")))?,
        destination,
        only_changed: asked.only_changed,
        dry_run: asked.dry_run,
    };
    let until = asked
        .until
        .map_or(context.store.status().committed, Position);
    let limit = asked.limit.clamp(1, replay::MESSAGES_MAX);
    let filter = wanted.clone();
    let kept = read(&context.store, move |listing| {
        listing.kept(Position(asked.after), until, limit, |view| {
            filter.wants(view)
        })
    });
    let done = wanted
        .page(&context.store, &context.ingest, kept.await?)
        .await?;
    let mut answer = json!(done);
    answer["at"] = admin::instant(wanted.at);
    answer["until"] = until.0.into();
    Ok(Json(answer))
}
