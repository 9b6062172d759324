//! Alarms that rules raise.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Context, access::Caller, answers, error::Problem};
use crate::{
    actions::{
        Said,
        alarm::{self, Wanted},
    },
    admin::{self, AlarmShown},
};

type Answer = Result<Json<AlarmShown>, Problem>;

/// Changes that are shown of one alarm.
const CHANGES: usize = 100;
/// Bytes of who says something, and of what he says.
const SAID_BYTES_MAX: usize = 1_024;

/// A page of alarms.
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
    /// `active` (the default), `raised`, `acknowledged`, `cleared` or `all`.
    state: Option<String>,
    /// Only of this rule.
    rule: Option<String>,
    /// Only of this device.
    device: Option<String>,
}

/// Who says something about an alarm, and what.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Words {
    /// Who says so; by default whose token it is.
    by: Option<String>,
    /// What there is to say about it.
    note: Option<String>,
}

const fn default_limit() -> usize {
    100
}

/// Alarms that rules have raised.
#[utoipa::path(
    get,
    path = "/api/v1/alarms",
    tag = "alarms",
    params(Page),
    responses(
        (status = 200, description = "Alarms, by number", body = answers::Page<AlarmShown>),
    )
)]
pub(super) async fn list(
    State(context): State<Context>,
    Query(page): Query<Page>,
) -> Result<Json<answers::Page<AlarmShown>>, Problem> {
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
    let items = alarms.iter().map(admin::alarm_line).collect();
    Ok(Json(answers::Page { items, next }))
}

/// An alarm with its history.
#[utoipa::path(
    get,
    path = "/api/v1/alarms/{id}",
    tag = "alarms",
    params(("id" = u64, Path, description = "The number of the alarm")),
    responses(
        (status = 200, description = "The alarm", body = AlarmShown),
        (status = 404, description = "There is none with this number", body = Problem),
    )
)]
pub(super) async fn show(State(context): State<Context>, Path(id): Path<u64>) -> Answer {
    let found = context.actions.alarm(id, CHANGES).await?;
    let (alarm, changes) = found.ok_or_else(|| Problem::not_found("alarm", id))?;
    Ok(Json(admin::alarm_whole(&alarm, &changes)))
}

/// Says that somebody looks after an alarm.
#[utoipa::path(
    post,
    path = "/api/v1/alarms/{id}/acknowledge",
    tag = "alarms",
    params(("id" = u64, Path, description = "The number of the alarm"), Words),
    responses(
        (status = 200, description = "The alarm", body = AlarmShown),
        (status = 404, description = "There is none with this number", body = Problem),
        (status = 409, description = "It is cleared already", body = Problem),
    )
)]
pub(super) async fn acknowledge(
    State(context): State<Context>,
    caller: Caller,
    Path(id): Path<u64>,
    Query(words): Query<Words>,
) -> Answer {
    say(&context, id, alarm::State::Acknowledged, &caller, words).await
}

/// Says that an alarm is over.
#[utoipa::path(
    post,
    path = "/api/v1/alarms/{id}/clear",
    tag = "alarms",
    params(("id" = u64, Path, description = "The number of the alarm"), Words),
    responses(
        (status = 200, description = "The alarm", body = AlarmShown),
        (status = 404, description = "There is none with this number", body = Problem),
        (status = 409, description = "It is cleared already", body = Problem),
    )
)]
pub(super) async fn clear(
    State(context): State<Context>,
    caller: Caller,
    Path(id): Path<u64>,
    Query(words): Query<Words>,
) -> Answer {
    say(&context, id, alarm::State::Cleared, &caller, words).await
}

async fn say(
    context: &Context,
    id: u64,
    state: alarm::State,
    caller: &Caller,
    words: Words,
) -> Answer {
    let is_long = |text: &Option<String>| text.as_ref().is_some_and(|t| t.len() > SAID_BYTES_MAX);
    if is_long(&words.by) || is_long(&words.note) {
        let what = format!("by and note have at most {SAID_BYTES_MAX} bytes");
        return Err(Problem::new(StatusCode::BAD_REQUEST, what));
    }
    let said = Said {
        id,
        state,
        actor: caller.speaking_for(words.by),
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
