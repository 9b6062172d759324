//! Alarms that rules raise.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, error::Problem};
use crate::{
    actions::{
        Said,
        alarm::{self, Wanted},
    },
    admin,
};

type Answer = Result<Json<Value>, Problem>;

/// Changes that are shown of one alarm.
const CHANGES: usize = 100;
/// Bytes of who says something, and of what he says.
const SAID_BYTES_MAX: usize = 1_024;

/// A page of alarms.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    #[serde(default)]
    after: u64,
    #[serde(default = "default_limit")]
    limit: usize,
    state: Option<String>,
    rule: Option<String>,
    device: Option<String>,
}

/// Who says something about an alarm, and what.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Words {
    by: Option<String>,
    note: Option<String>,
}

const fn default_limit() -> usize {
    100
}

pub(super) async fn list(State(context): State<Context>, Query(page): Query<Page>) -> Answer {
    let state = page.state.as_deref().unwrap_or("active");
    let mut wanted = Wanted {
        rule: page.rule,
        device: page.device,
        ..Wanted::default()
    };
    match state {
        "active" => wanted.active = true,
        "all" => {}
        word => {
            let mut known = alarm::State::WORDS.iter();
            let found = known.find(|(known, _)| *known == word);
            let what = "state is one of active, raised, acknowledged, cleared and all";
            let wrong = || Problem::new(StatusCode::BAD_REQUEST, what);
            wanted.state = Some(found.ok_or_else(wrong)?.1);
        }
    }
    let limit = page.limit.min(admin::PAGE_MAX);
    let alarms = context.actions.alarms(wanted, page.after, limit).await?;
    let next = alarms.last().filter(|_| alarms.len() == limit);
    let next = next.map(|last| last.id);
    let items: Vec<Value> = alarms.iter().map(admin::alarm_line).collect();
    Ok(Json(json!({ "items": items, "next": next })))
}

pub(super) async fn show(State(context): State<Context>, Path(id): Path<u64>) -> Answer {
    let found = context.actions.alarm(id, CHANGES).await?;
    let (alarm, changes) = found.ok_or_else(|| Problem::not_found("alarm", id))?;
    let mut whole = admin::alarm_line(&alarm);
    whole["history"] = changes.iter().map(admin::alarm_change).collect();
    Ok(Json(whole))
}

pub(super) async fn acknowledge(
    State(context): State<Context>,
    Path(id): Path<u64>,
    Query(words): Query<Words>,
) -> Answer {
    say(&context, id, alarm::State::Acknowledged, words).await
}

pub(super) async fn clear(
    State(context): State<Context>,
    Path(id): Path<u64>,
    Query(words): Query<Words>,
) -> Answer {
    say(&context, id, alarm::State::Cleared, words).await
}

async fn say(context: &Context, id: u64, state: alarm::State, words: Words) -> Answer {
    let is_long = |text: &Option<String>| text.as_ref().is_some_and(|t| t.len() > SAID_BYTES_MAX);
    if is_long(&words.by) || is_long(&words.note) {
        let what = format!("by and note have at most {SAID_BYTES_MAX} bytes");
        return Err(Problem::new(StatusCode::BAD_REQUEST, what));
    }
    let said = Said {
        id,
        state,
        actor: words.by.unwrap_or_else(|| "operator".to_owned()),
        note: words.note,
    };
    match context.actions.say(said).await? {
        None => Err(Problem::not_found("alarm", id)),
        Some(Ok(alarm)) => Ok(Json(admin::alarm_line(&alarm))),
        Some(Err(_)) => {
            let what = "the alarm is cleared already";
            Err(Problem::new(StatusCode::CONFLICT, what))
        }
    }
}
